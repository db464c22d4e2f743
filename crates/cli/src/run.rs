//! `xlat86 run`: user mode.

use crate::engine::EngineOptions;
use clap::{Args, ValueEnum};
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;
use xlat86_linux_user::{Invocation, Options, StatsForm};
use xlat86_vcpu::Tracing;

/// Status of a shell that can't execute what it was told to.
pub(crate) const CANNOT_EXECUTE: u8 = 126;

const EXAMPLES: &str = "\
Examples:
  xlat86 run ./hello                          a static program, or one whose libraries the host has
  xlat86 run -L /srv/i386 /bin/bash           loader, libraries and data from an i386 root file system
  xlat86 run -L /srv/i386 /usr/bin/python3 -c 'print(2**100)'
  xlat86 run --trace syscall ./prog           what it asks the kernel for
  xlat86 run --engine interp --stats ./prog   on the reference interpreter, with counters at the end

The exit status is the program's; if a signal kills the program, the same signal kills xlat86. 127 means that
the program was not found, 126 that it can't be run, 70 a bug in xlat86.";

/// Run an i386 Linux program
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Run {
    /// Look up absolute paths (program, loader, libraries, data) below DIR first
    #[arg(short = 'L', long = "sysroot", value_name = "DIR")]
    sysroot: Option<PathBuf>,
    /// Make DIR, an i386 root file system, the program's and its children's `/`. PROGRAM and files that options name are then inside
    #[arg(long, value_name = "DIR", conflicts_with = "sysroot")]
    root: Option<PathBuf>,
    /// With --root: be user 0 inside
    #[arg(long, requires = "root")]
    as_root: bool,
    /// A descriptor for this program's own file
    #[arg(long, hide = true)]
    self_fd: Option<i32>,
    /// A descriptor with seccomp filters
    #[arg(long, hide = true)]
    seccomp_fd: Option<i32>,
    /// A descriptor for the program's file
    #[arg(long, hide = true)]
    exec_fd: Option<i32>,
    /// Traced by another guest process, with these options
    #[arg(long, hide = true)]
    traced: Option<u32>,
    /// RLIMIT_AS and RLIMIT_DATA
    #[arg(long, hide = true, num_args = 4)]
    memory_limits: Option<Vec<u64>>,
    /// Set an environment variable of the program
    #[arg(short = 'E', long = "env", value_name = "VAR=VALUE")]
    env: Vec<OsString>,
    /// Remove an environment variable of the program
    #[arg(short = 'U', long = "unset", value_name = "VAR")]
    unset: Vec<OsString>,
    /// Give the program this name as its argument 0
    #[arg(short = '0', long = "argv0", value_name = "NAME", allow_hyphen_values = true)]
    argv0: Option<OsString>,
    #[command(flatten)]
    engine: EngineOptions,
    /// What to trace
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    trace: Vec<Trace>,
    /// Append the trace to FILE instead of writing it to standard error
    #[arg(long, value_name = "FILE")]
    trace_file: Option<PathBuf>,
    /// Print counters when the program ends
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "table", value_name = "FORM")]
    stats: Option<Stats>,
    /// Executed by a guest: a 64-bit program is none of ours
    #[arg(long, hide = true)]
    inner: bool,
    /// The program and its arguments
    // One list, so that whatever follows the program is the program's, options included.
    #[arg(value_names = ["PROGRAM", "ARGS"], required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stats {
    /// For people
    Table,
    /// One line of JSON for each process
    Json,
}

impl Stats {
    fn form(self) -> StatsForm {
        match self {
            Stats::Table => StatsForm::Table,
            Stats::Json => StatsForm::Json,
        }
    }

    fn option(self) -> &'static str {
        match self {
            Stats::Table => "--stats",
            Stats::Json => "--stats=json",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Trace {
    /// System calls, in the manner of strace
    Syscall,
    /// Instructions decoded for translation
    Decode,
    /// Translations made
    Block,
    /// Why translated code is left, each time
    Exit,
    /// Host faults in translated code
    Fault,
}

impl Run {
    pub(crate) fn run(self) -> ExitCode {
        let Some((options, invocation)) = self.prepare() else {
            eprintln!("xlat86: an argument or environment variable holds a zero byte");
            return ExitCode::from(CANNOT_EXECUTE);
        };
        match xlat86_linux_user::run(options, invocation, self.inner) {
            Ok(status) => ExitCode::from(status as u8),
            Err(e) => {
                eprintln!("xlat86: {e}");
                ExitCode::from(e.status() as u8)
            }
        }
    }

    fn prepare(&self) -> Option<(Options, Invocation)> {
        let c = |s: OsString| CString::new(s.into_vec()).ok();
        let mut config = self.engine.config();
        let traced = |what| self.trace.contains(&what);
        config.tracing = Tracing {
            decode: traced(Trace::Decode),
            block: traced(Trace::Block),
            exit: traced(Trace::Exit),
            fault: traced(Trace::Fault),
            to: None,
        };
        let options = Options {
            sysroot: self.sysroot.clone(),
            root: self.root.clone(),
            as_root: self.as_root,
            self_fd: self.self_fd,
            memory_limits: self.memory_limits.as_ref().and_then(|v| v.as_slice().try_into().ok()),
            traced: self.traced,
            seccomp_fd: self.seccomp_fd,
            exec_fd: self.exec_fd,
            trace_syscalls: self.trace.contains(&Trace::Syscall),
            trace_file: self.trace_file.clone(),
            stats: self.stats.map(Stats::form),
            config,
            again: self.again(),
        };
        let (program, args) = self.command.split_first()?;
        let argv0 = self.argv0.as_ref().unwrap_or(program);
        let argv = [argv0].into_iter().chain(args).cloned().map(c).collect::<Option<_>>()?;
        let envp = self.environment().into_iter().map(c).collect::<Option<_>>()?;
        Some((options, Invocation { path: c(program.clone())?, argv, envp }))
    }

    /// The environment, in its order, without what `-U` names and with what `-E` sets.
    fn environment(&self) -> Vec<OsString> {
        let join = |k: OsString, v: OsString| {
            let mut s = k;
            s.push("=");
            s.push(v);
            s
        };
        if self.env.is_empty() && self.unset.is_empty() {
            return std::env::vars_os().map(|(k, v)| join(k, v)).collect();
        }
        let split = |s: &OsString| {
            let b = s.clone().into_vec();
            let at = b.iter().position(|&c| c == b'=').unwrap_or(b.len());
            let value = b.get(at + 1..).unwrap_or_default().to_vec();
            (OsString::from_vec(b[..at].to_vec()), OsString::from_vec(value))
        };
        let mut set: BTreeMap<OsString, OsString> = self.env.iter().map(split).collect();
        let kept = std::env::vars_os().filter(|(k, _)| !self.unset.contains(k));
        let mut all: Vec<OsString> =
            kept.map(|(k, v)| (set.remove(&k).unwrap_or(v), k)).map(|(v, k)| join(k, v)).collect();
        all.extend(set.into_iter().map(|(k, v)| join(k, v)));
        all
    }

    /// The options that programs executed by the guest run under. The sysroot is named absolutely: guests change directory.
    fn again(&self) -> Vec<OsString> {
        let mut v = self.engine.again();
        let absolute = |p: &PathBuf| std::path::absolute(p).unwrap_or_else(|_| p.clone()).into_os_string();
        if let Some(dir) = &self.sysroot {
            v.extend(["-L".into(), absolute(dir)]);
        }
        for what in &self.trace {
            let name = what.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
            v.extend(["--trace".into(), name.into()]);
        }
        if let Some(file) = &self.trace_file {
            v.extend(["--trace-file".into(), absolute(file)]);
        }
        v.extend(self.stats.map(|s| s.option().into()));
        v
    }
}
