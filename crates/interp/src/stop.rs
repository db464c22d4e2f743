//! Why the interpreter returned.

use xlat86_arch::Fault;

/// Why [`crate::Interp::run`] returned. EIP is that of the instruction for faults, and of the next one otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The instruction raised an exception; nothing of it has been done (string instructions: completed iterations stand).
    Fault(Fault),
    /// INT n, INT3 or INTO with a mode in which the embedder handles software interrupts (user mode).
    SoftInt(u8),
    /// HLT.
    Halt,
    /// The instruction budget is used up.
    Budget,
    /// The interrupt flag passed to `run` was raised; the state is between two instructions.
    Interrupted,
    /// External interrupts could be delivered now, and somebody waits for that ([`crate::Interp::watch_window`]).
    Window,
    /// The interpreter has no meaning for this encoding. A test keeps the list of these empty.
    Unimplemented(iced_x86::Code),
}

impl From<Fault> for Stop {
    /// A fault met while executing an instruction stops it.
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}
