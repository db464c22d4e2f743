//! Entering and leaving translated code.
//!
//! Translated code runs on a stack of its own, the *return stack*, which holds nothing but host return addresses:
//! a guest call is a host call and a guest return a host return, so that the host's return predictor works for the guest.
//! Below it lies a guard page (overflow resets the stack, in the fault handler); at its top the address of the sentinel stub (underflow
//! goes through the jump table). Signal handlers run on the alternate stack.

use crate::crossing::{CROSSINGS, Crossing, Descriptor, Load};
use crate::frame::{CallOut, Frame, FrameMemory, Left, PROBE, Returns};
use crate::slot::GUARD;
use crate::{Arena, JumpTable, Ram, TlbMemory, Window, set_gs_base, slot};
use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use memmap2::{MmapMut, MmapOptions};
use std::io;
use std::sync::Arc;

/// Size of the return stack: 64 Ki nested guest calls before a reset.
const RETURN_STACK: usize = 512 << 10;

/// The frame of one virtual CPU with its return stack: everything needed to run translated code on this thread.
pub struct VcpuFrame {
    frame: *mut Frame,
    stacks: [ReturnStack; 2],
    /// The one in use.
    current: usize,
    /// Crossings with something in them.
    crossings: Vec<usize>,
    /// Where the descriptors are that they look at.
    ram: Option<Arc<Ram>>,
    /// Whose memory the frame is in.
    _home: Home,
}

/// Host return addresses, with a guard page below.
struct ReturnStack {
    map: MmapMut,
}

impl ReturnStack {
    /// Bytes between the guard and the top.
    const DEPTH: u64 = RETURN_STACK as u64 - 64;

    fn new(arena: &Arena, sentinel: usize) -> io::Result<ReturnStack> {
        let map = MmapOptions::new().len(GUARD + RETURN_STACK).no_reserve_swap().map_anon()?;
        let base = map.as_ptr() as u64;
        // SAFETY: the lowest page of our own mapping.
        if unsafe { libc::mprotect(base as *mut libc::c_void, GUARD, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let stack = ReturnStack { map };
        // SAFETY: in our own mapping, above the guard.
        unsafe { (stack.top() as *mut u64).write(arena.base() + sentinel as u64) };
        Ok(stack)
    }

    /// 16 bytes above the sentinel stay free, for the overshoot of a return that pops it.
    fn top(&self) -> u64 {
        self.guard() + GUARD as u64 + Self::DEPTH
    }

    fn guard(&self) -> u64 {
        self.map.as_ptr() as u64
    }
}

/// Where a frame lives. The fields keep it alive.
enum Home {
    Own(#[allow(dead_code, reason = "owned, not looked at")] FrameMemory),
    Tlb(#[allow(dead_code, reason = "owned, not looked at")] Arc<TlbMemory>),
}

impl VcpuFrame {
    /// A frame for code in `arena`, whose offset `sentinel` holds the stub that an underflowing return reaches.
    /// With `tlb` the frame lies behind that CPU's TLBs; the code may then look them up.
    pub fn new(
        arena: &Arena,
        table: &JumpTable,
        sentinel: usize,
        tlb: Option<Arc<TlbMemory>>,
    ) -> io::Result<VcpuFrame> {
        let stacks = [ReturnStack::new(arena, sentinel)?, ReturnStack::new(arena, sentinel)?];
        let (frame, home) = match tlb {
            None => {
                let memory = FrameMemory::new(0)?;
                (memory.frame(), Home::Own(memory))
            }
            Some(tlb) => (tlb.frame(), Home::Tlb(tlb)),
        };
        let frame = frame as *mut Frame;
        // SAFETY: a page of its own, writable and aligned, kept for the frame by `FrameMemory`.
        unsafe { frame.write(Frame::new()) };
        let tops = stacks.each_ref().map(ReturnStack::top);
        let mut this = VcpuFrame { frame, stacks, current: 0, crossings: Vec::new(), ram: None, _home: home };
        let f = this.regs();
        f.arena = arena.base();
        f.table = table.base();
        f.returns = tops.map(|top| Returns { sp: top, top, table: 0 });
        (f.return_top, f.return_sp) = (tops[0], tops[0]);
        Ok(this)
    }

    /// The register file, between two entries.
    pub fn regs(&mut self) -> &mut Frame {
        // SAFETY: valid as long as `_home`, and ours alone: a CPU has one frame.
        unsafe { &mut *self.frame }
    }

    /// Forgets every host return address: guest returns find their way through the jump table.
    pub fn reset_returns(&mut self) {
        let f = self.regs();
        f.return_sp = f.return_top;
    }

    /// Forgets them on both return stacks.
    pub fn reset_all_returns(&mut self) {
        self.reset_returns();
        for r in &mut self.regs().returns {
            r.sp = r.top;
        }
    }

    /// Goes on with return stack `which`, that of CPL 0 (0) or CPL 3 (1), for code that jumps through `table`: what it holds counts if it was
    /// left by such code, unless `forget`.
    pub fn use_returns(&mut self, which: usize, table: u64, forget: bool) {
        let from = self.current;
        let f = self.regs();
        f.returns[from] = Returns { sp: f.return_sp, top: f.return_top, table: f.table };
        let r = f.returns[which];
        let keep = r.table == table && !forget;
        (f.return_sp, f.return_top, f.table) = (if keep { r.sp } else { r.top }, r.top, table);
        self.current = which;
    }

    /// Translated code has gone on with return stack `which` by itself.
    pub fn note_returns(&mut self, which: usize) {
        self.current = which;
    }

    /// The record at `index`.
    fn crossing(&mut self, index: usize) -> &mut Crossing {
        assert!(index < CROSSINGS);
        // SAFETY: behind the frame, in zeroed memory that is kept with it (asserted beside `PROBE`), and aligned; a value of zeroes is valid.
        // The CPU's thread, which isn't in translated code, is the only one that accesses it.
        unsafe { &mut *self.frame.cast::<u8>().add(Crossing::START).cast::<Crossing>().add(index) }
    }

    /// Notes that the instruction at guest address `eip`, in the world numbered `from`, leads where `crossing` says (its key and loads
    /// aside). `loads`: the selectors that it depends on, and their descriptors if they aren't null, which are in `ram`.
    pub fn set_crossing(
        &mut self,
        eip: u32,
        outer: bool,
        from: u64,
        loads: [Option<Load>; 2],
        ram: &Arc<Ram>,
        mut crossing: Crossing,
    ) {
        // Records read guest memory for as long as they are there.
        self.ram = Some(ram.clone());
        let index = Crossing::index(eip, outer);
        if self.crossing(index).key == 0 {
            self.crossings.push(index);
        }
        let slot = self.crossing(index);
        crossing.key = Crossing::key(from, eip).wrapping_neg();
        let null = &raw const slot.null as u64;
        crossing.loads = loads.map(|l| match l {
            None => Descriptor::default(),
            Some(Load { selector, descriptor: None }) => Descriptor::new(selector, null, 0),
            Some(Load { selector, descriptor: Some((value, offset)) }) => {
                assert!(offset.checked_add(8).is_some_and(|end| end <= ram.len()));
                Descriptor::new(selector, ram.base() + offset, value)
            }
        });
        *slot = crossing;
    }

    /// Empties all crossings.
    pub fn forget_crossings(&mut self) {
        for index in core::mem::take(&mut self.crossings) {
            self.crossing(index).key = 0;
        }
    }

    /// Runs translated code from arena offset `offset` until it leaves; then [`Frame::left`] says why.
    ///
    /// Sound because of the trust stated at [`Arena`]: whatever is in the arena keeps the host's state intact.
    // Inlined up to the loop that dispatches: see `enter`.
    #[inline(always)]
    pub fn enter(&mut self, arena: &Arena, offset: u32) {
        assert!((offset as usize) < arena.size() && self.regs().arena == arena.base());
        let f = self.regs();
        f.left = Left::NotEntered;
        f.pending = slot::pending_flag() as u64;
        if f.return_sp < f.return_top - ReturnStack::DEPTH + 8 {
            // Entering pushes.
            f.return_sp = f.return_top;
        }
        slot::set_return_guards(self.stacks.each_ref().map(ReturnStack::guard));
        // SAFETY: the frame is valid and exclusively ours; the code in the arena is trusted.
        unsafe { enter(self.frame, arena.base() + u64::from(offset)) }
    }

    /// Makes the probe the start of the current thread's GS segment, for code whose guest memory is the host's low 4 GB: its landings are loads
    /// from there. To be called by whichever thread is going to enter.
    pub fn use_probe(&self) {
        set_gs_base(self.frame as u64 + u64::from(PROBE));
    }

    /// Has [`Frame::call_out`] call `function`, which sees `memory`, the guest's.
    pub fn set_call_out(&mut self, function: CallOut, memory: Window) {
        self.regs().function = Some((function, memory));
    }
}

/// Address of the leave routine, for [`Frame::leave`].
pub(crate) fn leave_address() -> u64 {
    xlat86_leave as *const () as u64
}

/// Address of the routine that calls out, for [`Frame::call_out`].
pub(crate) fn call_out_address() -> u64 {
    xlat86_call_out as *const () as u64
}

/// Host code range in which a signal may still cancel an entry, and where to continue then.
pub(crate) fn entering(rip: u64) -> Option<u64> {
    let check = &raw const xlat86_enter_check as u64;
    let committed = &raw const xlat86_enter_jump as u64;
    (check..=committed).contains(&rip).then_some(&raw const xlat86_enter_cancel as u64)
}

/// Where the fault handler continues after recording a trap or stop.
pub(crate) fn trap_address() -> u64 {
    &raw const xlat86_leave_trap as u64
}

#[allow(unreachable_pub)]
unsafe extern "C" {
    static xlat86_enter_check: u8;
    static xlat86_enter_jump: u8;
    static xlat86_enter_cancel: u8;
    static xlat86_leave_trap: u8;
}

/// Runs translated code from `target` until it leaves.
///
/// The host predicts returns by a stack of its own. So that it stays in step, neither this nor leaving is a call with a return on the host's
/// side: the address to come back to is pushed and jumped to. On the guest's side leaving is a call and entering a return, which goes on where
/// it left, mostly.
///
/// # Safety
/// `frame` is valid, complete, and nobody else's; the code at `target` is trusted to keep the block ABI.
#[inline(always)]
unsafe fn enter(frame: *mut Frame, target: u64) {
    // SAFETY: the caller's promise. All registers that the code changes are named or saved; the stack is left as found.
    unsafe {
        asm!(
            "push rbx", "push rbp",
            "lea rax, [rip + 2f]",
            "push rax",
            "jmp {enter}",
            "2:",
            "pop rbp", "pop rbx",
            enter = sym xlat86_enter,
            in("rdi") frame,
            in("rsi") target,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            clobber_abi("C"),
        );
    }
}

/// MXCSR without its sticky flags, as host code needs it: every exception masked, rounding to nearest.
const HOST_MXCSR: u32 = 0x1f80;

/// Loads the guest's registers and goes to the address in RSI.
#[unsafe(naked)]
unsafe extern "C" fn xlat86_enter() {
    naked_asm!(
        "mov [rdi + {host_sp}], rsp",
        "mov r14, rdi",
        ".globl xlat86_enter_check, xlat86_enter_jump, xlat86_enter_cancel",
        "xlat86_enter_check:",
        "mov rdx, [r14 + {pending}]",
        "cmp byte ptr [rdx], 0",
        "jne xlat86_enter_cancel",
        // Loading it takes longer than looking whether it needs to be.
        "stmxcsr [rsp - 8]",
        "mov eax, [rsp - 8]",
        "cmp eax, [r14 + {mxcsr}]",
        "je 2f",
        "ldmxcsr [r14 + {mxcsr}]",
        "2:",
        "movaps xmm0, [r14 + {xmm}]", "movaps xmm1, [r14 + {xmm} + 16]",
        "movaps xmm2, [r14 + {xmm} + 32]", "movaps xmm3, [r14 + {xmm} + 48]",
        "movaps xmm4, [r14 + {xmm} + 64]", "movaps xmm5, [r14 + {xmm} + 80]",
        "movaps xmm6, [r14 + {xmm} + 96]", "movaps xmm7, [r14 + {xmm} + 112]",
        "mov r13, [r14 + {arena}]",
        "mov r15, [r14 + {table}]",
        "mov rsp, [r14 + {return_sp}]",
        "push rsi",
        // Flags without POPF (13 cycles): DF by STD, OF by an addition, the rest by SAHF.
        "mov ecx, [r14 + {flags}]",
        "test ecx, 0x400",
        "jz 2f",
        "std",
        "2:",
        "mov eax, ecx",
        "shl eax, 8",
        "shr ecx, 11",
        "and ecx, 1",
        "mov al, cl",
        "add al, 0x7f",
        "sahf",
        "mov eax, [r14 + {gpr}]", "mov ecx, [r14 + {gpr} + 4]", "mov edx, [r14 + {gpr} + 8]", "mov ebx, [r14 + {gpr} + 12]",
        "mov r12d, [r14 + {gpr} + 16]", "mov ebp, [r14 + {gpr} + 20]", "mov esi, [r14 + {gpr} + 24]", "mov edi, [r14 + {gpr} + 28]",
        "xlat86_enter_jump:",
        "ret",
        "xlat86_enter_cancel:",
        "cld",
        "jmp xlat86_leave_host",
        host_sp = const offset_of!(Frame, host_sp),
        pending = const offset_of!(Frame, pending),
        mxcsr = const offset_of!(Frame, mxcsr),
        xmm = const offset_of!(Frame, xmm),
        arena = const offset_of!(Frame, arena),
        table = const offset_of!(Frame, table),
        return_sp = const offset_of!(Frame, return_sp),
        gpr = const offset_of!(Frame, gpr),
        flags = const offset_of!(Frame, flags),
    )
}

/// Saves the guest's registers.
macro_rules! save_registers {
    () => {
        concat!(
            "mov [r14 + {return_sp}], rsp\n",
            "mov rsp, [r14 + {host_sp}]\n",
            "pushfq\n",
            "pop r11\n",
            "cld\n",
            "mov [r14 + {flags}], r11d\n",
            "mov [r14 + {gpr}], eax\n mov [r14 + {gpr} + 4], ecx\n mov [r14 + {gpr} + 8], edx\n mov [r14 + {gpr} + 12], ebx\n",
            "mov [r14 + {gpr} + 16], r12d\n mov [r14 + {gpr} + 20], ebp\n mov [r14 + {gpr} + 24], esi\n mov [r14 + {gpr} + 28], edi\n",
            "movaps [r14 + {xmm}], xmm0\n movaps [r14 + {xmm} + 16], xmm1\n",
            "movaps [r14 + {xmm} + 32], xmm2\n movaps [r14 + {xmm} + 48], xmm3\n",
            "movaps [r14 + {xmm} + 64], xmm4\n movaps [r14 + {xmm} + 80], xmm5\n",
            "movaps [r14 + {xmm} + 96], xmm6\n movaps [r14 + {xmm} + 112], xmm7\n",
            "stmxcsr [r14 + {mxcsr}]\n",
        )
    };
}

/// Called by translated code: saves its registers and goes back to [`enter`].
#[unsafe(naked)]
unsafe extern "C" fn xlat86_leave() {
    naked_asm!(
        "pop qword ptr [r14 + {site}]",
        "mov dword ptr [r14 + {left}], {call}",
        ".globl xlat86_leave_trap, xlat86_leave_host",
        "xlat86_leave_trap:",
        "mov [r14 + {target}], r11",
        "mov [r14 + {address}], r8",
        save_registers!(),
        "xlat86_leave_host:",
        "mov rsp, [r14 + {host_sp}]",
        // The host's code runs with its own rounding mode and masks. What it sets besides is no matter.
        "stmxcsr [rsp - 8]",
        "mov eax, [rsp - 8]",
        "and eax, 0xffc0",
        "cmp eax, {host_mxcsr}",
        "je 2f",
        "mov dword ptr [rsp - 8], {host_mxcsr}",
        "ldmxcsr [rsp - 8]",
        "2:",
        "pop rcx",
        "jmp rcx",
        site = const offset_of!(Frame, site),
        left = const offset_of!(Frame, left),
        call = const Left::Call as u32,
        target = const offset_of!(Frame, target),
        address = const offset_of!(Frame, address),
        return_sp = const offset_of!(Frame, return_sp),
        host_sp = const offset_of!(Frame, host_sp),
        gpr = const offset_of!(Frame, gpr),
        flags = const offset_of!(Frame, flags),
        xmm = const offset_of!(Frame, xmm),
        mxcsr = const offset_of!(Frame, mxcsr),
        host_mxcsr = const HOST_MXCSR,
    )
}

/// Called by translated code in place of leaving: calls [`Frame::function`] with the guest's registers saved, and enters again behind the
/// call. If the function won't, translated code is left at this site after all.
///
/// A signal that arrives meanwhile finds the thread outside of translated code and is noted; entering is then cancelled like any other
/// entry, and the guest is stopped behind the call.
#[unsafe(naked)]
unsafe extern "C" fn xlat86_call_out() {
    naked_asm!(
        "pop qword ptr [r14 + {site}]",
        save_registers!(),
        "and rsp, -16",
        "mov rdi, r14",
        "call {call_function}",
        "mov rsp, [r14 + {host_sp}]",
        "mov rsi, [r14 + {site}]",
        "mov dword ptr [r14 + {left}], {stopped}",
        "test al, al",
        "jnz xlat86_enter_check",
        "mov dword ptr [r14 + {left}], {call}",
        "jmp xlat86_leave_host",
        call_function = sym call_function,
        site = const offset_of!(Frame, site),
        left = const offset_of!(Frame, left),
        call = const Left::Call as u32,
        stopped = const Left::Stopped as u32,
        return_sp = const offset_of!(Frame, return_sp),
        host_sp = const offset_of!(Frame, host_sp),
        gpr = const offset_of!(Frame, gpr),
        flags = const offset_of!(Frame, flags),
        xmm = const offset_of!(Frame, xmm),
        mxcsr = const offset_of!(Frame, mxcsr),
    )
}

/// # Safety
/// `frame` is valid and nobody else's.
unsafe extern "C" fn call_function(frame: *mut Frame) -> bool {
    // SAFETY: the caller's promise.
    let f = unsafe { &mut *frame };
    f.function.is_some_and(|(function, memory)| function(&mut f.gpr, memory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{install_fault_handlers, last_fault, signals};

    /// `call [r14]`: the leave routine.
    fn leave() -> [u8; 3] {
        [0x41, 0xff, 0x16]
    }

    fn setup(code: &[u8], boundaries: &[usize]) -> (Arena, JumpTable, VcpuFrame) {
        install_fault_handlers();
        signals::use_alternate_stack().unwrap();
        let (arena, table) = (Arena::new(1 << 16).unwrap(), JumpTable::new().unwrap());
        arena.write(64, code, boundaries.iter().copied());
        let frame = VcpuFrame::new(&arena, &table, 0, None).unwrap();
        (arena, table, frame)
    }

    #[test]
    fn registers_and_flags_go_in_and_come_out() {
        // lea eax, [rcx + r12]; call leave
        let code = [&[0x42, 0x8d, 0x04, 0x21][..], &leave()].concat();
        let (arena, _table, mut vcpu) = setup(&code, &[0]);
        for flags in [0, 0x8d5u32, 0x400, 0x800, 0x1, 0x40] {
            vcpu.regs().gpr = [1, 20, 3, 4, 300, 6, 7, 8];
            vcpu.regs().flags = flags;
            vcpu.regs().xmm = [7; 8];
            vcpu.enter(&arena, 64);
            assert_eq!(vcpu.regs().left, Left::Call);
            assert_eq!(vcpu.regs().gpr, [320, 20, 3, 4, 300, 6, 7, 8]);
            assert_eq!(vcpu.regs().flags & 0xcd5, flags);
            assert_eq!(vcpu.regs().xmm, [7; 8]);
            assert_eq!(vcpu.regs().site, arena.base() + 64 + code.len() as u64);
        }
    }

    #[test]
    fn a_fault_leaves_with_the_registers_it_found() {
        // mov ecx, 5; mov eax, [dword 8]
        let code = [0xb9, 5, 0, 0, 0, 0x67, 0x8b, 0x04, 0x25, 8, 0, 0, 0];
        let (arena, _table, mut vcpu) = setup(&code, &[0, 5]);
        vcpu.regs().gpr = [1; 8];
        vcpu.enter(&arena, 64);
        assert_eq!((vcpu.regs().left, vcpu.regs().site), (Left::Trap, arena.base() + 64 + 5));
        assert_eq!(vcpu.regs().gpr, [1, 5, 1, 1, 1, 1, 1, 1]);
        assert_eq!((last_fault().addr, last_fault().trapno), (8, 14));
    }

    #[test]
    fn a_full_return_stack_is_dropped() {
        // 1: inc eax; cmp eax, 200000; je 2f; call 1b; 2: call leave
        let code =
            [&[0xff, 0xc0, 0x3d, 0x40, 0x0d, 3, 0, 0x74, 5, 0xe8, 0xf2, 0xff, 0xff, 0xff][..], &leave()].concat();
        let (arena, _table, mut vcpu) = setup(&code, &[0]);
        vcpu.enter(&arena, 64);
        assert_eq!((vcpu.regs().left, vcpu.regs().gpr[0]), (Left::Call, 200_000));
    }

    #[test]
    fn a_signal_stops_at_a_boundary_and_before_entering() {
        // 1: inc eax; nop; nop; jmp 1b -- a boundary only before inc.
        let code = [0xff, 0xc0, 0x90, 0x90, 0xeb, 0xfa];
        let (arena, _table, mut vcpu) = setup(&code, &[0]);
        signals::watch(libc::SIGUSR1, false).unwrap();
        // SAFETY: plain libc calls; the target thread outlives the sender, which it joins.
        let me = unsafe { libc::pthread_self() };
        let sender = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            // SAFETY: as above.
            unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
        });
        vcpu.enter(&arena, 64);
        sender.join().unwrap();
        assert_eq!((vcpu.regs().left, vcpu.regs().site), (Left::Stopped, arena.base() + 64));
        vcpu.enter(&arena, 64);
        assert_eq!(vcpu.regs().left, Left::NotEntered);
        let info = signals::take_pending().unwrap();
        assert_eq!(i32::from_le_bytes(info[..4].try_into().unwrap()), libc::SIGUSR1);
        assert_eq!(signals::take_pending(), None);
    }
}
