//! Calls on descriptors whose arguments need more than widening.

use crate::abi::{FOwner, Flock, Flock64, HostFlock, HostIovec, Iovec};
use crate::host_unsafe::{self as host, Arg};
use crate::ioctl;
use crate::proc_files;
use crate::task::Task;
use crate::{Stop, SysResult};
use syscalls::{Errno, Sysno};

/// The kernel's UIO_MAXIOV.
const IOV_MAX: u32 = 1024;

// --- scatter and gather ---

/// The host's form of an iovec array; memory that the kernel will write is announced.
pub(crate) fn read_iovecs(t: &Task, at: u32, count: u32, written: bool) -> Result<Vec<HostIovec>, Errno> {
    if count > IOV_MAX {
        return Err(Errno::EINVAL);
    }
    let guest: Vec<Iovec> = t.mem.read_array(at, count as usize)?;
    let mut left = i32::MAX as u32 & !0xfff;
    guest
        .into_iter()
        .map(|v| {
            if (v.len as i32) < 0 {
                return Err(Errno::EINVAL);
            }
            // The kernel truncates a transfer to what fits in its return value.
            let len = v.len.min(left);
            left -= len;
            if written {
                t.mem.prepare_write(v.base, len);
            }
            Ok(HostIovec { base: v.base.into(), len: len.into() })
        })
        .collect()
}

fn vectored(t: &mut Task, nr: Sysno, a: [u32; 6], reads: bool, rest: &[Arg<'_>]) -> SysResult {
    let v = read_iovecs(t, a[1], a[2], reads)?;
    let mut args = vec![Arg::int(a[0]), Arg::input(v.as_slice()), Arg::uint(a[2])];
    args.extend(rest);
    t.host_blocking(nr, &args)
}

pub(crate) fn readv(t: &mut Task, a: [u32; 6]) -> SysResult {
    vectored(t, Sysno::readv, a, true, &[])
}

pub(crate) fn writev(t: &mut Task, a: [u32; 6]) -> SysResult {
    vectored(t, Sysno::writev, a, false, &[])
}

/// A descriptor that the host can't write may be guest memory ([`proc_files::write_memory`]).
fn or_memory(t: &mut Task, r: SysResult, a: [u32; 6], offset: Option<u64>) -> SysResult {
    match r {
        Err(Stop::Errno(Errno::EBADF)) => Ok(proc_files::write_memory(t, a[0], a[1], a[2], offset)?),
        r => r,
    }
}

pub(crate) fn write(t: &mut Task, a: [u32; 6]) -> SysResult {
    let r = t.host_blocking(Sysno::write, &[Arg::int(a[0]), Arg::uint(a[1]), Arg::uint(a[2])]);
    or_memory(t, r, a, None)
}

pub(crate) fn pwrite64(t: &mut Task, a: [u32; 6]) -> SysResult {
    let r = t.host_blocking(Sysno::pwrite64, &[Arg::int(a[0]), Arg::uint(a[1]), Arg::uint(a[2]), offset(&a)]);
    or_memory(t, r, a, Some(u64::from(a[3]) | u64::from(a[4]) << 32))
}

/// The host takes the offset in one register and ignores the second.
fn offset(a: &[u32; 6]) -> Arg<'static> {
    Arg::wide(u64::from(a[3]) | u64::from(a[4]) << 32)
}

pub(crate) fn preadv(t: &mut Task, a: [u32; 6]) -> SysResult {
    vectored(t, Sysno::preadv, a, true, &[offset(&a), Arg::NULL])
}

pub(crate) fn pwritev(t: &mut Task, a: [u32; 6]) -> SysResult {
    vectored(t, Sysno::pwritev, a, false, &[offset(&a), Arg::NULL])
}

pub(crate) fn preadv2(t: &mut Task, a: [u32; 6]) -> SysResult {
    vectored(t, Sysno::preadv2, a, true, &[offset(&a), Arg::NULL, Arg::uint(a[5])])
}

pub(crate) fn pwritev2(t: &mut Task, a: [u32; 6]) -> SysResult {
    vectored(t, Sysno::pwritev2, a, false, &[offset(&a), Arg::NULL, Arg::uint(a[5])])
}

pub(crate) fn vmsplice(t: &mut Task, a: [u32; 6]) -> SysResult {
    vectored(t, Sysno::vmsplice, a, true, &[Arg::uint(a[3])])
}

// --- positions ---

fn seek(t: &Task, fd: u32, offset: i64, whence: u32) -> Result<u64, Stop> {
    let absolute = whence == libc::SEEK_SET as u32;
    let offset = if absolute && offset > 0 { t.shared.positions.lengthen(fd, offset) } else { offset };
    Ok(host::call(Sysno::lseek, &[Arg::int(fd), Arg::wide(offset as u64), Arg::uint(whence)])?)
}

pub(crate) fn lseek(t: &mut Task, a: [u32; 6]) -> SysResult {
    let p = seek(t, a[0], (a[1] as i32).into(), a[2])?;
    // Positions beyond 31 bits have moved, but can't be told.
    t.shared.positions.shorten(a[0], p as i64).ok_or(Errno::EOVERFLOW.into())
}

pub(crate) fn llseek(t: &mut Task, a: [u32; 6]) -> SysResult {
    let offset = u64::from(a[2]) | u64::from(a[1]) << 32;
    let p = seek(t, a[0], offset as i64, a[4])?;
    let told = t.shared.positions.shorten(a[0], p as i64).map_or(p, u64::from);
    t.mem.write(a[3], &told)?;
    Ok(0)
}

// --- copying between descriptors ---

/// An optional 64-bit offset in guest memory, which the host updates there.
fn offset_pointer(t: &Task, at: u32) -> Arg<'static> {
    t.mem.prepare_write(at, 8);
    Arg::uint(at)
}

pub(crate) fn sendfile64(t: &mut Task, a: [u32; 6]) -> SysResult {
    let offset = offset_pointer(t, a[2]);
    t.host_blocking(Sysno::sendfile, &[Arg::int(a[0]), Arg::int(a[1]), offset, Arg::uint(a[3])])
}

pub(crate) fn sendfile(t: &mut Task, a: [u32; 6]) -> SysResult {
    let Some(offset) = t.mem.read_opt::<u32>(a[2])? else {
        return t.host_blocking(Sysno::sendfile, &[Arg::int(a[0]), Arg::int(a[1]), Arg::NULL, Arg::uint(a[3])]);
    };
    let mut offset = i64::from(offset as i32);
    let args = [Arg::int(a[0]), Arg::int(a[1]), Arg::output(&mut offset), Arg::uint(a[3])];
    let r = t.host_blocking(Sysno::sendfile, &args)?;
    t.mem.write(a[2], &(offset as u32))?;
    Ok(r)
}

pub(crate) fn splice(t: &mut Task, a: [u32; 6]) -> SysResult {
    let (from, to) = (offset_pointer(t, a[1]), offset_pointer(t, a[3]));
    t.host_blocking(Sysno::splice, &[Arg::int(a[0]), from, Arg::int(a[2]), to, Arg::uint(a[4]), Arg::uint(a[5])])
}

pub(crate) fn copy_file_range(t: &mut Task, a: [u32; 6]) -> SysResult {
    let (from, to) = (offset_pointer(t, a[1]), offset_pointer(t, a[3]));
    t.host_blocking(
        Sysno::copy_file_range,
        &[Arg::int(a[0]), from, Arg::int(a[2]), to, Arg::uint(a[4]), Arg::uint(a[5])],
    )
}

// --- fcntl ---

/// fcntl commands of i386 with 64-bit locks (`F_GETLK64`, ...), and the host's for the same.
const GETLK64: u32 = 12;
const SETLKW64: u32 = 14;
const OFD_GETLK: u32 = libc::F_OFD_GETLK as u32;
const OFD_SETLKW: u32 = libc::F_OFD_SETLKW as u32;

trait GuestFlock: Sized + zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable {
    fn to_host(&self) -> HostFlock;
    fn from_host(h: &HostFlock) -> Result<Self, Errno>;
}

impl GuestFlock for Flock {
    fn to_host(&self) -> HostFlock {
        let wide = |v: u32| i64::from(v as i32);
        HostFlock {
            typ: self.typ,
            whence: self.whence,
            start: wide(self.start),
            len: wide(self.len),
            pid: self.pid,
            ..HostFlock::default()
        }
    }
    fn from_host(h: &HostFlock) -> Result<Self, Errno> {
        // A lock that begins too far off can't be reported; one that ends there is shown as reaching to the end.
        let start = i32::try_from(h.start).map_err(|_| Errno::EOVERFLOW)? as u32;
        let len = i32::try_from(h.len).unwrap_or(0) as u32;
        Ok(Flock { typ: h.typ, whence: h.whence, start, len, pid: h.pid })
    }
}

impl GuestFlock for Flock64 {
    fn to_host(&self) -> HostFlock {
        let (start, len) = (self.start.get() as i64, self.len.get() as i64);
        HostFlock { typ: self.typ, whence: self.whence, start, len, pid: self.pid, ..HostFlock::default() }
    }
    fn from_host(h: &HostFlock) -> Result<Self, Errno> {
        Ok(Flock64 { typ: h.typ, whence: h.whence, start: h.start.into(), len: h.len.into(), pid: h.pid })
    }
}

fn lock<T: GuestFlock>(t: &mut Task, fd: u32, cmd: u32, at: u32) -> SysResult {
    let mut h = t.mem.read::<T>(at)?.to_host();
    let r = t.host_blocking(Sysno::fcntl, &[Arg::int(fd), Arg::uint(cmd), Arg::output(&mut h)])?;
    if matches!(cmd, OFD_GETLK | GETLK_HOST) {
        t.mem.write(at, &T::from_host(&h)?)?;
    }
    Ok(r)
}

/// F_GETLK; the two that set follow it. The same numbers on both sides.
const GETLK_HOST: u32 = libc::F_GETLK as u32;

pub(crate) fn fcntl64(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [fd, cmd, arg, ..] = a;
    match cmd {
        5..=7 => lock::<Flock>(t, fd, cmd, arg),
        GETLK64..=SETLKW64 => lock::<Flock64>(t, fd, cmd - GETLK64 + GETLK_HOST, arg),
        OFD_GETLK..=OFD_SETLKW => lock::<Flock64>(t, fd, cmd, arg),
        // F_GETOWN_EX, F_SETOWN_EX
        15 | 16 => {
            let mut owner: FOwner = t.mem.read(arg)?;
            let r = t.host_blocking(Sysno::fcntl, &[Arg::int(fd), Arg::uint(cmd), Arg::output(&mut owner)])?;
            if cmd == 16 {
                t.mem.write(arg, &owner)?;
            }
            Ok(r)
        }
        // F_GETOWNER_UIDS; F_GET_RW_HINT and its kin write 64 bits.
        17 => {
            t.mem.prepare_write(arg, 8);
            pass(t, fd, cmd, arg)
        }
        1035..=1038 => {
            t.mem.prepare_write(arg, 8);
            pass(t, fd, cmd, arg)
        }
        _ => pass(t, fd, cmd, arg),
    }
}

fn pass(t: &mut Task, fd: u32, cmd: u32, arg: u32) -> SysResult {
    t.host_blocking(Sysno::fcntl, &[Arg::int(fd), Arg::uint(cmd), Arg::uint(arg)])
}

/// The older call knows no 64-bit locks.
pub(crate) fn fcntl(t: &mut Task, a: [u32; 6]) -> SysResult {
    match a[1] {
        GETLK64..=SETLKW64 | OFD_GETLK..=OFD_SETLKW => Err(Errno::EINVAL.into()),
        _ => fcntl64(t, a),
    }
}

pub(crate) fn ioctl(t: &mut Task, a: [u32; 6]) -> SysResult {
    ioctl::ioctl(t, a[0], a[1], a[2])
}
