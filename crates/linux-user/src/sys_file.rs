//! Opening and looking at files and directories.

use crate::abi::{HostStat, HostStatfs, OldStat, Stat, Stat64, Statfs, Statfs64};
use crate::host_unsafe::{self as host, Arg};
use crate::proc_files;
use crate::task::Task;
use crate::{Stop, SysResult};
use std::ffi::CString;
use syscalls::{Errno, Sysno};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const CWD: u32 = libc::AT_FDCWD as u32;
const O_LARGEFILE: u32 = 0o100_000;

/// A path argument: the guest's own string, or what stands in for it.
fn path_arg<'a>(path: &'a Option<CString>, addr: u32) -> Arg<'a> {
    path.as_deref().map_or(Arg::uint(addr), Arg::cstr)
}

// --- open ---

/// Does opening with `flags` only look (so that the sysroot may answer)?
fn only_reads(flags: u32) -> bool {
    flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32 && flags & (libc::O_CREAT | libc::O_TRUNC) as u32 == 0
}

/// Opens what is at `path` by `open`, which is given what stands in for the path: the part that all calls which open have in common.
/// `looks`: may the sysroot answer?
fn opened(
    t: &mut Task,
    path: u32,
    flags: u32,
    looks: bool,
    open: impl FnOnce(&mut Task, Arg<'_>) -> SysResult,
) -> SysResult {
    let found = if looks { t.lookup(path, flags & libc::O_NOFOLLOW as u32 == 0)? } else { None };
    let fd = open(t, path_arg(&found, path))?;
    let closed = |e| {
        let _ = host::call(Sysno::close, &[Arg::int(fd)]);
        Stop::from(e)
    };
    proc_files::take_place(t, fd, flags).map_err(closed)?;
    // x86-64 always has large files; i386 without the flag must not open what it can't measure.
    if flags & (O_LARGEFILE | libc::O_PATH as u32) == 0 && too_large(fd) {
        return Err(closed(Errno::EOVERFLOW));
    }
    Ok(fd)
}

fn open_at(t: &mut Task, dir: u32, path: u32, flags: u32, mode: u32) -> SysResult {
    opened(t, path, flags, only_reads(flags), |t, path| {
        t.host_blocking(Sysno::openat, &[Arg::int(dir), path, Arg::uint(flags), Arg::uint(mode)])
    })
}

fn too_large(fd: u32) -> bool {
    let mut s = HostStat::default();
    host::call(Sysno::fstat, &[Arg::int(fd), Arg::output(&mut s)]).is_ok()
        && s.mode & libc::S_IFMT == libc::S_IFREG
        && s.size > i64::from(i32::MAX)
}

pub(crate) fn open(t: &mut Task, a: [u32; 6]) -> SysResult {
    open_at(t, CWD, a[0], a[1], a[2])
}

pub(crate) fn openat(t: &mut Task, a: [u32; 6]) -> SysResult {
    open_at(t, a[0], a[1], a[2], a[3])
}

pub(crate) fn creat(t: &mut Task, a: [u32; 6]) -> SysResult {
    // The kernel itself adds O_LARGEFILE here and in openat2.
    open_at(t, CWD, a[0], (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32 | O_LARGEFILE, a[1])
}

/// `struct open_how`: flags, mode, what paths may lead through. Larger ones, of later kernels, must end in zeros.
pub(crate) fn openat2(t: &mut Task, a: [u32; 6]) -> SysResult {
    const HOW: usize = 24;
    let size = a[3] as usize;
    if size < HOW {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    // A copy, so that what is opened is what has been looked at.
    let mut bytes = vec![0u8; size];
    t.mem.read_bytes(a[2], &mut bytes)?;
    if bytes[HOW..].iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG.into());
    }
    let Ok(how) = <[u64; 3]>::read_from_bytes(&bytes[..HOW]) else { return Err(Errno::EINVAL.into()) };
    let flags = how[0] as u32;
    opened(t, a[1], flags | O_LARGEFILE, only_reads(flags) && how[2] == 0, |t, path| {
        t.host_blocking(Sysno::openat2, &[Arg::int(a[0]), path, Arg::input(&how), Arg::uint(HOW as u32)])
    })
}

// --- stat ---

/// What a stat call is about.
enum Of {
    Path { dir: u32, path: u32, flags: u32 },
    Fd(u32),
}

fn host_stat(t: &mut Task, of: Of) -> Result<HostStat, Stop> {
    let mut s = HostStat::default();
    match of {
        Of::Path { dir, path, flags } => {
            let found = t.lookup(path, flags & libc::AT_SYMLINK_NOFOLLOW as u32 == 0)?;
            let args = [Arg::int(dir), path_arg(&found, path), Arg::output(&mut s), Arg::uint(flags)];
            t.host_blocking(Sysno::newfstatat, &args)?;
        }
        Of::Fd(fd) => {
            t.host_blocking(Sysno::fstat, &[Arg::int(fd), Arg::output(&mut s)])?;
        }
    }
    Ok(s)
}

fn stat_as<S>(t: &mut Task, of: Of, to: u32) -> SysResult
where
    S: for<'a> TryFrom<&'a HostStat, Error = Errno> + IntoBytes + Immutable,
{
    let h = host_stat(t, of)?;
    let s = S::try_from(&h)?;
    t.mem.write(to, &s)?;
    Ok(0)
}

const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;

fn of_path(path: u32, flags: u32) -> Of {
    Of::Path { dir: CWD, path, flags }
}

pub(crate) fn stat64(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<Stat64>(t, of_path(a[0], 0), a[1])
}

pub(crate) fn lstat64(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<Stat64>(t, of_path(a[0], NOFOLLOW), a[1])
}

pub(crate) fn fstat64(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<Stat64>(t, Of::Fd(a[0]), a[1])
}

pub(crate) fn fstatat64(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<Stat64>(t, Of::Path { dir: a[0], path: a[1], flags: a[3] }, a[2])
}

pub(crate) fn stat(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<Stat>(t, of_path(a[0], 0), a[1])
}

pub(crate) fn lstat(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<Stat>(t, of_path(a[0], NOFOLLOW), a[1])
}

pub(crate) fn fstat(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<Stat>(t, Of::Fd(a[0]), a[1])
}

pub(crate) fn oldstat(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<OldStat>(t, of_path(a[0], 0), a[1])
}

pub(crate) fn oldlstat(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<OldStat>(t, of_path(a[0], NOFOLLOW), a[1])
}

pub(crate) fn oldfstat(t: &mut Task, a: [u32; 6]) -> SysResult {
    stat_as::<OldStat>(t, Of::Fd(a[0]), a[1])
}

pub(crate) fn statx(t: &mut Task, a: [u32; 6]) -> SysResult {
    let found = t.lookup(a[1], a[2] & NOFOLLOW == 0)?;
    t.mem.prepare_write(a[4], 256);
    let args = [Arg::int(a[0]), path_arg(&found, a[1]), Arg::uint(a[2]), Arg::uint(a[3]), Arg::uint(a[4])];
    t.host_blocking(Sysno::statx, &args)
}

// --- statfs ---

fn host_statfs(t: &mut Task, path: Option<u32>, fd: u32) -> Result<HostStatfs, Stop> {
    let mut s = HostStatfs::default();
    match path {
        Some(p) => {
            let found = t.lookup(p, true)?;
            t.host_blocking(Sysno::statfs, &[path_arg(&found, p), Arg::output(&mut s)])?
        }
        None => t.host_blocking(Sysno::fstatfs, &[Arg::int(fd), Arg::output(&mut s)])?,
    };
    Ok(s)
}

fn put_statfs(t: &mut Task, path: Option<u32>, fd: u32, to: u32) -> SysResult {
    let s = Statfs::try_from(&host_statfs(t, path, fd)?)?;
    t.mem.write(to, &s)?;
    Ok(0)
}

fn put_statfs64(t: &mut Task, path: Option<u32>, fd: u32, size: u32, to: u32) -> SysResult {
    // The kernel takes the packed and the padded size.
    if size != 84 && size != 88 {
        return Err(Errno::EINVAL.into());
    }
    let s = Statfs64::from(&host_statfs(t, path, fd)?);
    t.mem.write(to, &s)?;
    Ok(0)
}

pub(crate) fn statfs(t: &mut Task, a: [u32; 6]) -> SysResult {
    put_statfs(t, Some(a[0]), 0, a[1])
}

pub(crate) fn fstatfs(t: &mut Task, a: [u32; 6]) -> SysResult {
    put_statfs(t, None, a[0], a[1])
}

pub(crate) fn statfs64(t: &mut Task, a: [u32; 6]) -> SysResult {
    put_statfs64(t, Some(a[0]), 0, a[1], a[2])
}

pub(crate) fn fstatfs64(t: &mut Task, a: [u32; 6]) -> SysResult {
    put_statfs64(t, None, a[0], a[1], a[2])
}

pub(crate) fn ustat(t: &mut Task, a: [u32; 6]) -> SysResult {
    // struct ustat: 32-bit tfree and tinode here, 64-bit tinode on the host; then two 6-byte names.
    let mut h = [0u8; 32];
    host::call(Sysno::ustat, &[Arg::uint(a[0]), Arg::output(&mut h)])?;
    let mut g = [0u8; 20];
    g[..4].copy_from_slice(&h[..4]);
    g[4..8].copy_from_slice(&h[8..12]);
    g[8..20].copy_from_slice(&h[16..28]);
    t.mem.write(a[1], &g)?;
    Ok(0)
}

// --- links ---

fn read_link(t: &mut Task, dir: u32, path: u32, to: u32, size: u32) -> SysResult {
    if (size as i32) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    if let Ok(p) = t.mem.path(path)
        && let Some(exe) = t.shared.exe_seen_by_guest(&p)
    {
        let bytes = &exe.to_bytes()[..exe.to_bytes().len().min(size as usize)];
        t.mem.write(to, bytes)?;
        return Ok(bytes.len() as u32);
    }
    let found = t.lookup(path, false)?;
    t.mem.prepare_write(to, size);
    t.host_blocking(Sysno::readlinkat, &[Arg::int(dir), path_arg(&found, path), Arg::uint(to), Arg::uint(size)])
}

pub(crate) fn readlink(t: &mut Task, a: [u32; 6]) -> SysResult {
    read_link(t, CWD, a[0], a[1], a[2])
}

pub(crate) fn readlinkat(t: &mut Task, a: [u32; 6]) -> SysResult {
    read_link(t, a[0], a[1], a[2], a[3])
}

pub(crate) fn name_to_handle_at(t: &mut Task, a: [u32; 6]) -> SysResult {
    let found = t.lookup(a[1], a[4] & libc::AT_SYMLINK_FOLLOW as u32 != 0)?;
    t.mem.prepare_write(a[2], 8 + 128);
    t.mem.prepare_write(a[3], 4);
    let args = [Arg::int(a[0]), path_arg(&found, a[1]), Arg::uint(a[2]), Arg::uint(a[3]), Arg::uint(a[4])];
    t.host_blocking(Sysno::name_to_handle_at, &args)
}

// --- directories ---

/// One entry of the host's getdents64.
struct Dirent<'a> {
    ino: u64,
    off: i64,
    typ: u8,
    name: &'a [u8],
}

fn entries(mut b: &[u8]) -> impl Iterator<Item = Dirent<'_>> {
    std::iter::from_fn(move || {
        let word = |at: usize| b.get(at..at + 8).and_then(|s| s.try_into().ok()).map(u64::from_le_bytes);
        let (ino, off) = (word(0)?, word(8)? as i64);
        let len = usize::from(u16::from_le_bytes([*b.get(16)?, *b.get(17)?]));
        let entry = b.get(..len).filter(|e| e.len() > 19)?;
        let name = &entry[19..];
        let name = &name[..name.iter().position(|&c| c == 0).unwrap_or(name.len())];
        let typ = entry[18];
        b = &b[len..];
        Some(Dirent { ino, off, typ, name })
    })
}

/// Reads entries and writes them by `encode`, which is given the name of the position after each, as many as fit in `room` bytes; the rest is given back by seeking.
fn directory(
    t: &mut Task,
    fd: u32,
    to: u32,
    room: u32,
    encode: fn(&Dirent<'_>, u32) -> Result<Vec<u8>, Errno>,
) -> SysResult {
    // A host entry is never smaller than the guest's, so a buffer of the guest's size never overfills by much.
    let mut buf = vec![0u8; (room as usize).clamp(280, 1 << 20)];
    let mut start = 0u64;
    if let Ok(at) = host::call(Sysno::lseek, &[Arg::int(fd), Arg::NULL, Arg::uint(libc::SEEK_CUR as u32)]) {
        start = at;
    }
    let n =
        t.host_blocking(Sysno::getdents64, &[Arg::int(fd), Arg::output(buf.as_mut_slice()), Arg::uint(buf_len(room))])?;
    let mut out = Vec::new();
    let mut last = start;
    for e in entries(&buf[..n as usize]) {
        let next = t.shared.positions.shorten(fd, e.off).ok_or(Errno::ENOTDIR)?;
        let bytes = encode(&e, next)?;
        if out.len() + bytes.len() > room as usize {
            host::call(Sysno::lseek, &[Arg::int(fd), Arg::wide(last), Arg::uint(libc::SEEK_SET as u32)])?;
            if out.is_empty() {
                return Err(Errno::EINVAL.into());
            }
            break;
        }
        out.extend(bytes);
        last = e.off as u64;
    }
    t.mem.write_bytes(to, &out)?;
    Ok(out.len() as u32)
}

fn buf_len(room: u32) -> u32 {
    room.clamp(280, 1 << 20)
}

pub(crate) fn getdents64(t: &mut Task, a: [u32; 6]) -> SysResult {
    directory(t, a[0], a[1], a[2], |e, next| {
        let len = (19 + e.name.len() + 1).next_multiple_of(8);
        let mut b = Vec::with_capacity(len);
        b.extend(e.ino.to_le_bytes());
        b.extend(u64::from(next).to_le_bytes());
        b.extend((len as u16).to_le_bytes());
        b.push(e.typ);
        b.extend(e.name);
        b.resize(len, 0);
        Ok(b)
    })
}

/// ino, off, reclen, name, padding, and the type in the last byte.
fn old_dirent(e: &Dirent<'_>, next: u32) -> Result<Vec<u8>, Errno> {
    let ino = u32::try_from(e.ino).map_err(|_| Errno::EOVERFLOW)?;
    let len = (10 + e.name.len() + 2).next_multiple_of(4);
    let mut b = Vec::with_capacity(len);
    b.extend(ino.to_le_bytes());
    b.extend(next.to_le_bytes());
    b.extend((len as u16).to_le_bytes());
    b.extend(e.name);
    b.resize(len - 1, 0);
    b.push(e.typ);
    Ok(b)
}

pub(crate) fn getdents(t: &mut Task, a: [u32; 6]) -> SysResult {
    directory(t, a[0], a[1], a[2], old_dirent)
}

/// One entry, with the name's length where reclen is.
pub(crate) fn readdir(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut buf = vec![0u8; 512];
    let fd = Arg::int(a[0]);
    let n = t.host_blocking(Sysno::getdents64, &[fd, Arg::output(buf.as_mut_slice()), Arg::uint(512)])?;
    let Some(e) = entries(&buf[..n as usize]).next() else { return Ok(0) };
    host::call(Sysno::lseek, &[fd, Arg::wide(e.off as u64), Arg::uint(libc::SEEK_SET as u32)])?;
    let ino = u32::try_from(e.ino).map_err(|_| Errno::EOVERFLOW)?;
    let next = t.shared.positions.shorten(a[0], e.off).ok_or(Errno::ENOTDIR)?;
    let mut b = Vec::new();
    b.extend(ino.to_le_bytes());
    b.extend(next.to_le_bytes());
    b.extend((e.name.len() as u16).to_le_bytes());
    b.extend(e.name);
    b.push(0);
    t.mem.write_bytes(a[1], &b)?;
    Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_entries_end_the_list() {
        let mut b = vec![0u8; 24];
        b[16] = 24;
        b[19] = b'x';
        assert_eq!(entries(&b).count(), 1);
        b[16] = 25;
        assert_eq!(entries(&b).count(), 0);
        b[16] = 0;
        assert_eq!(entries(&b).count(), 0);
    }
}
