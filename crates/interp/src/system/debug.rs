//! Breakpoints (SDM vol. 3B, 18.2): on instructions and on I/O here; on data they are the memory's to notice.

use crate::Stop;
use crate::ctx::{Ctx, Exec};
use xlat86_arch::eflags::RF;
use xlat86_arch::{Fault, Gva, Seg, Vector, cr4};

/// DR7: kinds of breakpoint (R/W fields). Data breakpoints are 1 and 3.
const EXECUTE: u32 = 0;
const PORT: u32 = 2;

/// DR7: local and global enable bits of all four.
pub(crate) const ENABLES: u32 = 0xff;

/// The debug exception that sets `bits` in DR6.
pub(crate) fn debug_exception(bits: u32) -> Stop {
    Stop::Fault(Fault { vector: Vector::DB, error: None, addr: Gva(bits) })
}

impl Ctx<'_> {
    /// DR6 bits of the enabled breakpoints of `kind` that `hit` (given address and length) says are hit.
    fn breakpoints(&self, kind: u32, hit: impl Fn(u32, u32) -> bool) -> u32 {
        let dr = &self.cpu.dr;
        let is_hit = |n: usize| {
            let field = dr[7] >> (16 + 4 * n);
            let len = [1, 2, 8, 4][(field >> 2 & 3) as usize];
            dr[7] >> (2 * n) & 3 != 0 && field & 3 == kind && hit(dr[n], len)
        };
        (0..4).filter(|&n| is_hit(n)).fold(0, |bits, n| bits | 1 << n)
    }

    /// Before an instruction: the debug exception of a breakpoint on it. The one fault that saves RF as it is, not set: whoever handles it
    /// sets it (SDM vol. 3B, 18.3.1.1).
    pub(crate) fn check_instruction_breakpoints(&mut self) -> Exec {
        if self.cpu.eflags & RF != 0 {
            return Ok(());
        }
        let at = self.cpu.segment(Seg::Cs).base.wrapping_add(self.cpu.eip);
        match self.breakpoints(EXECUTE, |start, _| start == at) {
            0 => Ok(()),
            bits => Err(debug_exception(bits)),
        }
    }

    /// `len` ports from `port` are used.
    pub(crate) fn note_io(&mut self, port: u16, len: u32) {
        if self.debugging && self.cpu.cr4 & cr4::DE != 0 {
            let port = u32::from(port);
            self.io_hits |= self.breakpoints(PORT, |start, size| {
                let start = start & !(size - 1);
                port < start.wrapping_add(size) && start < port + len
            });
        }
    }

    /// DR6 bits of the data and I/O breakpoints hit since the last call.
    pub(crate) fn take_hits(&mut self) -> u32 {
        core::mem::take(&mut self.io_hits) | self.mmu.take_hits()
    }
}

/// After an instruction that gave `result`: the debug exception of the data and I/O breakpoints it hit is a trap. Single-stepping and
/// breakpoints share one exception; one that faulted hit nothing.
pub(crate) fn with_hits(result: Exec, hits: u32) -> Exec {
    match result {
        _ if hits == 0 => result,
        Ok(()) => Err(debug_exception(hits)),
        Err(Stop::Fault(f)) if f.vector == Vector::DB => Err(debug_exception(hits | f.addr.0)),
        Err(_) => result,
    }
}
