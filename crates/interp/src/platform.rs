//! What a CPU is plugged into, and what only a real one can answer.

/// Operations whose exact result is the silicon's own choice: the manual bounds their error but doesn't define the
/// bits (SDM vol. 1, 8.3.10, and RCPPS/RSQRTPS in vol. 2). Programs see the host's answer natively, so the reference
/// asks the host too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum HostMath {
    F2xm1,
    Fyl2x,
    Fyl2xp1,
    Fptan,
    Fpatan,
    Fsin,
    Fcos,
    Fsincos,
}

/// The CPU's surroundings.
///
/// The methods with a body describe what differs between a CPU that carries a whole system (the bodies) and one
/// that carries a program whose system is elsewhere.
pub trait Platform {
    /// Reads `size` (1, 2 or 4) bytes from I/O port `port`.
    fn port_in(&mut self, port: u16, size: u8) -> u32;
    /// Writes the low `size` (1, 2 or 4) bytes of `value` to I/O port `port`.
    fn port_out(&mut self, port: u16, size: u8, value: u32);
    /// The time stamp counter.
    fn tsc(&mut self) -> u64;
    /// So many instructions were retired ([`crate::Interp::retired`]) before the one that comes here next: told before each use of a port, the time
    /// stamp counter or an MSR of the surroundings.
    fn retired(&mut self, insns: u64) {
        let _ = insns;
    }
    /// Rate of the time stamp counter, if CPUID is to tell.
    fn tsc_hz(&self) -> Option<u64> {
        None
    }
    /// Executes `op` on an x87 whose ST(0) and ST(1) are `st0` and `st1` (80-bit, little endian) under control
    /// word `fcw`, whose masks count though nothing is raised. Gives (ST(0), ST(1)) after it, in the register numbering *before* any push or
    /// pop the instruction does (FPTAN and FSINCOS: first the value left in the old ST(0), second the pushed one), and
    /// the status word's exception and condition bits.
    fn x87(&mut self, op: HostMath, st0: [u8; 10], st1: [u8; 10], fcw: u16) -> ([u8; 10], [u8; 10], u16);
    /// RCPSS (false) or RSQRTSS (true) of one single-precision value.
    fn approx(&mut self, rsqrt: bool, x: f32) -> f32;

    /// The descriptor that `selector` names when the descriptor tables are not in guest memory: `Some(None)` when the
    /// tables have none there. `None`: read GDT and LDT from memory.
    fn descriptor(&mut self, selector: u16) -> Option<Option<u64>> {
        let _ = selector;
        None
    }
    /// False when software interrupts (INT n, INT3, INTO) stop the run with [`crate::Stop::SoftInt`] instead of going
    /// through the IDT.
    fn delivers_interrupts(&self) -> bool {
        true
    }
    /// Reads a model-specific register that has no place in [`xlat86_arch::Msrs`]; `None`: there is none, #GP(0).
    fn read_msr(&mut self, msr: u32) -> Option<u64> {
        let _ = msr;
        None
    }
    /// Writes a model-specific register that has no place in [`xlat86_arch::Msrs`]; `None`: #GP(0).
    fn write_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        let _ = (msr, value);
        None
    }
}

/// A CPU with nothing attached, for tests and measurements: ports read as open ones do, the time stamp counter stands still, and what only silicon
/// can answer gives its operands back.
#[derive(Clone, Copy, Debug)]
pub struct Detached {
    delivers_interrupts: bool,
}

impl Detached {
    /// Of a CPU that carries a whole system.
    #[must_use]
    pub fn system() -> Detached {
        Detached { delivers_interrupts: true }
    }
    /// Of a CPU that carries a program: software interrupts stop the run.
    #[must_use]
    pub fn program() -> Detached {
        Detached { delivers_interrupts: false }
    }
}

impl Platform for Detached {
    fn port_in(&mut self, _: u16, size: u8) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(size))
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn tsc(&mut self) -> u64 {
        0
    }
    fn x87(&mut self, _: HostMath, st0: [u8; 10], st1: [u8; 10], _: u16) -> ([u8; 10], [u8; 10], u16) {
        (st0, st1, 0)
    }
    fn approx(&mut self, _: bool, x: f32) -> f32 {
        x
    }
    fn delivers_interrupts(&self) -> bool {
        self.delivers_interrupts
    }
}
