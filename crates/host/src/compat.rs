//! Runs 32-bit code on the host CPU, in this 64-bit process: a far jump into the compatibility-mode code segment that
//! Linux keeps in every GDT. The tests' judge of what an instruction does; it needs no 32-bit support of the kernel.
//!
//! Code leaves only by an exception: whoever writes the code surrounds it with INT3. The signal handler takes the
//! whole state from its context and continues after the far jump. The code must not load FS or GS (that would destroy
//! the host's thread pointer) nor enter the kernel.

use crate::slot::HostFault;
use core::arch::global_asm;
use core::mem::offset_of;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// Selectors of Linux's 32-bit user code and flat data segments.
const USER32_CS: u16 = 0x23;
const USER_DS: i64 = 0x2b;
const USER_CS: i64 = 0x33;

/// The state that 32-bit code starts from and ends with.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C, align(16))]
pub struct CompatState {
    /// EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI.
    pub gpr: [u32; 8],
    /// Where to start; after a run, of the instruction that raised the exception (after it, for INT3).
    pub eip: u32,
    cs: u16,
    _pad: u16,
    /// Arithmetic flags, DF, AC, ID; the host's kernel decides about the others.
    pub eflags: u64,
    _pad2: [u64; 2],
    /// The FXSAVE image, as the kernel saves it: FCS and FDS are not kept.
    pub fx: [u8; 512],
    host_fx: [u8; 512],
    host_rsp: u64,
    fault: HostFault,
}

impl Default for CompatState {
    fn default() -> Self {
        let mut fx = [0; 512];
        fx[0..2].copy_from_slice(&0x37fu16.to_le_bytes());
        fx[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        CompatState {
            gpr: [0; 8],
            eip: 0,
            cs: USER32_CS,
            _pad: 0,
            eflags: 2,
            _pad2: [0; 2],
            fx,
            host_fx: [0; 512],
            host_rsp: 0,
            fault: HostFault::default(),
        }
    }
}

global_asm!(
    ".pushsection .text.xlat86_compat, \"ax\", @progbits",
    ".globl xlat86_compat_enter, xlat86_compat_exit",
    // rdi: the CompatState.
    "xlat86_compat_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi + {host_rsp}], rsp",
    "fxsave64 [rdi + {host_fx}]",
    "fxrstor [rdi + {fx}]",
    // A 64-bit process has null selectors here, with which 32-bit code can't access memory.
    "mov eax, 0x2b",
    "mov ds, eax",
    "mov es, eax",
    "mov r15, rdi",
    "push qword ptr [r15 + {eflags}]",
    "popfq",
    "mov eax, [r15]",
    "mov ecx, [r15 + 4]",
    "mov edx, [r15 + 8]",
    "mov ebx, [r15 + 12]",
    "mov esp, [r15 + 16]",
    "mov ebp, [r15 + 20]",
    "mov esi, [r15 + 24]",
    "mov edi, [r15 + 28]",
    // jmp far [r15 + 32]: a 16:32 pointer, which the assembler's Intel syntax has no name for.
    ".byte 0x41, 0xff, 0x6f, 32",
    // Entered from the signal handler, with rdi and rsp as they were above.
    "xlat86_compat_exit:",
    "fxrstor64 [rdi + {host_fx}]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
    host_rsp = const offset_of!(CompatState, host_rsp),
    host_fx = const offset_of!(CompatState, host_fx),
    fx = const offset_of!(CompatState, fx),
    eflags = const offset_of!(CompatState, eflags),
);

#[allow(unreachable_pub)]
unsafe extern "C" {
    fn xlat86_compat_enter(state: *mut u8);
    static xlat86_compat_exit: u8;
}

thread_local! {
    static RUNNING: core::cell::Cell<*mut CompatState> = const { core::cell::Cell::new(core::ptr::null_mut()) };
}

/// Called by the fault handler: true when the fault is 32-bit code's, which has then been left.
pub(crate) fn leave(uc: &mut libc::ucontext_t, fault: HostFault) -> bool {
    let state = RUNNING.get();
    let selectors = uc.uc_mcontext.gregs[libc::REG_CSGSFS as usize];
    if state.is_null() || selectors as u16 != USER32_CS {
        return false;
    }
    let g = &mut uc.uc_mcontext.gregs;
    // SAFETY: `run` on this thread keeps the state alive and doesn't touch it while 32-bit code runs.
    let s = unsafe { &mut *state };
    let order = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
    ];
    s.gpr = order.map(|r| g[r as usize] as u32);
    s.eip = g[libc::REG_RIP as usize] as u32;
    s.eflags = g[libc::REG_EFL as usize] as u64;
    s.fault = fault;
    // SAFETY: the kernel saved at least the 512 bytes of the legacy area there.
    s.fx = unsafe { *uc.uc_mcontext.fpregs.cast::<[u8; 512]>() };
    g[libc::REG_RIP as usize] = &raw const xlat86_compat_exit as i64;
    g[libc::REG_RSP as usize] = s.host_rsp as i64;
    g[libc::REG_RDI as usize] = state as i64;
    g[libc::REG_EFL as usize] = 0x202;
    g[libc::REG_CSGSFS as usize] = selectors & 0x0000_ffff_ffff_0000 | USER_CS | USER_DS << 48;
    true
}

/// Low memory in which 32-bit code runs. One at a time per process: the addresses are fixed.
pub struct Compat {
    ranges: Vec<Range<u32>>,
    _only: MutexGuard<'static, ()>,
}

static ONLY: Mutex<()> = Mutex::new(());

impl Compat {
    /// Maps `ranges` (page-aligned, above 64 KB), readable and writable; the first is executable too.
    ///
    /// # Errors
    /// One of the ranges is in use, or the host refuses.
    pub fn new(ranges: &[Range<u32>]) -> io::Result<Compat> {
        let only = ONLY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        crate::install_fault_handlers();
        crate::signals::use_alternate_stack()?;
        let mut this = Compat { ranges: Vec::new(), _only: only };
        for r in ranges {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            let exec = if this.ranges.is_empty() { libc::PROT_EXEC } else { 0 };
            let prot = libc::PROT_READ | libc::PROT_WRITE | exec;
            // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping.
            let p = unsafe { libc::mmap(r.start as usize as *mut _, r.len(), prot, flags, -1, 0) };
            if p == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            this.ranges.push(r.clone());
        }
        Ok(this)
    }

    /// The memory of range number `n`.
    pub fn memory(&mut self, n: usize) -> &mut [u8] {
        let r = &self.ranges[n];
        // SAFETY: mapped by `new`, unmapped by `drop`, borrowed through `self` only.
        unsafe { core::slice::from_raw_parts_mut(r.start as usize as *mut u8, r.len()) }
    }

    /// Runs from `state` to the next exception, which is given.
    ///
    /// What the code may do is the caller's business only as far as the module's header says: code that loads FS or
    /// enters the kernel would break the process. Its memory accesses reach the low 4 GB, where nothing but the ranges is.
    pub fn run(&mut self, state: &mut CompatState) -> HostFault {
        state.cs = USER32_CS;
        RUNNING.set(state);
        // SAFETY: the state outlives the call; the handler brings control back to the end of the routine.
        unsafe { xlat86_compat_enter((&raw mut *state).cast()) };
        RUNNING.set(core::ptr::null_mut());
        state.fault
    }
}

impl Drop for Compat {
    fn drop(&mut self) {
        for r in &self.ranges {
            // SAFETY: mapped by `new`.
            unsafe { libc::munmap(r.start as usize as *mut _, r.len()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_runs_in_compatibility_mode() {
        const AT: u32 = 0x6000_0000;
        let mut c = Compat::new(&[AT..AT + 0x1000]).unwrap();
        // inc eax (40H is a prefix in 64-bit mode); mov [AT + 800H], eax; int3
        c.memory(0)[..7].copy_from_slice(&[0x40, 0xa3, 0, 8, 0, 0x60, 0xcc]);
        let mut s = CompatState { eip: AT, ..CompatState::default() };
        s.gpr[0] = 41;
        let fault = c.run(&mut s);
        assert_eq!((fault.trapno, s.eip, s.gpr[0]), (3, AT + 7, 42));
        assert_eq!(c.memory(0)[0x800], 42);
        // A fault comes back as one.
        c.memory(0)[..2].copy_from_slice(&[0x8b, 0x00]);
        (s.eip, s.gpr[0]) = (AT, 0x1234);
        let fault = c.run(&mut s);
        assert_eq!((fault.trapno, fault.addr, s.eip), (14, 0x1234, AT));
    }
}
