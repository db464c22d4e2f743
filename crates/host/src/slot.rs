//! The per-thread slot through which signal handlers talk to safe code.
//!
//! This is the one thread-local of the workspace. A handler only stores here and redirects the interrupted
//! context; whoever it redirects to reads the record.

use core::cell::Cell;

/// What the host's kernel said about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostFault {
    /// Host address that was accessed (CR2); 0 when the host doesn't tell (general protection).
    pub addr: u64,
    /// Page-fault error code as in `xlat86_arch::PfError`; meaningful for trap number 14.
    pub error: u32,
    /// Host exception vector: 14 for page faults.
    pub trapno: u32,
    /// Signal number: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP.
    pub signal: i32,
    /// `si_code` of that signal.
    pub code: i32,
}

thread_local! {
    static LAST_FAULT: Cell<HostFault> = const { Cell::new(HostFault { addr: 0, error: 0, trapno: 0, signal: 0, code: 0 }) };
}

/// Records `fault` for the current thread. Called from signal handlers: no allocation, no lock.
pub(crate) fn record(fault: HostFault) {
    LAST_FAULT.set(fault);
}

/// The most recent fault of the current thread.
pub(crate) fn last() -> HostFault {
    LAST_FAULT.get()
}
