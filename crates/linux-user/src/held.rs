//! Signals that the guest blocks but the host can't.
//!
//! The five that report exceptions are never blocked on the host, nor is the one for kicks ([`signals::ALWAYS_OPEN`]). When a process
//! sends one and the guest blocks it, it comes in nevertheless and is held back here, as the kernel would hold it: one of each number.

use crate::abi::{HostSiginfo, Siginfo};
use crate::host_unsafe::{self as host, Arg};
use crate::signal::ThreadSignals;
use crate::task::Task;
use syscalls::{Errno, Sysno};
use xlat86_host::signals;

/// What a thread holds back.
#[derive(Clone, Default)]
pub struct Held(Vec<Siginfo>);

impl Held {
    /// Which signals these are.
    pub(crate) fn set(&self) -> u64 {
        self.0.iter().fold(0, |set, info| set | signals::bit(info.signo as i32))
    }

    fn keep(&mut self, info: Siginfo) {
        if self.set() & signals::bit(info.signo as i32) == 0 {
            self.0.push(info);
        }
    }

    /// Takes the lowest one of `wanted`.
    pub(crate) fn take(&mut self, wanted: u64) -> Option<Siginfo> {
        let of_wanted = |info: &Siginfo| wanted & signals::bit(info.signo as i32) != 0;
        let (i, _) = self.0.iter().enumerate().filter(|(_, s)| of_wanted(s)).min_by_key(|(_, s)| s.signo)?;
        Some(self.0.swap_remove(i))
    }
}

impl ThreadSignals {
    /// What is blocked now: during a call with a mask of its own, that.
    pub(crate) fn mask(&self) -> u64 {
        self.during.unwrap_or(self.blocked)
    }

    /// Has something that was held back been opened?
    pub(crate) fn is_due(&self) -> bool {
        self.held.set() & !self.mask() != 0
    }

    /// Holds back `info`, which a process sent, if only the guest blocks it. True when that is done.
    pub(crate) fn hold(&mut self, info: &Siginfo) -> bool {
        let blocked = self.mask() & signals::ALWAYS_OPEN & signals::bit(info.signo as i32) != 0;
        if blocked {
            self.held.keep(*info);
        }
        blocked
    }
}

impl Task {
    /// A call begins that has `mask` in place of the thread's: the host's form of it. What was held back and is now open ends the call.
    pub(crate) fn begin_with_mask(&mut self, mask: u64) -> Result<u64, Errno> {
        self.signals.during = Some(mask);
        if self.signals.is_due() {
            return Err(Errno::EINTR);
        }
        Ok(mask & !signals::ALWAYS_OPEN)
    }

    /// Has a call been interrupted by a signal that is only going to be held back?
    pub(crate) fn interrupted_by_blocked(&self) -> bool {
        let sig = signals::next_pending();
        sig.is_some_and(|sig| self.signals.mask() & signals::ALWAYS_OPEN & signals::bit(sig) != 0)
    }

    /// Gives the host's kernel, just before execve, what it is to hand on: the whole mask, and what waits behind it.
    pub(crate) fn hand_on_signals(&mut self) {
        signals::hand_on_mask(self.signals.blocked);
        let (pid, tid) = (std::process::id(), signals::thread_id() as u32);
        while let Some(info) = self.signals.held.take(u64::MAX) {
            let sig = Arg::uint(info.signo);
            let info = HostSiginfo::from(&info);
            let _ = host::call(Sysno::rt_tgsigqueueinfo, &[Arg::int(pid), Arg::int(tid), sig, Arg::input(&info)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(sig: i32, code: u32) -> Siginfo {
        Siginfo { signo: sig as u32, code, ..Siginfo::default() }
    }

    #[test]
    fn one_of_each_is_held_until_it_is_opened() {
        let trap = signals::bit(libc::SIGTRAP);
        let mut s = ThreadSignals { blocked: trap | signals::bit(libc::SIGUSR1), ..ThreadSignals::default() };
        // The host itself holds back the others.
        assert!(!s.hold(&info(libc::SIGUSR1, 0)) && !s.hold(&info(libc::SIGSEGV, 0)));
        assert!(s.hold(&info(libc::SIGTRAP, 1)) && s.hold(&info(libc::SIGTRAP, 2)));
        assert_eq!(s.held.set(), trap);
        assert!(!s.is_due());
        s.during = Some(0);
        assert!(s.is_due());
        assert_eq!(s.held.take(!s.mask()).map(|i| i.code), Some(1));
        assert!(!s.is_due() && s.held.take(u64::MAX).is_none());
    }
}
