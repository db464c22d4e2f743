//! Signal calls.

use crate::abi::{
    GuestTime, HostSiginfo, HostTimespec, OldSigaction, Sigaction, Siginfo, StackT, Timespec32, Timespec64, U64,
};
use crate::host_unsafe::Arg;
use crate::signal::{Actions, NSIG, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_RESTART, SIG_DFL, SIG_IGN};
use crate::task::Task;
use crate::{Stop, SysResult};
use syscalls::{Errno, Sysno};
use xlat86_arch::Reg;
use xlat86_host::signals;

const SIGSET: u32 = 8;

fn valid(sig: u32) -> Result<usize, Errno> {
    if (1..=NSIG as u32).contains(&sig) { Ok(sig as usize - 1) } else { Err(Errno::EINVAL) }
}

impl Task {
    /// The process's actions.
    pub fn actions(&self) -> std::sync::MutexGuard<'_, Actions> {
        self.sighand.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sets an action, here and on the host; gives the old one.
    pub fn set_action(&self, sig: i32, new: Sigaction) -> Result<Sigaction, Errno> {
        use signals::Disposition;
        let i = valid(sig as u32)?;
        if sig == libc::SIGKILL || sig == libc::SIGSTOP {
            return Err(Errno::EINVAL);
        }
        let mut actions = self.actions();
        let disposition = match new.handler {
            _ if self.shared.traced.load(std::sync::atomic::Ordering::Acquire) != 0 => Disposition::Watch,
            // The guest's death is more than the emulator's: robust futexes, its own core file.
            SIG_DFL if crate::signal::kills(sig) => Disposition::Watch,
            SIG_DFL => Disposition::Default,
            SIG_IGN => Disposition::Ignore,
            _ => Disposition::Watch,
        };
        let flag = |guest: u32, host: i32| if new.flags & guest != 0 { host } else { 0 };
        let flags = flag(SA_RESTART, libc::SA_RESTART)
            | flag(SA_NOCLDSTOP, libc::SA_NOCLDSTOP)
            | flag(SA_NOCLDWAIT, libc::SA_NOCLDWAIT);
        // The emulator's own stays with its handler, which notes the guest's too.
        if sig != signals::KICK {
            signals::set_disposition(sig, disposition, flags)
                .map_err(|e| Errno::new(e.raw_os_error().unwrap_or(libc::EINVAL)))?;
        }
        Ok(std::mem::replace(&mut actions.0[i], new))
    }

    /// Gives every signal the disposition on the host that its action asks for.
    pub(crate) fn renew_actions(&self) {
        let actions = self.actions().clone();
        for (sig, action) in (1..).zip(actions.0) {
            // Those that can't be changed refuse.
            let _ = self.set_action(sig, action);
        }
    }

    fn get_action(&self, sig: u32) -> Result<Sigaction, Errno> {
        Ok(self.actions().0[valid(sig)?])
    }
}

/// Flags this kernel knows; others read back as clear (`SA_UNSUPPORTED` probing).
const SA_KNOWN: u32 = 0xdc00_0007;

pub(crate) fn rt_sigaction(t: &mut Task, a: [u32; 6]) -> SysResult {
    if a[3] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let new: Option<Sigaction> = t.mem.read_opt(a[1])?;
    let old = match new {
        Some(n) => t.set_action(a[0] as i32, Sigaction { flags: n.flags & SA_KNOWN, ..n })?,
        None => t.get_action(a[0])?,
    };
    t.mem.write_opt(a[2], &old)?;
    Ok(0)
}

pub(crate) fn sigaction(t: &mut Task, a: [u32; 6]) -> SysResult {
    let new: Option<OldSigaction> = t.mem.read_opt(a[1])?;
    let old = match new {
        Some(n) => {
            let mask = U64::from(u64::from(n.mask));
            t.set_action(
                a[0] as i32,
                Sigaction { handler: n.handler, flags: n.flags & SA_KNOWN, restorer: n.restorer, mask },
            )?
        }
        None => t.get_action(a[0])?,
    };
    let old = OldSigaction { handler: old.handler, mask: old.mask.lo, flags: old.flags, restorer: old.restorer };
    t.mem.write_opt(a[2], &old)?;
    Ok(0)
}

pub(crate) fn signal(t: &mut Task, a: [u32; 6]) -> SysResult {
    // SA_ONESHOT | SA_NOMASK
    let new = Sigaction { handler: a[1], flags: 0xc000_0000, ..Sigaction::default() };
    Ok(t.set_action(a[0] as i32, new)?.handler)
}

fn change_mask(t: &mut Task, how: u32, set: u64) -> Result<(), Errno> {
    let blocked = t.signals.blocked;
    let new = match how as i32 {
        libc::SIG_BLOCK => blocked | set,
        libc::SIG_UNBLOCK => blocked & !set,
        libc::SIG_SETMASK => set,
        _ => return Err(Errno::EINVAL),
    };
    t.set_blocked(new);
    Ok(())
}

pub(crate) fn rt_sigprocmask(t: &mut Task, a: [u32; 6]) -> SysResult {
    if a[3] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let old = U64::from(t.signals.blocked);
    if let Some(set) = t.mem.read_opt::<U64>(a[1])? {
        change_mask(t, a[0], set.get())?;
    }
    t.mem.write_opt(a[2], &old)?;
    Ok(0)
}

pub(crate) fn sigprocmask(t: &mut Task, a: [u32; 6]) -> SysResult {
    let old = t.signals.blocked;
    if let Some(set) = t.mem.read_opt::<u32>(a[1])? {
        // The old call changes only the first 32 signals.
        let set = match a[0] as i32 {
            libc::SIG_SETMASK => u64::from(set) | old & !0xffff_ffff,
            _ => u64::from(set),
        };
        change_mask(t, a[0], set)?;
    }
    t.mem.write_opt(a[2], &(old as u32))?;
    Ok(0)
}

pub(crate) fn sgetmask(t: &mut Task, _: [u32; 6]) -> SysResult {
    Ok(t.signals.blocked as u32)
}

pub(crate) fn ssetmask(t: &mut Task, a: [u32; 6]) -> SysResult {
    let old = t.signals.blocked as u32;
    t.set_blocked(a[0].into());
    Ok(old)
}

fn pending(t: &mut Task) -> Result<u64, Stop> {
    let mut set = 0u64;
    crate::host_unsafe::call(Sysno::rt_sigpending, &[Arg::output(&mut set), Arg::uint(SIGSET)])?;
    // The host blocks more than the guest while a signal is being noted, and less.
    Ok((set | t.signals.held.set()) & t.signals.blocked)
}

pub(crate) fn rt_sigpending(t: &mut Task, a: [u32; 6]) -> SysResult {
    if a[1] > SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let set = pending(t)?.to_le_bytes();
    t.mem.write(a[0], &set[..a[1] as usize])?;
    Ok(0)
}

pub(crate) fn sigpending(t: &mut Task, a: [u32; 6]) -> SysResult {
    let set = pending(t)? as u32;
    t.mem.write(a[0], &set)?;
    Ok(0)
}

fn suspend(t: &mut Task, mask: u64) -> SysResult {
    // The kernel swaps the mask and waits in one step; the signal that ends it is delivered with the old mask saved.
    let mask = t.begin_with_mask(mask)?;
    t.host_blocking(Sysno::rt_sigsuspend, &[Arg::input(&mask), Arg::uint(SIGSET)])
}

pub(crate) fn rt_sigsuspend(t: &mut Task, a: [u32; 6]) -> SysResult {
    if a[1] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let mask: U64 = t.mem.read(a[0])?;
    suspend(t, mask.get())
}

pub(crate) fn sigsuspend(t: &mut Task, a: [u32; 6]) -> SysResult {
    suspend(t, a[2].into())
}

fn sigtimedwait<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    if a[3] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let set: U64 = t.mem.read(a[0])?;
    let timeout = t.mem.read_opt::<T>(a[2])?.map(T::to_host);
    if let Some(held) = t.signals.held.take(set.get()) {
        t.mem.write_opt(a[1], &held)?;
        return Ok(held.signo);
    }
    // Kicks of this number aren't for the guest: what isn't one is held back when it comes, if it is blocked as it should be.
    let host_set = set.get() & !signals::bit(signals::KICK);
    let mut info = HostSiginfo::default();
    let args = [
        Arg::input(&host_set),
        if a[1] == 0 { Arg::NULL } else { Arg::output(&mut info) },
        timeout.as_ref().map_or(Arg::NULL, Arg::input),
        Arg::uint(SIGSET),
    ];
    let sig = t.host_blocking(Sysno::rt_sigtimedwait, &args)?;
    t.mem.write_opt(a[1], &Siginfo::from(&info))?;
    Ok(sig)
}

pub(crate) fn rt_sigtimedwait(t: &mut Task, a: [u32; 6]) -> SysResult {
    sigtimedwait::<Timespec32>(t, a)
}

pub(crate) fn rt_sigtimedwait64(t: &mut Task, a: [u32; 6]) -> SysResult {
    sigtimedwait::<Timespec64>(t, a)
}

fn queue(t: &mut Task, nr: Sysno, ids: &[u32], sig: u32, info: u32) -> SysResult {
    let g: Siginfo = t.mem.read(info)?;
    let mut h = HostSiginfo::from(&g);
    h.signo = sig;
    let mut args: Vec<Arg<'_>> = ids.iter().map(|&i| Arg::int(i)).collect();
    args.extend([Arg::int(sig), Arg::input(&h)]);
    t.host_blocking(nr, &args)
}

pub(crate) fn rt_sigqueueinfo(t: &mut Task, a: [u32; 6]) -> SysResult {
    queue(t, Sysno::rt_sigqueueinfo, &a[..1], a[1], a[2])
}

pub(crate) fn rt_tgsigqueueinfo(t: &mut Task, a: [u32; 6]) -> SysResult {
    queue(t, Sysno::rt_tgsigqueueinfo, &a[..2], a[2], a[3])
}

pub(crate) fn pidfd_send_signal(t: &mut Task, a: [u32; 6]) -> SysResult {
    let info = match t.mem.read_opt::<Siginfo>(a[2])? {
        None => {
            return t.host_blocking(
                Sysno::pidfd_send_signal,
                &[Arg::int(a[0]), Arg::int(a[1]), Arg::NULL, Arg::uint(a[3])],
            );
        }
        Some(g) => HostSiginfo::from(&g),
    };
    t.host_blocking(Sysno::pidfd_send_signal, &[Arg::int(a[0]), Arg::int(a[1]), Arg::input(&info), Arg::uint(a[3])])
}

pub(crate) fn kill(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.host_blocking(Sysno::kill, &[Arg::int(a[0]), Arg::int(a[1])])
}

pub(crate) fn tkill(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.host_blocking(Sysno::tkill, &[Arg::int(a[0]), Arg::int(a[1])])
}

pub(crate) fn tgkill(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.host_blocking(Sysno::tgkill, &[Arg::int(a[0]), Arg::int(a[1]), Arg::int(a[2])])
}

pub(crate) fn sigaltstack(t: &mut Task, a: [u32; 6]) -> SysResult {
    let esp = t.vcpu.state().reg(Reg::Esp);
    let old = StackT { flags: t.altstack_flags(esp), ..t.signals.altstack };
    if let Some(new) = t.mem.read_opt::<StackT>(a[0])? {
        t.set_altstack(new, esp)?;
    }
    t.mem.write_opt(a[1], &old)?;
    Ok(0)
}

pub(crate) fn sigreturn(t: &mut Task, _: [u32; 6]) -> SysResult {
    if t.pop_frame().is_err() {
        t.force(libc::SIGSEGV, crate::abi::SI_KERNEL, 0);
    }
    Err(Stop::KeepRegisters)
}

pub(crate) fn rt_sigreturn(t: &mut Task, _: [u32; 6]) -> SysResult {
    if t.pop_rt_frame().is_err() {
        t.force(libc::SIGSEGV, crate::abi::SI_KERNEL, 0);
    }
    Err(Stop::KeepRegisters)
}

/// Only the kernel makes a process call this; made by hand there is nothing to restart.
pub(crate) fn restart_syscall(_: &mut Task, _: [u32; 6]) -> SysResult {
    Err(Errno::EINTR.into())
}

fn signalfd_with(t: &mut Task, a: [u32; 6], flags: u32) -> SysResult {
    if a[2] != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let set: U64 = t.mem.read(a[1])?;
    t.host_blocking(Sysno::signalfd4, &[Arg::int(a[0]), Arg::input(&set), Arg::uint(SIGSET), Arg::uint(flags)])
}

pub(crate) fn signalfd(t: &mut Task, a: [u32; 6]) -> SysResult {
    signalfd_with(t, a, 0)
}

pub(crate) fn signalfd4(t: &mut Task, a: [u32; 6]) -> SysResult {
    signalfd_with(t, a, a[3])
}

/// For other modules: an optional timeout of either width, as the host has it.
pub(crate) fn read_timeout<T: GuestTime>(t: &Task, addr: u32) -> Result<Option<HostTimespec>, Errno> {
    Ok(t.mem.read_opt::<T>(addr)?.map(T::to_host))
}
