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

/// The policy, which is always the default one, and nodes: a bit string in the guest's longs.
pub(crate) fn get_mempolicy(t: &mut Task, a: [u32; 6]) -> SysResult {
    const MAX_BITS: u32 = 1 << 15;
    let [policy, mask, bits, addr, flags, _] = a;
    if bits > MAX_BITS {
        return Err(Errno::EINVAL.into());
    }
    let mut mode = 0u32;
    let mut nodes = vec![0u8; bits.next_multiple_of(64) as usize / 8 + 8];
    let mask_arg = if mask == 0 { Arg::NULL } else { Arg::output(nodes.as_mut_slice()) };
    let args = [Arg::output(&mut mode), mask_arg, Arg::uint(bits), Arg::uint(addr), Arg::uint(flags)];
    let r = t.host_blocking(Sysno::get_mempolicy, &args)?;
    t.mem.write_opt(policy, &mode)?;
    if mask != 0 {
        t.mem.write_bytes(mask, &nodes[..bits.saturating_sub(1).next_multiple_of(32) as usize / 8])?;
    }
    Ok(r)
}

pub(crate) fn move_pages(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [pid, count, pages, nodes, status, flags] = a;
    // More pages than there are can't be asked about at once.
    let n = count.min(1 << 20) as usize;
    let wide: Vec<u64> = t.mem.read_array::<u32>(pages, n)?.into_iter().map(u64::from).collect();
    t.mem.prepare_write(status, count.saturating_mul(4));
    let list = if pages == 0 { Arg::NULL } else { Arg::input(wide.as_slice()) };
    let args = [Arg::int(pid), Arg::wide(n as u64), list, Arg::uint(nodes), Arg::uint(status), Arg::uint(flags)];
    t.host_blocking(Sysno::move_pages, &args)
}

/// Only the advice that changes no contents: of other kinds this process's own map would not hear.
pub(crate) fn process_madvise(t: &mut Task, a: [u32; 6]) -> SysResult {
    if !matches!(a[3] as i32, libc::MADV_WILLNEED | libc::MADV_COLD | libc::MADV_PAGEOUT | libc::MADV_COLLAPSE) {
        return Err(Errno::EINVAL.into());
    }
    let ranges = crate::sys_fd::read_iovecs(t, a[1], a[2], false)?;
    let args = [Arg::int(a[0]), Arg::input(ranges.as_slice()), Arg::uint(a[2]), Arg::int(a[3]), Arg::uint(a[4])];
    t.host_blocking(Sysno::process_madvise, &args)
}

/// Placement advice for machines with several memory nodes: taken, and of no consequence.
pub(crate) fn numa_noop(_: &mut Task, _: [u32; 6]) -> SysResult {
    Ok(0)
}
