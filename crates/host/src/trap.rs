//! The handlers for host signals.
//!
//! They decide by the interrupted instruction pointer alone, record, and redirect:
//!
//! | where | exception | asynchronous signal |
//! |---|---|---|
//! | access routine | continue at its fail label | note it |
//! | translated code | leave with [`Left::Trap`] | leave at the next guest instruction boundary with [`Left::Stopped`] |
//! | entering translated code | (can't happen) | don't enter: [`Left::NotEntered`] |
//! | before a guest's system call | (can't happen) | don't start it |
//! | anywhere else | a bug: die by it | note it |
//!
//! An asynchronous signal is noted in the thread's slot, and all further ones are blocked in the interrupted context until the
//! embedder has dealt with it ([`crate::signals`]): the kernel queues them better than we could.

use crate::arena::{self, CodePlace};
use crate::frame::{Frame, Left};
use crate::slot::{self, HostFault, RawSiginfo};
use crate::{access, compat, enter, syscall};
use std::sync::Once;

/// Signals that report an exception of the running instruction. Never blocked: the kernel kills a process that
/// faults with its signal blocked.
pub(crate) const SYNC_SIGNALS: [i32; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// The trap flag in EFLAGS.
const TF: i64 = 1 << 8;

/// Installs the handlers for SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP, once per process.
pub fn install_fault_handlers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for sig in SYNC_SIGNALS {
            install(sig, on_fault as *const () as usize, libc::SA_NODEFER).expect("handler for a fault signal");
        }
    });
}

/// `struct sigaction` as the kernel has it.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    restorer: usize,
    mask: u64,
}

core::arch::global_asm!(
    ".pushsection .text.xlat86_restore, \"ax\", @progbits",
    ".globl xlat86_restore",
    "xlat86_restore:",
    "mov eax, 15",
    "syscall",
    ".popsection",
);

#[allow(unreachable_pub)]
unsafe extern "C" {
    static xlat86_restore: u8;
}

/// Installs `handler` for `sig` on the alternate stack.
///
/// By the raw call: the C library keeps two real-time signals for itself, and guests use them.
pub(crate) fn install(sig: i32, handler: usize, flags: i32) -> std::io::Result<()> {
    const SA_RESTORER: u64 = 0x0400_0000;
    let action = KernelAction {
        handler,
        flags: (libc::SA_SIGINFO | libc::SA_ONSTACK | flags) as u32 as u64 | SA_RESTORER,
        restorer: &raw const xlat86_restore as usize,
        mask: crate::signals::HELD_IN_HANDLERS,
    };
    // SAFETY: the struct has the kernel's layout and is fully initialised; handlers of this module are
    // async-signal-safe; the restorer makes the call (rt_sigreturn) that ends every handler.
    let r = unsafe { libc::syscall(libc::SYS_rt_sigaction, sig, &action, core::ptr::null_mut::<u8>(), 8usize) };
    if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Address of [`on_async`], for [`install`].
pub(crate) fn async_handler() -> usize {
    on_async as *const () as usize
}

/// Address of [`on_kick`], for [`install`].
pub(crate) fn kick_handler() -> usize {
    on_kick as *const () as usize
}

struct Context<'a>(&'a mut libc::ucontext_t);

impl Context<'_> {
    fn reg(&mut self, r: libc::c_int) -> &mut i64 {
        &mut self.0.uc_mcontext.gregs[r as usize]
    }

    fn rip(&mut self) -> u64 {
        *self.reg(libc::REG_RIP) as u64
    }

    fn resume_at(&mut self, rip: u64) {
        *self.reg(libc::REG_RIP) = rip as i64;
    }

    /// Makes translated code, at which this context was interrupted, leave with its registers as they are.
    fn leave(&mut self, why: Left) {
        let rip = self.rip();
        *self.reg(libc::REG_EFL) &= !TF;
        slot::set_stepping(false);
        // SAFETY: in translated code R14 holds the frame (block ABI), which the running `enter` keeps alive, and
        // this thread is the only one that touches it.
        let frame = unsafe { &mut *(*self.reg(libc::REG_R14) as *mut Frame) };
        frame.site = rip;
        frame.left = why;
        self.resume_at(enter::trap_address());
    }

    /// Reacts to an asynchronous event according to where it struck.
    fn interrupt(&mut self) {
        let rip = self.rip();
        if let Some(cancel) = enter::entering(rip).or_else(|| syscall::not_started(rip)) {
            self.resume_at(cancel);
        } else if arena::place(rip) != CodePlace::Outside {
            self.stop_at_boundary();
        }
    }

    /// In translated code: leaves here if this is a boundary, else executes one more host instruction.
    fn stop_at_boundary(&mut self) {
        let rip = self.rip();
        match arena::place(rip) {
            CodePlace::Boundary => self.leave(Left::Stopped),
            CodePlace::Inside => {
                slot::set_stepping(true);
                *self.reg(libc::REG_EFL) |= TF;
            }
            // It is on its way out by itself.
            CodePlace::Outside => {
                slot::set_stepping(false);
                *self.reg(libc::REG_EFL) &= !TF;
            }
        }
    }
}

extern "C" fn on_fault(sig: i32, info: *mut libc::siginfo_t, uc: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo and ucontext to an SA_SIGINFO handler.
    let code = unsafe { (*info).si_code };
    if code <= 0 {
        // Sent by a process, not caused by an instruction.
        return on_async(sig, info, uc);
    }
    // SAFETY: as above.
    let mut cx = Context(unsafe { &mut *uc.cast::<libc::ucontext_t>() });
    let rip = cx.rip();
    let fault = HostFault {
        addr: *cx.reg(libc::REG_CR2) as u64,
        error: *cx.reg(libc::REG_ERR) as u32,
        trapno: *cx.reg(libc::REG_TRAPNO) as u32,
        signal: sig,
        code,
    };
    if sig == libc::SIGTRAP && slot::stepping() {
        return cx.stop_at_boundary();
    }
    if let Some(resume) = access::fixup(rip) {
        slot::record(fault);
        return cx.resume_at(resume);
    }
    if compat::leave(cx.0, fault) {
        return;
    }
    if arena::place(rip) != CodePlace::Outside {
        if fault.trapno == 14 && slot::in_return_guard(fault.addr) {
            // The return stack is full: drop it. The call that faulted is retried; the returns of the dropped ones
            // miss and go through the jump table.
            // SAFETY: as in `leave`.
            let top = unsafe { (*(*cx.reg(libc::REG_R14) as *const Frame)).return_top };
            *cx.reg(libc::REG_RSP) = top as i64;
            return;
        }
        slot::record(fault);
        return cx.leave(Left::Trap);
    }
    // A bug of the emulator: the instruction is retried with the default action and the process dies of it.
    // SAFETY: restoring the default action is async-signal-safe.
    unsafe { libc::signal(sig, libc::SIG_DFL) };
}

extern "C" fn on_async(_sig: i32, info: *mut libc::siginfo_t, uc: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo and ucontext; a siginfo is 128 bytes on every Linux architecture.
    let (info, uc) = unsafe { (&*info.cast::<RawSiginfo>(), &mut *uc.cast::<libc::ucontext_t>()) };
    slot::push_pending(info);
    crate::signals::block_all_in(&mut uc.uc_sigmask);
    Context(uc).interrupt();
}

/// Another thread wants this one out of translated code; no signal to deliver, so none to hold back.
extern "C" fn on_kick(sig: i32, info: *mut libc::siginfo_t, uc: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo of 128 bytes.
    if !crate::signals::is_kick(unsafe { &*info.cast::<RawSiginfo>() }) {
        // A message for the embedder, or a process's signal like any other.
        return on_async(sig, info, uc);
    }
    // SAFETY: the kernel passes a valid ucontext.
    let uc = unsafe { &mut *uc.cast::<libc::ucontext_t>() };
    slot::raise();
    Context(uc).interrupt();
}
