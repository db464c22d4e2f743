//! User mode: i386 Linux programs on the 64-bit host's kernel.
//!
//! ELF loading, the memory map of a 32-bit process, i386 system calls carried out by the host, signals, threads. The
//! guest's 4 GB are the host's own low 4 GB, so a guest pointer is a host pointer and most calls need no copying.
//!
//! One file holds one idea; system calls are in `table.rs` (one row each) and `sys_*.rs` (one family each); memory layouts
//! in `abi/`; everything unsafe in `host_unsafe.rs`.

// `host_unsafe` is named for the one place that holds unsafe code; what it offers is safe, and is called `host`.
#![allow(clippy::unsafe_removed_from_name)]

pub mod abi;
mod bpf;
mod clock;
mod core_file;
mod elf;
mod fork;
mod guest;
mod held;
mod host_unsafe;
mod ioctl;
mod kept;
mod load;
mod mm;
mod options;
mod peer;
mod positions;
mod proc_files;
mod program;
mod ranges;
mod root;
mod seccomp;
mod shared;
mod signal;
mod stack;
mod sys_exec;
mod sys_fd;
mod sys_file;
mod sys_futex;
mod sys_id;
mod sys_ipc;
mod sys_message;
mod sys_misc;
mod sys_mm;
mod sys_net;
mod sys_poll;
mod sys_proc;
mod sys_signal;
mod sys_time;
mod sysroot;
pub mod table;
mod task;
mod trace;
mod tracee;
mod tracer;
mod vdso;
mod wait;

pub use elf::{Bad, check_headers};
pub use load::{Failure, Invocation, run};
pub use options::{Options, StatsForm};

use syscalls::Errno;

/// Does this program need libraries of the host to start?
pub fn linked_dynamically() -> bool {
    host_unsafe::auxv(libc::AT_BASE) != 0
}

/// Did binfmt_misc start this program for another one, which keeps its own argument 0?
pub fn started_by_binfmt() -> bool {
    const AT_FLAGS_PRESERVE_ARGV0: u64 = 1;
    host_unsafe::auxv(libc::AT_FLAGS) & AT_FLAGS_PRESERVE_ARGV0 != 0
}

/// Exit status when the emulator itself is at fault (`EX_SOFTWARE`).
pub const EXIT_BUG: i32 = 70;

/// Why a system call gives no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It failed.
    Errno(Errno),
    /// A signal came first: the instruction is to be executed again after it.
    Restart,
    /// The call has set all registers itself (sigreturn), or the thread is over.
    KeepRegisters,
}

/// What a system call comes to.
pub type SysResult = Result<u32, Stop>;
