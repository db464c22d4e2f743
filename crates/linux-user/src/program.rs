//! From a path to something that can run: permissions, `#!` scripts, the kind of ELF, the program interpreter.
//!
//! Nothing is changed here, so execve can refuse while the old program still runs.

use crate::elf::{self, Bad, Image};
use crate::host_unsafe::{self as host, Arg};
use crate::kept;
use crate::shared::Shared;
use crate::sysroot::Sysroot;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use syscalls::{Errno, Sysno};

/// A file that can be executed.
pub(crate) enum Program {
    /// An i386 ELF program.
    Guest(Box<GuestProgram>),
    /// A 64-bit program: the host's business.
    Host {
        /// Its path on the host.
        path: CString,
        /// Arguments, after `#!` lines.
        argv: Vec<CString>,
    },
}

/// An i386 program ready to be mapped.
pub(crate) struct GuestProgram {
    /// Its file.
    pub file: File,
    /// Its headers.
    pub image: Image,
    /// Its path on the host.
    pub path: CString,
    /// The program interpreter, if it asks for one.
    pub interp: Option<(File, Image)>,
    /// Arguments, after `#!` lines.
    pub argv: Vec<CString>,
}

/// Why a path can't be executed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The file can't be opened or executed.
    #[error("{}: {}", .0.to_string_lossy(), describe(*.1))]
    File(CString, Errno),
    /// Its contents won't do.
    #[error("{}: {}", .0.to_string_lossy(), .1)]
    Bad(CString, Bad),
    /// The interpreter it asks for can't be used.
    #[error("{}: needs the program interpreter {}, which {}; give a directory that has it with -L DIR (an i386 root file system)",
        .0.to_string_lossy(), .1.to_string_lossy(), interp_trouble(*.2))]
    Interp(CString, CString, Errno),
}

fn describe(e: Errno) -> &'static str {
    e.description().unwrap_or("unknown error")
}

fn interp_trouble(e: Errno) -> &'static str {
    match e {
        Errno::ENOENT => "doesn't exist",
        Errno::ENOEXEC | Errno::ELIBBAD => "isn't an i386 ELF file",
        _ => "can't be read",
    }
}

impl Refused {
    /// What execve answers.
    pub fn errno(&self) -> Errno {
        match self {
            Refused::File(_, e) | Refused::Interp(_, _, e) => *e,
            Refused::Bad(_, b) => b.errno(),
        }
    }

    /// What a shell exits with.
    pub fn status(&self) -> i32 {
        match self {
            Refused::File(_, Errno::ENOENT | Errno::ENOTDIR) => 127,
            _ => 126,
        }
    }
}

/// The kernel's limit on nested interpreters.
const MAX_DEPTH: usize = 5;

/// Finds out what executing `path` with `argv` means. `path` is the guest's; where its file has been handed on, `handed` is that descriptor.
pub(crate) fn resolve(
    sysroot: Option<&Sysroot>,
    path: &CStr,
    argv: Vec<CString>,
    handed: Option<i32>,
) -> Result<Program, Refused> {
    let mut argv = if argv.is_empty() { vec![CString::default()] } else { argv };
    let mut path = path.to_owned();
    let mut handed = handed.and_then(|fd| CString::new(format!("/proc/self/fd/{fd}")).ok());
    for _ in 0..MAX_DEPTH {
        let found = handed.take().or_else(|| sysroot.and_then(|s| s.find(&path, true)));
        let host_path = found.unwrap_or_else(|| path.clone());
        let refuse = |e| Refused::File(path.clone(), e);
        let file = open_executable(&host_path).map_err(refuse)?;
        let head = elf::head(&file).map_err(refuse)?;
        if let Some(script) = head.strip_prefix(b"#!") {
            let (interp, arg) = parse_script(script).ok_or_else(|| refuse(Errno::ENOEXEC))?;
            // [interpreter, its argument, the script, the script's arguments]
            let rest = argv.split_off(1);
            argv = [interp.clone()].into_iter().chain(arg).chain([path]).chain(rest).collect();
            path = interp;
            continue;
        }
        return match Image::read(&file, &head) {
            Ok(image) => {
                let interp = image.interp.as_ref().map(|i| open_interp(sysroot, &path, i)).transpose()?;
                let path = absolute(&file, &host_path);
                Ok(Program::Guest(Box::new(GuestProgram { file, image, path, interp, argv })))
            }
            Err(Bad::Elf64) => Ok(Program::Host { path: host_path, argv }),
            Err(bad) => Err(Refused::Bad(path, bad)),
        };
    }
    Err(Refused::File(path, Errno::ELOOP))
}

/// Can the file at `path` be opened for execution at all?
pub(crate) fn openable(sysroot: Option<&Sysroot>, path: &CStr) -> Result<(), Errno> {
    let found = sysroot.and_then(|s| s.find(path, true));
    open_executable(found.as_deref().unwrap_or(path)).map(drop)
}

fn open_interp(sysroot: Option<&Sysroot>, program: &CStr, interp: &CStr) -> Result<(File, Image), Refused> {
    let refuse = |e| Refused::Interp(program.to_owned(), interp.to_owned(), e);
    let path = sysroot.and_then(|s| s.find(interp, true)).unwrap_or_else(|| interp.to_owned());
    let file = open_executable(&path).map_err(refuse)?;
    let head = elf::head(&file).map_err(refuse)?;
    let image = Image::read(&file, &head).map_err(|b| match b {
        Bad::Read(e) => refuse(e),
        _ => refuse(Errno::ELIBBAD),
    })?;
    Ok((file, image))
}

/// Opens a regular file that this process may execute.
fn open_executable(path: &CStr) -> Result<File, Errno> {
    let os = OsStr::from_bytes(path.to_bytes());
    let io = |e: std::io::Error| Errno::new(e.raw_os_error().unwrap_or(libc::EIO));
    let meta = std::fs::metadata(os).map_err(io)?;
    if !meta.is_file() {
        return Err(Errno::EACCES);
    }
    let at = Arg::int(libc::AT_FDCWD as u32);
    let effective = Arg::uint(libc::AT_EACCESS as u32);
    host::call(Sysno::faccessat2, &[at, Arg::cstr(path), Arg::uint(libc::X_OK as u32), effective])?;
    let file = File::open(os).map_err(io)?;
    let mut fs = crate::abi::HostStatfs::default();
    host::call(Sysno::fstatfs, &[Arg::int(file.as_raw_fd() as u32), Arg::output(&mut fs)])?;
    if fs.flags as u64 & libc::ST_NOEXEC != 0 {
        return Err(Errno::EACCES);
    }
    Ok(file)
}

/// The path as /proc/self/exe would show it, of the `file` at `path`.
fn absolute(file: &File, path: &CStr) -> CString {
    // One call instead of one for each part of the path. What has no name here begins or ends otherwise.
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
    let link = link.and_then(|p| CString::new(p.into_os_string().into_vec()).ok());
    if let Some(found) = link.filter(|l| l.to_bytes().starts_with(b"/") && !l.to_bytes().ends_with(b" (deleted)")) {
        return found;
    }
    std::fs::canonicalize(OsStr::from_bytes(path.to_bytes()))
        .ok()
        .and_then(|p| CString::new(p.as_os_str().as_bytes()).ok())
        .unwrap_or_else(|| path.to_owned())
}

/// The interpreter and its one argument on a `#!` line, by `binfmt_script`'s rules.
fn parse_script(line: &[u8]) -> Option<(CString, Option<CString>)> {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let end = match line.iter().position(|&b| b == b'\n') {
        Some(n) => n,
        None => {
            // The line was cut off at the buffer's end: fine only if the interpreter's name surely is complete.
            let name_start = line.iter().position(|b| !blank(b))?;
            let ended = line[name_start..].iter().any(|b| blank(b) || *b == 0);
            if !ended && line.len() + 2 >= elf::HEAD {
                return None;
            }
            line.iter().position(|&b| b == 0).unwrap_or(line.len())
        }
    };
    let trim = |s: &[u8]| -> Vec<u8> {
        let start = s.iter().position(|b| !blank(b)).unwrap_or(s.len());
        let end = s.iter().rposition(|b| !blank(b)).map_or(start, |e| e + 1);
        s[start..end].to_vec()
    };
    let line = trim(&line[..end]);
    let split = line.iter().position(blank).unwrap_or(line.len());
    let (name, arg) = line.split_at(split);
    if name.is_empty() {
        return None;
    }
    let arg = trim(arg);
    let arg = if arg.is_empty() { None } else { Some(CString::new(arg).ok()?) };
    Some((CString::new(name).ok()?, arg))
}

/// The path to execute for a path argument of execve that names /proc/self/exe.
pub(crate) fn substitute(shared: &Shared, path: CString) -> CString {
    if Shared::is_proc_self(&path, "exe") { shared.exe() } else { path }
}

/// The descriptor of this process through which `path` leads.
pub(crate) fn through_descriptor(path: &CStr) -> Option<i32> {
    let path = path.to_str().ok()?;
    let own = format!("/proc/{}/fd/", std::process::id());
    let rest =
        ["/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/", &own].into_iter().find_map(|p| path.strip_prefix(p))?;
    rest.split('/').next()?.parse().ok()
}

/// What of `program`, found at `path`, has to be handed on to the emulator that is executed next: with a path through a descriptor its
/// file, since that descriptor may be closed by then.
pub(crate) fn hand_on(path: &CStr, program: &GuestProgram, is_script: bool) -> Result<Option<File>, Errno> {
    let Some(fd) = through_descriptor(path) else { return Ok(None) };
    if is_script {
        // It's the script's interpreter that opens the path.
        let flags = host::call(Sysno::fcntl, &[Arg::int(fd as u32), Arg::uint(libc::F_GETFD as u32)])?;
        return if flags as i32 & libc::FD_CLOEXEC != 0 { Err(Errno::ENOENT) } else { Ok(None) };
    }
    let fd = kept::high_duplicate(program.file.as_raw_fd(), false)?;
    Ok(Some(host::own_fd(fd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_through_descriptors() {
        assert_eq!(through_descriptor(c"/proc/self/fd/17"), Some(17));
        assert_eq!(through_descriptor(c"/dev/fd/17/program"), Some(17));
        assert_eq!(through_descriptor(c"/proc/1/fd/17"), None);
        assert_eq!(through_descriptor(c"/proc/self/fd/x"), None);
    }

    #[test]
    fn script_lines_are_split_as_the_kernel_does() {
        let p = |s: &str| {
            parse_script(s.as_bytes()).map(|(i, a)| (i.into_string().unwrap(), a.map(|a| a.into_string().unwrap())))
        };
        let some = |i: &str, a: Option<&str>| Some((i.to_string(), a.map(String::from)));
        assert_eq!(p("/bin/sh\n"), some("/bin/sh", None));
        assert_eq!(p(" /bin/sh  -e -x \necho"), some("/bin/sh", Some("-e -x")));
        assert_eq!(p("/bin/sh"), some("/bin/sh", None));
        assert_eq!(p("  \n"), None);
        assert_eq!(p(&"x".repeat(300)), None);
    }
}
