//! Memory calls: argument checks here, the map itself in `mm.rs`.

use crate::SysResult;
use crate::host_unsafe::Arg;
use crate::mm::Request;
use crate::task::Task;
use syscalls::{Errno, Sysno};
use xlat86_arch::PAGE_MASK;

pub(crate) fn brk(t: &mut Task, a: [u32; 6]) -> SysResult {
    Ok(t.mm.brk(a[0]))
}

pub(crate) fn mmap2(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [addr, len, prot, flags, fd, page] = a;
    Ok(t.mm.map(Request { addr, len, prot, flags, fd: fd as i32, offset: u64::from(page) << 12 })?)
}

pub(crate) fn old_mmap(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [addr, len, prot, flags, fd, offset]: [u32; 6] = t.mem.read(a[0])?;
    if offset & PAGE_MASK != 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(t.mm.map(Request { addr, len, prot, flags, fd: fd as i32, offset: offset.into() })?)
}

pub(crate) fn munmap(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.mm.unmap(a[0], a[1])?;
    Ok(0)
}

pub(crate) fn mprotect(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.mm.protect(a[0], a[1], a[2])?;
    Ok(0)
}

pub(crate) fn pkey_mprotect(t: &mut Task, a: [u32; 6]) -> SysResult {
    if a[3] as i32 != -1 {
        return Err(Errno::EINVAL.into());
    }
    mprotect(t, a)
}

pub(crate) fn mremap(t: &mut Task, a: [u32; 6]) -> SysResult {
    Ok(t.mm.remap(a[0], a[1], a[2], a[3], a[4])?)
}

pub(crate) fn madvise(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.mm.advise(a[0], a[1], a[2])?;
    Ok(0)
}

/// Calls that take a range and don't change what is mapped, with the length clipped to the address space.
fn range(t: &mut Task, nr: Sysno, a: [u32; 6]) -> SysResult {
    if u64::from(a[0]) + u64::from(a[1]) > 1 << 32 {
        return Err(Errno::ENOMEM.into());
    }
    t.host_blocking(nr, &[Arg::uint(a[0]), Arg::uint(a[1]), Arg::uint(a[2])])
}

pub(crate) fn msync(t: &mut Task, a: [u32; 6]) -> SysResult {
    range(t, Sysno::msync, a)
}

pub(crate) fn mlock(t: &mut Task, a: [u32; 6]) -> SysResult {
    range(t, Sysno::mlock, [a[0], a[1], 0, 0, 0, 0])
}

pub(crate) fn mlock2(t: &mut Task, a: [u32; 6]) -> SysResult {
    range(t, Sysno::mlock2, a)
}

pub(crate) fn munlock(t: &mut Task, a: [u32; 6]) -> SysResult {
    range(t, Sysno::munlock, [a[0], a[1], 0, 0, 0, 0])
}

pub(crate) fn mlockall(_: &mut Task, _: [u32; 6]) -> SysResult {
    Ok(0)
}

pub(crate) fn mincore(t: &mut Task, a: [u32; 6]) -> SysResult {
    let pages = a[1].div_ceil(4096);
    t.mem.prepare_write(a[2], pages);
    range(t, Sysno::mincore, a)
}

/// Placement advice for machines with several memory nodes: taken, and of no consequence.
pub(crate) fn numa_noop(_: &mut Task, _: [u32; 6]) -> SysResult {
    Ok(0)
}
