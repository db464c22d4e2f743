//! File metadata, file system and directory layouts.

use super::{U64, layout, offsets};
use syscalls::Errno;

layout! {
    /// The host's `struct stat`.
    HostStat = 144 {
        dev: u64, ino: u64, nlink: u64, mode: u32, uid: u32, gid: u32, pad0: u32, rdev: u64, size: i64, blksize: i64,
        blocks: i64, atime: [i64; 2], mtime: [i64; 2], ctime: [i64; 2], unused: [i64; 3],
    }
}

layout! {
    /// `struct stat64`.
    Stat64 = 96 {
        dev: U64, pad0: u32, ino32: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: U64, pad3: u32, size: U64,
        blksize: u32, blocks: U64, atime: [u32; 2], mtime: [u32; 2], ctime: [u32; 2], ino: U64,
    }
}
offsets!(Stat64 { ino32: 12, rdev: 32, size: 44, blocks: 56, atime: 64, ino: 88 });

impl TryFrom<&HostStat> for Stat64 {
    type Error = Errno;

    fn try_from(h: &HostStat) -> Result<Self, Errno> {
        let time = |t: [i64; 2]| [t[0] as u32, t[1] as u32];
        Ok(Stat64 {
            dev: encode_dev(h.dev).into(),
            pad0: 0,
            ino32: h.ino as u32,
            mode: h.mode,
            nlink: h.nlink as u32,
            uid: h.uid,
            gid: h.gid,
            rdev: encode_dev(h.rdev).into(),
            pad3: 0,
            size: h.size.into(),
            blksize: h.blksize as u32,
            blocks: h.blocks.into(),
            atime: time(h.atime),
            mtime: time(h.mtime),
            ctime: time(h.ctime),
            ino: h.ino.into(),
        })
    }
}

/// The kernel's "huge" device number of `stat64`: the same 64-bit host encoding in its 32 significant bits.
fn encode_dev(dev: u64) -> u64 {
    dev & 0xffff_ffff
}

layout! {
    /// The older `struct stat` (`newstat`), with 32-bit sizes and 16-bit ids.
    Stat = 64 {
        dev: u16, pad1: u16, ino: u32, mode: u16, nlink: u16, uid: u16, gid: u16, rdev: u16, pad2: u16, size: u32,
        blksize: u32, blocks: u32, atime: [u32; 2], mtime: [u32; 2], ctime: [u32; 2], unused: [u32; 2],
    }
}
offsets!(Stat { size: 20, atime: 32 });

impl TryFrom<&HostStat> for Stat {
    type Error = Errno;

    fn try_from(h: &HostStat) -> Result<Self, Errno> {
        let old_dev = |d: u64| {
            let (major, minor) = ((d >> 8) & 0xfff, d & 0xff | (d >> 12) & 0xf_ff00);
            if major < 256 && minor < 256 { Ok((major << 8 | minor) as u16) } else { Err(Errno::EOVERFLOW) }
        };
        let time = |t: [i64; 2]| [t[0] as u32, t[1] as u32];
        if h.size > i64::from(i32::MAX) || h.ino > u64::from(u32::MAX) {
            return Err(Errno::EOVERFLOW);
        }
        Ok(Stat {
            dev: old_dev(h.dev)?,
            pad1: 0,
            ino: h.ino as u32,
            mode: h.mode as u16,
            nlink: u16::try_from(h.nlink).map_err(|_| Errno::EOVERFLOW)?,
            uid: low_id(h.uid),
            gid: low_id(h.gid),
            rdev: old_dev(h.rdev)?,
            pad2: 0,
            size: h.size as u32,
            blksize: h.blksize as u32,
            blocks: h.blocks as u32,
            atime: time(h.atime),
            mtime: time(h.mtime),
            ctime: time(h.ctime),
            unused: [0; 2],
        })
    }
}

/// An id in 16 bits; one that doesn't fit is the overflow id.
pub fn low_id(id: u32) -> u16 {
    u16::try_from(id).unwrap_or(65534)
}

/// A 16-bit id argument; -1 ("unchanged") stays -1.
pub fn wide_id(id: u32) -> u32 {
    if id as u16 == u16::MAX { u32::MAX } else { u32::from(id as u16) }
}

layout! {
    /// `struct __old_kernel_stat`.
    OldStat = 32 {
        dev: u16, ino: u16, mode: u16, nlink: u16, uid: u16, gid: u16, rdev: u16, pad: u16, size: u32, atime: u32, mtime: u32, ctime: u32,
    }
}

impl TryFrom<&HostStat> for OldStat {
    type Error = Errno;

    fn try_from(h: &HostStat) -> Result<Self, Errno> {
        let s = Stat::try_from(h)?;
        Ok(OldStat {
            dev: s.dev,
            ino: s.ino as u16,
            mode: s.mode,
            nlink: s.nlink,
            uid: s.uid,
            gid: s.gid,
            rdev: s.rdev,
            pad: 0,
            size: s.size,
            atime: s.atime[0],
            mtime: s.mtime[0],
            ctime: s.ctime[0],
        })
    }
}

layout! {
    /// The host's `struct statfs`.
    HostStatfs = 120 {
        typ: i64, bsize: i64, blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, fsid: [u32; 2],
        namelen: i64, frsize: i64, flags: i64, spare: [i64; 4],
    }
}

layout! {
    /// `struct statfs`.
    Statfs = 64 {
        typ: u32, bsize: u32, blocks: u32, bfree: u32, bavail: u32, files: u32, ffree: u32, fsid: [u32; 2],
        namelen: u32, frsize: u32, flags: u32, spare: [u32; 4],
    }
}

layout! {
    /// `struct statfs64`.
    Statfs64 = 84 {
        typ: u32, bsize: u32, blocks: U64, bfree: U64, bavail: U64, files: U64, ffree: U64, fsid: [u32; 2],
        namelen: u32, frsize: u32, flags: u32, spare: [u32; 4],
    }
}

impl From<&HostStatfs> for Statfs64 {
    fn from(h: &HostStatfs) -> Self {
        Statfs64 {
            typ: h.typ as u32,
            bsize: h.bsize as u32,
            blocks: h.blocks.into(),
            bfree: h.bfree.into(),
            bavail: h.bavail.into(),
            files: h.files.into(),
            ffree: h.ffree.into(),
            fsid: h.fsid,
            namelen: h.namelen as u32,
            frsize: h.frsize as u32,
            flags: h.flags as u32,
            spare: [0; 4],
        }
    }
}

impl TryFrom<&HostStatfs> for Statfs {
    type Error = Errno;

    fn try_from(h: &HostStatfs) -> Result<Self, Errno> {
        // The kernel's rule: counts must fit, file counts of -1 ("unknown") are let through.
        let fits = |v: u64| u32::try_from(v).map_err(|_| Errno::EOVERFLOW);
        let files = |v: u64| if v == u64::MAX { Ok(u32::MAX) } else { fits(v) };
        Ok(Statfs {
            typ: h.typ as u32,
            bsize: fits(h.bsize as u64)?,
            blocks: fits(h.blocks)?,
            bfree: fits(h.bfree)?,
            bavail: fits(h.bavail)?,
            files: files(h.files)?,
            ffree: files(h.ffree)?,
            fsid: h.fsid,
            namelen: h.namelen as u32,
            frsize: fits(h.frsize as u64)?,
            flags: h.flags as u32,
            spare: [0; 4],
        })
    }
}

layout! {
    /// The host's `struct flock`.
    HostFlock = 32 { typ: u16, whence: u16, pad0: u32, start: i64, len: i64, pid: u32, pad1: u32 }
}

layout! {
    /// `struct flock`.
    Flock = 16 { typ: u16, whence: u16, start: u32, len: u32, pid: u32 }
}

layout! {
    /// `struct flock64`.
    Flock64 = 24 { typ: u16, whence: u16, start: U64, len: U64, pid: u32 }
}
offsets!(Flock64 { start: 4, len: 12, pid: 20 });

layout! {
    /// `struct iovec`.
    Iovec = 8 { base: u32, len: u32 }
}

layout! {
    /// The host's `struct iovec`.
    HostIovec = 16 { base: u64, len: u64 }
}

layout! {
    /// `struct f_owner_ex`.
    FOwner = 8 { typ: u32, pid: u32 }
}
