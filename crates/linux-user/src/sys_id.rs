//! User and group ids: the 16-bit calls. The 32-bit ones go to the host as they are.

use crate::SysResult;
use crate::abi::{low_id, wide_id};
use crate::host_unsafe::{self as host, Arg};
use crate::task::Task;
use syscalls::{Errno, Sysno};

fn get(nr: Sysno) -> SysResult {
    Ok(low_id(host::call(nr, &[])? as u32).into())
}

fn set(nr: Sysno, ids: &[u32]) -> SysResult {
    let args: Vec<Arg<'_>> = ids.iter().map(|&i| Arg::int(wide_id(i))).collect();
    Ok(host::call(nr, &args)? as u32)
}

/// Declares calls that only widen or narrow their ids.
macro_rules! narrow {
    (get { $($name:ident = $nr:ident,)* } set { $($sname:ident = $snr:ident $n:literal,)* }) => {
        $(pub(crate) fn $name(_: &mut Task, _: [u32; 6]) -> SysResult { get(Sysno::$nr) })*
        $(pub(crate) fn $sname(_: &mut Task, a: [u32; 6]) -> SysResult { set(Sysno::$snr, &a[..$n]) })*
    };
}
narrow! {
    get {
    getuid16 = getuid,
    getgid16 = getgid,
    geteuid16 = geteuid,
    getegid16 = getegid,
    } set {
    setuid16 = setuid 1,
    setgid16 = setgid 1,
    setreuid16 = setreuid 2,
    setregid16 = setregid 2,
    setresuid16 = setresuid 3,
    setresgid16 = setresgid 3,
    setfsuid16 = setfsuid 1,
    setfsgid16 = setfsgid 1,
    }
}

fn chown(t: &mut Task, nr: Sysno, a: [u32; 6]) -> SysResult {
    let what = if nr == Sysno::fchown { Arg::int(a[0]) } else { Arg::uint(a[0]) };
    t.host_blocking(nr, &[what, Arg::int(wide_id(a[1])), Arg::int(wide_id(a[2]))])
}

pub(crate) fn chown16(t: &mut Task, a: [u32; 6]) -> SysResult {
    chown(t, Sysno::chown, a)
}

pub(crate) fn lchown16(t: &mut Task, a: [u32; 6]) -> SysResult {
    chown(t, Sysno::lchown, a)
}

pub(crate) fn fchown16(t: &mut Task, a: [u32; 6]) -> SysResult {
    chown(t, Sysno::fchown, a)
}

fn get_three(t: &mut Task, nr: Sysno, a: [u32; 6]) -> SysResult {
    let mut ids = [0u32; 3];
    let [r, e, s] = &mut ids;
    host::call(nr, &[Arg::output(r), Arg::output(e), Arg::output(s)])?;
    for (at, id) in a.iter().zip(ids) {
        t.mem.write(*at, &low_id(id))?;
    }
    Ok(0)
}

pub(crate) fn getresuid16(t: &mut Task, a: [u32; 6]) -> SysResult {
    get_three(t, Sysno::getresuid, a)
}

pub(crate) fn getresgid16(t: &mut Task, a: [u32; 6]) -> SysResult {
    get_three(t, Sysno::getresgid, a)
}

/// The kernel's limit on supplementary groups.
const NGROUPS_MAX: usize = 65536;

/// Supplementary groups; with `count` 0 only their number.
fn groups(count: u32) -> Result<(u32, Vec<u32>), Errno> {
    let n = (count as i32).max(0) as usize;
    let mut v = vec![0u32; n.min(NGROUPS_MAX)];
    let got = host::call(Sysno::getgroups, &[Arg::int(count), Arg::output(v.as_mut_slice())])? as u32;
    v.truncate(got as usize);
    Ok((got, v))
}

pub(crate) fn getgroups(t: &mut Task, a: [u32; 6]) -> SysResult {
    let (n, v) = groups(a[0].min(NGROUPS_MAX as u32))?;
    t.mem.write(a[1], v.as_slice())?;
    Ok(n)
}

pub(crate) fn getgroups16(t: &mut Task, a: [u32; 6]) -> SysResult {
    let (n, v) = groups(if (a[0] as i32) < 0 { a[0] } else { a[0].min(NGROUPS_MAX as u32) })?;
    let v: Vec<u16> = v.into_iter().map(low_id).collect();
    t.mem.write(a[1], v.as_slice())?;
    Ok(n)
}

pub(crate) fn setgroups16(t: &mut Task, a: [u32; 6]) -> SysResult {
    let n = a[0] as usize;
    if n > NGROUPS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let v: Vec<u32> = t.mem.read_array::<u16>(a[1], n)?.into_iter().map(|i| wide_id(i.into())).collect();
    Ok(host::call(Sysno::setgroups, &[Arg::uint(a[0]), Arg::input(v.as_slice())])? as u32)
}
