//! Directory positions of 64 bits (ext4 hands out hashes) under names of 31 bits, as a 32-bit process gets them: its C library
//! refuses larger ones. A name stays good for lseek while the process has a descriptor of that directory.

use crate::abi::HostStat;
use crate::host_unsafe::{self as host, Arg};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use syscalls::Sysno;

/// A directory: device and inode.
type Directory = (u64, u64);

/// The names of each directory's long positions.
type Names = HashMap<Directory, HashMap<u32, i64>>;

/// What a process has called the long positions of its open directories.
#[derive(Default)]
pub struct Positions(Mutex<Names>);

impl Clone for Positions {
    fn clone(&self) -> Self {
        Positions(Mutex::new(self.lock().clone()))
    }
}

/// The greatest name: the end of a directory.
const END: u32 = 0x7fff_ffff;

/// The directory that `fd` is, if it is one.
fn directory(fd: u32) -> Option<Directory> {
    let mut s = HostStat::default();
    host::call(Sysno::fstat, &[Arg::int(fd), Arg::output(&mut s)]).ok()?;
    (s.mode & libc::S_IFMT == libc::S_IFDIR).then_some((s.dev, s.ino))
}

impl Positions {
    /// Takes the lock. Held across fork; who holds it waits for nothing else.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of `position` in `fd`; in what isn't a directory a position is told as it is, and `None` if that takes more than 31 bits.
    pub(crate) fn shorten(&self, fd: u32, position: i64) -> Option<u32> {
        match u32::try_from(position) {
            Ok(p) if p < END => Some(p),
            Ok(END) => Some(END),
            _ => Some(self.name(directory(fd)?, position)),
        }
    }

    fn name(&self, directory: Directory, position: i64) -> u32 {
        if position == i64::MAX {
            return END;
        }
        let mut all = self.lock();
        let names = all.entry(directory).or_default();
        // ext4's own 32-bit form is the upper half of its hash; on a collision the next free name will do.
        let mut name = ((position as u64) >> 32) as u32 & END;
        while name == END || *names.entry(name).or_insert(position) != position {
            name = (name + 1) & END;
        }
        name
    }

    /// The position in `fd` that `name` stands for.
    pub(crate) fn lengthen(&self, fd: u32, name: i64) -> i64 {
        match directory(fd) {
            Some(_) if name == i64::from(END) => i64::MAX,
            Some(d) => self.position(d, name).unwrap_or(name),
            None => name,
        }
    }

    fn position(&self, directory: Directory, name: i64) -> Option<i64> {
        self.lock().get(&directory)?.get(&u32::try_from(name).ok()?).copied()
    }

    /// Closes `fd` by `close`; after the last descriptor of a directory its names are forgotten.
    pub(crate) fn around_close<T>(&self, fd: u32, close: impl FnOnce() -> T) -> T {
        let named = |d: &Directory| self.lock().contains_key(d);
        let directory = if self.lock().is_empty() { None } else { directory(fd).filter(named) };
        let closed = close();
        if let Some(d) = directory
            && !is_open(d)
        {
            self.lock().remove(&d);
        }
        closed
    }
}

/// Has this process a descriptor of `wanted`? Where that can't be found out, it may have.
fn is_open(wanted: Directory) -> bool {
    let Ok(all) = std::fs::read_dir("/proc/self/fd") else { return true };
    let fds = all.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    fds.filter_map(directory).any(|d| d == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn long_positions_have_short_names_and_come_back() {
        let (p, dir, other) = (Positions::default(), (1, 2), (1, 3));
        for at in [0x7fff_ffff_ffff, 0x1234_5678_9abc_def0, 0x1234_5678_0000_0001, i64::MAX - 1, -5] {
            let name = p.name(dir, at);
            assert!(name < END);
            assert_eq!(p.position(dir, name.into()), Some(at));
            assert_eq!(p.position(other, name.into()), None);
        }
        assert_eq!(p.name(dir, i64::MAX), END);
    }

    #[test]
    fn names_last_as_long_as_a_descriptor() {
        let p = Positions::default();
        let (first, file) = (File::open("/tmp").unwrap(), File::open("/dev/null").unwrap());
        let second = first.try_clone().unwrap();
        let number = |f: &File| f.as_raw_fd() as u32;
        let long = 0x1234_5678_9abc_def0;
        let name = p.shorten(number(&first), long).unwrap();
        assert_eq!(p.shorten(number(&first), 77), Some(77));
        assert_eq!(p.shorten(number(&file), long), None);
        assert_eq!(p.lengthen(number(&second), name.into()), long);
        p.around_close(number(&first), || drop(first));
        assert_eq!(p.lengthen(number(&second), name.into()), long);
        p.around_close(number(&second), || drop(second));
        assert!(p.lock().is_empty());
    }
}
