//! Runs a command in which no process can make a 32-bit system call.
//!
//! On a host that runs i386 programs natively, an emulated program's children would pass tests by running natively. Under the guard
//! they die: a seccomp filter, inherited by all descendants, kills any process that enters the kernel with an architecture
//! other than x86-64. The guard is the host that xlat86 exists for.

#![forbid(unsafe_code)]

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    // Every filter of this crate begins by killing the process on another architecture; beyond that this one allows
    // everything (no rule matches, so the second action is never taken).
    SeccompFilter::new(BTreeMap::new(), SeccompAction::Allow, SeccompAction::KillProcess, TargetArch::x86_64)?
        .try_into()
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("usage: xlat86-guard COMMAND [ARGS...]");
        return ExitCode::from(2);
    };
    let applied =
        filter().map_err(|e| e.to_string()).and_then(|f| seccompiler::apply_filter(&f).map_err(|e| e.to_string()));
    if let Err(e) = applied {
        eprintln!("xlat86-guard: the host refuses the seccomp filter: {e}");
        return ExitCode::from(126);
    }
    let e = Command::new(&program).args(args).exec();
    eprintln!("xlat86-guard: {}: {e}", program.to_string_lossy());
    ExitCode::from(127)
}
