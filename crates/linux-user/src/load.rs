//! Starting a program: address space, images, stack, first registers.

use crate::elf::Loaded;
use crate::guest::Guest;
use crate::host_unsafe as host;
use crate::kept::{self, Kept};
use crate::mm::{ET_DYN_BASE, Mm};
use crate::options::Options;
use crate::program::{self, GuestProgram, Program, Refused};
use crate::root::{self, CannotEnter, Keep};
use crate::seccomp::Seccomp;
use crate::shared::Shared;
use crate::signal::{Actions, ThreadSignals};
use crate::stack::Contents;
use crate::sysroot::Sysroot;
use crate::task::Task;
use crate::trace::Tracer;
use crate::{clock, vdso};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use syscalls::{Errno, Sysno};
use xlat86_arch::{CpuModel, CpuState, PAGE_MASK, PAGE_SIZE, Reg};
use xlat86_softmmu::FlatSpace;
use xlat86_vcpu::{Process, Vcpu};

/// A program to run.
pub struct Invocation {
    /// Its path as the user gave it.
    pub path: CString,
    /// Arguments, the first being the program's name.
    pub argv: Vec<CString>,
    /// Environment.
    pub envp: Vec<CString>,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file won't do.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The engine could not be set up.
    #[error("{0}")]
    Engine(#[from] xlat86_vcpu::Error),
    /// The program's memory could not be set up.
    #[error("{what}: {}; is the address range below 4 GB restricted (ulimit -v, or a program already there)?", .errno.description().unwrap_or("?"))]
    Memory {
        /// What was being mapped.
        what: &'static str,
        /// The host's answer.
        errno: Errno,
    },
    /// The sysroot can't be used.
    #[error("{0}: {1}")]
    Sysroot(String, std::io::Error),
    /// The root can't be entered.
    #[error("{0}: {1}")]
    Root(String, CannotEnter),
    /// The trace file can't be written.
    #[error("{0}: {1}")]
    Trace(String, std::io::Error),
    /// Executing a 64-bit program directly failed.
    #[error("{}: {}", .0.to_string_lossy(), .1.description().unwrap_or("?"))]
    HostExec(CString, Errno),
}

impl Failure {
    /// What a shell would exit with.
    pub fn status(&self) -> i32 {
        match self {
            Failure::Refused(r) => r.status(),
            _ => 126,
        }
    }
}

/// Runs a program to its end; gives the exit status of its main thread. Death by a signal doesn't return.
///
/// `inner` says that a guest's execve started this emulator: a 64-bit program is then executed directly, where a user who
/// names one has made a mistake.
pub fn run(options: Options, invocation: Invocation, inner: bool) -> Result<i32, Failure> {
    let keep = Keep::inherited(options.self_fd);
    let mut invocation = invocation;
    if let Some(dir) = &options.root {
        root::enter(dir, options.as_root, &keep).map_err(|e| Failure::Root(dir.display().to_string(), e))?;
        let path = invocation.envp.iter().find_map(|v| v.to_bytes().strip_prefix(b"PATH="));
        invocation.path = root::find_command(&invocation.path, path);
    }
    let sysroot = match &options.sysroot {
        Some(dir) => Some(Sysroot::new(dir).map_err(|e| Failure::Sysroot(dir.display().to_string(), e))?),
        None => None,
    };
    let Invocation { path, argv, envp } = invocation;
    let program = match program::resolve(sysroot.as_ref(), &path, argv, options.exec_fd)? {
        Program::Guest(p) => *p,
        // Refused before, when it was another file.
        Program::Host { path, .. } if options.seccomp_fd.is_some() => {
            return Err(Failure::HostExec(path, Errno::EACCES));
        }
        Program::Host { path, argv } if inner => {
            let e = host::execve(&path, &argv, &envp);
            return Err(Failure::HostExec(path, e));
        }
        Program::Host { path, .. } => return Err(Refused::Bad(path, crate::elf::Bad::Elf64).into()),
    };
    let traces = options.trace_syscalls || options.config.tracing.any();
    let output = match traces {
        true => Some(Arc::new(Tracer::open(options.trace_file.as_deref()).map_err(|(p, e)| Failure::Trace(p, e))?)),
        false => None,
    };
    let nameless = options.exec_fd.and_then(|fd| keep_if_nameless(fd, &program));
    // The environment is the guest's now; the process is named after the program, as ps shows it.
    let name = path.to_bytes().rsplit(|&b| b == b'/').next().unwrap_or_default();
    if let Ok(name) = CString::new(name) {
        let _ = host::call(Sysno::prctl, &[host::Arg::wide(libc::PR_SET_NAME as u64), host::Arg::cstr(&name)]);
    }
    let mut options = options;
    if let (true, Some(tracer)) = (options.config.tracing.any(), output.clone()) {
        options.config.tracing.to = Some(Arc::new(move |line| tracer.line(line)));
    }
    let own = Own { keep, nameless: Kept::new(nameless), output };
    let mut task = load(options, own, sysroot, program, &path, envp)?;
    host::inherited::restore();
    // Of what was handed on, the host is to block only what it may.
    task.set_blocked(task.signals.blocked);
    task.renew_actions();
    if let Some(options) = task.shared.options.traced {
        task.trace_exec(options);
    }
    let status = task.run();
    task.end_main_thread(status)
}

/// Closes a descriptor of the program's file that was handed on, unless nothing else leads to the file.
fn keep_if_nameless(fd: i32, program: &GuestProgram) -> Option<i32> {
    if program::through_descriptor(&program.path).is_none() {
        drop(host::own_fd(fd));
        return None;
    }
    kept::set_cloexec(fd, true);
    Some(fd)
}

/// The emulator's own descriptors.
struct Own {
    keep: Keep,
    nameless: Kept,
    output: Option<Arc<Tracer>>,
}

fn load(
    options: Options,
    own: Own,
    sysroot: Option<Sysroot>,
    program: GuestProgram,
    execfn: &CStr,
    envp: Vec<CString>,
) -> Result<Task, Failure> {
    let trace_syscalls = options.trace_syscalls;
    let window = host::low_window();
    xlat86_host::signals::expect_kicks();
    let space = Arc::new(FlatSpace::new(window));
    let mut config = options.config.clone();
    // What is to be traced has to be a system call.
    config.call_out = (!trace_syscalls).then_some(clock::call_out);
    let process = Process::new(space.clone(), config)?;
    let mm = Arc::new(Mm::new(process.clone(), space));
    if let Some([soft_as, hard_as, soft_data, hard_data]) = options.memory_limits {
        mm.limit(0, Some([soft_as, hard_as]));
        mm.limit(1, Some([soft_data, hard_data]));
    }
    let mem = Guest::new(window, process.clone());
    let memory = |what| move |errno| Failure::Memory { what, errno };

    // Without PT_GNU_STACK a program is from before NX: everything readable is executable.
    let GuestProgram { file, image, path, interp, argv } = program;
    let legacy = image.exec_stack.is_none();
    mm.set_read_implies_exec(legacy);

    let sizing = contents(&argv, &envp, execfn, Vec::new());
    let initial = (sizing.size() as u32).next_multiple_of(PAGE_SIZE) + 32 * PAGE_SIZE;
    mm.map_stack(initial, image.exec_stack != Some(false)).map_err(memory("the stack"))?;

    let main = image.map(&file, &mm, &mem, true).map_err(memory("the program"))?;
    let loader = match &interp {
        Some((file, image)) => Some(image.map(file, &mm, &mem, false).map_err(memory("the program interpreter"))?),
        None => None,
    };
    // The heap follows the program; a program without interpreter among the libraries gets it where others are loaded.
    let heap = if image.is_position_independent() && interp.is_none() { ET_DYN_BASE } else { main.end };
    mm.set_brk(heap);
    let (vdso_base, entry) = vdso::map(&mm, &mem).map_err(memory("the vDSO"))?;

    let auxv = auxv(options.config.model, &main, loader.as_ref(), vdso_base, entry.vsyscall);
    let placed = contents(&argv, &envp, execfn, auxv).place(&mem).map_err(memory("the initial stack"))?;

    host::describe_process((main.phdr & !PAGE_MASK, main.end), &placed);

    let mut vcpu = Vcpu::new(&process)?;
    let state = vcpu.state_mut();
    *state = CpuState::linux_user();
    state.eip = loader.as_ref().map_or(main.entry, |l| l.entry);
    state.set_reg(Reg::Esp, placed.esp);

    let inherited = match options.seccomp_fd.map(Seccomp::restore) {
        None => Seccomp::default(),
        Some(Some(filters)) => filters,
        // Running without them would be worse.
        Some(None) => return Err(Failure::Memory { what: "the seccomp filters", errno: Errno::EINVAL }),
    };
    let Own { keep, nameless, output } = own;
    // A file without a name is called as the host's kernel calls it.
    let link = nameless.fd().and_then(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok());
    let exe = link.and_then(|l| CString::new(l.into_os_string().into_vec()).ok()).unwrap_or(path);
    let shared = Arc::new(Shared {
        options,
        sysroot: sysroot.map(Arc::new),
        keep,
        exe,
        nameless,
        placed,
        trace: output.clone().filter(|_| trace_syscalls),
        output,
        vdso: entry,
        started: Instant::now(),
        threads: Default::default(),
        seccomp: Default::default(),
        traced: Default::default(),
        tracees: Default::default(),
        robust: Default::default(),
        positions: Default::default(),
        process,
    });
    let seccomp = shared.seccomp.add(&inherited);
    seccomp.belongs_to(std::process::id());
    Ok(Task {
        seccomp,
        trace: None,
        trace_on_exec: false,
        left: None,
        goes_on: None,
        in_vfork: false,
        vcpu,
        mem,
        mm,
        shared,
        sighand: Arc::new(Mutex::new(Actions::inherited())),
        signals: ThreadSignals { blocked: xlat86_host::signals::mask(), ..ThreadSignals::default() },
        tls: [0; 3],
        clear_tid: 0,
        is_main: true,
        ended: None,
    })
}

fn contents<'a>(argv: &'a [CString], envp: &'a [CString], execfn: &'a CStr, auxv: Vec<(u32, u32)>) -> Contents<'a> {
    let mut random = [0; 16];
    let args = [host::Arg::output(&mut random), host::Arg::uint(16), host::Arg::NULL];
    // Early in boot the host may have no randomness; then there is none.
    let _ = host::call(Sysno::getrandom, &args);
    Contents { argv, envp, execfn, random, auxv }
}

/// The auxiliary vector in the kernel's order (`ARCH_DLINFO` first). AT_HWCAP is CPUID.1:EDX.
fn auxv(model: &CpuModel, main: &Loaded, loader: Option<&Loaded>, vdso: u32, vsyscall: u32) -> Vec<(u32, u32)> {
    const AT_SYSINFO: u64 = 32;
    let same = |kind: u64| host::auxv(kind) as u32;
    [
        (AT_SYSINFO, vsyscall),
        (libc::AT_SYSINFO_EHDR, vdso),
        (libc::AT_MINSIGSTKSZ, same(libc::AT_MINSIGSTKSZ)),
        (libc::AT_HWCAP, model.cpuid(1, 0)[3]),
        (libc::AT_PAGESZ, PAGE_SIZE),
        (libc::AT_CLKTCK, 100),
        (libc::AT_PHDR, main.phdr),
        (libc::AT_PHENT, 32),
        (libc::AT_PHNUM, main.phnum),
        (libc::AT_BASE, loader.map_or(0, |l| l.bias)),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, main.entry),
        (libc::AT_UID, same(libc::AT_UID)),
        (libc::AT_EUID, same(libc::AT_EUID)),
        (libc::AT_GID, same(libc::AT_GID)),
        (libc::AT_EGID, same(libc::AT_EGID)),
        (libc::AT_SECURE, same(libc::AT_SECURE)),
        (libc::AT_RANDOM, 0),
        (libc::AT_HWCAP2, same(libc::AT_HWCAP2)),
        (libc::AT_EXECFN, 0),
        (libc::AT_PLATFORM, 0),
    ]
    .map(|(k, v)| (k as u32, v))
    .to_vec()
}
