//! What all threads of a guest process share, besides memory and signal actions.

use crate::kept::Kept;
use crate::options::{Options, StatsForm};
use crate::root::Keep;
use crate::stack::Placed;
use crate::sysroot::Sysroot;
use crate::task::Task;
use crate::trace::Tracer;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use xlat86_vcpu::Vcpu;

/// Entry points of the vDSO that signal delivery uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vdso {
    /// Guest address of `__kernel_sigreturn`.
    pub sigreturn: u32,
    /// Guest address of `__kernel_rt_sigreturn`.
    pub rt_sigreturn: u32,
    /// Guest address of `__kernel_vsyscall`.
    pub vsyscall: u32,
}

/// Fixed for the life of a guest process.
pub struct Shared {
    /// As given on the command line.
    pub options: Options,
    /// Where lookups go first.
    pub sysroot: Option<std::sync::Arc<Sysroot>>,
    /// The emulator's own file, once it is out of sight.
    pub keep: Keep,
    /// The name of the program's file on the host (/proc/self/exe).
    pub exe: CString,
    /// Where the kernel's tables are on the initial stack.
    pub placed: Placed,
    /// The program's file where it has no name: what stands for it is below /proc/self/fd.
    pub nameless: Kept,
    /// Where traces go, if any are asked for.
    pub output: Option<std::sync::Arc<Tracer>>,
    /// System-call trace, if asked for.
    pub trace: Option<std::sync::Arc<Tracer>>,
    /// Entry points in the vDSO.
    pub vdso: Vdso,
    /// When the program started.
    pub started: Instant,
    /// Every thread's seccomp state.
    pub seccomp: crate::seccomp::Threads,
    /// How many threads are traced. With any, the host reports every signal here, whatever the guest does with it.
    pub traced: AtomicUsize,
    /// What this process traces.
    pub tracees: crate::tracer::Tracees,
    /// Where its threads' robust futex lists are.
    pub robust: crate::sys_futex::RobustLists,
    /// Short names of long directory positions.
    pub positions: crate::positions::Positions,
    /// Guest threads besides the main one.
    pub threads: AtomicUsize,
    /// The engine, for its statistics.
    pub process: std::sync::Arc<xlat86_vcpu::Process>,
}

impl Shared {
    /// The same for another process that runs the same program in the same memory.
    pub(crate) fn for_another_process(&self) -> Shared {
        Shared {
            options: self.options.clone(),
            sysroot: self.sysroot.clone(),
            keep: Keep::inherited(self.keep.fd()),
            exe: self.exe.clone(),
            nameless: Kept::new(self.nameless.fd()),
            output: self.output.clone(),
            placed: self.placed,
            trace: self.trace.clone(),
            vdso: self.vdso,
            started: self.started,
            seccomp: Default::default(),
            traced: Default::default(),
            tracees: Default::default(),
            robust: Default::default(),
            positions: self.positions.clone(),
            threads: Default::default(),
            process: self.process.clone(),
        }
    }

    /// After a fork, in the child, where `task` is the only thread: nothing is left of the others, and nobody is traced by it.
    pub(crate) fn only_thread(&self, task: &Task) {
        self.threads.store(0, Ordering::Release);
        self.traced.store(task.traced().into(), Ordering::Release);
        self.seccomp.only(&task.seccomp);
        self.robust.forget();
        self.tracees.forget();
    }

    /// Descriptors that the guest must not lose.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Kept> {
        [Some(&*self.keep), Some(&self.nameless), self.output.as_deref().map(|t| &t.out)].into_iter().flatten()
    }

    /// The program's file as the host finds it.
    pub(crate) fn exe(&self) -> CString {
        let nameless = self.nameless.fd().and_then(|fd| CString::new(format!("/proc/self/fd/{fd}")).ok());
        nameless.unwrap_or_else(|| self.exe.clone())
    }

    /// The program's name for messages.
    pub fn name(&self) -> String {
        self.exe.to_string_lossy().into_owned()
    }

    /// Entry points in the vDSO.
    pub fn vdso(&self) -> Vdso {
        self.vdso
    }

    /// Is `path` /proc/self/`name`, by any of its names?
    pub fn is_proc_self(path: &CStr, name: &str) -> bool {
        matches!(proc_file(path), Some((None, file)) if file == name)
    }

    /// The program that `path`, the /proc/PID/exe of an emulated process, stands for, as the host names it.
    fn exe_of(&self, path: &CStr) -> Option<CString> {
        match proc_file(path)? {
            (None, "exe") => Some(self.exe()),
            (Some(pid), "exe") => crate::peer::program(pid),
            _ => None,
        }
    }

    /// Where a lookup of `path` leads if not there.
    pub fn lookup(&self, path: &CStr, follow: bool) -> Option<CString> {
        if let Some(exe) = if follow { self.exe_of(path) } else { None } {
            return Some(exe);
        }
        self.sysroot.as_ref()?.find(path, follow)
    }

    /// Last words of a process, before it ends for any reason.
    pub fn at_exit(&self, how: &str, cpu: &mut Vcpu) {
        self.process.keep_code();
        if let Some(t) = &self.trace {
            t.line(&format!("+++ {how} +++"));
        }
        let Some(form) = self.options.stats else { return };
        let elapsed = self.started.elapsed();
        cpu.publish_stats();
        let stats = self.process.stats();
        match form {
            StatsForm::Table => {
                eprintln!("xlat86: {}: {how} after {:.1} ms", self.name(), elapsed.as_secs_f64() * 1e3);
                eprint!("{stats}");
            }
            // One line, so that those of several processes can be told apart.
            StatsForm::Json => {
                let counters = stats.counters().map(|(name, value)| format!("\"{name}\":{value}")).join(",");
                let peak = peak_memory_kib().unwrap_or_default();
                eprintln!("{{\"elapsed_ns\":{},\"peak_memory_kib\":{peak},{counters}}}", elapsed.as_nanos());
            }
        }
    }

    /// What the guest's `readlink(path)` gives if `path` is an emulated process's /proc/PID/exe.
    pub fn exe_seen_by_guest(&self, path: &CStr) -> Option<CString> {
        let exe = match proc_file(path)? {
            (None, "exe") => self.exe.clone(),
            _ => self.exe_of(path)?,
        };
        let Some(root) = &self.sysroot else { return Some(exe) };
        let name = std::ffi::OsStr::from_bytes(exe.to_bytes());
        match std::path::Path::new(name).strip_prefix(root.dir()) {
            Ok(rest) => CString::new([b"/", rest.as_os_str().as_bytes()].concat()).ok(),
            Err(_) => Some(exe),
        }
    }
}

/// Whose file, and which, a path of /proc/PID or /proc/PID/task/TID names. `None`: this process.
pub(crate) fn proc_file(path: &CStr) -> Option<(Option<u32>, &str)> {
    let (who, mut file) = path.to_str().ok()?.strip_prefix("/proc/")?.split_once('/')?;
    let pid = match who {
        "self" | "thread-self" => None,
        _ => Some(who.parse().ok()?).filter(|&pid| pid != std::process::id()),
    };
    if let Some((_, of_task)) = file.strip_prefix("task/").and_then(|f| f.split_once('/')) {
        file = of_task;
    }
    Some((pid, file))
}

/// The most memory that this process has had, emulator and guest together.
fn peak_memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().split(' ').next()?.parse().ok()
}
