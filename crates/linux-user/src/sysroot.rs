//! `-L DIR`: absolute paths are looked up below DIR first, so that an i386 program finds its loader, libraries
//! and data on a host that has none.
//!
//! Resolution is the host kernel's own (openat2 with RESOLVE_IN_ROOT), so absolute symbolic links inside DIR stay inside.
//! Directories that hold a machine's state rather than software are never looked up there.

use crate::host_unsafe::{self as host, Arg};
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use syscalls::Sysno;

/// Prefixes that always mean the host's.
const HOST_ONLY: [&str; 8] = ["/proc", "/sys", "/dev", "/tmp", "/run", "/home", "/root", "/var/tmp"];

/// A directory that stands in for `/`.
pub struct Sysroot {
    dir: PathBuf,
    c_dir: CString,
}

impl Sysroot {
    /// Uses `dir`, made absolute.
    pub fn new(dir: &Path) -> std::io::Result<Self> {
        let dir = dir.canonicalize()?;
        let c_dir = CString::new(dir.as_os_str().as_bytes())?;
        Ok(Sysroot { dir, c_dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The host path of `path` below the directory, if it exists there.
    pub fn find(&self, path: &CStr, follow: bool) -> Option<CString> {
        let bytes = path.to_bytes();
        if bytes.first() != Some(&b'/') || bytes == b"/" {
            return None;
        }
        let p = Path::new(OsStr::from_bytes(bytes));
        if HOST_ONLY.iter().any(|h| p.starts_with(h)) || p.starts_with(&self.dir) {
            return None;
        }
        let root = open(libc::AT_FDCWD, &self.c_dir, libc::O_PATH | libc::O_DIRECTORY, 0).ok()?;
        let nofollow = if follow { 0 } else { libc::O_NOFOLLOW };
        let found = open(root.0, path, libc::O_PATH | nofollow, libc::RESOLVE_IN_ROOT).ok()?;
        let mut target = vec![0u8; 4096];
        let link = CString::new(format!("/proc/self/fd/{}", found.0)).ok()?;
        let n = host::call(Sysno::readlink, &[Arg::cstr(&link), Arg::output(target.as_mut_slice()), Arg::uint(4096)])
            .ok()?;
        target.truncate(n as usize);
        // A trailing slash demands a directory: keep the demand.
        if bytes.last() == Some(&b'/') {
            target.push(b'/');
        }
        CString::new(target).ok()
    }
}

struct Fd(i32);

impl Drop for Fd {
    fn drop(&mut self) {
        let _ = host::call(Sysno::close, &[Arg::int(self.0 as u32)]);
    }
}

fn open(at: i32, path: &CStr, flags: i32, resolve: u64) -> Result<Fd, syscalls::Errno> {
    let how: [u64; 3] = [(flags | libc::O_CLOEXEC) as u64, 0, resolve];
    let args = [Arg::int(at as u32), Arg::cstr(path), Arg::input(&how), Arg::uint(24)];
    host::call(Sysno::openat2, &args).map(|fd| Fd(fd as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_links_stay_inside() {
        let dir = std::env::temp_dir().join(format!("xlat86-sysroot-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("etc/alternatives")).unwrap();
        std::fs::create_dir_all(dir.join("usr/bin")).unwrap();
        std::fs::write(dir.join("usr/bin/gawk"), "x").unwrap();
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, dir.join(at)).unwrap();
        link("/usr/bin/gawk", "etc/alternatives/awk");
        link("/etc/alternatives/awk", "usr/bin/awk");
        let s = Sysroot::new(&dir).unwrap();
        let find = |p: &str, follow| s.find(&CString::new(p).unwrap(), follow).map(|c| c.into_string().unwrap());
        let host = |p: &str| Some(s.dir().join(p).to_str().unwrap().to_string());
        assert_eq!(find("/usr/bin/awk", true), host("usr/bin/gawk"));
        assert_eq!(find("/usr/bin/awk", false), host("usr/bin/awk"));
        assert_eq!(find("/usr/bin/../bin/awk", true), host("usr/bin/gawk"));
        assert_eq!(find("/usr/bin/nothing", true), None);
        assert_eq!(find("/tmp", true), None);
        assert_eq!(find("usr/bin/awk", true), None);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
