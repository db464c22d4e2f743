//! System information, thread-local storage, and calls that fit nowhere else.

use crate::SysResult;
use crate::abi::{HostSysinfo, Sysinfo, UserDesc, Utsname};
use crate::host_unsafe::{self as host, Arg};
use crate::seccomp;
use crate::sys_fd::read_iovecs;
use crate::task::{TLS_FIRST, Task};
use syscalls::{Errno, Sysno};

// --- what the system is ---

/// The host's names. The machine is the host's too, as for a native 32-bit process; under PER_LINUX32 the host's
/// kernel itself says i686.
fn names() -> Result<Utsname, Errno> {
    let mut u = Utsname::default();
    host::call(Sysno::uname, &[Arg::output(&mut u)])?;
    Ok(u)
}

pub(crate) fn uname(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.mem.write(a[0], &names()?)?;
    Ok(0)
}

/// Five names of 65 bytes.
pub(crate) fn olduname(t: &mut Task, a: [u32; 6]) -> SysResult {
    let u = names()?;
    t.mem.write_bytes(a[0], &zerocopy::IntoBytes::as_bytes(&u)[..325])?;
    Ok(0)
}

/// Five names of 9 bytes.
pub(crate) fn oldolduname(t: &mut Task, a: [u32; 6]) -> SysResult {
    let u = names()?;
    let mut b = [0u8; 45];
    for (to, from) in b.chunks_exact_mut(9).zip([u.sysname, u.nodename, u.release, u.version, u.machine]) {
        to[..8].copy_from_slice(&from[..8]);
    }
    t.mem.write(a[0], &b)?;
    Ok(0)
}

pub(crate) fn sysinfo(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut h = HostSysinfo::default();
    host::call(Sysno::sysinfo, &[Arg::output(&mut h)])?;
    t.mem.write(a[0], &Sysinfo::from(&h))?;
    Ok(0)
}

pub(crate) fn personality(t: &mut Task, a: [u32; 6]) -> SysResult {
    const READ_IMPLIES_EXEC: u32 = 0x0040_0000;
    let had = if t.mm.read_implies_exec() { READ_IMPLIES_EXEC } else { 0 };
    if a[0] != u32::MAX {
        t.mm.set_read_implies_exec(a[0] & READ_IMPLIES_EXEC != 0);
    }
    // The emulator itself must not become readable-executable.
    let asked = if a[0] == u32::MAX { a[0] } else { a[0] & !READ_IMPLIES_EXEC };
    Ok(host::call(Sysno::personality, &[Arg::uint(asked)])? as u32 | had)
}

// --- thread-local storage ---

pub(crate) fn set_thread_area(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut d: UserDesc = t.mem.read(a[0])?;
    let first = u32::from(TLS_FIRST);
    if d.entry == u32::MAX {
        let free = t.tls.iter().position(|&d| d == 0).ok_or(Errno::ESRCH)?;
        d.entry = first + free as u32;
        t.mem.write(a[0], &d.entry)?;
    }
    if !(first..first + 3).contains(&d.entry) {
        return Err(Errno::EINVAL.into());
    }
    // 16-bit data segments, and code segments, are refused as the kernel does.
    let seg32 = d.flags & 1 != 0;
    if !d.is_empty() && (!seg32 || d.flags >> 1 & 3 > 1 || d.flags >> 5 & 1 != 0) {
        return Err(Errno::EINVAL.into());
    }
    t.set_tls(d.entry as u16, if d.is_empty() { 0 } else { d.descriptor() });
    Ok(0)
}

pub(crate) fn get_thread_area(t: &mut Task, a: [u32; 6]) -> SysResult {
    let entry: u32 = t.mem.read(a[0])?;
    let first = u32::from(TLS_FIRST);
    if !(first..first + 3).contains(&entry) {
        return Err(Errno::EINVAL.into());
    }
    let d = UserDesc::from_descriptor(entry, t.tls[(entry - first) as usize]);
    t.mem.write(a[0], &d)?;
    Ok(0)
}

/// quotactl by `call`, which is given what stands in for the address. `struct if_dqblk` is padded to 8 bytes on the host.
fn quota(t: &mut Task, command: u32, at: u32, call: impl FnOnce(&mut Task, Arg<'_>) -> SysResult) -> SysResult {
    const GETQUOTA: u32 = 0x80_0007;
    const SETQUOTA: u32 = 0x80_0008;
    const DQBLK: usize = 68;
    let mut block = [0u8; 72];
    match command >> 8 {
        GETQUOTA => {
            let r = call(t, Arg::output(&mut block))?;
            t.mem.write_bytes(at, &block[..DQBLK])?;
            Ok(r)
        }
        SETQUOTA => {
            // A bad address comes last: the host's kernel finds what else is wrong.
            let read = t.mem.read_bytes(at, &mut block[..DQBLK]);
            call(t, if read.is_ok() { Arg::input(&block) } else { Arg::uint(at) })
        }
        _ => {
            t.mem.prepare_write(at, 256);
            call(t, Arg::uint(at))
        }
    }
}

pub(crate) fn quotactl(t: &mut Task, a: [u32; 6]) -> SysResult {
    quota(t, a[0], a[3], |t, at| {
        t.host_blocking(Sysno::quotactl, &[Arg::uint(a[0]), Arg::uint(a[1]), Arg::int(a[2]), at])
    })
}

pub(crate) fn quotactl_fd(t: &mut Task, a: [u32; 6]) -> SysResult {
    quota(t, a[1], a[3], |t, at| {
        t.host_blocking(Sysno::quotactl_fd, &[Arg::int(a[0]), Arg::uint(a[1]), Arg::uint(a[2]), at])
    })
}

/// Entries of a local descriptor table.
const LDT_ENTRIES: u32 = 8192;

/// Function 0 reads the table, 1 and 0x11 write an entry (the old form clears on base and limit 0).
pub(crate) fn modify_ldt(t: &mut Task, a: [u32; 6]) -> SysResult {
    match a[0] {
        0 => {
            let mut bytes: Vec<u8> = t.vcpu.ldt().entries().iter().flat_map(|d| d.to_le_bytes()).collect();
            if bytes.is_empty() {
                return Ok(0);
            }
            // What isn't there reads as zero.
            bytes.resize(a[2].min(8 * LDT_ENTRIES) as usize, 0);
            t.mem.write_bytes(a[1], &bytes)?;
            Ok(bytes.len() as u32)
        }
        // The default table is empty.
        2 => Ok(0),
        form @ (1 | 0x11) => {
            if a[2] as usize != size_of::<UserDesc>() {
                return Err(Errno::EINVAL.into());
            }
            let mut d: UserDesc = t.mem.read(a[1])?;
            let (contents, absent) = (d.flags >> 1 & 3, d.flags >> 5 & 1 != 0);
            if d.entry >= LDT_ENTRIES || contents == 3 && (form == 1 || !absent) {
                return Err(Errno::EINVAL.into());
            }
            let clear = d.is_empty() || form == 1 && d.base == 0 && d.limit == 0;
            if form == 1 {
                // The old form knows no `useable`, which would set AVL.
                d.flags &= !(1 << 6);
            }
            t.vcpu.ldt().set(d.entry as usize, if clear { 0 } else { d.descriptor() });
            Ok(0)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

// --- prctl and friends ---

/// How an option's arguments are to be taken.
enum Option_ {
    /// Numbers and strings: as they are.
    Pass,
    /// The second argument receives this many bytes.
    Out(u32),
}

fn prctl_option(op: u32) -> Result<Option_, Errno> {
    use Option_::*;
    Ok(match op as i32 {
        libc::PR_GET_NAME => Out(16),
        libc::PR_GET_PDEATHSIG | libc::PR_GET_CHILD_SUBREAPER => Out(4),
        libc::PR_SET_PDEATHSIG
        | libc::PR_GET_DUMPABLE
        | libc::PR_SET_DUMPABLE
        | libc::PR_GET_KEEPCAPS
        | libc::PR_SET_KEEPCAPS
        | libc::PR_SET_NAME
        | libc::PR_CAPBSET_READ
        | libc::PR_CAPBSET_DROP
        | libc::PR_GET_SECUREBITS
        | libc::PR_SET_SECUREBITS
        | libc::PR_SET_TIMERSLACK
        | libc::PR_GET_TIMERSLACK
        | libc::PR_SET_CHILD_SUBREAPER
        | libc::PR_SET_NO_NEW_PRIVS
        | libc::PR_GET_NO_NEW_PRIVS
        | libc::PR_SET_THP_DISABLE
        | libc::PR_GET_THP_DISABLE
        | libc::PR_CAP_AMBIENT
        | libc::PR_SET_PTRACER => Pass,
        // PR_SET_VMA names mappings: no effect on the program.
        0x5356_4d41 => Pass,
        _ => return Err(Errno::EINVAL),
    })
}

pub(crate) fn prctl(t: &mut Task, a: [u32; 6]) -> SysResult {
    match a[0] as i32 {
        libc::PR_GET_SECCOMP => return seccomp::prctl_get(t),
        libc::PR_SET_SECCOMP => return seccomp::prctl_set(t, a[1], a[2]),
        _ => {}
    }
    match prctl_option(a[0])? {
        Option_::Out(n) => t.mem.prepare_write(a[1], n),
        Option_::Pass => {}
    }
    let args: Vec<Arg<'_>> = a[..5].iter().map(|&v| Arg::uint(v)).collect();
    t.host_blocking(Sysno::prctl, &args)
}

pub(crate) fn keyctl(t: &mut Task, a: [u32; 6]) -> SysResult {
    // Those whose structures differ: INSTANTIATE_IOV, DH_COMPUTE, PKEY_*.
    if matches!(a[0], 20 | 23..=28) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if matches!(a[0], 6 | 11 | 17) {
        t.mem.prepare_write(a[2], a[3]);
    }
    let args: Vec<Arg<'_>> = a[..5].iter().map(|&v| Arg::uint(v)).collect();
    t.host_blocking(Sysno::keyctl, &args)
}

pub(crate) fn mount(t: &mut Task, a: [u32; 6]) -> SysResult {
    let args: Vec<Arg<'_>> = a[..5].iter().map(|&v| Arg::uint(v)).collect();
    t.host_blocking(Sysno::mount, &args)
}

pub(crate) fn umount(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.host_blocking(Sysno::umount2, &[Arg::uint(a[0]), Arg::NULL])
}

// --- security modules, extended attributes ---

pub(crate) fn lsm_get_self_attr(t: &mut Task, a: [u32; 6]) -> SysResult {
    let size = t.mem.read_opt::<u32>(a[2])?.unwrap_or(0);
    t.mem.prepare_write(a[1], size);
    t.mem.prepare_write(a[2], 4);
    t.host_blocking(Sysno::lsm_get_self_attr, &[Arg::uint(a[0]), Arg::uint(a[1]), Arg::uint(a[2]), Arg::uint(a[3])])
}

pub(crate) fn lsm_list_modules(t: &mut Task, a: [u32; 6]) -> SysResult {
    let size = t.mem.read_opt::<u32>(a[1])?.unwrap_or(0);
    t.mem.prepare_write(a[0], size);
    t.mem.prepare_write(a[1], 4);
    t.host_blocking(Sysno::lsm_list_modules, &[Arg::uint(a[0]), Arg::uint(a[1]), Arg::uint(a[2])])
}

/// `struct xattr_args` holds a 64-bit pointer, size and flags. The structure may grow by what must be zero then.
fn xattr(t: &mut Task, nr: Sysno, a: [u32; 6], writes: bool) -> SysResult {
    const SIZE: usize = 16;
    let size = a[5] as usize;
    if size < SIZE {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let mut raw = vec![0u8; size];
    t.mem.read_bytes(a[4], &mut raw)?;
    if raw[SIZE..].iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG.into());
    }
    let word = |i: usize| u32::from_le_bytes([raw[4 * i], raw[4 * i + 1], raw[4 * i + 2], raw[4 * i + 3]]);
    if word(1) != 0 {
        return Err(Errno::EFAULT.into());
    }
    if writes {
        t.mem.prepare_write(word(0), word(2));
    }
    let found = if writes { t.lookup(a[1], a[2] & libc::AT_SYMLINK_NOFOLLOW as u32 == 0)? } else { None };
    let path = found.as_deref().map_or(Arg::uint(a[1]), Arg::cstr);
    let value = Arg::input(&raw[..SIZE]);
    t.host_blocking(nr, &[Arg::int(a[0]), path, Arg::uint(a[2]), Arg::uint(a[3]), value, Arg::uint(SIZE as u32)])
}

pub(crate) fn setxattrat(t: &mut Task, a: [u32; 6]) -> SysResult {
    xattr(t, Sysno::setxattrat, a, false)
}

pub(crate) fn getxattrat(t: &mut Task, a: [u32; 6]) -> SysResult {
    xattr(t, Sysno::getxattrat, a, true)
}

// --- other processes' memory ---

fn process_vm(t: &mut Task, nr: Sysno, a: [u32; 6], writes_local: bool) -> SysResult {
    let local = read_iovecs(t, a[1], a[2], writes_local)?;
    let remote = read_iovecs(t, a[3], a[4], false)?;
    let args = [
        Arg::int(a[0]),
        Arg::input(local.as_slice()),
        Arg::uint(a[2]),
        Arg::input(remote.as_slice()),
        Arg::uint(a[4]),
        Arg::uint(a[5]),
    ];
    t.host_blocking(nr, &args)
}

pub(crate) fn process_vm_readv(t: &mut Task, a: [u32; 6]) -> SysResult {
    process_vm(t, Sysno::process_vm_readv, a, true)
}

pub(crate) fn process_vm_writev(t: &mut Task, a: [u32; 6]) -> SysResult {
    process_vm(t, Sysno::process_vm_writev, a, false)
}
