//! Why control left the guest CPU, and what can go wrong on the host's side.

use xlat86_arch::Fault;

/// Why [`crate::Vcpu::run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// INT n (also INT3 as vector 3, INTO as vector 4). EIP is after the instruction.
    SoftInt(u8),
    /// The guest raised an exception. EIP is at the instruction, which has not been executed.
    Fault(Fault),
    /// Something asynchronous wants attention (a host signal arrived); the state is between two instructions.
    Interrupted,
    /// HLT at CPL 0.
    Halt,
    /// The interrupt window that was asked for is open: [`crate::Vcpu::inject`] is possible. A system's CPU only.
    InterruptWindow,
    /// A fault while delivering a double fault: the CPU has shut down. A system's CPU only.
    Shutdown,
    /// Lockstep found a difference between interpreter and translation; the text describes it.
    Diverged(String),
    /// An instruction this version has no meaning for; the text names it.
    Unimplemented(String),
}

/// The host refused, or there is a bug in the emulator. Never caused by what guest code does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused a resource.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
}
