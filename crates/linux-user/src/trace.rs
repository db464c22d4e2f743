//! `--trace syscall`: one line per system call, in the manner of strace.
//!
//! What the kernel reads is shown as it was before the call, what it writes as it is after it; the line is printed when
//! the call is over, except for calls that don't come back.

use crate::abi::Siginfo;
use crate::host_unsafe::{self as host, Arg};
use crate::ioctl;
use crate::kept::{self, Kept};
use crate::table::{Kind, Row};
use crate::task::Task;
use crate::{Stop, SysResult};
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use syscalls::{Errno, Sysno};

/// Where the trace goes.
pub struct Tracer {
    /// Its descriptor.
    pub(crate) out: Kept,
}

impl Tracer {
    /// Opens `file` for appending (children of the guest write to it too), or duplicates standard error.
    pub fn open(file: Option<&Path>) -> Result<Self, (String, std::io::Error)> {
        let (low, name) = match file {
            Some(p) => {
                let name = p.display().to_string();
                match File::options().append(true).create(true).open(p) {
                    Ok(f) => (Some(f), name),
                    Err(e) => return Err((name, e)),
                }
            }
            None => (None, "standard error".to_string()),
        };
        let fd = low.as_ref().map_or(2, |f| f.as_raw_fd());
        match kept::high_duplicate(fd, true) {
            Ok(high) => Ok(Tracer { out: Kept::new(Some(high)) }),
            Err(e) => Err((name, std::io::Error::from_raw_os_error(e.into_raw()))),
        }
    }

    /// Writes a line with the thread's id, in one write so that lines of several processes don't mix.
    pub fn line(&self, text: &str) {
        let tid = host::call(Sysno::gettid, &[]).unwrap_or(0);
        let line = format!("[{tid}] {text}\n");
        // While the lock is held the number stays this file's.
        let out = self.out.lock();
        let Some(fd) = *out else { return };
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match host::call(Sysno::write, &[Arg::int(fd as u32), Arg::input(rest), Arg::wide(rest.len() as u64)]) {
                Ok(n) => rest = &rest[n as usize..],
                Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// A call that is under way.
pub(crate) struct Call {
    row: Option<&'static Row>,
    nr: u32,
    args: [u32; 6],
    /// The arguments that are known before the call.
    shown: Vec<Option<String>>,
}

/// Notes a call before it is made.
pub(crate) fn begin(t: &Task, nr: u32, row: Option<&'static Row>, args: [u32; 6]) -> Call {
    let kinds = row.map_or(&[][..], |r| r.args);
    let mut reg = 0;
    let mut shown = Vec::new();
    for k in kinds {
        let v = args[reg];
        let next = args.get(reg + 1).copied().unwrap_or(0);
        shown.push(match k {
            Kind::OutBuf | Kind::Out(_) | Kind::OutN(_) => None,
            _ => Some(show(t, k, v, next)),
        });
        reg += if *k == Kind::Off { 2 } else { 1 };
    }
    let call = Call { row, nr, args, shown };
    if matches!(call.name().as_str(), "execve" | "execveat" | "exit" | "exit_group" | "rt_sigreturn" | "sigreturn") {
        t.trace_line(&format!("{} ...", call.text(t, None)));
    }
    call
}

impl Call {
    fn name(&self) -> String {
        self.row.map_or_else(|| format!("syscall_{}", self.nr), |r| r.name.to_string())
    }

    fn text(&self, t: &Task, result: Option<u32>) -> String {
        let kinds = self.row.map_or(&[][..], |r| r.args);
        let mut reg = 0;
        let mut parts = Vec::new();
        for (k, shown) in kinds.iter().zip(&self.shown) {
            let v = self.args[reg];
            let next = self.args.get(reg + 1).copied().unwrap_or(0);
            parts.push(match (shown, result, k) {
                (Some(s), ..) => s.clone(),
                (None, Some(n), Kind::OutBuf) => bytes(t, v, n.min(next)),
                (None, Some(_), Kind::Out(size)) => words(t, v, *size),
                _ => format!("{v:#x}"),
            });
            reg += if *k == Kind::Off { 2 } else { 1 };
        }
        if self.row.is_some_and(|r| r.name == "ioctl")
            && let Some(name) = ioctl::name(self.args[1])
        {
            parts[1] = name.to_string();
        }
        format!("{}({})", self.name(), parts.join(", "))
    }

    /// Prints the call with its result.
    pub(crate) fn end(self, t: &Task, result: &SysResult) {
        let line = match result {
            Ok(v) if *v >= 0x1000_0000 => format!("{} = {v:#x}", self.text(t, Some(*v))),
            Ok(v) => format!("{} = {v}", self.text(t, Some(*v))),
            Err(Stop::Errno(e)) => {
                let why = e.description().unwrap_or("");
                format!("{} = -1 {} ({why})", self.text(t, None), error_name(*e))
            }
            Err(Stop::Restart) => format!("{} = ? (to be restarted)", self.text(t, None)),
            Err(Stop::KeepRegisters) => return,
        };
        t.trace_line(&line);
    }
}

fn error_name(e: Errno) -> String {
    e.name().map_or_else(|| format!("error {}", e.into_raw()), str::to_string)
}

impl Task {
    fn trace_line(&self, text: &str) {
        if let Some(t) = &self.shared.trace {
            t.line(text);
        }
    }

    /// A line for a signal that is delivered.
    pub fn trace_signal(&self, sig: i32, info: &Siginfo) {
        if self.shared.trace.is_some() {
            let (code, f) = (info.code as i32, info.fields);
            self.trace_line(&format!(
                "--- {} {{si_code={code}, {:#x}, {:#x}}} ---",
                signal_name(sig as u32),
                f[0],
                f[1]
            ));
        }
    }
}

fn show(t: &Task, kind: &Kind, v: u32, next: u32) -> String {
    match kind {
        Kind::I | Kind::Fd => (v as i32).to_string(),
        Kind::U => v.to_string(),
        Kind::At if v as i32 == libc::AT_FDCWD => "AT_FDCWD".to_string(),
        Kind::At => (v as i32).to_string(),
        Kind::Sig => signal_name(v),
        Kind::Mode => format!("{v:#o}"),
        Kind::Off => (u64::from(v) | u64::from(next) << 32).to_string(),
        Kind::Path | Kind::Look | Kind::LookL | Kind::Str => match t.mem.path(v) {
            _ if v == 0 => "NULL".to_string(),
            Ok(s) => format!("{:?}", s.to_string_lossy()),
            Err(_) => format!("{v:#x}"),
        },
        Kind::InBuf => bytes(t, v, next),
        Kind::Bits(names) => bits(v, names),
        Kind::X | Kind::OutBuf | Kind::Out(_) | Kind::OutN(_) if v == 0 => "NULL".to_string(),
        Kind::X | Kind::OutBuf | Kind::Out(_) | Kind::OutN(_) => format!("{v:#x}"),
    }
}

/// The beginning of a buffer, as a string literal.
fn bytes(t: &Task, at: u32, len: u32) -> String {
    const SHOWN: u32 = 32;
    let mut b = vec![0; len.min(SHOWN) as usize];
    if t.mem.read_bytes(at, &mut b).is_err() {
        return format!("{at:#x}");
    }
    format!("\"{}\"{}", b.escape_ascii(), if len > SHOWN { "..." } else { "" })
}

/// A small structure, in words.
fn words(t: &Task, at: u32, size: u32) -> String {
    match t.mem.read_array::<u32>(at, (size / 4).min(4) as usize) {
        Ok(w) if at != 0 => format!("[{}]", w.iter().map(|v| format!("{v:#x}")).collect::<Vec<_>>().join(", ")),
        _ => "NULL".to_string(),
    }
}

fn bits(v: u32, names: &[(u32, &str)]) -> String {
    let mut rest = v;
    let mut s = String::new();
    for (bit, name) in names.iter().filter(|(b, _)| v & b == *b) {
        rest &= !bit;
        let _ = write!(s, "{}{name}", if s.is_empty() { "" } else { "|" });
    }
    if rest != 0 || s.is_empty() {
        let _ = write!(s, "{}{rest:#x}", if s.is_empty() { "" } else { "|" });
    }
    s
}

/// The name of a signal.
pub(crate) fn signal_name(sig: u32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    match sig {
        1..=31 => format!("SIG{}", NAMES[sig as usize - 1]),
        32..=64 => format!("SIGRT_{}", sig - 32),
        _ => sig.to_string(),
    }
}
