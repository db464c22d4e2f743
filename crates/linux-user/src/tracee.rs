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
use syscalls::Sysno;
use xlat86_arch::{FxState, Gva, Reg, Seg};
use xlat86_host::signals::{self, KICK};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

layout! {
    /// What a stopped thread shows its tracer, and what that answers. In the tracee's memory.
    Block = 920 {
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
        /// PTRACE_O_ bits, and [`SEIZED`].
        options: u32,
        /// The first and last byte that the tracer has written since the last stop.
        poked: [u32; 2],
        /// [`REGS`], [`HEAD`], [`IMAGE`]: what the tracer has changed.
        changed: u32,
        /// The debug registers.
        debug: [u32; 8],
        /// [`ENTRY`] or [`LEAVE`] in a stop for a system call.
        phase: u32,
        pad: [u32; 2],
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
pub(crate) const RESUME_LISTEN: u32 = 5;
/// Stopped on the way into a system call.
pub(crate) const ENTRY: u32 = 1;
/// Stopped on the way out of one.
pub(crate) const LEAVE: u32 = 2;
/// Marks the signal that announces a block (its value): `si_errno`.
pub(crate) const MAGIC: u32 = 0x7861_3836;
/// Marks the signal by which a tracer asks for something: its value is one of the `ASK_` numbers and, from bit 8 on, options.
pub(crate) const ASK: u32 = MAGIC + 1;
/// Report a SIGSTOP, which the host can't be made to show at a place where the guest is whole.
pub(crate) const ASK_STOP: u32 = 1;
/// PTRACE_ATTACH.
const ASK_ATTACH: u32 = 2;
/// PTRACE_SEIZE.
const ASK_SEIZE: u32 = 3;
/// PTRACE_INTERRUPT.
const ASK_INTERRUPT: u32 = 4;
/// The tracer used PTRACE_SEIZE: among the PTRACE_O_ bits, of which it is none.
pub(crate) const SEIZED: u32 = 1 << 23;

pub(crate) const O_SYSGOOD: u32 = 1;
pub(crate) const O_FORK: u32 = 2;
pub(crate) const O_VFORK: u32 = 4;
pub(crate) const O_CLONE: u32 = 8;
pub(crate) const O_EXEC: u32 = 0x10;
pub(crate) const EVENT_EXEC: u32 = 4;
pub(crate) const EVENT_STOP: u32 = 128;

/// Not in a system call.
pub(crate) const NO_CALL: u32 = u32::MAX;
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

/// What a tracer sends a thread to ask for something.
pub(crate) fn question(ask: u32, options: u32) -> HostSiginfo {
    HostSiginfo { errno: ASK, ..note(u64::from(options) << 8 | u64::from(ask)) }
}

/// The question that PTRACE_ATTACH asks, or PTRACE_SEIZE with `options`.
pub(crate) fn attachment(seize: Option<u32>) -> HostSiginfo {
    seize.map_or(question(ASK_ATTACH, 0), |options| question(ASK_SEIZE, options))
}

/// The question that PTRACE_INTERRUPT asks.
pub(crate) fn interruption() -> HostSiginfo {
    question(ASK_INTERRUPT, 0)
}

/// The host's options for what a tracee was given: the emulator has to know of every execve.
pub(crate) fn host_options(options: u32) -> u32 {
    options & !(O_SYSGOOD | SEIZED) | O_EXEC
}

fn is_stop(sig: i32) -> bool {
    matches!(sig, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)
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
        if self.trace.is_none() {
            self.shared.traced.fetch_add(1, Ordering::AcqRel);
        }
        self.trace = Some(Box::new(Block { options, poked: [u32::MAX, 0], ..Block::default() }));
        // A tracer sees every signal, the ignored ones too.
        self.renew_actions();
        if hello {
            self.announce(HELLO, 0, NO_CALL, None);
        }
    }

    /// Puts the state of the guest where the tracer looks for it.
    pub(crate) fn fill(&mut self, b: &mut Block, orig_eax: u32) {
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
        loop {
            host::announce(b.as_mut(), note);
            // The host merges it with a kick that is on its way: then nobody has seen it.
            if b.resume != 0 || !host::is_traced() {
                break;
            }
        }
        b.phase = 0;
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
        if self.trace.take().is_some() {
            self.shared.traced.fetch_sub(1, Ordering::AcqRel);
        }
        self.renew_actions();
    }

    /// A signal is about to be delivered: the tracer decides which one it will be, 0 for none.
    pub(crate) fn trace_delivery(&mut self, sig: i32, info: &Siginfo) -> i32 {
        let chosen = self.announce(STOP, stopped(0, sig as u32), NO_CALL, Some(info)) as i32;
        if is_stop(chosen) && self.traced() {
            self.group_stop(chosen);
            return 0;
        }
        chosen
    }

    /// A signal of a tracer: what it asks for is done, or is the signal that this gives.
    pub(crate) fn answer(&mut self, note: &Siginfo) -> Option<i32> {
        // Those of a stop that nobody looked at ask for nothing.
        let (ask, options) = if note.errno == ASK { (note.fields[2] & 0xff, note.fields[2] >> 8) } else { (0, 0) };
        match ask {
            ASK_ATTACH if !self.traced() => self.start_tracing(0, false),
            ASK_SEIZE if !self.traced() => self.start_tracing(options | SEIZED, true),
            ASK_INTERRUPT if self.traced() => self.event_stop(libc::SIGTRAP),
            _ => {}
        }
        (matches!(ask, ASK_STOP | ASK_ATTACH) && self.traced()).then_some(libc::SIGSTOP)
    }

    /// A stop of PTRACE_SEIZE's kind.
    fn event_stop(&mut self, sig: i32) {
        let sig = sig as u32;
        let info = Siginfo { signo: sig, code: EVENT_STOP << 8 | sig, ..Siginfo::default() };
        self.announce(STOP, stopped(EVENT_STOP, sig), NO_CALL, Some(&info));
    }

    /// A tracer has let a stop signal through: one that uses PTRACE_SEIZE sees the process stop, and may listen for its end.
    fn group_stop(&mut self, sig: i32) {
        if self.trace.as_ref().is_none_or(|b| b.options & SEIZED == 0) {
            return;
        }
        self.event_stop(sig);
        if !self.resumed_for(RESUME_LISTEN) {
            return;
        }
        signals::set_mask(u64::MAX);
        let go_on = [signals::bit(libc::SIGCONT)];
        let eight = host::Arg::uint(8);
        let args = [host::Arg::input(&go_on), host::Arg::NULL, host::Arg::NULL, eight];
        // Until SIGCONT, which is then delivered as it always is, or until the tracer asks for a stop.
        while !signal::waiting() {
            if host::interruptible(Sysno::rt_sigtimedwait, &args) == Ok(Ok(libc::SIGCONT as u64)) {
                self.send_self(libc::SIGCONT as u32);
                self.event_stop(libc::SIGTRAP);
                break;
            }
        }
        signals::set_mask(self.signals.blocked);
    }

    fn send_self(&self, sig: u32) {
        let (pid, tid) = (std::process::id(), signals::thread_id() as u32);
        let _ = host::call(Sysno::tgkill, &[host::Arg::uint(pid), host::Arg::uint(tid), host::Arg::uint(sig)]);
    }

    /// A new process or thread begins with a stop.
    pub(crate) fn trace_birth(&mut self, wanted: u32) {
        let Some(options) = self.trace.as_ref().map(|b| b.options) else { return };
        if options & wanted == 0 {
            return self.stop_tracing();
        }
        self.trace = Some(Box::new(Block { options, poked: [u32::MAX, 0], ..Block::default() }));
        if options & SEIZED != 0 {
            return self.event_stop(libc::SIGTRAP);
        }
        let info = Siginfo { signo: libc::SIGSTOP as u32, ..Siginfo::default() };
        self.announce(STOP, stopped(0, libc::SIGSTOP as u32), NO_CALL, Some(&info));
    }

    /// A program begins with a stop.
    pub(crate) fn trace_exec(&mut self, options: u32) {
        const EXECVE: u32 = 11;
        // A tracer that seized asks for this stop if it wants it.
        let stops = options & (SEIZED | O_EXEC) != SEIZED;
        self.start_tracing(options, !stops);
        if !stops {
            return;
        }
        let event = if options & O_EXEC != 0 { EVENT_EXEC } else { 0 };
        let info = Siginfo { signo: libc::SIGTRAP as u32, ..Siginfo::default() };
        self.announce(STOP, stopped(event, libc::SIGTRAP as u32), EXECVE, Some(&info));
        self.trace_call(EXECVE);
    }

    /// A stop at the beginning or end of system call `nr`, if the tracer wants one; the number as the tracer left it.
    pub(crate) fn trace_call(&mut self, nr: u32) -> u32 {
        self.trace_phase(nr, LEAVE)
    }

    fn trace_phase(&mut self, nr: u32, phase: u32) -> u32 {
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
        if let Some(b) = &mut self.trace {
            b.phase = phase;
        }
        let info = Siginfo { signo: libc::SIGTRAP as u32, code: libc::SIGTRAP as u32 | good, ..Siginfo::default() };
        let sig = self.announce(STOP, stopped(0, libc::SIGTRAP as u32 | good), nr, Some(&info));
        let nr = self.trace.as_ref().map_or(nr, |b| b.regs[ORIG_EAX]);
        if sig != 0 && sig != libc::SIGTRAP as u32 | good {
            self.send_self(sig);
        }
        nr
    }

    /// EAX while a system call is being entered, as the kernel shows it.
    pub(crate) fn trace_entry(&mut self, nr: u32) -> u32 {
        const ENOSYS: u32 = -38i32 as u32;
        if !self.resumed_for(RESUME_SYSCALL) {
            return self.trace_phase(nr, ENTRY);
        }
        self.vcpu.state_mut().set_reg(Reg::Eax, ENOSYS);
        self.trace_phase(nr, ENTRY)
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
