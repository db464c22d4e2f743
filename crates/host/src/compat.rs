//! Runs 32-bit code on the host CPU, in this 64-bit process: a far jump into the compatibility-mode code segment that
//! Linux keeps in every GDT. The tests' judge of what an instruction does; it needs no 32-bit support of the kernel.
//!
//! Code leaves by an exception, or through the *gate*: [`Compat::gate`] is a far jump back into 64-bit code, some fifteen times
//! cheaper than a signal. Whoever writes the code surrounds it with INT3, and puts the gate where it is meant to end. After an exception
//! the signal handler takes the whole state from its context and continues after the far jump. The code must not load FS or GS (that
//! would destroy the host's thread pointer) nor enter the kernel.

use crate::slot::HostFault;
use core::arch::global_asm;
use core::cell::UnsafeCell;
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
    ".globl xlat86_compat_enter, xlat86_compat_exit, xlat86_compat_gate",
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
    // Entered from the gate, which has saved the rest of the state, with rdi and rsp as they were above.
    "xlat86_compat_gate:",
    "fxsave [rdi + {fx}]",
    // Entered from the signal handler, in the same way.
    "xlat86_compat_exit:",
    "cld",
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
    static xlat86_compat_gate: u8;
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

/// Where the gate's 64-bit half stands: its target is a 32-bit offset. Low memory that nobody else uses, nor stray addresses name.
const GATE: u32 = 0x5a3c_7000;
const GATE_LEN: usize = 4096;

/// 64-bit code that saves the registers of 32-bit code into the state at `state` and ends the run. It has no stack and no free
/// register, so it begins with a store to an absolute address. Nothing in it changes flags before they are saved.
fn gate_code(state: u64) -> Vec<u8> {
    let at = |field: usize| field as u8;
    let mut c = vec![0xa3]; // mov [state.gpr[0]], eax
    c.extend((state + offset_of!(CompatState, gpr) as u64).to_le_bytes());
    c.extend([0x48, 0xb8]); // mov rax, state
    c.extend(state.to_le_bytes());
    for r in 1..8u8 {
        c.extend([0x89, 0x40 | r << 3, at(offset_of!(CompatState, gpr)) + 4 * r]); // mov [rax + 4 * r], r
    }
    c.extend([0x48, 0x8b, 0xa0]); // mov rsp, [rax + host_rsp]
    c.extend((offset_of!(CompatState, host_rsp) as u32).to_le_bytes());
    c.extend([0x9c, 0x8f, 0x40, at(offset_of!(CompatState, eflags))]); // pushfq; pop [rax + eflags]
    c.extend([0x48, 0x89, 0xc7, 0x48, 0xb8]); // mov rdi, rax; mov rax, xlat86_compat_gate
    c.extend((&raw const xlat86_compat_gate as u64).to_le_bytes());
    c.extend([0xff, 0xe0]); // jmp rax
    c
}

/// Low memory in which 32-bit code runs. One at a time per process: the addresses are fixed.
pub struct Compat {
    ranges: Vec<Range<u32>>,
    /// Mapped by [`Compat::new`], and so to be unmapped.
    owned: bool,
    state: Box<UnsafeCell<CompatState>>,
    _only: MutexGuard<'static, ()>,
}

static ONLY: Mutex<()> = Mutex::new(());

fn map_low(at: u32, len: usize, prot: i32) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping.
    let p = unsafe { libc::mmap(at as usize as *mut _, len, prot, flags, -1, 0) };
    if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Compat {
    /// Maps `ranges` (page-aligned, above 64 KB), readable and writable; the first is executable too.
    ///
    /// # Errors
    /// One of the ranges is in use, or the host refuses.
    pub fn new(ranges: &[Range<u32>]) -> io::Result<Compat> {
        let mut this = Compat::bare()?;
        this.owned = true;
        for r in ranges {
            let exec = if this.ranges.is_empty() { libc::PROT_EXEC } else { 0 };
            map_low(r.start, r.len(), libc::PROT_READ | libc::PROT_WRITE | exec)?;
            this.ranges.push(r.clone());
        }
        Ok(this)
    }

    /// Over `ranges` that [`crate::scratch_low`] has mapped and that stay mapped while this lives. Before code can run,
    /// [`Compat::protect_code`] has to make the first executable.
    ///
    /// # Errors
    /// The host refuses memory.
    pub fn over(ranges: &[Range<u32>]) -> io::Result<Compat> {
        let mut this = Compat::bare()?;
        this.ranges = ranges.to_vec();
        Ok(this)
    }

    fn bare() -> io::Result<Compat> {
        let only = ONLY.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        crate::install_fault_handlers();
        crate::signals::use_alternate_stack()?;
        let state: Box<UnsafeCell<CompatState>> = Box::default();
        let code = gate_code(state.get() as u64);
        map_low(GATE, GATE_LEN, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the page just mapped, which is larger than the code.
        unsafe {
            core::ptr::write_bytes(GATE as usize as *mut u8, 0xcc, GATE_LEN);
            core::ptr::copy_nonoverlapping(code.as_ptr(), GATE as usize as *mut u8, code.len());
            libc::mprotect(GATE as usize as *mut _, GATE_LEN, libc::PROT_READ | libc::PROT_EXEC);
        }
        Ok(Compat { ranges: Vec::new(), owned: false, state, _only: only })
    }

    /// A far jump, for 32-bit code that has come to its end.
    #[must_use]
    pub fn gate() -> [u8; 7] {
        let ([a, b, c, d], [e, f]) = (GATE.to_le_bytes(), (USER_CS as u16).to_le_bytes());
        [0xea, a, b, c, d, e, f]
    }

    /// The memory of range number `n`. The first must be writable: see [`Compat::protect_code`].
    pub fn memory(&mut self, n: usize) -> &mut [u8] {
        let r = &self.ranges[n];
        // SAFETY: mapped while this lives, borrowed through `self` only.
        unsafe { core::slice::from_raw_parts_mut(r.start as usize as *mut u8, r.len()) }
    }

    /// Makes the first range readable, and beside writable or executable if so wanted.
    ///
    /// # Panics
    /// The host refuses.
    pub fn protect_code(&mut self, write: bool, exec: bool) {
        let bit = |on: bool, bit: i32| if on { bit } else { 0 };
        let prot = libc::PROT_READ | bit(write, libc::PROT_WRITE) | bit(exec, libc::PROT_EXEC);
        let r = &self.ranges[0];
        // SAFETY: mapped while this lives, and nobody holds a reference to its memory.
        let failed = unsafe { libc::mprotect(r.start as usize as *mut _, r.len(), prot) } != 0;
        assert!(!failed, "mprotect: {}", io::Error::last_os_error());
    }

    /// The state that [`Compat::go`] starts from and leaves.
    pub fn state(&mut self) -> &mut CompatState {
        self.state.get_mut()
    }

    /// Runs from [`Compat::state`] to the gate (`None`, and EIP isn't told) or the next exception.
    ///
    /// What the code may do is the caller's business only as far as the module's header says: code that loads FS or
    /// enters the kernel would break the process. Its memory accesses reach the low 4 GB, where nothing but the ranges is.
    pub fn go(&mut self) -> Option<HostFault> {
        const NONE: u32 = u32::MAX;
        let state = self.state();
        state.cs = USER32_CS;
        state.fault.trapno = NONE;
        let state = self.state.get();
        RUNNING.set(state);
        // SAFETY: the state outlives the call; the gate or the handler brings control back to the end of the routine.
        unsafe { xlat86_compat_enter(state.cast()) };
        RUNNING.set(core::ptr::null_mut());
        let fault = self.state().fault;
        (fault.trapno != NONE).then_some(fault)
    }

    /// Runs from `state` to the next exception, which is given. Code without a gate.
    ///
    /// # Panics
    /// The code left through the gate.
    pub fn run(&mut self, state: &mut CompatState) -> HostFault {
        *self.state() = state.clone();
        let fault = self.go().expect("code without a gate");
        *state = self.state().clone();
        fault
    }
}

impl Drop for Compat {
    fn drop(&mut self) {
        let owned = if self.owned { &self.ranges[..] } else { &[] };
        for r in owned.iter().chain([&(GATE..GATE + GATE_LEN as u32)]) {
            // SAFETY: mapped by `new` or `bare`.
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

    #[test]
    fn the_gate_keeps_registers_and_flags() {
        const AT: u32 = 0x6001_0000;
        let mut c = Compat::new(&[AT..AT + 0x1000]).unwrap();
        // std; fld1; movd xmm1, eax
        c.memory(0)[..7].copy_from_slice(&[0xfd, 0xd9, 0xe8, 0x66, 0x0f, 0x6e, 0xc8]);
        c.memory(0)[7..14].copy_from_slice(&Compat::gate());
        let gpr = [1, 2, 3, 4, 5, 6, 7, 0xffff_fff8];
        *c.state() = CompatState { eip: AT, gpr, eflags: 0x8d7, ..CompatState::default() };
        assert!(c.go().is_none());
        let s = c.state();
        assert_eq!((s.gpr, s.eflags & 0xcd5), (gpr, 0xcd5));
        assert_eq!((s.fx[2..5].to_vec(), s.fx[32 + 9], s.fx[160 + 16]), (vec![0, 0x38, 0x80], 0x3f, 1));
    }
}
