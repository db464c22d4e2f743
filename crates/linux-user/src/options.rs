//! What the command line says about a run.

use std::ffi::OsString;
use std::path::PathBuf;

/// How counters are printed when a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StatsForm {
    /// For people.
    Table,
    /// One line of JSON for each process.
    Json,
}

/// Settings of a user-mode run. All of them are handed on to programs that the guest executes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `-L`: directory in which absolute paths are looked up first.
    pub sysroot: Option<PathBuf>,
    /// `--root`: directory that becomes `/`.
    pub root: Option<PathBuf>,
    /// `--as-root`: be user 0 there.
    pub as_root: bool,
    /// `--self-fd`: a descriptor for the emulator's own file, from the emulator that executed this one.
    pub self_fd: Option<i32>,
    /// `--seccomp-fd`: a descriptor with the seccomp filters that execve keeps.
    pub seccomp_fd: Option<i32>,
    /// `--exec-fd`: a descriptor for the program's file, where its path may lead nowhere any more.
    pub exec_fd: Option<i32>,
    /// `--traced`: this process is another emulated one's tracee, with these PTRACE_O_ bits.
    pub traced: Option<u32>,
    /// `--memory-limits`: soft and hard RLIMIT_AS and RLIMIT_DATA, which execve keeps.
    pub memory_limits: Option<[u64; 4]>,
    /// `--trace syscall`.
    pub trace_syscalls: bool,
    /// Where the trace goes; standard error if not given.
    pub trace_file: Option<PathBuf>,
    /// `--stats`.
    pub stats: Option<StatsForm>,
    /// Engine settings.
    pub config: xlat86_vcpu::Config,
    /// Command-line arguments that say all of the above, for executing this emulator again.
    pub again: Vec<OsString>,
}
