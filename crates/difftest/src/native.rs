//! The host CPU as judge.

use crate::state::{AT, CODE, DATA, DATA_LEN, End, Executor, Outcome, Regs};
use std::io;
use xlat86_arch::{FxState, Vector, eflags};
use xlat86_host::{Compat, CompatState};

/// Executes on the host CPU itself, in compatibility mode.
pub struct Native {
    compat: Compat,
}

const CODE_LEN: u32 = 0x1000;
const INT3: u8 = 0xcc;

impl Native {
    /// # Errors
    /// The host has something at the addresses the tests use.
    pub fn new() -> io::Result<Native> {
        let compat = Compat::new(&[CODE..CODE + CODE_LEN, DATA..DATA + DATA_LEN])?;
        Ok(Native { compat })
    }
}

impl Executor for Native {
    fn execute(&mut self, bytes: &[u8], regs: &Regs, data: &[u8]) -> Outcome {
        let code = self.compat.memory(0);
        code.fill(INT3);
        let at = (AT - CODE) as usize;
        code[at..at + bytes.len()].copy_from_slice(bytes);
        self.compat.memory(1).copy_from_slice(data);
        let mut s = CompatState::default();
        (s.gpr, s.eip, s.eflags) = (regs.gpr, AT, regs.eflags.into());
        s.fx = regs.fx.to_bytes();
        let fault = self.compat.run(&mut s);
        let mut eip = s.eip;
        // The INT3 after the instruction or at a branch's target; a target outside of the page faults on its fetch.
        let fetch = fault.trapno == 14 && fault.addr == u64::from(eip) && eip != AT;
        let end = if fault.trapno == 3 {
            eip -= 1;
            End::Done
        } else if fetch {
            End::Done
        } else {
            let addr = if fault.trapno == 14 { fault.addr as u32 } else { 0 };
            // The kernel reports an error code of its own for #GP that it raised for itself; none of those are here.
            End::Fault { vector: Vector(fault.trapno as u8), error: fault.error, addr }
        };
        let flags = s.eflags as u32 & (eflags::LIVE | eflags::AC | eflags::ID) | eflags::FIXED_1;
        let regs = Regs { gpr: s.gpr, eip, eflags: flags, fx: FxState::from_bytes(&s.fx) };
        Outcome { end, regs, data: self.compat.memory(1).to_vec() }
    }
}
