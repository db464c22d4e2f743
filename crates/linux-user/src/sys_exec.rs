//! execve: the next program stays inside the emulator.
//!
//! A guest's program is replaced by executing this emulator again, with the same options, on the new program: the host's kernel
//! then does everything that execve does to a process (descriptors, signal dispositions, timers, credentials, one thread left). The file is
//! judged first, in the old process, so that failure is reported there. A 64-bit program is executed directly.

use crate::host_unsafe::{self as host, Arg};
use crate::program::{self, Program};
use crate::task::Task;
use crate::tracee;
use crate::{Stop, SysResult};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use syscalls::{Errno, Sysno};

/// The kernel's limit on arguments and environment together: a quarter of the stack limit, at least this.
const ARG_MAX: usize = 131_072;

pub(crate) fn execve(t: &mut Task, a: [u32; 6]) -> SysResult {
    let path = t.mem.path(a[0])?;
    exec(t, path, a[1], a[2])
}

pub(crate) fn execveat(t: &mut Task, a: [u32; 6]) -> SysResult {
    let path = t.mem.path(a[1])?;
    let flags = a[4] as i32;
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let bytes = path.to_bytes();
    if bytes.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT.into());
    }
    let path = if bytes.first() == Some(&b'/') || a[0] as i32 == libc::AT_FDCWD {
        path
    } else {
        host::call(Sysno::fcntl, &[Arg::int(a[0]), Arg::uint(libc::F_GETFD as u32)])?;
        // As the kernel names it for scripts: /dev/fd/N/path.
        let mut p = format!("/proc/self/fd/{}", a[0] as i32).into_bytes();
        if !bytes.is_empty() {
            p.push(b'/');
            p.extend(bytes);
        }
        CString::new(p).map_err(|_| Errno::EINVAL)?
    };
    if flags & libc::AT_SYMLINK_NOFOLLOW != 0 {
        let is_link =
            std::fs::symlink_metadata(OsString::from_vec(path.to_bytes().to_vec())).is_ok_and(|m| m.is_symlink());
        if is_link {
            return Err(Errno::ELOOP.into());
        }
    }
    exec(t, path, a[2], a[3])
}

fn exec(t: &mut Task, path: CString, argv: u32, envp: u32) -> SysResult {
    if path.as_bytes().is_empty() {
        return Err(Errno::ENOENT.into());
    }
    let path = program::substitute(&t.shared, path);
    // As the kernel does: first the file, then the arguments, then what the file holds.
    program::openable(t.shared.sysroot.as_deref(), &path)?;
    let mut room = ARG_MAX.max(arg_limit());
    let [argv, envp] = [t.mem.pointers(argv, &mut room)?, t.mem.pointers(envp, &mut room)?];
    let envp = t.mem.strings(&envp, &mut room)?;
    let argv = t.mem.strings(&argv, &mut room)?;
    let program = program::resolve(t.shared.sysroot.as_deref(), &path, argv.clone(), None).map_err(|r| r.errno())?;
    let e = match program {
        // Its calls are the host's business, where no filter would see them.
        Program::Host { .. } if t.seccomp.filters_calls() => Errno::EACCES,
        Program::Host { path, argv } => {
            t.release_all_futexes();
            t.hand_on_signals();
            host::execve(&path, &argv, &envp)
        }
        Program::Guest(program) => {
            // Both are closed here when execve fails.
            let filters = t.seccomp.save()?;
            let file = program::hand_on(&path, &program, program.argv.len() > argv.len().max(1))?;
            let handed = [("--seccomp-fd", &filters), ("--exec-fd", &file)];
            let args = again(t, &path, argv, handed)?;
            if t.trace_on_exec {
                host::call(Sysno::ptrace, &[Arg::NULL, Arg::NULL, Arg::NULL, Arg::NULL])?;
            }
            if t.traced() {
                tracee::before_exec(t);
            }
            t.release_all_futexes();
            t.hand_on_signals();
            t.shared.keep.execute(&args, &envp)
        }
    };
    // What was handed on comes back.
    t.set_blocked(t.signals.blocked);
    Err(Stop::Errno(e))
}

/// The command line that starts this emulator again on `path`.
/// `handed` are files that go with it, by the options that say so.
fn again(
    t: &Task,
    path: &CString,
    argv: Vec<CString>,
    handed: [(&str, &Option<File>); 2],
) -> Result<Vec<CString>, Errno> {
    let mut argv = argv.into_iter();
    let c = |s: &str| CString::new(s).map_err(|_| Errno::EINVAL);
    let mut args = vec![c("xlat86")?, c("run")?, c("--inner")?];
    for o in &t.shared.options.again {
        args.push(CString::new(o.clone().into_vec()).map_err(|_| Errno::EINVAL)?);
    }
    if let Some(fd) = t.shared.keep.fd() {
        args.extend([c("--self-fd")?, c(&fd.to_string())?]);
    }
    if t.traced() || t.trace_on_exec {
        let options = t.trace.as_ref().map_or(0, |b| b.options);
        args.extend([c("--traced")?, c(&options.to_string())?]);
    }
    let limits = [t.mm.limit(0, None), t.mm.limit(1, None)].concat();
    if limits.iter().any(|&l| l != u64::MAX) {
        args.push(c("--memory-limits")?);
        for l in limits {
            args.push(c(&l.to_string())?);
        }
    }
    for (option, file) in handed {
        if let Some(file) = file {
            args.extend([c(option)?, c(&file.as_raw_fd().to_string())?]);
        }
    }
    args.extend([c("--argv0")?, argv.next().unwrap_or_default(), c("--")?, path.clone()]);
    args.extend(argv);
    Ok(args)
}

fn arg_limit() -> usize {
    let mut l = crate::abi::HostRlimit::default();
    let args = [Arg::NULL, Arg::uint(libc::RLIMIT_STACK), Arg::NULL, Arg::output(&mut l)];
    match host::call(Sysno::prlimit64, &args) {
        Ok(_) => (l.cur / 4).min(6 << 20) as usize,
        Err(_) => 2 << 20,
    }
}
