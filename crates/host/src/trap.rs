//! The handler for synchronous host faults.
//!
//! It decides by the interrupted instruction pointer alone whose fault this is, records it, and redirects. A fault
//! that is nobody's is a bug of the emulator: the default action is restored, so that returning re-raises it and
//! the process dies with an ordinary core dump.

use crate::access;
use crate::slot::{self, HostFault};
use core::mem::zeroed;
use std::sync::Once;

/// Signals that report an exception of the running instruction.
pub(crate) const SYNC_SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// Installs the handlers for SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP, once per process.
pub fn install_fault_handlers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for sig in SYNC_SIGNALS {
            // SAFETY: `on_fault` is async-signal-safe; the struct is fully initialised.
            unsafe {
                let mut sa: libc::sigaction = zeroed();
                sa.sa_sigaction = on_fault as *const () as usize;
                sa.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                libc::sigemptyset(&mut sa.sa_mask);
                assert_eq!(libc::sigaction(sig, &sa, core::ptr::null_mut()), 0, "sigaction({sig})");
            }
        }
    });
}

extern "C" fn on_fault(sig: i32, info: *mut libc::siginfo_t, uc: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo and ucontext to an SA_SIGINFO handler.
    let (info, uc) = unsafe { (&*info, &mut *uc.cast::<libc::ucontext_t>()) };
    let regs = &mut uc.uc_mcontext.gregs;
    let rip = regs[libc::REG_RIP as usize] as u64;
    let fault = HostFault {
        addr: regs[libc::REG_CR2 as usize] as u64,
        error: regs[libc::REG_ERR as usize] as u32,
        trapno: regs[libc::REG_TRAPNO as usize] as u32,
        signal: sig,
        code: info.si_code,
    };
    if let Some(resume) = access::fixup(rip) {
        slot::record(fault);
        regs[libc::REG_RIP as usize] = resume as i64;
        return;
    }
    // SAFETY: restoring the default action is async-signal-safe.
    unsafe { libc::signal(sig, libc::SIG_DFL) };
}
