//! Delivering signals to the guest: which action, which stack, and the frame the handler finds there.
//!
//! The host's kernel does the queueing and masking (a guest thread's mask *is* its host thread's mask, but for the signals in `held.rs`). This file does what `arch/x86/kernel/signal_32.c` does when a signal is
//! taken: build a frame, redirect the registers; and the way back in sigreturn.

use crate::abi::{
    FsaveHead, HostSiginfo, RtSigframe, SI_KERNEL, Sigaction, Sigcontext, Sigframe, Siginfo, StackT, U64, Ucontext,
};
use crate::core_file;
use crate::held::Held;
use crate::host_unsafe as host;
use crate::task::Task;
use crate::tracee;
use syscalls::Errno;
use xlat86_arch::{Fault, FxState, PfError, Reg, Seg, Vector, eflags, fcw, mxcsr};
use xlat86_host::signals;
use zerocopy::{FromBytes, IntoBytes};

/// Number of signals.
pub(crate) const NSIG: usize = 64;
/// Default action.
pub(crate) const SIG_DFL: u32 = 0;
/// Ignore.
pub(crate) const SIG_IGN: u32 = 1;

pub(crate) const SA_NOCLDSTOP: u32 = 1;
pub(crate) const SA_NOCLDWAIT: u32 = 2;
const SA_SIGINFO: u32 = 4;
const SA_RESTORER: u32 = 0x0400_0000;
const SA_ONSTACK: u32 = 0x0800_0000;
pub(crate) const SA_RESTART: u32 = 0x1000_0000;
const SA_NODEFER: u32 = 0x4000_0000;
const SA_RESETHAND: u32 = 0x8000_0000;

const SS_ONSTACK: u32 = 1;
const SS_DISABLE: u32 = 2;
const SS_AUTODISARM: u32 = 1 << 31;

/// Selectors of user segments on a 64-bit kernel.
const USER32_CS: u32 = 0x23;
const USER_DS: u32 = 0x2b;

/// EFLAGS bits that sigreturn takes from the frame (`FIX_EFLAGS`).
pub(crate) const FIX_EFLAGS: u32 = eflags::AC
    | eflags::OF
    | eflags::DF
    | eflags::TF
    | eflags::SF
    | eflags::ZF
    | eflags::AF
    | eflags::PF
    | eflags::CF
    | eflags::RF;

/// Signals that can't be caught, blocked or ignored.
const UNBLOCKABLE: u64 = signals::bit(libc::SIGKILL) | signals::bit(libc::SIGSTOP);

/// The actions of a process, by signal number minus one.
#[derive(Clone)]
pub struct Actions(pub [Sigaction; NSIG]);

/// A thread's part of signal handling.
#[derive(Clone, Default)]
pub struct ThreadSignals {
    /// Blocked signals, as the guest set them.
    pub blocked: u64,
    /// The mask of a call that has one of its own, until the signal that ends it is delivered.
    pub during: Option<u64>,
    /// Signals that the guest blocks and the host doesn't.
    pub held: Held,
    /// The alternate stack; all zero when there is none.
    pub altstack: StackT,
    /// What sigcontexts report as the latest exception.
    pub trap: Trap,
}

/// An exception as a sigcontext shows it.
#[derive(Clone, Copy, Default)]
pub struct Trap {
    nr: u32,
    error: u32,
    cr2: u32,
}

impl Actions {
    /// What a new program starts with: default, but for what it inherited as ignored.
    pub fn inherited() -> Self {
        let ignored = host::inherited::ignored();
        let mut a = Actions([Sigaction::default(); NSIG]);
        for (i, a) in a.0.iter_mut().enumerate() {
            if ignored >> i & 1 != 0 {
                a.handler = SIG_IGN;
            }
        }
        a
    }
}

/// Does a signal wait for this thread?
pub(crate) fn waiting() -> bool {
    xlat86_host::with_pending(|flag| flag.load(std::sync::atomic::Ordering::Relaxed))
}

/// What the kernel does by default.
enum DefaultAction {
    Ignore,
    Stop,
    Die,
}

fn default_action(sig: i32) -> DefaultAction {
    match sig {
        libc::SIGCHLD | libc::SIGURG | libc::SIGWINCH | libc::SIGCONT => DefaultAction::Ignore,
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => DefaultAction::Stop,
        _ => DefaultAction::Die,
    }
}

/// Does a signal end a process that does nothing about it?
pub(crate) fn kills(sig: i32) -> bool {
    matches!(default_action(sig), DefaultAction::Die)
}

/// What an exception becomes: signal, code, and whether the address is that of the instruction (else given or zero).
fn signal_of(fault: &Fault, eip: u32, fx: &FxState) -> (i32, u32, u32) {
    let kernel = |sig| (sig, SI_KERNEL, 0);
    match fault.vector {
        Vector::DE => (libc::SIGFPE, 1, eip),
        Vector::DB => (libc::SIGTRAP, 2, eip),
        Vector::BP => kernel(libc::SIGTRAP),
        Vector::UD => (libc::SIGILL, 2, eip),
        Vector::MF => (libc::SIGFPE, math_code(!u32::from(fx.fcw) & u32::from(fx.fsw)), eip),
        Vector::XM => (libc::SIGFPE, math_code(!(fx.mxcsr >> mxcsr::MASK_SHIFT) & fx.mxcsr), eip),
        Vector::SS | Vector::NP => kernel(libc::SIGBUS),
        Vector::AC => (libc::SIGBUS, 1, 0),
        _ => kernel(libc::SIGSEGV),
    }
}

/// `si_code` of a floating-point exception, by the kernel's order of precedence.
fn math_code(unmasked: u32) -> u32 {
    match unmasked {
        e if e & 0x01 != 0 => 7,
        e if e & 0x04 != 0 => 3,
        e if e & 0x08 != 0 => 4,
        e if e & 0x12 != 0 => 5,
        e if e & 0x20 != 0 => 6,
        _ => 0,
    }
}

impl Task {
    /// Takes all signals that wait for this thread.
    pub fn deliver_pending(&mut self) {
        loop {
            let open = !self.signals.mask();
            // The synchronous ones first, as the kernel does it.
            let info = if let Some(info) = self.signals.held.take(open & !signals::bit(signals::KICK)) {
                info
            } else if waiting() {
                let Some(raw) = signals::take_pending() else { return };
                Siginfo::from(&HostSiginfo::read_from_bytes(raw.as_bytes()).unwrap_or_default())
            } else if let Some(info) = self.signals.held.take(open) {
                info
            } else {
                return;
            };
            // Until this one has been dealt with the others wait.
            signals::set_mask(u64::MAX);
            self.deliver(info.signo as i32, info, false);
        }
    }

    /// Turns an exception of the guest's CPU into its signal.
    pub fn deliver_fault(&mut self, fault: &Fault) {
        let eip = self.vcpu.state().eip;
        // Faults save RF set, for their instruction to be executed once more; traps don't (SDM vol. 3, 19.3.1.1). Handlers, tracers and core files see it;
        // nothing that runs here depends on it.
        if !matches!(fault.vector, Vector::DB | Vector::BP | Vector::OF) {
            self.vcpu.state_mut().eflags |= eflags::RF;
        }
        let (sig, code, addr) = if fault.vector == Vector::PF {
            let error = fault.error.unwrap_or(0) | PfError::U;
            self.signals.trap = Trap { nr: 14, error, cr2: fault.addr.0 };
            let host = self.vcpu.last_host_fault();
            if error & PfError::I != 0 {
                let code = if self.mm.space().page(fault.addr).prot().mapped { 2 } else { 1 };
                (libc::SIGSEGV, code, fault.addr.0)
            } else if host.signal == libc::SIGBUS {
                (libc::SIGBUS, host.code as u32, fault.addr.0)
            } else {
                (libc::SIGSEGV, if host.code == 2 { 2 } else { 1 }, fault.addr.0)
            }
        } else {
            let cr2 = self.signals.trap.cr2;
            self.signals.trap = Trap { nr: fault.vector.0.into(), error: fault.error.unwrap_or(0), cr2 };
            signal_of(fault, eip, self.vcpu.fx())
        };
        self.force(sig, code, addr);
        self.vcpu.state_mut().eflags &= !eflags::RF;
    }

    /// Delivers a signal that an instruction caused: it can't be blocked or ignored.
    pub fn force(&mut self, sig: i32, code: u32, addr: u32) {
        let mut info = Siginfo { signo: sig as u32, code, ..Siginfo::default() };
        info.fields[0] = addr;
        self.deliver(sig, info, true);
    }

    /// Delivers the SIGSYS of a filter.
    pub(crate) fn force_sigsys(&mut self, errno: u32, call_addr: u32, nr: u32, arch: u32) {
        const SYS_SECCOMP: u32 = 1;
        let mut info = Siginfo { signo: libc::SIGSYS as u32, errno, code: SYS_SECCOMP, ..Siginfo::default() };
        info.fields[..3].copy_from_slice(&[call_addr, nr, arch]);
        self.deliver(libc::SIGSYS, info, true);
    }

    fn deliver(&mut self, sig: i32, info: Siginfo, forced: bool) {
        let (mut sig, mut info) = (sig, info);
        if sig == signals::KICK && matches!(info.errno, tracee::MAGIC | tracee::ASK) {
            let Some(meant) = self.answer(&info) else { return signals::set_mask(self.signals.blocked) };
            (sig, info) = (meant, Siginfo { signo: meant as u32, ..Siginfo::default() });
        }
        if !forced && self.signals.hold(&info) {
            return signals::set_mask(self.signals.blocked);
        }
        self.signals.during = None;
        if self.traced() {
            let chosen = self.trace_delivery(sig, &info);
            if chosen == 0 {
                return signals::set_mask(self.signals.blocked);
            }
            if chosen != sig {
                (sig, info) = (chosen, Siginfo { signo: chosen as u32, ..Siginfo::default() });
            }
        }
        self.take(sig, info, forced);
    }

    /// Delivers a signal past the tracer.
    pub(crate) fn deliver_untraced(&mut self, sig: i32, info: Siginfo) {
        self.take(sig, info, false);
    }

    fn take(&mut self, sig: i32, info: Siginfo, forced: bool) {
        let Some(i) = (sig as usize).checked_sub(1).filter(|&i| i < NSIG) else { return };
        let action = self.actions().0[i];
        let blocked = self.signals.blocked >> i & 1 != 0;
        if forced && (blocked || action.handler == SIG_IGN || action.handler == SIG_DFL) {
            self.die(sig, &info);
        }
        self.trace_signal(sig, &info);
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => match default_action(sig) {
                DefaultAction::Ignore => {}
                DefaultAction::Stop => host::stop_process(),
                DefaultAction::Die => self.die(sig, &info),
            },
            _ => {
                if self.left.take().is_some() {
                    // The call that was to go on after a stop ends for a handler after all.
                    let s = self.vcpu.state_mut();
                    s.set_reg(Reg::Eax, (-Errno::EINTR.into_raw()) as u32);
                    s.eip = s.eip.wrapping_add(crate::task::INT80_LEN);
                }
                if action.flags & SA_RESETHAND != 0 {
                    let _ = self.set_action(sig, Sigaction { handler: SIG_DFL, ..action });
                }
                if self.push_frame(sig, &action, info).is_err() {
                    // No room for the frame: the kernel sends SIGSEGV, by force.
                    if sig == libc::SIGSEGV {
                        self.die(sig, &info);
                    }
                    return self.force(libc::SIGSEGV, SI_KERNEL, 0);
                }
                let this = if action.flags & SA_NODEFER == 0 { 1 << i } else { 0 };
                self.signals.blocked |= (action.mask.get() | this) & !UNBLOCKABLE;
            }
        }
        signals::set_mask(self.signals.blocked);
    }

    /// Ends the process by `sig`, so that its parent sees it die of that.
    pub fn die(&mut self, sig: i32, info: &Siginfo) -> ! {
        self.release_all_futexes();
        let core = core_file::writes(sig) && core_file::write(self, sig, info);
        self.shared.at_exit(&format!("killed by {}", crate::trace::signal_name(sig as u32)), &mut self.vcpu);
        host::die_by_signal(sig, core)
    }

    /// Sets the blocked set, here and on the host.
    pub fn set_blocked(&mut self, mask: u64) {
        self.signals.blocked = mask & !UNBLOCKABLE;
        signals::set_mask(self.signals.blocked);
    }

    /// Is `esp` on the alternate stack?
    pub fn on_altstack(&self, esp: u32) -> bool {
        let a = &self.signals.altstack;
        a.flags & SS_AUTODISARM == 0 && a.size != 0 && esp > a.sp && esp - a.sp <= a.size
    }

    /// The state word of the alternate stack as sigaltstack reports it.
    pub fn altstack_flags(&self, esp: u32) -> u32 {
        let a = &self.signals.altstack;
        let state = if a.size == 0 {
            SS_DISABLE
        } else if self.on_altstack(esp) {
            SS_ONSTACK
        } else {
            0
        };
        state | a.flags & SS_AUTODISARM
    }

    /// Where a frame of `size` bytes goes, and above it the FPU state: (frame, FPU state).
    fn frame_place(&self, action: &Sigaction, size: u32) -> (u32, u32) {
        let s = self.vcpu.state();
        let mut sp = s.reg(Reg::Esp);
        let alt = &self.signals.altstack;
        if action.flags & SA_ONSTACK != 0 {
            if alt.size != 0 && !self.on_altstack(sp) {
                sp = alt.sp.wrapping_add(alt.size);
            }
        } else if u32::from(s.segment(Seg::Ss).selector) != USER_DS
            && action.flags & SA_RESTORER == 0
            && action.restorer != 0
        {
            // "This is the legacy signal stack switching."
            sp = action.restorer;
        }
        // The FXSAVE image is aligned to 64; the FNSAVE header goes right below it.
        let fx = sp.wrapping_sub(size_of::<FxState>() as u32) & !63;
        let fp = fx.wrapping_sub(size_of::<FsaveHead>() as u32);
        // On entry to the handler, ESP + 4 is a multiple of 16.
        let frame = (fp.wrapping_sub(size).wrapping_add(4) & !15).wrapping_sub(4);
        (frame, fp)
    }

    fn sigcontext(&self, fpstate: u32) -> Sigcontext {
        let s = self.vcpu.state();
        let seg = |r: Seg| u32::from(s.segment(r).selector);
        let t = &self.signals.trap;
        Sigcontext {
            gs: seg(Seg::Gs),
            fs: seg(Seg::Fs),
            es: seg(Seg::Es),
            ds: seg(Seg::Ds),
            edi: s.reg(Reg::Edi),
            esi: s.reg(Reg::Esi),
            ebp: s.reg(Reg::Ebp),
            esp: s.reg(Reg::Esp),
            ebx: s.reg(Reg::Ebx),
            edx: s.reg(Reg::Edx),
            ecx: s.reg(Reg::Ecx),
            eax: s.reg(Reg::Eax),
            trapno: t.nr,
            err: t.error,
            eip: s.eip,
            cs: seg(Seg::Cs),
            eflags: s.eflags,
            esp_at_signal: s.reg(Reg::Esp),
            ss: seg(Seg::Ss),
            fpstate,
            oldmask: self.signals.blocked as u32,
            cr2: t.cr2,
        }
    }

    fn push_frame(&mut self, sig: i32, action: &Sigaction, info: Siginfo) -> Result<(), Errno> {
        let rt = action.flags & SA_SIGINFO != 0;
        let size = if rt { size_of::<RtSigframe>() } else { size_of::<Sigframe>() } as u32;
        let (frame, fp) = self.frame_place(action, size);
        let esp = self.vcpu.state().reg(Reg::Esp);
        let alt = self.signals.altstack;
        if self.on_altstack(esp) && (frame <= alt.sp || frame - alt.sp > alt.size) {
            // Running off the alternate stack: the kernel refuses rather than clobber what is below.
            return Err(Errno::EFAULT);
        }
        let sc = self.sigcontext(fp);
        let fx = *self.vcpu.fx();
        self.mem.write(fp, &fsave_head(&fx, sc.cs, sc.ds))?;
        self.mem.write_bytes(fp + size_of::<FsaveHead>() as u32, &fx_image(&fx))?;
        let pretcode = |default| if action.flags & SA_RESTORER != 0 { action.restorer } else { default };
        let (mut edx, mut ecx) = (0, 0);
        if rt {
            let at = |offset: usize| frame + offset as u32;
            let f = RtSigframe {
                pretcode: pretcode(self.shared.vdso().rt_sigreturn),
                sig: sig as u32,
                pinfo: at(std::mem::offset_of!(RtSigframe, info)),
                puc: at(std::mem::offset_of!(RtSigframe, uc)),
                info,
                uc: Ucontext {
                    flags: 0,
                    link: 0,
                    stack: StackT { sp: alt.sp, flags: self.altstack_flags(esp), size: alt.size },
                    mcontext: sc,
                    sigmask: U64::from(self.signals.blocked),
                },
                // movl $173, %eax; int $0x80
                retcode: [0xb8, 173, 0, 0, 0, 0xcd, 0x80, 0],
            };
            self.mem.write(frame, &f)?;
            (edx, ecx) = (f.pinfo, f.puc);
            if alt.flags & SS_AUTODISARM != 0 {
                self.signals.altstack = StackT::default();
            }
        } else {
            let f = Sigframe {
                pretcode: pretcode(self.shared.vdso().sigreturn),
                sig: sig as u32,
                sc,
                fpstate_unused: [0; 624],
                extramask: (self.signals.blocked >> 32) as u32,
                // popl %eax; movl $119, %eax; int $0x80
                retcode: [0x58, 0xb8, 119, 0, 0, 0, 0xcd, 0x80],
            };
            self.mem.write(frame, &f)?;
        }
        *self.vcpu.fx_mut() = FxState { mxcsr_mask: fx.mxcsr_mask, ..FxState::INIT };
        let s = self.vcpu.state_mut();
        s.set_reg(Reg::Esp, frame);
        s.set_reg(Reg::Eax, sig as u32);
        s.set_reg(Reg::Edx, edx);
        s.set_reg(Reg::Ecx, ecx);
        s.eip = action.handler;
        s.eflags &= !(eflags::DF | eflags::RF | eflags::TF);
        for (seg, sel) in [(Seg::Ds, USER_DS), (Seg::Es, USER_DS), (Seg::Ss, USER_DS), (Seg::Cs, USER32_CS)] {
            self.load_segment(seg, sel as u16);
        }
        Ok(())
    }

    /// sigreturn: ESP is just above the frame's signal number.
    pub fn pop_frame(&mut self) -> Result<(), Errno> {
        let frame = self.vcpu.state().reg(Reg::Esp).wrapping_sub(8);
        let f: Sigframe = self.mem.read(frame)?;
        self.restore_context(&f.sc)?;
        self.set_blocked(u64::from(f.sc.oldmask) | u64::from(f.extramask) << 32);
        Ok(())
    }

    /// rt_sigreturn: ESP is just above the frame's return address.
    pub fn pop_rt_frame(&mut self) -> Result<(), Errno> {
        let frame = self.vcpu.state().reg(Reg::Esp).wrapping_sub(4);
        let f: RtSigframe = self.mem.read(frame)?;
        self.restore_context(&f.uc.mcontext)?;
        self.set_blocked(f.uc.sigmask.get());
        // As the kernel does: errors of the stack are ignored, and it is restored as seen from the new ESP.
        let _ = self.set_altstack(f.uc.stack, self.vcpu.state().reg(Reg::Esp));
        Ok(())
    }

    fn restore_context(&mut self, sc: &Sigcontext) -> Result<(), Errno> {
        let fx = match sc.fpstate {
            0 => FxState { mxcsr_mask: self.vcpu.fx().mxcsr_mask, ..FxState::INIT },
            at => {
                let head: FsaveHead = self.mem.read(at)?;
                let mut image = [0; size_of::<FxState>()];
                self.mem.read_bytes(at.wrapping_add(size_of::<FsaveHead>() as u32), &mut image)?;
                fx_from(&head, &image, self.vcpu.fx().mxcsr_mask)
            }
        };
        *self.vcpu.fx_mut() = fx;
        for (seg, sel) in
            [(Seg::Gs, sc.gs), (Seg::Fs, sc.fs), (Seg::Es, sc.es), (Seg::Ds, sc.ds), (Seg::Ss, sc.ss), (Seg::Cs, sc.cs)]
        {
            // The kernel forces RPL 3 on the non-null ones.
            let sel = sel as u16;
            let force = matches!(seg, Seg::Cs | Seg::Ss) || sel & !3 != 0;
            self.load_segment(seg, if force { sel | 3 } else { sel });
        }
        let s = self.vcpu.state_mut();
        for (r, v) in [
            (Reg::Edi, sc.edi),
            (Reg::Esi, sc.esi),
            (Reg::Ebp, sc.ebp),
            (Reg::Esp, sc.esp),
            (Reg::Ebx, sc.ebx),
            (Reg::Edx, sc.edx),
            (Reg::Ecx, sc.ecx),
            (Reg::Eax, sc.eax),
        ] {
            s.set_reg(r, v);
        }
        s.eip = sc.eip;
        s.eflags = s.eflags & !FIX_EFLAGS | sc.eflags & (FIX_EFLAGS & !eflags::RF);
        Ok(())
    }

    /// Sets the alternate stack as sigaltstack does, running at `esp`.
    pub fn set_altstack(&mut self, new: StackT, esp: u32) -> Result<(), Errno> {
        /// The kernel's MINSIGSTKSZ.
        const MIN: u32 = 2048;
        if self.on_altstack(esp) {
            return Err(Errno::EPERM);
        }
        match new.flags & !SS_AUTODISARM {
            SS_DISABLE => self.signals.altstack = StackT { flags: new.flags & SS_AUTODISARM, ..StackT::default() },
            0 | SS_ONSTACK if new.size >= MIN => {
                self.signals.altstack = StackT { flags: new.flags & SS_AUTODISARM, ..new };
            }
            0 | SS_ONSTACK => return Err(Errno::ENOMEM),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

/// The 512 bytes of an FXSAVE image.
pub(crate) fn fx_image(fx: &FxState) -> [u8; 512] {
    let mut b = [0; 512];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        b[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&fx.fcw.to_le_bytes());
    put(&fx.fsw.to_le_bytes());
    put(&[fx.ftw, 0]);
    put(&fx.fop.to_le_bytes());
    put(&fx.fip.to_le_bytes());
    put(&u32::from(fx.fcs).to_le_bytes());
    put(&fx.fdp.to_le_bytes());
    put(&u32::from(fx.fds).to_le_bytes());
    put(&fx.mxcsr.to_le_bytes());
    put(&fx.mxcsr_mask.to_le_bytes());
    fx.st.iter().for_each(|st| put(st));
    fx.xmm.iter().for_each(|x| put(&x.to_le_bytes()));
    b
}

/// The FNSAVE environment and registers that stand before the FXSAVE image (`convert_from_fxsr`).
pub(crate) fn fsave_head(fx: &FxState, cs: u32, ds: u32) -> FsaveHead {
    const HIGH: u32 = 0xffff_0000;
    let mut st = [[0; 10]; 8];
    for (to, from) in st.iter_mut().zip(&fx.st) {
        to.copy_from_slice(&from[..10]);
    }
    FsaveHead {
        cw: u32::from(fx.fcw) | HIGH,
        sw: u32::from(fx.fsw) | HIGH,
        tag: full_tags(fx) | HIGH,
        ip: fx.fip,
        cs,
        dp: fx.fdp,
        ds: ds | HIGH,
        st,
        status: fx.fsw,
        magic: 0,
    }
}

/// Tag word with two bits per physical register (SDM vol. 1, figure 8-7).
fn full_tags(fx: &FxState) -> u32 {
    let mut tags = 0;
    for phys in 0..8u32 {
        let tag = if fx.ftw >> phys & 1 == 0 {
            3
        } else {
            let st = &fx.st[(phys.wrapping_sub(fx.top().into()) & 7) as usize];
            let exp = u16::from_le_bytes([st[8], st[9]]) & 0x7fff;
            let sig = st[..8].iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
            match (exp, sig) {
                (0x7fff, _) => 2,
                (0, 0) => 1,
                (0, _) => 2,
                (_, s) if s >> 63 == 0 => 2,
                _ => 0,
            }
        };
        tags |= tag << (2 * phys);
    }
    tags
}

/// The state to restore: x87 from the FNSAVE part, SSE from the FXSAVE image (`convert_to_fxsr`).
pub(crate) fn fx_from(head: &FsaveHead, image: &[u8; 512], mxcsr_mask: u32) -> FxState {
    let word = |at: usize| u32::from_le_bytes([image[at], image[at + 1], image[at + 2], image[at + 3]]);
    let mut fx = FxState { mxcsr_mask, ..FxState::INIT };
    fx.fcw = head.cw as u16 & !0xe0c0 | fcw::INIT & 0x40;
    fx.fsw = head.sw as u16;
    fx.ftw = (0..8).filter(|i| head.tag >> (2 * i) & 3 != 3).fold(0, |m, i| m | 1 << i);
    fx.fop = (word(4) >> 16) as u16 & 0x7ff;
    fx.fip = head.ip;
    fx.fdp = head.dp;
    for (to, from) in fx.st.iter_mut().zip(&head.st) {
        to[..10].copy_from_slice(from);
    }
    fx.mxcsr = word(24) & if mxcsr_mask == 0 { mxcsr::WRITABLE } else { mxcsr_mask };
    for (x, bytes) in fx.xmm.iter_mut().zip(image[160..].chunks_exact(16)) {
        *x = bytes.iter().rev().fold(0, |v, &b| v << 8 | u128::from(b));
    }
    fx
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fpu_state_survives_a_frame() {
        let mut fx = FxState { ftw: 0b1100_0001, fsw: 6 << 11, mxcsr: 0x1fa0, mxcsr_mask: 0xffff, ..FxState::INIT };
        fx.st[0][..10].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 0x88, 0xff, 0x3f]);
        fx.st[1][9] = 0x7f;
        fx.xmm[7] = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
        let (head, image) = (fsave_head(&fx, 0x23, 0x2b), fx_image(&fx));
        // R6 is ST(0): valid; R7 is ST(1): special; R0 is ST(2): zero.
        assert_eq!(head.tag, 0xffff_0000 | 0b10_00_11_11_11_11_11_01);
        assert_eq!(fx_from(&head, &image, 0xffff), fx);
    }
}
