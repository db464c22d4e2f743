//! The dispatcher: enters translated code, and deals with the reasons for which it leaves.

use crate::fx::{self, Home};
use crate::process::Connect;
use crate::vcpu::written_page;
use crate::{Exit, Stats, Vcpu};
use xlat86_arch::{CpuState, Fault, Gva, Mode, PfError, Reg, Seg, Segment, eflags};
use xlat86_host::{Frame, Left, last_fault};
use xlat86_translator::{ExitKind, Fix, Mark, Place};

/// What to do after translated code has left.
pub(crate) enum Then {
    /// Go on at EIP, and spare the next one this leave.
    Connect(Connect),
    /// The interpreter executes the instruction at EIP.
    Interpret,
    /// A host fault with the instruction at EIP: find out why.
    Faulted,
    Exit(Exit),
}

impl Vcpu {
    pub(crate) fn run_translated(&mut self) -> Exit {
        let process = self.process.clone();
        process.cool();
        let mut connect = None;
        loop {
            if Self::pending() {
                process.world.come_out(&self.me);
                return Exit::Interrupted;
            }
            process.world.go_inside(&self.me);
            let code = if self.translatable() { self.code(connect.take()) } else { None };
            let then = match code {
                Some(offset) => self.enter_at(offset),
                None => Then::Interpret,
            };
            if let Some(exit) = self.follow(then, &mut connect) {
                process.world.come_out(&self.me);
                return exit;
            }
        }
    }

    /// Arena offset of the code for EIP, to be connected as `connect` says.
    fn code(&mut self, connect: Option<Connect>) -> Option<u32> {
        let eip = self.state.eip;
        self.memo.see(self.process.generation());
        if connect.is_none()
            && let Some(offset) = self.memo.entry(eip)
        {
            return Some(offset);
        }
        let offset = self.process.code_at(eip, self.state.mode(), &self.me, connect)?;
        // Making room for it may have changed the generation.
        self.memo.see(self.process.generation());
        self.memo.learn_entry(eip, offset);
        Some(offset)
    }

    /// May translated code run in the current mode? What is in the cache assumes flat user code that neither traps after each
    /// instruction nor has its accesses checked for alignment.
    pub(crate) fn translatable(&self) -> bool {
        self.state.mode() == Mode::USER32 && self.state.eflags & eflags::AC == 0 && segments_permit(&self.state)
    }

    /// Runs translated code from arena offset `offset` until it leaves.
    // Inlined into the loop that calls it: the fewer returns on the way, the better the host predicts them (`xlat86_host::VcpuFrame::enter`).
    #[inline(always)]
    pub(crate) fn enter_at(&mut self, offset: u32) -> Then {
        let evictions = self.process.evictions();
        if evictions != self.evictions_seen {
            self.evictions_seen = evictions;
            self.frame_mut().reset_returns();
        }
        self.fill_frame();
        self.stats.entries += 1;
        let arena = self.arena.as_ref().expect("translating");
        self.frame.as_mut().expect("translating").enter(arena, offset);
        self.take_frame();
        self.after_leaving()
    }

    /// Does what is to be done after leaving. `None`: go on at EIP.
    pub(crate) fn follow(&mut self, then: Then, connect: &mut Option<Connect>) -> Option<Exit> {
        match then {
            Then::Connect(how) => {
                *connect = Some(how);
                None
            }
            Then::Interpret => self.interpret_one(),
            Then::Faulted => self.after_fault(),
            Then::Exit(exit) => Some(exit),
        }
    }

    fn frame_mut(&mut self) -> &mut xlat86_host::VcpuFrame {
        self.frame.as_mut().expect("translating")
    }

    /// Hands the guest's registers to translated code.
    fn fill_frame(&mut self) {
        let state = &self.state;
        let frame = self.frame.as_mut().expect("translating").regs();
        frame.gpr = state.gpr;
        frame.flags = state.eflags;
        frame.system_flags = state.eflags & !eflags::LIVE;
        for (to, from) in frame.selector.iter_mut().zip(&state.seg) {
            *to = from.selector;
        }
        frame.set_segments([base_of(state.segment(Seg::Fs)), base_of(state.segment(Seg::Gs))]);
        if self.fx_home == Home::State {
            fx::to_host(&state.fx, frame);
        }
        self.fx_home = Home::Host;
    }

    /// Takes the guest's registers back; EIP follows from where it left.
    fn take_frame(&mut self) {
        let frame = self.frame.as_mut().expect("translating").regs();
        self.state.gpr = frame.gpr;
        self.state.eflags = (self.state.eflags & !eflags::LIVE) | (frame.flags & eflags::LIVE);
    }

    /// Maps where translated code left to guest state, and decides what is next.
    fn after_leaving(&mut self) -> Then {
        let &Frame { left, site, target, .. } = &*self.frame_mut().regs();
        if left == Left::NotEntered {
            return Then::Exit(Exit::Interrupted);
        }
        self.trace_exit(left, site, target);
        if left == Left::Call
            && let Some(exit) = self.memo.exit(site)
        {
            return through(exit, site, &mut self.state, &mut self.stats);
        }
        let place = self.process.cache().place(site, left == Left::Call);
        match (left, place) {
            (Left::Call, Some(Place::Miss)) => {
                self.stats.leave_miss += 1;
                self.state.eip = target as u32;
                Then::Connect(Connect::Table)
            }
            (Left::Call, Some(Place::Exit(exit))) => {
                self.memo.learn_exit(site, exit);
                through(&exit, site, &mut self.state, &mut self.stats)
            }
            (Left::Stopped, Some(Place::Inside(mark))) => {
                self.stats.leave_async += 1;
                self.repair(&mark);
                Then::Exit(Exit::Interrupted)
            }
            (Left::Trap, _) if self.process.cache().mismatched(site) => {
                self.returned_elsewhere(target);
                Then::Connect(Connect::Table)
            }
            (Left::Trap, Some(Place::Inside(mark))) => {
                self.stats.leave_fault += 1;
                self.repair(&mark);
                Then::Faulted
            }
            (left, place) => unreachable!("translated code left by {left:?} at {site:#x}: {place:?}"),
        }
    }

    /// A landing found that the guest returned to `target` instead.
    pub(crate) fn returned_elsewhere(&mut self, target: u64) {
        self.stats.return_mismatches += 1;
        self.frame_mut().reset_returns();
        self.state.eip = target as u32;
    }

    /// Makes registers those of the start of the guest instruction at `mark`.
    fn repair(&mut self, mark: &Mark) {
        self.state.eip = mark.eip;
        apply(mark.fix, &mut self.state);
    }

    /// A host instruction of the guest instruction at EIP faulted.
    fn after_fault(&mut self) -> Option<Exit> {
        let host = last_fault();
        self.last_fault = host;
        self.trace_fault(self.state.eip, host);
        let window = self.process.space().window().base();
        let fault = Fault::pf(Gva(host.addr.wrapping_sub(window) as u32), host.error | PfError::U);
        if host.trapno == 14
            && let Some(addr) = written_page(&fault, &host)
        {
            self.code_write(addr);
        }
        // The interpreter executes this one instruction: it finds the exact fault, or, when the page was only protected because
        // of its translations, does the write without translating it again first.
        self.interpret_one()
    }
}

/// Do the segments that host operands don't name permit every access that code makes through them? SS is always writable.
pub(crate) fn segments_permit(s: &CpuState) -> bool {
    let attr = |seg| s.segment(seg).attr;
    attr(Seg::Cs).readable() && attr(Seg::Ds).writable() && attr(Seg::Es).writable()
}

/// Makes registers those of the start of the guest instruction that needs `fix`.
pub(crate) fn apply(fix: Fix, state: &mut CpuState) {
    let esp = state.reg(Reg::Esp);
    state.set_reg(Reg::Esp, esp.wrapping_add_signed(fix.esp));
    state.interrupt_shadow |= fix.shadow;
    if let Some(r) = fix.swapped {
        let v = &mut state.gpr[r as usize];
        *v = (*v & 0xffff_0000) | u32::from((*v as u16).swap_bytes());
    }
}

/// What follows from leaving through `exit`.
fn through(exit: &xlat86_translator::Exit, site: u64, state: &mut CpuState, stats: &mut Stats) -> Then {
    match exit.kind {
        ExitKind::Link { target, .. } => {
            stats.leave_link += 1;
            state.eip = target;
            Then::Connect(Connect::Jump { site })
        }
        ExitKind::Changed => {
            stats.leave_changed += 1;
            state.eip = exit.eip;
            Then::Connect(Connect::Changed { site })
        }
        ExitKind::Interpret | ExitKind::Quick { .. } | ExitKind::Careful { .. } => {
            stats.leave_interpret += 1;
            state.eip = exit.eip;
            Then::Interpret
        }
        ExitKind::Access { fix, .. } | ExitKind::Thunk { fix, .. } => {
            stats.leave_access += 1;
            state.eip = exit.eip;
            apply(fix, state);
            Then::Interpret
        }
        ExitKind::SoftInt { vector, next } => {
            stats.leave_soft_int += 1;
            state.eip = next;
            Then::Exit(Exit::SoftInt(vector))
        }
    }
}

/// Segments this long are used without looking at their limit: SBCL and Wine keep their threads' data in such, and reach
/// it all the time, never beyond the end (README, known quirks).
const TRUSTED_LIMIT: u32 = 0xfff;

/// Base of FS or GS as translated code adds it. Without one accesses fault, and are then judged exactly by the interpreter.
fn base_of(s: &Segment) -> Option<u32> {
    let usable = s.attr.present() && s.attr.writable() && s.limit >= TRUSTED_LIMIT && !s.attr.expand_down();
    usable.then_some(s.base)
}
