//! System calls that a signal can't slip past.
//!
//! Between looking whether a signal waits and blocking in the kernel there must be no gap. The check and the SYSCALL
//! instruction therefore stand between two labels that the signal handler knows: a signal that arrives there cancels the call.
//! The kernel itself puts RIP back on SYSCALL for a call that it would restart, so restarting is decided by
//! the kernel's own rules, for free.

use crate::slot;
use core::arch::global_asm;

/// The call was not started, or is to be restarted after the signal's handler: a signal waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotStarted;

#[repr(C)]
struct Ret {
    value: i64,
    cancelled: u64,
}

/// Makes host system call `nr`. `Ok` holds the kernel's answer (a negative errno on failure).
///
/// # Safety
/// As for the system call itself: pointers among `args` are valid for what the kernel does with them, or guest
/// addresses in the low window, and the call doesn't disturb memory or descriptors of the emulator.
pub unsafe fn interruptible(nr: i64, args: [u64; 6]) -> Result<i64, NotStarted> {
    // SAFETY: the caller's contract; the flag is this thread's.
    let r = unsafe { xlat86_syscall(nr, args.as_ptr(), slot::pending_flag()) };
    if r.cancelled == 0 { Ok(r.value) } else { Err(NotStarted) }
}

/// Where to continue when a signal arrives at `rip`, if that is before a call has started.
pub(crate) fn not_started(rip: u64) -> Option<u64> {
    let check = &raw const xlat86_syscall_check as u64;
    let insn = &raw const xlat86_syscall_insn as u64;
    (check..=insn).contains(&rip).then_some(&raw const xlat86_syscall_cancel as u64)
}

#[allow(unreachable_pub)]
unsafe extern "C" {
    static xlat86_syscall_check: u8;
    static xlat86_syscall_insn: u8;
    static xlat86_syscall_cancel: u8;
    fn xlat86_syscall(nr: i64, args: *const u64, pending: *const u8) -> Ret;
}

// rdi: number, rsi: six arguments, rdx: the pending flag. rax: answer, rdx: cancelled.
global_asm!(
    ".pushsection .text.xlat86_syscall, \"ax\", @progbits",
    ".globl xlat86_syscall, xlat86_syscall_check, xlat86_syscall_insn, xlat86_syscall_cancel",
    "xlat86_syscall:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov r11, rsi",
    "mov rdi, [r11]",
    "mov rsi, [r11 + 8]",
    "mov rdx, [r11 + 16]",
    "mov r10, [r11 + 24]",
    "mov r8, [r11 + 32]",
    "mov r9, [r11 + 40]",
    "xlat86_syscall_check:",
    "cmp byte ptr [rcx], 0",
    "jne xlat86_syscall_cancel",
    "xlat86_syscall_insn:",
    "syscall",
    "xor edx, edx",
    "ret",
    "xlat86_syscall_cancel:",
    "mov edx, 1",
    "ret",
    ".popsection",
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals;

    #[test]
    fn a_call_runs_unless_a_signal_waits() {
        crate::install_fault_handlers();
        signals::use_alternate_stack().unwrap();
        // SAFETY: getpid has no effect.
        let getpid = || unsafe { interruptible(libc::SYS_getpid, [0; 6]) };
        assert_eq!(getpid(), Ok(i64::from(std::process::id())));
        signals::watch(libc::SIGUSR2, true).unwrap();
        // SAFETY: a signal to this very thread, which is watched.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
        assert_eq!(getpid(), Err(NotStarted));
        assert!(signals::take_pending().is_some() && signals::take_pending().is_none());
        assert!(getpid().is_ok());
    }
}
