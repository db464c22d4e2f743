//! The traced side of ptrace: where a thread of the guest stops for its tracer, another emulated process.
//!
//! The host's own ptrace carries it: the tracer's emulator traces this one, so that stops, waiting, children and deaths are
//! the kernel's. What a tracer wants to see is the guest, though. A thread that stops *for the guest's tracer* puts its
//! state into a [`Block`] and announces the block by a signal to itself, which the host's kernel shows the tracer first; the
//! tracer reads and changes the block, says how to go on, and swallows the signal. All other stops of the host's ptrace
//! are none of the guest's: `tracer.rs` lets them pass. Signals of the guest are reported when they are delivered to it.

use crate::abi::{FsaveHead, HostSiginfo, Siginfo, layout};
use crate::host_unsafe as host;
use crate::signal::{self, NSIG};
use crate::task::Task;
use std::sync::atomic::Ordering;
use xlat86_arch::{FxState, Gva, Reg, Seg};
use xlat86_host::signals::{self, KICK};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

layout! {
    /// What a stopped thread shows its tracer, and what that answers. In the tracee's memory.
    Block = 912 {
        tls: [u64; 3],
        image: [u8; 512],
        head: FsaveHead,
        info: [u32; 32],
        regs: [u32; 17],
        /// What wait reports: event, signal, and 0x7f for "stopped".
        status: u32,
        /// [`HELLO`] or [`STOP`].
        kind: u32,
        /// The answer: one of the `RESUME_` numbers, 0 while there is none.
        resume: u32,
        /// The signal to deliver instead of the one reported.
        inject: u32,
        /// PTRACE_O_ bits.
        options: u32,
        /// The first and last byte that the tracer has written since the last stop.
        poked: [u32; 2],
        /// [`REGS`], [`HEAD`], [`IMAGE`]: what the tracer has changed.
        changed: u32,
        /// The debug registers.
        debug: [u32; 8],
        pad: u32,
    }
}

/// The tracee only makes itself known.
pub(crate) const HELLO: u32 = 1;
/// The tracee has stopped.
pub(crate) const STOP: u32 = 2;
pub(crate) const RESUME_CONT: u32 = 1;
pub(crate) const RESUME_SYSCALL: u32 = 2;
pub(crate) const RESUME_STEP: u32 = 3;
pub(crate) const RESUME_DETACH: u32 = 4;
pub(crate) const REGS: u32 = 1;
pub(crate) const HEAD: u32 = 2;
pub(crate) const IMAGE: u32 = 4;
/// Marks the signal that announces a block (its value) or, with value 0, asks for a stop by SIGSTOP: `si_errno`.
pub(crate) const MAGIC: u32 = 0x7861_3836;

pub(crate) const O_SYSGOOD: u32 = 1;
pub(crate) const O_FORK: u32 = 2;
pub(crate) const O_VFORK: u32 = 4;
pub(crate) const O_CLONE: u32 = 8;
pub(crate) const O_EXEC: u32 = 0x10;
pub(crate) const EVENT_EXEC: u32 = 4;

/// Not in a system call.
const NO_CALL: u32 = u32::MAX;
/// Index of ORIG_EAX in `struct user_regs_struct` of i386.
const ORIG_EAX: usize = 11;

pub(crate) const fn stopped(event: u32, sig: u32) -> u32 {
    event << 16 | sig << 8 | 0x7f
}

/// The siginfo of the signal between tracee and tracer.
pub(crate) fn note(value: u64) -> HostSiginfo {
    const SI_QUEUE: u32 = u32::MAX;
    let mut info = HostSiginfo { signo: KICK as u32, errno: MAGIC, code: SI_QUEUE, ..HostSiginfo::default() };
    info.fields[1] = value;
    info
}

impl Task {
    /// Is this thread traced?
    pub(crate) fn traced(&self) -> bool {
        self.trace.is_some()
    }

    fn resumed_for(&self, how: u32) -> bool {
        self.trace.as_ref().is_some_and(|b| b.resume == how)
    }

    /// Becomes a tracee with `options`; says so, if it isn't stopped right after anyway.
    pub(crate) fn start_tracing(&mut self, options: u32, hello: bool) {
        self.trace = Some(Box::new(Block { options, poked: [u32::MAX, 0], ..Block::default() }));
        self.shared.traced.store(true, Ordering::Release);
        signals::expect_kicks();
        // A tracer sees every signal, the ignored ones too.
        let actions = self.actions().clone();
        for (i, a) in actions.0.iter().enumerate() {
            let _ = self.set_action(i as i32 + 1, *a);
        }
        if hello {
            self.announce(HELLO, 0, NO_CALL, None);
        }
    }

    /// Puts the state of the guest where the tracer looks for it.
    fn fill(&mut self, b: &mut Block, orig_eax: u32) {
        let fx = *self.vcpu.fx();
        let s = self.vcpu.state();
        let seg = |r: Seg| u32::from(s.segment(r).selector);
        let r = |r: Reg| s.reg(r);
        use Reg::{Eax, Ebp, Ebx, Ecx, Edi, Edx, Esi, Esp};
        b.regs = [
            r(Ebx),
            r(Ecx),
            r(Edx),
            r(Esi),
            r(Edi),
            r(Ebp),
            r(Eax),
            seg(Seg::Ds),
            seg(Seg::Es),
            seg(Seg::Fs),
            seg(Seg::Gs),
            orig_eax,
            s.eip,
            seg(Seg::Cs),
            s.eflags,
            r(Esp),
            seg(Seg::Ss),
        ];
        b.image = signal::fx_image(&fx);
        b.head = signal::fsave_head(&fx, seg(Seg::Cs), seg(Seg::Ds));
        b.tls = self.tls;
        b.changed = 0;
    }

    /// Takes over what the tracer has changed.
    fn take_changes(&mut self, b: &mut Block) {
        use Reg::{Eax, Ebp, Ebx, Ecx, Edi, Edx, Esi, Esp};
        if b.changed & REGS != 0 {
            for (i, reg) in [Ebx, Ecx, Edx, Esi, Edi, Ebp, Eax].into_iter().enumerate().chain([(15, Esp)]) {
                self.vcpu.state_mut().set_reg(reg, b.regs[i]);
            }
            for (i, seg) in [(7, Seg::Ds), (8, Seg::Es), (9, Seg::Fs), (10, Seg::Gs)] {
                let selector = b.regs[i] as u16;
                if self.vcpu.state().segment(seg).selector != selector {
                    self.load_segment(seg, selector);
                }
            }
            let s = self.vcpu.state_mut();
            s.eip = b.regs[12];
            s.eflags = s.eflags & !signal::FIX_EFLAGS | b.regs[14] & signal::FIX_EFLAGS;
        }
        let mask = self.vcpu.fx().mxcsr_mask;
        if b.changed & HEAD != 0 {
            *self.vcpu.fx_mut() = signal::fx_from(&b.head, &b.image, mask);
        } else if b.changed & IMAGE != 0 {
            *self.vcpu.fx_mut() = fx_from_image(&b.image, mask);
        }
        let [first, last] = b.poked;
        if first <= last {
            // Behind the write protection of translated code: drop what was translated from there.
            self.mem.process().change(&[(Gva(first), last - first + 1)], || ());
            b.poked = [u32::MAX, 0];
        }
    }

    /// Shows the tracer a block and waits for its answer; the signal to go on with.
    fn announce(&mut self, kind: u32, status: u32, orig_eax: u32, info: Option<&Siginfo>) -> u32 {
        let Some(mut b) = self.trace.take() else { return status >> 8 & 0xff };
        self.fill(&mut b, orig_eax);
        (b.kind, b.status, b.resume) = (kind, status, 0);
        // Without a tracer any more, the signal goes on as it came.
        b.inject = if info.is_some() { status >> 8 & 0xff } else { 0 };
        b.info = [0; 32];
        if let Some(info) = info {
            let words = info.as_bytes().len() / 4;
            b.info.as_mut_bytes()[..4 * words].copy_from_slice(info.as_bytes());
        }
        host::announce(b.as_mut(), note);
        let inject = b.inject;
        self.take_changes(&mut b);
        if b.resume != 0 && b.resume != RESUME_DETACH {
            self.trace = Some(b);
        } else {
            self.stop_tracing();
        }
        inject
    }

    /// This thread is nobody's tracee any more.
    pub(crate) fn stop_tracing(&mut self) {
        self.trace = None;
        self.shared.traced.store(false, Ordering::Release);
        let actions = self.actions().clone();
        for (i, a) in actions.0.iter().enumerate() {
            let _ = self.set_action(i as i32 + 1, *a);
        }
    }

    /// A signal is about to be delivered: the tracer decides which one it will be, 0 for none.
    pub(crate) fn trace_delivery(&mut self, sig: i32, info: &Siginfo) -> i32 {
        self.announce(STOP, stopped(0, sig as u32), NO_CALL, Some(info)) as i32
    }

    /// A new process or thread begins with a stop.
    pub(crate) fn trace_birth(&mut self, wanted: u32) {
        let Some(options) = self.trace.as_ref().map(|b| b.options) else { return };
        if options & wanted == 0 {
            return self.trace = None;
        }
        self.trace = Some(Box::new(Block { options, poked: [u32::MAX, 0], ..Block::default() }));
        let info = Siginfo { signo: libc::SIGSTOP as u32, ..Siginfo::default() };
        self.announce(STOP, stopped(0, libc::SIGSTOP as u32), NO_CALL, Some(&info));
    }

    /// A program begins with a stop.
    pub(crate) fn trace_exec(&mut self, options: u32) {
        const EXECVE: u32 = 11;
        self.start_tracing(options, false);
        let event = if options & O_EXEC != 0 { EVENT_EXEC } else { 0 };
        let info = Siginfo { signo: libc::SIGTRAP as u32, ..Siginfo::default() };
        self.announce(STOP, stopped(event, libc::SIGTRAP as u32), EXECVE, Some(&info));
        self.trace_call(EXECVE);
    }

    /// A stop at the beginning or end of system call `nr`, if the tracer wants one; the number as the tracer left it.
    pub(crate) fn trace_call(&mut self, nr: u32) -> u32 {
        let Some(b) = &self.trace else { return nr };
        let good = if b.options & O_SYSGOOD != 0 { 0x80 } else { 0 };
        if !self.resumed_for(RESUME_SYSCALL) {
            if let Some(mut b) = self.trace.take() {
                // Children and events show the state from before the call.
                self.fill(&mut b, nr);
                self.trace = Some(b);
            }
            return nr;
        }
        let info = Siginfo { signo: libc::SIGTRAP as u32, code: libc::SIGTRAP as u32 | good, ..Siginfo::default() };
        let sig = self.announce(STOP, stopped(0, libc::SIGTRAP as u32 | good), nr, Some(&info));
        let nr = self.trace.as_ref().map_or(nr, |b| b.regs[ORIG_EAX]);
        if sig != 0 && sig != libc::SIGTRAP as u32 | good {
            let _ = host::call(
                syscalls::Sysno::tgkill,
                &[
                    host::Arg::uint(std::process::id()),
                    host::Arg::uint(signals::thread_id() as u32),
                    host::Arg::uint(sig),
                ],
            );
        }
        nr
    }

    /// EAX while a system call is being entered, as the kernel shows it.
    pub(crate) fn trace_entry(&mut self, nr: u32) -> u32 {
        const ENOSYS: u32 = -38i32 as u32;
        if !self.resumed_for(RESUME_SYSCALL) {
            return self.trace_call(nr);
        }
        self.vcpu.state_mut().set_reg(Reg::Eax, ENOSYS);
        self.trace_call(nr)
    }

    /// Is every instruction to be looked at?
    pub(crate) fn stepping(&self) -> bool {
        self.trace.as_ref().is_some_and(|b| b.resume == RESUME_STEP || b.debug[7] & 0xff != 0)
    }

    /// What the watched places hold now: address, and value by width.
    pub(crate) fn watched(&self) -> [Option<u32>; 4] {
        let Some(b) = &self.trace else { return [None; 4] };
        std::array::from_fn(|i| {
            let control = b.debug[7] >> (16 + 4 * i);
            let on = b.debug[7] >> (2 * i) & 3 != 0;
            let mut bytes = [0; 4];
            // DR7.LEN: 1, 2, 8 (not in 32-bit mode), 4 bytes. DR7.RW: 0 is execution.
            let len = [1, 2, 0, 4][(control >> 2 & 3) as usize];
            (on && control & 3 != 0 && self.mem.read_bytes(b.debug[i], &mut bytes[..len]).is_ok())
                .then(|| u32::from_le_bytes(bytes))
        })
    }

    /// After one instruction: reports a step, a watched place that has changed, or a breakpoint that is next.
    pub(crate) fn after_step(&mut self, before: [Option<u32>; 4]) {
        const TRAP_TRACE: u32 = 2;
        const TRAP_HWBKPT: u32 = 4;
        /// DR6.BS: a single step.
        const BS: u32 = 1 << 14;
        let now = self.watched();
        let eip = self.vcpu.state().eip;
        let Some(b) = &mut self.trace else { return };
        let changed = (0..4).filter(|&i| now[i].is_some() && now[i] != before[i]);
        let execution = |i: &usize| b.debug[7] >> (2 * i) & 3 != 0 && b.debug[7] >> (16 + 4 * i) & 3 == 0;
        let next = (0..4).filter(execution).filter(|&i| b.debug[i] == eip);
        let hits = changed.chain(next).fold(0, |m, i| m | 1 << i);
        let step = b.resume == RESUME_STEP;
        if hits == 0 && !step {
            return;
        }
        b.debug[6] = b.debug[6] & !(0xf | BS) | hits | if step { BS } else { 0 };
        let code = if hits != 0 { TRAP_HWBKPT } else { TRAP_TRACE };
        let mut info = Siginfo { signo: libc::SIGTRAP as u32, code, ..Siginfo::default() };
        info.fields[0] = eip;
        let sig = self.trace_delivery(libc::SIGTRAP, &info);
        if sig != 0 {
            self.deliver_untraced(sig, info);
        }
    }
}

/// Dispositions are the host's own again, so that a program executed next inherits what is ignored.
pub(crate) fn before_exec(t: &Task) {
    for (i, a) in t.actions().0.iter().enumerate().take(NSIG) {
        if a.handler == signal::SIG_IGN {
            let _ = signals::set_disposition(i as i32 + 1, signals::Disposition::Ignore, 0);
        }
    }
}

/// The state in an FXSAVE image.
fn fx_from_image(image: &[u8; 512], mxcsr_mask: u32) -> FxState {
    let word = |at: usize| u32::from_le_bytes([image[at], image[at + 1], image[at + 2], image[at + 3]]);
    let mut fx = FxState { mxcsr_mask, ..FxState::INIT };
    fx.fcw = word(0) as u16;
    fx.fsw = (word(0) >> 16) as u16;
    fx.ftw = word(4) as u8;
    fx.fop = (word(4) >> 16) as u16;
    fx.fip = word(8);
    fx.fcs = word(12) as u16;
    fx.fdp = word(16);
    fx.fds = word(20) as u16;
    fx.mxcsr = word(24) & if mxcsr_mask == 0 { 0xffbf } else { mxcsr_mask };
    for (i, st) in fx.st.iter_mut().enumerate() {
        st[..10].copy_from_slice(&image[32 + 16 * i..][..10]);
    }
    for (i, x) in fx.xmm.iter_mut().enumerate() {
        *x = u128::read_from_bytes(&image[160 + 16 * i..][..16]).unwrap_or_default();
    }
    fx
}

/// A block as the tracer finds it before it has read one.
pub(crate) fn empty() -> Block {
    Block::new_zeroed()
}
