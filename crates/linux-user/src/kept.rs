//! Descriptors of the emulator's own, among the guest's: it can neither close nor replace them.

use crate::SysResult;
use crate::host_unsafe::{self as host, Arg};
use crate::task::Task;
use std::sync::{Mutex, MutexGuard, PoisonError};
use syscalls::{Errno, Sysno};

/// Where descriptors go that must not be in the guest's way.
const HIGH_FD: u32 = 900;

/// A descriptor that makes way when the guest gives its number to another. The lock holds the number it has now.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<i32>>);

impl Kept {
    /// Keeps `fd` from now on.
    pub(crate) fn new(fd: Option<i32>) -> Kept {
        Kept(Mutex::new(fd))
    }

    /// The descriptor, if there is one.
    pub(crate) fn fd(&self) -> Option<i32> {
        *self.lock()
    }

    /// Takes the lock. Held across fork; who holds it waits for no other.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes way for a descriptor that the guest gives this number to.
    fn yield_number(&self, fd: i32) {
        let mut kept = self.lock();
        if *kept == Some(fd) {
            *kept = duplicate(fd, HIGH_FD.max(fd as u32 + 1), true).ok();
        }
    }
}

/// A duplicate of `fd`, numbered `from` or higher.
fn duplicate(fd: i32, from: u32, cloexec: bool) -> Result<i32, Errno> {
    let command = if cloexec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
    host::call(Sysno::fcntl, &[Arg::int(fd as u32), Arg::uint(command as u32), Arg::uint(from)]).map(|fd| fd as i32)
}

/// A duplicate of `fd` out of the guest's way, as far as there are numbers.
pub(crate) fn high_duplicate(fd: i32, cloexec: bool) -> Result<i32, Errno> {
    duplicate(fd, HIGH_FD, cloexec).or_else(|_| duplicate(fd, 3, cloexec))
}

/// The lowest free descriptor from `HIGH_FD` on in place of `fd`; `fd` itself where there is none.
pub(crate) fn move_up(fd: i32) -> i32 {
    match duplicate(fd, HIGH_FD, true) {
        Ok(high) => {
            let _ = host::call(Sysno::close, &[Arg::int(fd as u32)]);
            high
        }
        Err(_) => fd,
    }
}

pub(crate) fn set_cloexec(fd: i32, on: bool) {
    let flag = if on { libc::FD_CLOEXEC as u32 } else { 0 };
    let _ = host::call(Sysno::fcntl, &[Arg::int(fd as u32), Arg::uint(libc::F_SETFD as u32), Arg::uint(flag)]);
}

// --- system calls that could hit one ---

pub(crate) fn close(t: &mut Task, a: [u32; 6]) -> SysResult {
    let (shared, in_vfork) = (t.shared.clone(), t.in_vfork);
    if shared.kept().any(|k| k.fd() == Some(a[0] as i32)) {
        return Err(Errno::EBADF.into());
    }
    let mut close = || t.host_blocking(Sysno::close, &[Arg::int(a[0])]);
    if in_vfork {
        // What is known of its parent's descriptors isn't about this one.
        return close();
    }
    shared.positions.around_close(a[0], close)
}

pub(crate) fn dup2(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.shared.kept().for_each(|k| k.yield_number(a[1] as i32));
    t.host_blocking(Sysno::dup2, &[Arg::int(a[0]), Arg::int(a[1])])
}

pub(crate) fn dup3(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.shared.kept().for_each(|k| k.yield_number(a[1] as i32));
    t.host_blocking(Sysno::dup3, &[Arg::int(a[0]), Arg::int(a[1]), Arg::uint(a[2])])
}

/// Closes what lies between those that are kept.
pub(crate) fn close_range(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [first, last, flags, ..] = a;
    let mut kept: Vec<u32> = t.shared.kept().filter_map(Kept::fd).map(|fd| fd as u32).collect();
    kept.retain(|fd| (first..=last).contains(fd));
    if kept.is_empty() {
        return t.host_blocking(Sysno::close_range, &[Arg::uint(first), Arg::uint(last), Arg::uint(flags)]);
    }
    kept.sort_unstable();
    for (from, to) in gaps(first, last, &kept) {
        t.host_blocking(Sysno::close_range, &[Arg::uint(from), Arg::uint(to), Arg::uint(flags)])?;
    }
    Ok(0)
}

/// What is left of `first..=last` without these numbers of it, which are in order.
fn gaps(first: u32, last: u32, without: &[u32]) -> Vec<(u32, u32)> {
    let starts = [first].into_iter().chain(without.iter().map(|fd| fd + 1));
    let ends = without.iter().map(|&fd| i64::from(fd) - 1).chain([i64::from(last)]);
    starts.zip(ends).filter(|&(from, to)| i64::from(from) <= to).map(|(from, to)| (from, to as u32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_kept_descriptor_makes_way() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let keep = Kept::new(Some(move_up(file.into_raw_fd())));
        let fd = keep.fd().unwrap();
        keep.yield_number(fd);
        assert_ne!(keep.fd(), Some(fd));
        assert!(keep.fd().is_some());
        keep.yield_number(fd);
        assert!(keep.fd().is_some());
    }

    #[test]
    fn ranges_are_closed_around_the_kept() {
        assert_eq!(gaps(3, 1000, &[900, 901, 950]), [(3, 899), (902, 949), (951, 1000)]);
        assert_eq!(gaps(0, u32::MAX, &[0, 5]), [(1, 4), (6, u32::MAX)]);
        assert_eq!(gaps(7, 7, &[7]), []);
    }
}
