//! `--root DIR`: the program and everything it executes see DIR as `/`, without privileges where the host allows user
//! namespaces. A private mount namespace holds DIR with the host's /proc, /sys and /dev below it, and its root is
//! switched there.
//!
//! The emulator's own file is then out of sight, but execve has to start it again: a descriptor for it is kept
//! ([`Keep`]), which the guest can't close. So it must need nothing else to start: it has to be linked statically.

use crate::SysResult;
use crate::host_unsafe::{self as host, Arg};
use crate::kept::{self, Kept};
use crate::task::Task;
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use syscalls::{Errno, Sysno};

/// What the host has to lend, where DIR has a place for it.
const LENT: [&CStr; 3] = [c"proc", c"sys", c"dev"];

/// The emulator's own file, kept open for execve once paths lead elsewhere.
#[derive(Debug, Default)]
pub struct Keep(Kept);

impl std::ops::Deref for Keep {
    type Target = Kept;
    fn deref(&self) -> &Kept {
        &self.0
    }
}

impl Keep {
    /// A descriptor inherited from the emulator that executed this one.
    pub(crate) fn inherited(fd: Option<i32>) -> Keep {
        if let Some(fd) = fd {
            kept::set_cloexec(fd, true);
        }
        Keep(Kept::new(fd))
    }

    /// Opens the emulator's file while it can be found.
    pub(crate) fn open(&self) -> Result<i32, Errno> {
        let mut kept = self.lock();
        if let Some(fd) = *kept {
            return Ok(fd);
        }
        let flags = Arg::uint((libc::O_PATH | libc::O_CLOEXEC) as u32);
        let at = Arg::int(libc::AT_FDCWD as u32);
        let low = host::call(Sysno::openat, &[at, Arg::cstr(c"/proc/self/exe"), flags, Arg::NULL])? as i32;
        let fd = kept::move_up(low);
        *kept = Some(fd);
        Ok(fd)
    }

    /// Executes the emulator again. Returns only on failure.
    pub(crate) fn execute(&self, args: &[CString], envp: &[CString]) -> Errno {
        let Some(fd) = self.fd() else {
            // The magic link works even where the emulator's own path is out of sight.
            let e = host::execve(c"/proc/self/exe", args, envp);
            return match std::env::current_exe().map(|p| CString::new(p.as_os_str().as_bytes())) {
                Ok(Ok(exe)) if e == Errno::ENOENT => host::execve(&exe, args, envp),
                _ => e,
            };
        };
        kept::set_cloexec(fd, false);
        let e = host::execve_fd(fd, args, envp);
        kept::set_cloexec(fd, true);
        e
    }
}

/// Why a root can't be entered.
#[derive(Debug, thiserror::Error)]
pub enum CannotEnter {
    /// The emulator couldn't start again inside.
    #[error(
        "this xlat86 is linked dynamically and would not find its libraries inside; build it with cargo rustc --release -p xlat86 --bin xlat86 -- -C target-feature=+crt-static"
    )]
    Dynamic,
    /// The host refuses a step.
    #[error("{0}: {1}")]
    Host(&'static str, io::Error),
}

/// Makes `dir` the root of this process and, with `as_root`, user 0 out of its user. The current directory becomes the
/// same one where `dir` contains it, else `/`.
pub(crate) fn enter(dir: &Path, as_root: bool, keep: &Keep) -> Result<(), CannotEnter> {
    let err = |what| move |e: Errno| CannotEnter::Host(what, io::Error::from_raw_os_error(e.into_raw()));
    let io = |what| move |e| CannotEnter::Host(what, e);
    // Where the kernel put this program's own program interpreter; zero without one.
    if host::auxv(libc::AT_BASE) != 0 {
        return Err(CannotEnter::Dynamic);
    }
    let dir = dir.canonicalize().map_err(io("can't find the directory"))?;
    let inside = std::env::current_dir().ok().and_then(|cwd| Some(Path::new("/").join(cwd.strip_prefix(&dir).ok()?)));
    keep.open().map_err(err("can't open /proc/self/exe"))?;

    unshare(as_root)?;
    let path = CString::new(dir.as_os_str().as_bytes()).map_err(|e| CannotEnter::Host("bad name", e.into()))?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    mount(c"none", c"/", private).map_err(err("can't make mounts private"))?;
    mount(&path, &path, libc::MS_BIND | libc::MS_REC).map_err(err("can't mount the directory"))?;
    let chdir = |to: &CStr| host::call(Sysno::chdir, &[Arg::cstr(to)]);
    chdir(&path).map_err(err("can't enter the directory"))?;
    for name in LENT {
        let host_dir = CString::new([b"/", name.to_bytes()].concat()).unwrap_or_default();
        if fs::metadata(OsStr::from_bytes(name.to_bytes())).is_ok_and(|m| m.is_dir()) {
            mount(&host_dir, name, libc::MS_BIND | libc::MS_REC)
                .map_err(err("can't mount /proc, /sys or /dev inside"))?;
        }
    }
    // The old root lands on top of the new one, and is let go there; an initramfs can't be moved that way.
    match host::call(Sysno::pivot_root, &[Arg::cstr(c"."), Arg::cstr(c".")]) {
        Ok(_) => {
            let args = [Arg::cstr(c"."), Arg::uint(libc::MNT_DETACH as u32)];
            host::call(Sysno::umount2, &args).map_err(err("can't let the old root go"))?;
        }
        Err(_) => {
            host::call(Sysno::chroot, &[Arg::cstr(c".")]).map_err(err("can't change the root"))?;
        }
    }
    let inside = inside.and_then(|p| CString::new(p.as_os_str().as_bytes()).ok());
    if inside.is_none_or(|p| chdir(&p).is_err()) {
        chdir(c"/").map_err(err("can't enter the root"))?;
    }
    Ok(())
}

/// A mount namespace of our own; inside a user namespace of our own if that is what it takes, or asked for.
fn unshare(as_root: bool) -> Result<(), CannotEnter> {
    let try_to = |flags: i32| host::call(Sysno::unshare, &[Arg::uint(flags as u32)]);
    let id = |nr| host::call(nr, &[]).unwrap_or_default();
    let (uid, gid) = (id(Sysno::geteuid), id(Sysno::getegid));
    if (uid == 0 || !as_root) && try_to(libc::CLONE_NEWNS).is_ok() {
        return Ok(());
    }
    own_namespaces(if as_root { 0 } else { uid }, if as_root { 0 } else { gid })
}

/// A user and a mount namespace in which this process keeps its user.
pub(crate) fn own_user_namespace() -> Result<(), CannotEnter> {
    let id = |nr| host::call(nr, &[]).unwrap_or_default();
    own_namespaces(id(Sysno::geteuid), id(Sysno::getegid))
}

/// A user and a mount namespace in which this process's user has these numbers.
fn own_namespaces(inner_uid: u64, inner_gid: u64) -> Result<(), CannotEnter> {
    let id = |nr| host::call(nr, &[]).unwrap_or_default();
    let (uid, gid) = (id(Sysno::geteuid), id(Sysno::getegid));
    host::call(Sysno::unshare, &[Arg::uint((libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u32)]).map_err(|e| {
        CannotEnter::Host("the host allows no user namespaces to this user", io::Error::from_raw_os_error(e.into_raw()))
    })?;
    let map = |inside, outside| format!("{inside} {outside} 1");
    let steps = [("setgroups", "deny".to_owned()), ("gid_map", map(inner_gid, gid)), ("uid_map", map(inner_uid, uid))];
    for (file, line) in steps {
        fs::write(Path::new("/proc/self").join(file), line)
            .map_err(|e| CannotEnter::Host("can't map users into the user namespace", e))?;
    }
    Ok(())
}

fn mount(from: &CStr, to: &CStr, flags: u64) -> Result<u64, Errno> {
    host::call(Sysno::mount, &[Arg::cstr(from), Arg::cstr(to), Arg::NULL, Arg::wide(flags), Arg::NULL])
}

/// The file that a command's name means: a name without a slash is looked for in `path`, as execvp does.
pub(crate) fn find_command(name: &CStr, path: Option<&[u8]>) -> CString {
    const DEFAULT: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if name.to_bytes().contains(&b'/') {
        return name.to_owned();
    }
    let dirs = path.unwrap_or(DEFAULT).split(|&b| b == b':').map(|d| PathBuf::from(OsStr::from_bytes(d)));
    dirs.map(|d| d.join(OsStr::from_bytes(name.to_bytes())))
        .find(|p| {
            fs::metadata(p)
                .is_ok_and(|m| m.is_file() && std::os::unix::fs::PermissionsExt::mode(&m.permissions()) & 0o111 != 0)
        })
        .and_then(|p| CString::new(p.as_os_str().as_bytes()).ok())
        .unwrap_or_else(|| name.to_owned())
}

// --- system calls that concern the kept descriptor ---

/// From here on the emulator's own path may be out of sight.
pub(crate) fn chroot(t: &mut Task, a: [u32; 6]) -> SysResult {
    // Where it can't be opened, execve fails after the chroot, which itself works.
    let _ = t.shared.keep.open();
    t.host_blocking(Sysno::chroot, &[Arg::uint(a[0])])
}

pub(crate) fn pivot_root(t: &mut Task, a: [u32; 6]) -> SysResult {
    let _ = t.shared.keep.open();
    t.host_blocking(Sysno::pivot_root, &[Arg::uint(a[0]), Arg::uint(a[1])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_as_execvp_does() {
        let find = |n: &CStr, p: Option<&str>| find_command(n, p.map(str::as_bytes)).into_string().unwrap();
        assert_eq!(find(c"./sh", None), "./sh");
        assert_eq!(find(c"sh", Some("/nowhere:/bin")), "/bin/sh");
        assert_eq!(find(c"no such program", None), "no such program");
    }
}
