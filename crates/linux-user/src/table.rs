//! Every i386 system call of Linux 6.x, one row each: number, name, arguments, how well it is supported, who answers it.
//!
//! The table drives dispatch, `--trace syscall` and docs/syscalls.md. A row made by [`host`] goes to the host's kernel as it is:
//! its argument kinds say how registers widen, which paths are looked up in the sysroot, and which guest
//! memory the kernel will write. All other rows name the function that answers.

use crate::{
    Stop, SysResult, kept, root, seccomp, sys_exec, sys_fd, sys_file, sys_futex, sys_id, sys_ipc, sys_message,
    sys_misc, sys_mm, sys_net, sys_poll, sys_proc, sys_signal, sys_time, task::Task, tracer, wait,
};
use Kind::*;
use syscalls::{Errno, Sysno};

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Kind {
    /// Signed number.
    I,
    /// Unsigned number.
    U,
    /// Number shown in hexadecimal; a pointer the kernel doesn't write through.
    X,
    /// 64-bit number in two registers, low half first.
    Off,
    Fd,
    /// Directory descriptor of an `*at` call.
    At,
    /// A signal number.
    Sig,
    /// File mode, octal.
    Mode,
    /// A path that is created, changed or removed: never looked up in the sysroot.
    Path,
    /// A path that is looked up, following a final symbolic link.
    Look,
    /// A path that is looked up, not following a final symbolic link.
    LookL,
    /// Another string.
    Str,
    /// Bytes the kernel reads; their number is the next argument.
    InBuf,
    /// Bytes the kernel writes; their number is the next argument.
    OutBuf,
    /// A structure of this many bytes that the kernel writes.
    Out(u32),
    /// An array of structures of this many bytes that the kernel writes; their number is the next argument.
    OutN(u32),
    /// Bits with names.
    Bits(&'static [(u32, &'static str)]),
}

/// How well a call is supported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Support {
    /// As the kernel does it.
    Full,
    /// As the kernel does it, except for what the text says.
    Partial(&'static str),
    /// Not carried out; the text says why.
    Refused(&'static str),
}

/// Who answers a call.
#[derive(Clone, Copy)]
pub enum Run {
    /// The host's kernel.
    Host(Sysno),
    /// A function here.
    Here(fn(&mut Task, [u32; 6]) -> SysResult),
    /// Nobody: this error.
    Refuse(Errno),
}

/// One system call.
#[derive(Clone, Copy)]
pub struct Row {
    /// i386 number.
    pub nr: u16,
    /// Name without `sys_`.
    pub name: &'static str,
    /// Arguments in register order EBX, ECX, EDX, ESI, EDI, EBP.
    pub args: &'static [Kind],
    /// Support level.
    pub support: Support,
    /// Who answers.
    pub run: Run,
}

type Handler = fn(&mut Task, [u32; 6]) -> SysResult;

const fn host(nr: u16, name: &'static str, args: &'static [Kind], host: Sysno) -> Row {
    Row { nr, name, args, support: Support::Full, run: Run::Host(host) }
}
const fn here(nr: u16, name: &'static str, args: &'static [Kind], run: Handler) -> Row {
    Row { nr, name, args, support: Support::Full, run: Run::Here(run) }
}
const fn part(nr: u16, name: &'static str, args: &'static [Kind], missing: &'static str, run: Handler) -> Row {
    Row { nr, name, args, support: Support::Partial(missing), run: Run::Here(run) }
}
const fn no(nr: u16, name: &'static str, why: &'static str) -> Row {
    Row { nr, name, args: &[], support: Support::Refused(why), run: Run::Refuse(Errno::ENOSYS) }
}
const fn deny(nr: u16, name: &'static str, errno: Errno, why: &'static str) -> Row {
    Row { nr, name, args: &[], support: Support::Refused(why), run: Run::Refuse(errno) }
}

/// The row of system call `nr`.
pub fn row(nr: u32) -> Option<&'static Row> {
    TABLE.binary_search_by_key(&nr, |r| u32::from(r.nr)).ok().map(|i| &TABLE[i])
}

/// Calls that Linux itself has no implementation of.
const GONE: &str = "not implemented by Linux itself";
const SYNCHRONOUS: &str = "doesn't read SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP and SIGSTKFLT that a process has sent";
const KERNEL: &str = "acts on the running kernel, not on a process";
const AIO: &str = "its shared ring buffer has a 64-bit layout; programs fall back to other interfaces";
const VM: &str = "a tracee's CLONE_VM only with CLONE_THREAD or CLONE_VFORK, else EINVAL";

impl Row {
    /// Answers the call.
    pub fn run(&self, task: &mut Task, args: [u32; 6]) -> SysResult {
        match self.run {
            Run::Here(f) => f(task, args),
            Run::Host(nr) => task.pass(nr, self.args, args),
            Run::Refuse(e) => Err(Stop::Errno(e)),
        }
    }
}

macro_rules! bits {
    ($name:ident: $($bit:literal $text:literal)*) => {
        const $name: &[(u32, &str)] = &[$(($bit, $text)),*];
    };
}
bits!(PROT: 1 "PROT_READ" 2 "PROT_WRITE" 4 "PROT_EXEC" 0x0100_0000 "PROT_GROWSDOWN");
bits!(MAP: 1 "MAP_SHARED" 2 "MAP_PRIVATE" 0x10 "MAP_FIXED" 0x20 "MAP_ANONYMOUS" 0x100 "MAP_GROWSDOWN" 0x800 "MAP_DENYWRITE"
    0x1000 "MAP_EXECUTABLE" 0x2000 "MAP_LOCKED" 0x4000 "MAP_NORESERVE" 0x8000 "MAP_POPULATE" 0x10000 "MAP_NONBLOCK"
    0x20000 "MAP_STACK" 0x40000 "MAP_HUGETLB" 0x10_0000 "MAP_FIXED_NOREPLACE");
bits!(OPEN: 1 "O_WRONLY" 2 "O_RDWR" 0o100 "O_CREAT" 0o200 "O_EXCL" 0o400 "O_NOCTTY" 0o1000 "O_TRUNC" 0o2000 "O_APPEND"
    0o4000 "O_NONBLOCK" 0o100000 "O_LARGEFILE" 0o200000 "O_DIRECTORY" 0o400000 "O_NOFOLLOW" 0o2000000 "O_CLOEXEC" 0o10000000 "O_PATH");
bits!(AT: 0x100 "AT_SYMLINK_NOFOLLOW" 0x200 "AT_REMOVEDIR" 0x400 "AT_SYMLINK_FOLLOW" 0x800 "AT_NO_AUTOMOUNT" 0x1000 "AT_EMPTY_PATH");
bits!(CLONE: 0x100 "CLONE_VM" 0x200 "CLONE_FS" 0x400 "CLONE_FILES" 0x800 "CLONE_SIGHAND" 0x1000 "CLONE_PIDFD"
    0x4000 "CLONE_VFORK" 0x8000 "CLONE_PARENT" 0x10000 "CLONE_THREAD" 0x20000 "CLONE_NEWNS" 0x40000 "CLONE_SYSVSEM"
    0x80000 "CLONE_SETTLS" 0x10_0000 "CLONE_PARENT_SETTID" 0x20_0000 "CLONE_CHILD_CLEARTID" 0x100_0000 "CLONE_CHILD_SETTID");
bits!(WAIT: 1 "WNOHANG" 2 "WUNTRACED" 4 "WEXITED" 8 "WCONTINUED" 0x100_0000 "WNOWAIT");
bits!(MSG: 1 "MSG_OOB" 2 "MSG_PEEK" 4 "MSG_DONTROUTE" 0x20 "MSG_TRUNC" 0x40 "MSG_DONTWAIT" 0x100 "MSG_WAITALL" 0x4000 "MSG_NOSIGNAL"
    0x4000_0000 "MSG_CMSG_CLOEXEC");
bits!(ACC: 1 "X_OK" 2 "W_OK" 4 "R_OK");

/// All rows, by number.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    here(0, "restart_syscall", &[], sys_signal::restart_syscall),
    here(1, "exit", &[I], sys_proc::exit),
    here(2, "fork", &[], sys_proc::fork),
    host(3, "read", &[Fd, OutBuf, U], Sysno::read),
    here(4, "write", &[Fd, InBuf, U], sys_fd::write),
    here(5, "open", &[Path, Bits(OPEN), Mode], sys_file::open),
    here(6, "close", &[Fd], kept::close),
    here(7, "waitpid", &[I, Out(4), Bits(WAIT)], wait::waitpid),
    here(8, "creat", &[Path, Mode], sys_file::creat),
    host(9, "link", &[Path, Path], Sysno::link),
    host(10, "unlink", &[Path], Sysno::unlink),
    here(11, "execve", &[Path, X, X], sys_exec::execve),
    host(12, "chdir", &[Look], Sysno::chdir),
    here(13, "time", &[X], sys_time::time),
    host(14, "mknod", &[Path, Mode, X], Sysno::mknod),
    host(15, "chmod", &[Path, Mode], Sysno::chmod),
    here(16, "lchown", &[Path, I, I], sys_id::lchown16),
    no(17, "break", GONE),
    here(18, "oldstat", &[Look, X], sys_file::oldstat),
    here(19, "lseek", &[Fd, I, U], sys_fd::lseek),
    host(20, "getpid", &[], Sysno::getpid),
    here(21, "mount", &[X, Path, X, X, X], sys_misc::mount),
    here(22, "umount", &[Path], sys_misc::umount),
    here(23, "setuid", &[U], sys_id::setuid16),
    here(24, "getuid", &[], sys_id::getuid16),
    here(25, "stime", &[X], sys_time::stime),
    part(26, "ptrace", &[I, I, X, X], "only emulated processes can be traced; no signal masks, no read watchpoints, no PTRACE_O_TRACESECCOMP", tracer::ptrace),
    host(27, "alarm", &[U], Sysno::alarm),
    here(28, "oldfstat", &[Fd, X], sys_file::oldfstat),
    host(29, "pause", &[], Sysno::pause),
    here(30, "utime", &[Path, X], sys_time::utime),
    no(31, "stty", GONE),
    no(32, "gtty", GONE),
    host(33, "access", &[Look, Bits(ACC)], Sysno::access),
    here(34, "nice", &[I], sys_proc::nice),
    no(35, "ftime", GONE),
    host(36, "sync", &[], Sysno::sync),
    here(37, "kill", &[I, Sig], sys_signal::kill),
    host(38, "rename", &[Path, Path], Sysno::rename),
    host(39, "mkdir", &[Path, Mode], Sysno::mkdir),
    host(40, "rmdir", &[Path], Sysno::rmdir),
    host(41, "dup", &[Fd], Sysno::dup),
    host(42, "pipe", &[Out(8)], Sysno::pipe),
    here(43, "times", &[X], sys_time::times),
    no(44, "prof", GONE),
    here(45, "brk", &[X], sys_mm::brk),
    here(46, "setgid", &[U], sys_id::setgid16),
    here(47, "getgid", &[], sys_id::getgid16),
    here(48, "signal", &[Sig, X], sys_signal::signal),
    here(49, "geteuid", &[], sys_id::geteuid16),
    here(50, "getegid", &[], sys_id::getegid16),
    host(51, "acct", &[Path], Sysno::acct),
    host(52, "umount2", &[Path, X], Sysno::umount2),
    no(53, "lock", GONE),
    part(54, "ioctl", &[Fd, X, X], "requests listed in ioctl.rs; others give ENOTTY", sys_fd::ioctl),
    here(55, "fcntl", &[Fd, U, X], sys_fd::fcntl),
    no(56, "mpx", GONE),
    host(57, "setpgid", &[I, I], Sysno::setpgid),
    no(58, "ulimit", GONE),
    here(59, "oldolduname", &[X], sys_misc::oldolduname),
    host(60, "umask", &[Mode], Sysno::umask),
    here(61, "chroot", &[Path], root::chroot),
    here(62, "ustat", &[U, X], sys_file::ustat),
    here(63, "dup2", &[Fd, Fd], kept::dup2),
    host(64, "getppid", &[], Sysno::getppid),
    host(65, "getpgrp", &[], Sysno::getpgrp),
    host(66, "setsid", &[], Sysno::setsid),
    here(67, "sigaction", &[Sig, X, X], sys_signal::sigaction),
    here(68, "sgetmask", &[], sys_signal::sgetmask),
    here(69, "ssetmask", &[X], sys_signal::ssetmask),
    here(70, "setreuid", &[I, I], sys_id::setreuid16),
    here(71, "setregid", &[I, I], sys_id::setregid16),
    here(72, "sigsuspend", &[X, X, X], sys_signal::sigsuspend),
    here(73, "sigpending", &[X], sys_signal::sigpending),
    host(74, "sethostname", &[InBuf, U], Sysno::sethostname),
    here(75, "setrlimit", &[U, X], sys_proc::setrlimit),
    here(76, "getrlimit", &[U, X], sys_proc::old_getrlimit),
    here(77, "getrusage", &[I, X], sys_proc::getrusage),
    here(78, "gettimeofday", &[X, X], sys_time::gettimeofday),
    here(79, "settimeofday", &[X, X], sys_time::settimeofday),
    here(80, "getgroups", &[I, X], sys_id::getgroups16),
    here(81, "setgroups", &[I, X], sys_id::setgroups16),
    here(82, "select", &[X], sys_poll::old_select),
    host(83, "symlink", &[Str, Path], Sysno::symlink),
    here(84, "oldlstat", &[LookL, X], sys_file::oldlstat),
    here(85, "readlink", &[LookL, OutBuf, U], sys_file::readlink),
    no(86, "uselib", GONE),
    host(87, "swapon", &[Path, X], Sysno::swapon),
    host(88, "reboot", &[X, X, X, X], Sysno::reboot),
    here(89, "readdir", &[Fd, X, U], sys_file::readdir),
    here(90, "mmap", &[X], sys_mm::old_mmap),
    here(91, "munmap", &[X, U], sys_mm::munmap),
    host(92, "truncate", &[Path, I], Sysno::truncate),
    host(93, "ftruncate", &[Fd, I], Sysno::ftruncate),
    host(94, "fchmod", &[Fd, Mode], Sysno::fchmod),
    here(95, "fchown", &[Fd, I, I], sys_id::fchown16),
    host(96, "getpriority", &[I, I], Sysno::getpriority),
    host(97, "setpriority", &[I, I, I], Sysno::setpriority),
    no(98, "profil", GONE),
    here(99, "statfs", &[Look, X], sys_file::statfs),
    here(100, "fstatfs", &[Fd, X], sys_file::fstatfs),
    deny(101, "ioperm", Errno::EPERM, "a user process has no I/O ports here"),
    here(102, "socketcall", &[U, X], sys_net::socketcall),
    host(103, "syslog", &[I, OutBuf, U], Sysno::syslog),
    here(104, "setitimer", &[U, X, X], sys_time::setitimer),
    here(105, "getitimer", &[U, X], sys_time::getitimer),
    here(106, "stat", &[Look, X], sys_file::stat),
    here(107, "lstat", &[LookL, X], sys_file::lstat),
    here(108, "fstat", &[Fd, X], sys_file::fstat),
    here(109, "olduname", &[X], sys_misc::olduname),
    deny(110, "iopl", Errno::EPERM, "a user process has no I/O ports here"),
    host(111, "vhangup", &[], Sysno::vhangup),
    no(112, "idle", GONE),
    no(113, "vm86old", "virtual-8086 mode for user programs"),
    here(114, "wait4", &[I, Out(4), Bits(WAIT), X], wait::wait4),
    host(115, "swapoff", &[Path], Sysno::swapoff),
    here(116, "sysinfo", &[X], sys_misc::sysinfo),
    here(117, "ipc", &[U, X, X, X, X, X], sys_ipc::ipc),
    host(118, "fsync", &[Fd], Sysno::fsync),
    here(119, "sigreturn", &[], sys_signal::sigreturn),
    part(120, "clone", &[Bits(CLONE), X, X, X, X], VM, sys_proc::clone),
    host(121, "setdomainname", &[InBuf, U], Sysno::setdomainname),
    here(122, "uname", &[X], sys_misc::uname),
    here(123, "modify_ldt", &[I, X, U], sys_misc::modify_ldt),
    here(124, "adjtimex", &[X], sys_time::adjtimex),
    here(125, "mprotect", &[X, U, Bits(PROT)], sys_mm::mprotect),
    here(126, "sigprocmask", &[I, X, X], sys_signal::sigprocmask),
    no(127, "create_module", GONE),
    host(128, "init_module", &[X, U, Str], Sysno::init_module),
    host(129, "delete_module", &[Str, X], Sysno::delete_module),
    no(130, "get_kernel_syms", GONE),
    here(131, "quotactl", &[X, Path, I, X], sys_misc::quotactl),
    host(132, "getpgid", &[I], Sysno::getpgid),
    host(133, "fchdir", &[Fd], Sysno::fchdir),
    no(134, "bdflush", GONE),
    host(135, "sysfs", &[I, X, X], Sysno::sysfs),
    here(136, "personality", &[X], sys_misc::personality),
    no(137, "afs_syscall", GONE),
    here(138, "setfsuid", &[U], sys_id::setfsuid16),
    here(139, "setfsgid", &[U], sys_id::setfsgid16),
    here(140, "_llseek", &[Fd, U, U, Out(8), U], sys_fd::llseek),
    here(141, "getdents", &[Fd, X, U], sys_file::getdents),
    here(142, "_newselect", &[I, X, X, X, X], sys_poll::select),
    host(143, "flock", &[Fd, U], Sysno::flock),
    here(144, "msync", &[X, U, X], sys_mm::msync),
    here(145, "readv", &[Fd, X, U], sys_fd::readv),
    here(146, "writev", &[Fd, X, U], sys_fd::writev),
    host(147, "getsid", &[I], Sysno::getsid),
    host(148, "fdatasync", &[Fd], Sysno::fdatasync),
    no(149, "_sysctl", GONE),
    here(150, "mlock", &[X, U], sys_mm::mlock),
    here(151, "munlock", &[X, U], sys_mm::munlock),
    part(152, "mlockall", &[X], "accepted without locking: it would lock the emulator too", sys_mm::mlockall),
    part(153, "munlockall", &[], "accepted, see mlockall", sys_mm::mlockall),
    host(154, "sched_setparam", &[I, X], Sysno::sched_setparam),
    host(155, "sched_getparam", &[I, Out(4)], Sysno::sched_getparam),
    host(156, "sched_setscheduler", &[I, I, X], Sysno::sched_setscheduler),
    host(157, "sched_getscheduler", &[I], Sysno::sched_getscheduler),
    host(158, "sched_yield", &[], Sysno::sched_yield),
    host(159, "sched_get_priority_max", &[I], Sysno::sched_get_priority_max),
    host(160, "sched_get_priority_min", &[I], Sysno::sched_get_priority_min),
    here(161, "sched_rr_get_interval", &[I, X], sys_time::sched_rr_get_interval),
    here(162, "nanosleep", &[X, X], sys_time::nanosleep),
    here(163, "mremap", &[X, U, U, X, X], sys_mm::mremap),
    here(164, "setresuid", &[I, I, I], sys_id::setresuid16),
    here(165, "getresuid", &[X, X, X], sys_id::getresuid16),
    no(166, "vm86", "virtual-8086 mode for user programs"),
    no(167, "query_module", GONE),
    here(168, "poll", &[OutN(8), U, I], sys_poll::poll),
    no(169, "nfsservctl", GONE),
    here(170, "setresgid", &[I, I, I], sys_id::setresgid16),
    here(171, "getresgid", &[X, X, X], sys_id::getresgid16),
    part(172, "prctl", &[I, X, X, X, X], "options that act on the address space are refused", sys_misc::prctl),
    here(173, "rt_sigreturn", &[], sys_signal::rt_sigreturn),
    here(174, "rt_sigaction", &[Sig, X, X, U], sys_signal::rt_sigaction),
    here(175, "rt_sigprocmask", &[I, X, X, U], sys_signal::rt_sigprocmask),
    here(176, "rt_sigpending", &[X, U], sys_signal::rt_sigpending),
    here(177, "rt_sigtimedwait", &[X, X, X, U], sys_signal::rt_sigtimedwait),
    here(178, "rt_sigqueueinfo", &[I, Sig, X], sys_signal::rt_sigqueueinfo),
    here(179, "rt_sigsuspend", &[X, U], sys_signal::rt_sigsuspend),
    host(180, "pread64", &[Fd, OutBuf, U, Off], Sysno::pread64),
    here(181, "pwrite64", &[Fd, InBuf, U, Off], sys_fd::pwrite64),
    here(182, "chown", &[Path, I, I], sys_id::chown16),
    host(183, "getcwd", &[OutBuf, U], Sysno::getcwd),
    host(184, "capget", &[Out(8), Out(24)], Sysno::capget),
    host(185, "capset", &[X, X], Sysno::capset),
    here(186, "sigaltstack", &[X, X], sys_signal::sigaltstack),
    here(187, "sendfile", &[Fd, Fd, X, U], sys_fd::sendfile),
    no(188, "getpmsg", GONE),
    no(189, "putpmsg", GONE),
    here(190, "vfork", &[], sys_proc::vfork),
    here(191, "ugetrlimit", &[U, X], sys_proc::getrlimit),
    here(192, "mmap2", &[X, U, Bits(PROT), Bits(MAP), Fd, X], sys_mm::mmap2),
    host(193, "truncate64", &[Path, Off], Sysno::truncate),
    host(194, "ftruncate64", &[Fd, Off], Sysno::ftruncate),
    here(195, "stat64", &[Look, X], sys_file::stat64),
    here(196, "lstat64", &[LookL, X], sys_file::lstat64),
    here(197, "fstat64", &[Fd, X], sys_file::fstat64),
    host(198, "lchown32", &[Path, I, I], Sysno::lchown),
    host(199, "getuid32", &[], Sysno::getuid),
    host(200, "getgid32", &[], Sysno::getgid),
    host(201, "geteuid32", &[], Sysno::geteuid),
    host(202, "getegid32", &[], Sysno::getegid),
    host(203, "setreuid32", &[I, I], Sysno::setreuid),
    host(204, "setregid32", &[I, I], Sysno::setregid),
    here(205, "getgroups32", &[I, X], sys_id::getgroups),
    host(206, "setgroups32", &[I, X], Sysno::setgroups),
    host(207, "fchown32", &[Fd, I, I], Sysno::fchown),
    host(208, "setresuid32", &[I, I, I], Sysno::setresuid),
    host(209, "getresuid32", &[Out(4), Out(4), Out(4)], Sysno::getresuid),
    host(210, "setresgid32", &[I, I, I], Sysno::setresgid),
    host(211, "getresgid32", &[Out(4), Out(4), Out(4)], Sysno::getresgid),
    host(212, "chown32", &[Path, I, I], Sysno::chown),
    host(213, "setuid32", &[I], Sysno::setuid),
    host(214, "setgid32", &[I], Sysno::setgid),
    host(215, "setfsuid32", &[I], Sysno::setfsuid),
    host(216, "setfsgid32", &[I], Sysno::setfsgid),
    here(217, "pivot_root", &[Path, Path], root::pivot_root),
    here(218, "mincore", &[X, U, X], sys_mm::mincore),
    here(219, "madvise", &[X, U, I], sys_mm::madvise),
    here(220, "getdents64", &[Fd, X, U], sys_file::getdents64),
    here(221, "fcntl64", &[Fd, U, X], sys_fd::fcntl64),
    host(224, "gettid", &[], Sysno::gettid),
    host(225, "readahead", &[Fd, Off, U], Sysno::readahead),
    host(226, "setxattr", &[Path, Str, X, U, X], Sysno::setxattr),
    host(227, "lsetxattr", &[Path, Str, X, U, X], Sysno::lsetxattr),
    host(228, "fsetxattr", &[Fd, Str, X, U, X], Sysno::fsetxattr),
    host(229, "getxattr", &[Look, Str, OutBuf, U], Sysno::getxattr),
    host(230, "lgetxattr", &[LookL, Str, OutBuf, U], Sysno::lgetxattr),
    host(231, "fgetxattr", &[Fd, Str, OutBuf, U], Sysno::fgetxattr),
    host(232, "listxattr", &[Look, OutBuf, U], Sysno::listxattr),
    host(233, "llistxattr", &[LookL, OutBuf, U], Sysno::llistxattr),
    host(234, "flistxattr", &[Fd, OutBuf, U], Sysno::flistxattr),
    host(235, "removexattr", &[Path, Str], Sysno::removexattr),
    host(236, "lremovexattr", &[Path, Str], Sysno::lremovexattr),
    host(237, "fremovexattr", &[Fd, Str], Sysno::fremovexattr),
    here(238, "tkill", &[I, Sig], sys_signal::tkill),
    here(239, "sendfile64", &[Fd, Fd, Out(8), U], sys_fd::sendfile64),
    here(240, "futex", &[X, X, X, X, X, X], sys_futex::futex),
    host(241, "sched_setaffinity", &[I, U, X], Sysno::sched_setaffinity),
    here(242, "sched_getaffinity", &[I, U, X], sys_proc::sched_getaffinity),
    here(243, "set_thread_area", &[Out(16)], sys_misc::set_thread_area),
    here(244, "get_thread_area", &[Out(16)], sys_misc::get_thread_area),
    no(245, "io_setup", AIO),
    no(246, "io_destroy", AIO),
    no(247, "io_getevents", AIO),
    no(248, "io_submit", AIO),
    no(249, "io_cancel", AIO),
    host(250, "fadvise64", &[Fd, Off, U, I], Sysno::fadvise64),
    here(252, "exit_group", &[I], sys_proc::exit_group),
    no(253, "lookup_dcookie", GONE),
    host(254, "epoll_create", &[I], Sysno::epoll_create),
    host(255, "epoll_ctl", &[Fd, I, Fd, X], Sysno::epoll_ctl),
    host(256, "epoll_wait", &[Fd, OutN(12), I, I], Sysno::epoll_wait),
    no(257, "remap_file_pages", "emulated by Linux since 4.0, used by nothing known"),
    here(258, "set_tid_address", &[X], sys_proc::set_tid_address),
    here(259, "timer_create", &[I, X, Out(4)], sys_time::timer_create),
    here(260, "timer_settime", &[I, X, X, X], sys_time::timer_settime),
    here(261, "timer_gettime", &[I, X], sys_time::timer_gettime),
    host(262, "timer_getoverrun", &[I], Sysno::timer_getoverrun),
    host(263, "timer_delete", &[I], Sysno::timer_delete),
    here(264, "clock_settime", &[I, X], sys_time::clock_settime),
    here(265, "clock_gettime", &[I, X], sys_time::clock_gettime),
    here(266, "clock_getres", &[I, X], sys_time::clock_getres),
    here(267, "clock_nanosleep", &[I, X, X, X], sys_time::clock_nanosleep),
    here(268, "statfs64", &[Look, U, X], sys_file::statfs64),
    here(269, "fstatfs64", &[Fd, U, X], sys_file::fstatfs64),
    here(270, "tgkill", &[I, I, Sig], sys_signal::tgkill),
    here(271, "utimes", &[Path, X], sys_time::utimes),
    host(272, "fadvise64_64", &[Fd, Off, Off, I], Sysno::fadvise64),
    no(273, "vserver", GONE),
    here(274, "mbind", &[X, U, I, X, U, X], sys_mm::numa_noop),
    here(275, "get_mempolicy", &[X, X, U, X, X], sys_mm::get_mempolicy),
    here(276, "set_mempolicy", &[I, X, U], sys_mm::numa_noop),
    here(277, "mq_open", &[Str, X, Mode, X], sys_ipc::mq_open),
    host(278, "mq_unlink", &[Str], Sysno::mq_unlink),
    here(279, "mq_timedsend", &[Fd, InBuf, U, U, X], sys_ipc::mq_timedsend),
    here(280, "mq_timedreceive", &[Fd, OutBuf, U, Out(4), X], sys_ipc::mq_timedreceive),
    here(281, "mq_notify", &[Fd, X], sys_ipc::mq_notify),
    here(282, "mq_getsetattr", &[Fd, X, X], sys_ipc::mq_getsetattr),
    no(283, "kexec_load", KERNEL),
    here(284, "waitid", &[I, I, X, Bits(WAIT), X], wait::waitid),
    host(286, "add_key", &[Str, Str, InBuf, U, I], Sysno::add_key),
    host(287, "request_key", &[Str, Str, Str, I], Sysno::request_key),
    part(288, "keyctl", &[I, X, X, X, X], "operations with 64-bit structures (instantiate_iov, dh_compute, pkey) are refused", sys_misc::keyctl),
    host(289, "ioprio_set", &[I, I, I], Sysno::ioprio_set),
    host(290, "ioprio_get", &[I, I], Sysno::ioprio_get),
    host(291, "inotify_init", &[], Sysno::inotify_init),
    host(292, "inotify_add_watch", &[Fd, Look, X], Sysno::inotify_add_watch),
    host(293, "inotify_rm_watch", &[Fd, I], Sysno::inotify_rm_watch),
    here(294, "migrate_pages", &[I, U, X, X], sys_mm::numa_noop),
    here(295, "openat", &[At, Path, Bits(OPEN), Mode], sys_file::openat),
    host(296, "mkdirat", &[At, Path, Mode], Sysno::mkdirat),
    host(297, "mknodat", &[At, Path, Mode, X], Sysno::mknodat),
    host(298, "fchownat", &[At, Path, I, I, Bits(AT)], Sysno::fchownat),
    here(299, "futimesat", &[At, Path, X], sys_time::futimesat),
    here(300, "fstatat64", &[At, Path, X, Bits(AT)], sys_file::fstatat64),
    host(301, "unlinkat", &[At, Path, Bits(AT)], Sysno::unlinkat),
    host(302, "renameat", &[At, Path, At, Path], Sysno::renameat),
    host(303, "linkat", &[At, Path, At, Path, Bits(AT)], Sysno::linkat),
    host(304, "symlinkat", &[Str, At, Path], Sysno::symlinkat),
    here(305, "readlinkat", &[At, LookL, OutBuf, U], sys_file::readlinkat),
    host(306, "fchmodat", &[At, Path, Mode], Sysno::fchmodat),
    host(307, "faccessat", &[At, Look, Bits(ACC)], Sysno::faccessat),
    here(308, "pselect6", &[I, X, X, X, X, X], sys_poll::pselect6),
    here(309, "ppoll", &[OutN(8), U, X, X, U], sys_poll::ppoll),
    part(310, "unshare", &[Bits(CLONE)], "CLONE_VM, CLONE_SIGHAND and CLONE_THREAD as far as the host allows", sys_proc::unshare),
    here(311, "set_robust_list", &[X, U], sys_futex::set_robust_list),
    here(312, "get_robust_list", &[I, X, X], sys_futex::get_robust_list),
    here(313, "splice", &[Fd, X, Fd, X, U, X], sys_fd::splice),
    host(314, "sync_file_range", &[Fd, Off, Off, X], Sysno::sync_file_range),
    host(315, "tee", &[Fd, Fd, U, X], Sysno::tee),
    here(316, "vmsplice", &[Fd, X, U, X], sys_fd::vmsplice),
    here(317, "move_pages", &[I, U, X, X, X, X], sys_mm::move_pages),
    host(318, "getcpu", &[Out(4), Out(4), X], Sysno::getcpu),
    here(319, "epoll_pwait", &[Fd, OutN(12), I, I, X, U], sys_poll::epoll_pwait),
    here(320, "utimensat", &[At, Path, X, Bits(AT)], sys_time::utimensat),
    part(321, "signalfd", &[Fd, X, U], SYNCHRONOUS, sys_signal::signalfd),
    host(322, "timerfd_create", &[I, X], Sysno::timerfd_create),
    host(323, "eventfd", &[U], Sysno::eventfd),
    host(324, "fallocate", &[Fd, X, Off, Off], Sysno::fallocate),
    here(325, "timerfd_settime", &[Fd, X, X, X], sys_time::timerfd_settime),
    here(326, "timerfd_gettime", &[Fd, X], sys_time::timerfd_gettime),
    part(327, "signalfd4", &[Fd, X, U, X], SYNCHRONOUS, sys_signal::signalfd4),
    host(328, "eventfd2", &[U, X], Sysno::eventfd2),
    host(329, "epoll_create1", &[X], Sysno::epoll_create1),
    here(330, "dup3", &[Fd, Fd, Bits(OPEN)], kept::dup3),
    host(331, "pipe2", &[Out(8), Bits(OPEN)], Sysno::pipe2),
    host(332, "inotify_init1", &[Bits(OPEN)], Sysno::inotify_init1),
    here(333, "preadv", &[Fd, X, U, Off], sys_fd::preadv),
    here(334, "pwritev", &[Fd, X, U, Off], sys_fd::pwritev),
    here(335, "rt_tgsigqueueinfo", &[I, I, Sig, X], sys_signal::rt_tgsigqueueinfo),
    no(336, "perf_event_open", "counters would count the emulator"),
    here(337, "recvmmsg", &[Fd, X, U, Bits(MSG), X], sys_message::recvmmsg),
    host(338, "fanotify_init", &[X, X], Sysno::fanotify_init),
    host(339, "fanotify_mark", &[Fd, X, Off, At, Path], Sysno::fanotify_mark),
    here(340, "prlimit64", &[I, U, X, Out(16)], sys_proc::prlimit64),
    here(341, "name_to_handle_at", &[At, Look, X, Out(4), X], sys_file::name_to_handle_at),
    host(342, "open_by_handle_at", &[Fd, X, Bits(OPEN)], Sysno::open_by_handle_at),
    here(343, "clock_adjtime", &[I, X], sys_time::clock_adjtime),
    host(344, "syncfs", &[Fd], Sysno::syncfs),
    here(345, "sendmmsg", &[Fd, X, U, Bits(MSG)], sys_message::sendmmsg),
    host(346, "setns", &[Fd, X], Sysno::setns),
    here(347, "process_vm_readv", &[I, X, U, X, U, U], sys_misc::process_vm_readv),
    here(348, "process_vm_writev", &[I, X, U, X, U, U], sys_misc::process_vm_writev),
    host(349, "kcmp", &[I, I, I, U, U], Sysno::kcmp),
    host(350, "finit_module", &[Fd, Str, X], Sysno::finit_module),
    host(351, "sched_setattr", &[I, X, X], Sysno::sched_setattr),
    host(352, "sched_getattr", &[I, OutBuf, U, X], Sysno::sched_getattr),
    host(353, "renameat2", &[At, Path, At, Path, X], Sysno::renameat2),
    part(354, "seccomp", &[I, X, X], "no user notification (NEW_LISTENER)", seccomp::seccomp),
    host(355, "getrandom", &[OutBuf, U, X], Sysno::getrandom),
    host(356, "memfd_create", &[Str, X], Sysno::memfd_create),
    no(357, "bpf", KERNEL),
    here(358, "execveat", &[At, Path, X, X, Bits(AT)], sys_exec::execveat),
    host(359, "socket", &[I, I, I], Sysno::socket),
    host(360, "socketpair", &[I, I, I, Out(8)], Sysno::socketpair),
    host(361, "bind", &[Fd, InBuf, U], Sysno::bind),
    host(362, "connect", &[Fd, InBuf, U], Sysno::connect),
    host(363, "listen", &[Fd, I], Sysno::listen),
    here(364, "accept4", &[Fd, X, X, X], sys_net::accept4),
    here(365, "getsockopt", &[Fd, I, I, X, X], sys_net::getsockopt),
    here(366, "setsockopt", &[Fd, I, I, X, U], sys_net::setsockopt),
    here(367, "getsockname", &[Fd, X, X], sys_net::getsockname),
    here(368, "getpeername", &[Fd, X, X], sys_net::getpeername),
    host(369, "sendto", &[Fd, InBuf, U, Bits(MSG), X, U], Sysno::sendto),
    here(370, "sendmsg", &[Fd, X, Bits(MSG)], sys_message::sendmsg),
    here(371, "recvfrom", &[Fd, OutBuf, U, Bits(MSG), X, X], sys_net::recvfrom),
    here(372, "recvmsg", &[Fd, X, Bits(MSG)], sys_message::recvmsg),
    host(373, "shutdown", &[Fd, I], Sysno::shutdown),
    no(374, "userfaultfd", "needs the kernel to see guest faults before the emulator"),
    host(375, "membarrier", &[I, X, I], Sysno::membarrier),
    here(376, "mlock2", &[X, U, X], sys_mm::mlock2),
    here(377, "copy_file_range", &[Fd, X, Fd, X, U, X], sys_fd::copy_file_range),
    here(378, "preadv2", &[Fd, X, U, Off, X], sys_fd::preadv2),
    here(379, "pwritev2", &[Fd, X, U, Off, X], sys_fd::pwritev2),
    part(380, "pkey_mprotect", &[X, U, Bits(PROT), I], "only key -1, as on a CPU without protection keys", sys_mm::pkey_mprotect),
    deny(381, "pkey_alloc", Errno::ENOSPC, "the guest's CPU has no protection keys"),
    deny(382, "pkey_free", Errno::EINVAL, "the guest's CPU has no protection keys"),
    here(383, "statx", &[At, Path, Bits(AT), X, Out(256)], sys_file::statx),
    deny(384, "arch_prctl", Errno::EINVAL, "the options of 32-bit processes (CPUID faulting, XSTATE permissions) don't apply to the guest's CPU"),
    no(385, "io_pgetevents", AIO),
    no(386, "rseq", "the kernel would look at the emulator's instruction pointer, not the guest's"),
    host(393, "semget", &[X, I, X], Sysno::semget),
    here(394, "semctl", &[I, I, I, X], sys_ipc::semctl),
    host(395, "shmget", &[X, U, X], Sysno::shmget),
    here(396, "shmctl", &[I, I, X], sys_ipc::shmctl),
    here(397, "shmat", &[I, X, X], sys_ipc::shmat),
    here(398, "shmdt", &[X], sys_ipc::shmdt),
    host(399, "msgget", &[X, X], Sysno::msgget),
    here(400, "msgsnd", &[I, X, U, X], sys_ipc::msgsnd),
    here(401, "msgrcv", &[I, X, U, I, X], sys_ipc::msgrcv),
    here(402, "msgctl", &[I, I, X], sys_ipc::msgctl),
    here(403, "clock_gettime64", &[I, X], sys_time::clock_gettime64),
    here(404, "clock_settime64", &[I, X], sys_time::clock_settime64),
    host(405, "clock_adjtime64", &[I, Out(208)], Sysno::clock_adjtime),
    here(406, "clock_getres_time64", &[I, X], sys_time::clock_getres64),
    here(407, "clock_nanosleep_time64", &[I, X, X, X], sys_time::clock_nanosleep64),
    here(408, "timer_gettime64", &[I, X], sys_time::timer_gettime64),
    here(409, "timer_settime64", &[I, X, X, X], sys_time::timer_settime64),
    here(410, "timerfd_gettime64", &[Fd, X], sys_time::timerfd_gettime64),
    here(411, "timerfd_settime64", &[Fd, X, X, X], sys_time::timerfd_settime64),
    here(412, "utimensat_time64", &[At, Path, X, Bits(AT)], sys_time::utimensat64),
    here(413, "pselect6_time64", &[I, X, X, X, X, X], sys_poll::pselect6_64),
    here(414, "ppoll_time64", &[OutN(8), U, X, X, U], sys_poll::ppoll64),
    no(416, "io_pgetevents_time64", AIO),
    here(417, "recvmmsg_time64", &[Fd, X, U, Bits(MSG), X], sys_message::recvmmsg64),
    here(418, "mq_timedsend_time64", &[Fd, InBuf, U, U, X], sys_ipc::mq_timedsend64),
    here(419, "mq_timedreceive_time64", &[Fd, OutBuf, U, Out(4), X], sys_ipc::mq_timedreceive64),
    here(420, "semtimedop_time64", &[I, X, U, X], sys_ipc::semtimedop64),
    here(421, "rt_sigtimedwait_time64", &[X, X, X, U], sys_signal::rt_sigtimedwait64),
    here(422, "futex_time64", &[X, X, X, X, X, X], sys_futex::futex64),
    here(423, "sched_rr_get_interval_time64", &[I, X], sys_time::sched_rr_get_interval64),
    here(424, "pidfd_send_signal", &[Fd, Sig, X, X], sys_signal::pidfd_send_signal),
    no(425, "io_uring_setup", AIO),
    no(426, "io_uring_enter", AIO),
    no(427, "io_uring_register", AIO),
    host(428, "open_tree", &[At, Path, X], Sysno::open_tree),
    host(429, "move_mount", &[At, Path, At, Path, X], Sysno::move_mount),
    host(430, "fsopen", &[Str, X], Sysno::fsopen),
    host(431, "fsconfig", &[Fd, U, Str, X, I], Sysno::fsconfig),
    host(432, "fsmount", &[Fd, X, X], Sysno::fsmount),
    host(433, "fspick", &[At, Path, X], Sysno::fspick),
    host(434, "pidfd_open", &[I, X], Sysno::pidfd_open),
    part(435, "clone3", &[X, U], VM, sys_proc::clone3),
    here(436, "close_range", &[U, U, X], kept::close_range),
    here(437, "openat2", &[At, Path, X, U], sys_file::openat2),
    host(438, "pidfd_getfd", &[Fd, Fd, X], Sysno::pidfd_getfd),
    host(439, "faccessat2", &[At, Look, Bits(ACC), Bits(AT)], Sysno::faccessat2),
    here(440, "process_madvise", &[Fd, X, U, I, X], sys_mm::process_madvise),
    here(441, "epoll_pwait2", &[Fd, OutN(12), I, X, X, U], sys_poll::epoll_pwait2),
    host(442, "mount_setattr", &[At, Path, X, X, U], Sysno::mount_setattr),
    here(443, "quotactl_fd", &[Fd, X, U, X], sys_misc::quotactl_fd),
    host(444, "landlock_create_ruleset", &[X, U, X], Sysno::landlock_create_ruleset),
    host(445, "landlock_add_rule", &[Fd, U, X, X], Sysno::landlock_add_rule),
    host(446, "landlock_restrict_self", &[Fd, X], Sysno::landlock_restrict_self),
    host(447, "memfd_secret", &[X], Sysno::memfd_secret),
    host(448, "process_mrelease", &[Fd, X], Sysno::process_mrelease),
    here(449, "futex_waitv", &[X, U, X, X, I], sys_futex::futex_waitv),
    here(450, "set_mempolicy_home_node", &[X, U, U, U], sys_mm::numa_noop),
    host(451, "cachestat", &[Fd, X, Out(40), X], Sysno::cachestat),
    host(452, "fchmodat2", &[At, Path, Mode, Bits(AT)], Sysno::fchmodat2),
    deny(453, "map_shadow_stack", Errno::EOPNOTSUPP, "the guest's CPU has no shadow stacks"),
    host(454, "futex_wake", &[X, X, I, X], Sysno::futex_wake),
    host(455, "futex_wait", &[X, X, X, X, X, I], Sysno::futex_wait),
    host(456, "futex_requeue", &[X, X, I, I], Sysno::futex_requeue),
    host(457, "statmount", &[X, OutBuf, U, X], Sysno::statmount),
    host(458, "listmount", &[X, OutN(8), U, X], Sysno::listmount),
    here(459, "lsm_get_self_attr", &[X, X, Out(4), X], sys_misc::lsm_get_self_attr),
    host(460, "lsm_set_self_attr", &[X, InBuf, U, X], Sysno::lsm_set_self_attr),
    here(461, "lsm_list_modules", &[X, Out(4), X], sys_misc::lsm_list_modules),
    deny(462, "mseal", Errno::EPERM, "sealing exists only for 64-bit processes"),
    here(463, "setxattrat", &[At, Path, Bits(AT), Str, X, U], sys_misc::setxattrat),
    here(464, "getxattrat", &[At, Look, Bits(AT), Str, X, U], sys_misc::getxattrat),
    host(465, "listxattrat", &[At, Path, Bits(AT), OutBuf, U], Sysno::listxattrat),
    host(466, "removexattrat", &[At, Path, Bits(AT), Str], Sysno::removexattrat),
    host(467, "open_tree_attr", &[At, Path, X, InBuf, U], Sysno::open_tree_attr),
    host(468, "file_getattr", &[At, Path, OutBuf, U, Bits(AT)], Sysno::file_getattr),
    host(469, "file_setattr", &[At, Path, InBuf, U, Bits(AT)], Sysno::file_setattr),
];

/// The table as docs/syscalls.md shows it.
pub fn markdown() -> String {
    use std::fmt::Write;
    let count = |f: fn(&Support) -> bool| TABLE.iter().filter(|r| f(&r.support)).count();
    let mut s = format!(
        "# i386 system calls\n\nGenerated from `crates/linux-user/src/table.rs`; do not edit (`XLAT86_BLESS=1 cargo test -p \
         xlat86-linux-user` rewrites it).\n\n{} calls: {} full, {} partial, {} refused. \"host\" marks the ones that the host's kernel \
         answers unchanged.\n\n| Number | Name | Support | Answered by |\n|---:|---|---|---|\n",
        TABLE.len(),
        count(|s| *s == Support::Full),
        count(|s| matches!(s, Support::Partial(_))),
        count(|s| matches!(s, Support::Refused(_)))
    );
    for r in TABLE {
        let support = match r.support {
            Support::Full => "full".to_string(),
            Support::Partial(what) => format!("partial: {what}"),
            Support::Refused(why) => format!("refused: {why}"),
        };
        let by = match r.run {
            Run::Host(_) => "host".to_string(),
            Run::Here(_) => "here".to_string(),
            Run::Refuse(e) => e.name().unwrap_or("?").to_string(),
        };
        let _ = writeln!(s, "| {} | {} | {support} | {by} |", r.nr, r.name);
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_named_as_the_kernel_names_them() {
        assert!(TABLE.windows(2).all(|w| w[0].nr < w[1].nr));
        for nr in 0..=469u32 {
            let theirs = syscalls::x86::Sysno::new(nr as usize).map(|s| s.name().trim_start_matches("r#"));
            assert_eq!(row(nr).map(|r| r.name), theirs, "system call {nr}");
        }
        for r in TABLE {
            let regs: usize = r.args.iter().map(|k| if *k == Off { 2 } else { 1 }).sum();
            assert!(regs <= 6, "{}", r.name);
        }
    }

    #[test]
    fn document_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/syscalls.md");
        if std::env::var_os("XLAT86_BLESS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), markdown(), "run with XLAT86_BLESS=1");
    }
}
