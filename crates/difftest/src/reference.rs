//! The interpreter as an executor of single instructions.

use crate::state::{AT, CODE, DATA, DATA_LEN, End, Executor, Outcome, Regs};
use std::io;
use std::sync::Arc;
use xlat86_arch::{CpuModel, CpuState, Gva, Vector, eflags};
use xlat86_host::{Window, scratch_window};
use xlat86_interp::{Detached, Interp, Stop};
use xlat86_softmmu::{FlatSpace, Mmu, Prot};

/// Executes on the interpreter.
pub struct Reference {
    interp: Interp,
    window: Window,
    mmu: Mmu,
}

impl Reference {
    /// # Errors
    /// The host has no room for a guest window.
    pub fn new() -> io::Result<Reference> {
        let window = scratch_window(&[CODE..CODE + 0x1000, DATA..DATA + DATA_LEN])?;
        let space = Arc::new(FlatSpace::new(window));
        let rwx = Prot { mapped: true, read: true, write: true, exec: true, shared: false };
        space.set_prot(Gva(CODE), 0x1000, rwx);
        space.set_prot(Gva(DATA), DATA_LEN, rwx);
        Ok(Reference { interp: Interp::new(CpuModel::MAX), window, mmu: Mmu::flat(space) })
    }
}

impl Executor for Reference {
    fn execute(&mut self, bytes: &[u8], regs: &Regs, data: &[u8]) -> Outcome {
        let put = |at, bytes: &[u8]| self.window.write_bytes(at, bytes).expect("the scratch pages are mapped");
        put(CODE, &[0xcc; 0x1000]);
        put(AT, bytes);
        put(DATA, data);
        let mut cpu = CpuState::linux_user();
        cpu.gpr = regs.gpr;
        cpu.eip = AT;
        cpu.eflags = regs.eflags | eflags::IF;
        cpu.fx = regs.fx;
        let end = match self.interp.step(&mut cpu, &mut self.mmu, &mut Detached::program()) {
            Stop::Budget => End::Done,
            Stop::Fault(f) => End::Fault { vector: f.vector, error: f.error.unwrap_or(0), addr: f.addr.0 },
            Stop::SoftInt(v) => End::Fault { vector: Vector(v), error: 0, addr: 0 },
            other => panic!("{other:?} for {bytes:02x?}"),
        };
        let mut data = vec![0; data.len()];
        self.window.read_bytes(DATA, &mut data).expect("the scratch pages are mapped");
        let flags = cpu.eflags & (eflags::LIVE | eflags::AC | eflags::ID) | eflags::FIXED_1;
        Outcome { end, regs: Regs { gpr: cpu.gpr, eip: cpu.eip, eflags: flags, fx: cpu.fx }, data }
    }
}
