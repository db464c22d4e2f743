//! Processes and threads: creation, end, waiting, limits.

use crate::abi::{CloneArgs, HostRlimit, HostRusage, Rlimit, Rusage, UserDesc};
use crate::guest::Guest;
use crate::held::Held;
use crate::host_unsafe::{self as host, Arg};
use crate::kept::Kept;
use crate::mm::Mm;
use crate::seccomp::Seccomp;
use crate::shared::Shared;
use crate::signal::{Actions, ThreadSignals};
use crate::task::{TLS_FIRST, Task};
use crate::tracee::{self, Block};
use crate::{Stop, SysResult, fork};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use syscalls::{Errno, Sysno};
use xlat86_arch::{CpuState, FxState, Reg};
use xlat86_host::signals;
use xlat86_vcpu::{Ldt, Vcpu};

// --- ending ---

pub(crate) fn exit(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.ended = Some(a[0] as i32 & 0xff);
    Err(Stop::KeepRegisters)
}

pub(crate) fn exit_group(t: &mut Task, a: [u32; 6]) -> SysResult {
    let status = a[0] as i32 & 0xff;
    t.release_all_futexes();
    t.shared.at_exit(&format!("exited with {status}"), &mut t.vcpu);
    host::exit_group(status)
}

impl Task {
    /// The main thread has ended: the process goes on while other threads run.
    pub fn end_main_thread(&mut self, status: i32) -> ! {
        self.release_futexes();
        if self.shared.threads.load(Ordering::Acquire) == 0 {
            self.shared.at_exit(&format!("exited with {status}"), &mut self.vcpu);
            host::exit_group(status);
        }
        host::exit_thread(status)
    }
}

// --- creation ---

const CLONE_VM: u64 = libc::CLONE_VM as u64;
const CLONE_SIGHAND: u64 = libc::CLONE_SIGHAND as u64;
pub(crate) const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;
const CLONE_VFORK: u64 = libc::CLONE_VFORK as u64;
const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;
pub(crate) const CLONE_SETTLS: u64 = libc::CLONE_SETTLS as u64;
pub(crate) const CLONE_PARENT_SETTID: u64 = libc::CLONE_PARENT_SETTID as u64;
pub(crate) const CLONE_CHILD_CLEARTID: u64 = libc::CLONE_CHILD_CLEARTID as u64;
pub(crate) const CLONE_CHILD_SETTID: u64 = libc::CLONE_CHILD_SETTID as u64;

/// What clone, clone3, fork and vfork ask for. `child_stack` is an initial ESP, or 0 for the caller's.
#[derive(Clone, Copy, Default)]
pub(crate) struct New {
    pub flags: u64,
    child_stack: u32,
    pub parent_tid: u32,
    child_tid: u32,
    tls: u32,
    pub pidfd: u32,
    pub exit_signal: u32,
}

pub(crate) fn fork(t: &mut Task, _: [u32; 6]) -> SysResult {
    create(t, New { exit_signal: libc::SIGCHLD as u32, ..New::default() })
}

pub(crate) fn vfork(t: &mut Task, _: [u32; 6]) -> SysResult {
    create(t, New { flags: CLONE_VM | CLONE_VFORK, exit_signal: libc::SIGCHLD as u32, ..New::default() })
}

pub(crate) fn clone(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [flags, child_stack, parent_tid, tls, child_tid, _] = a;
    let exit_signal = flags & 0xff;
    // The old call returns a pidfd where the new one has a parameter of its own.
    create(
        t,
        New {
            flags: u64::from(flags & !0xff),
            child_stack,
            parent_tid,
            child_tid,
            tls,
            pidfd: parent_tid,
            exit_signal,
        },
    )
}

pub(crate) fn clone3(t: &mut Task, a: [u32; 6]) -> SysResult {
    let size = a[1] as usize;
    if size < 64 {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let mut raw = vec![0u8; size.max(size_of::<CloneArgs>())];
    t.mem.read_bytes(a[0], &mut raw[..size])?;
    if raw[size_of::<CloneArgs>()..].iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG.into());
    }
    let Ok(c) = <CloneArgs as zerocopy::FromBytes>::read_from_bytes(&raw[..size_of::<CloneArgs>()]) else {
        return Err(Errno::EINVAL.into());
    };
    // Chosen tids and cgroups would need host privileges for a call that this emulator makes in several steps.
    if c.set_tid_size != 0 || c.flags >> 32 != 0 || c.flags & 0xff != 0 || (c.stack == 0) != (c.stack_size == 0) {
        return Err(Errno::EINVAL.into());
    }
    let p = |v: u64| u32::try_from(v).map_err(|_| Errno::EFAULT);
    let child_stack = p(c.stack.wrapping_add(c.stack_size))?;
    create(
        t,
        New {
            flags: c.flags,
            child_stack,
            parent_tid: p(c.parent_tid)?,
            child_tid: p(c.child_tid)?,
            tls: p(c.tls)?,
            pidfd: p(c.pidfd)?,
            exit_signal: c.exit_signal as u32,
        },
    )
}

fn create(t: &mut Task, new: New) -> SysResult {
    let f = new.flags;
    let needs = |flag: u64, other: u64| f & flag == 0 || f & other != 0;
    if !needs(CLONE_SIGHAND, CLONE_VM) || !needs(CLONE_THREAD, CLONE_SIGHAND) {
        return Err(Errno::EINVAL.into());
    }
    if crate::signal::waiting() {
        // A signal that came before belongs to this thread alone.
        return Err(Stop::Restart);
    }
    match (f & CLONE_THREAD != 0, f & CLONE_VM != 0) {
        (true, _) => create_thread(t, new),
        (_, true) if f & CLONE_VFORK != 0 => create_vfork(t, new),
        (_, true) => create_beside(t, new),
        _ => fork::create(t, new),
    }
}

impl Task {
    /// Gives the child its registers and what its flags ask for. Runs in the child.
    pub(crate) fn become_child(&mut self, new: &New) -> Result<(), Errno> {
        let tid = host::call(Sysno::gettid, &[])? as u32;
        self.seccomp.belongs_to(tid);
        if new.flags & CLONE_SETTLS != 0 {
            let d: UserDesc = self.mem.read(new.tls)?;
            let entry = d.entry as u16;
            if !(TLS_FIRST..TLS_FIRST + 3).contains(&entry) {
                return Err(Errno::EINVAL);
            }
            self.set_tls(entry, if d.is_empty() { 0 } else { d.descriptor() });
        }
        if new.flags & CLONE_CHILD_SETTID != 0 {
            let _ = self.mem.write(new.child_tid, &tid);
        }
        self.clear_tid = if new.flags & CLONE_CHILD_CLEARTID != 0 { new.child_tid } else { 0 };
        let s = self.vcpu.state_mut();
        s.set_reg(Reg::Eax, 0);
        if new.child_stack != 0 {
            s.set_reg(Reg::Esp, new.child_stack);
        }
        Ok(())
    }
}

/// The child runs on this very `Task`, in a host process that shares the memory, while this thread waits; then the parent
/// gets back what was its own.
fn create_vfork(t: &mut Task, new: New) -> SysResult {
    let state = t.vcpu.state().clone();
    let fx = *t.vcpu.fx();
    let (signals, tls, clear_tid, is_main) = (t.signals.clone(), t.tls, t.clear_tid, t.is_main);
    t.signals.held = Held::default();
    let sighand = t.sighand.clone();
    let trace = t.trace.clone();
    let of_child = t.seccomp.copy();
    let seccomp = std::mem::replace(&mut t.seccomp, of_child);
    let kept: Vec<Option<i32>> = t.shared.kept().map(Kept::fd).collect();
    let was_in_vfork = std::mem::replace(&mut t.in_vfork, true);
    if new.flags & CLONE_SIGHAND == 0 {
        let copy = t.actions().clone();
        t.sighand = Arc::new(Mutex::new(copy));
    }
    let pid = host::vfork(host_flags(&new), &mut || {
        t.vcpu.taken_over();
        match t.become_child(&new) {
            Ok(()) => {
                t.trace_birth(tracee::O_VFORK);
                let status = t.run();
                t.release_futexes();
                status
            }
            Err(_) => 127,
        }
    });
    t.vcpu.taken_over();
    *t.vcpu.state_mut() = state;
    *t.vcpu.fx_mut() = fx;
    (t.signals, t.tls, t.clear_tid, t.is_main) = (signals, tls, clear_tid, is_main);
    (t.sighand, t.seccomp) = (sighand, seccomp);
    if new.flags & libc::CLONE_FILES as u64 == 0 {
        // Those that made way did so among the child's descriptors.
        t.shared.kept().zip(kept).for_each(|(k, fd)| *k.lock() = fd);
    }
    if trace.is_some() && !t.traced() {
        t.shared.traced.fetch_add(1, Ordering::AcqRel);
    }
    (t.trace, t.in_vfork, t.trace_on_exec) = (trace, was_in_vfork, false);
    t.ended = None;
    for i in 0..3u16 {
        t.vcpu.set_descriptor(TLS_FIRST + i, t.tls[usize::from(i)]);
    }
    let pid = pid?;
    report_child(t, &new, pid)?;
    Ok(pid)
}

/// Stack of a host thread that runs a guest thread; only touched pages cost anything.
const HOST_STACK: usize = 2 << 20;

/// What a new thread, or a new process in the same memory, gets from its maker.
struct Seed {
    state: CpuState,
    fx: FxState,
    mem: Guest,
    mm: Arc<Mm>,
    shared: Arc<Shared>,
    sighand: Arc<Mutex<Actions>>,
    blocked: u64,
    tls: [u64; 3],
    seccomp: Arc<Seccomp>,
    ldt: Ldt,
    trace: Option<Box<Block>>,
}

impl Seed {
    fn of(t: &mut Task, shared: Arc<Shared>, sighand: Arc<Mutex<Actions>>) -> Seed {
        Seed {
            state: t.vcpu.state().clone(),
            fx: *t.vcpu.fx(),
            mem: t.mem.clone(),
            mm: t.mm.clone(),
            seccomp: shared.seccomp.add(&t.seccomp),
            shared,
            sighand,
            blocked: t.signals.blocked,
            tls: t.tls,
            ldt: t.vcpu.ldt().clone(),
            trace: t.trace.clone(),
        }
    }

    /// The task, with a CPU of the calling thread's.
    fn grow(self) -> Result<Task, Errno> {
        let mut vcpu = Vcpu::new(self.mem.process()).map_err(|_| Errno::EAGAIN)?;
        vcpu.set_ldt(self.ldt);
        *vcpu.state_mut() = self.state;
        *vcpu.fx_mut() = self.fx;
        for (i, &d) in (TLS_FIRST..).zip(&self.tls) {
            vcpu.set_descriptor(i, d);
        }
        Ok(Task {
            vcpu,
            mem: self.mem,
            mm: self.mm,
            shared: self.shared,
            sighand: self.sighand,
            signals: ThreadSignals { blocked: self.blocked, ..ThreadSignals::default() },
            tls: self.tls,
            clear_tid: 0,
            seccomp: self.seccomp,
            trace: self.trace,
            trace_on_exec: false,
            left: None,
            goes_on: None,
            in_vfork: false,
            is_main: false,
            ended: None,
        })
    }
}

/// The child runs beside its parent, in its memory, but is no thread of it. What it must not share are the emulator's own
/// thread-locals; so it borrows those of a thread made for that, which stands still as in vfork until the child is gone.
fn create_beside(t: &mut Task, new: New) -> SysResult {
    if t.traced() {
        // Its tracer would see the lending thread.
        return Err(Errno::EINVAL.into());
    }
    let sighand = if new.flags & CLONE_SIGHAND != 0 {
        t.sighand.clone()
    } else {
        let copy = t.actions().clone();
        Arc::new(Mutex::new(copy))
    };
    let shared = Arc::new(t.shared.for_another_process());
    let seed = Seed::of(t, shared, sighand);
    let (tell, told) = mpsc::sync_channel::<Result<u32, Errno>>(1);
    let (go, wait_for_go) = mpsc::sync_channel::<()>(1);
    let flags = host_flags(&new);
    signals::set_mask(u64::MAX);
    let lender = host::spawn(HOST_STACK, move || {
        let (mut seed, mut kept) = (Some(seed), None);
        let made = host::vfork(flags, &mut || {
            let Some(Ok(task)) = seed.take().map(Seed::grow) else {
                let _ = tell.send(Err(Errno::EAGAIN));
                return 127;
            };
            let blocked = task.signals.blocked;
            let child: &mut Task = kept.insert(task);
            child.is_main = true;
            let ready = child.become_child(&new).map(|()| std::process::id());
            let _ = tell.send(ready);
            if ready.is_err() || wait_for_go.recv().is_err() {
                return 127;
            }
            signals::set_mask(blocked);
            let status = child.run();
            child.end_main_thread(status)
        });
        if let Err(e) = made {
            let _ = tell.send(Err(e));
        }
        // Here, with the thread-locals that it used.
        drop(kept);
    });
    let answer = match lender {
        Ok(_) => told.recv().unwrap_or(Err(Errno::EAGAIN)).and_then(|pid| {
            report_child(t, &new, pid)?;
            let _ = go.send(());
            Ok(pid)
        }),
        Err(_) => Err(Errno::EAGAIN),
    };
    signals::set_mask(t.signals.blocked);
    Ok(answer?)
}

/// What is left of the flags for the host's clone, where the emulator does the rest.
fn host_flags(new: &New) -> i32 {
    let here = CLONE_VM
        | CLONE_VFORK
        | CLONE_SETTLS
        | CLONE_PARENT_SETTID
        | CLONE_CHILD_SETTID
        | CLONE_CHILD_CLEARTID
        | CLONE_PIDFD;
    (new.flags & !here) as i32 | new.exit_signal as i32
}

/// Tells the parent what it asked to know of its new child.
fn report_child(t: &Task, new: &New, pid: u32) -> Result<(), Errno> {
    if new.flags & CLONE_PARENT_SETTID != 0 {
        t.mem.write(new.parent_tid, &pid)?;
    }
    if new.flags & CLONE_PIDFD != 0 {
        let fd = host::call(Sysno::pidfd_open, &[Arg::int(pid), Arg::NULL])? as u32;
        t.mem.write(new.pidfd, &fd)?;
    }
    Ok(())
}

fn create_thread(t: &mut Task, new: New) -> SysResult {
    let (shared, sighand) = (t.shared.clone(), t.sighand.clone());
    let seed = Seed::of(t, shared.clone(), sighand);
    let (tell, told) = mpsc::sync_channel::<Result<u32, Errno>>(1);
    // The child waits until its parent runs again: a real-time child would otherwise keep its parent from returning.
    let (go, wait_for_go) = mpsc::sync_channel::<()>(1);

    // The new thread takes no signal before it is ready to note one.
    signals::set_mask(u64::MAX);
    shared.threads.fetch_add(1, Ordering::AcqRel);
    let spawned = host::spawn(HOST_STACK, move || {
        let mut child = match seed.grow() {
            Ok(child) => child,
            Err(e) => {
                shared.threads.fetch_sub(1, Ordering::AcqRel);
                let _ = tell.send(Err(e));
                return;
            }
        };
        let blocked = child.signals.blocked;
        let ready = child.become_child(&new).and_then(|()| {
            let tid = host::call(Sysno::gettid, &[])? as u32;
            if new.flags & CLONE_PARENT_SETTID != 0 {
                child.mem.write(new.parent_tid, &tid)?;
            }
            Ok(tid)
        });
        let _ = tell.send(ready);
        let _ = wait_for_go.recv();
        if ready.is_ok() {
            child.shared.traced.fetch_add(child.traced().into(), Ordering::AcqRel);
            signals::set_mask(blocked);
            child.trace_birth(tracee::O_CLONE);
            child.run();
            child.shared.traced.fetch_sub(child.traced().into(), Ordering::AcqRel);
        }
        signals::set_mask(u64::MAX);
        child.shared.threads.fetch_sub(1, Ordering::AcqRel);
        child.release_futexes();
    });
    let answer = match spawned {
        Ok(_) => {
            let answer = told.recv().unwrap_or(Err(Errno::EAGAIN));
            let _ = go.send(());
            answer
        }
        Err(_) => {
            t.shared.threads.fetch_sub(1, Ordering::AcqRel);
            Err(Errno::EAGAIN)
        }
    };
    signals::set_mask(t.signals.blocked);
    Ok(answer?)
}

pub(crate) fn set_tid_address(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.clear_tid = a[0];
    Ok(host::call(Sysno::gettid, &[])? as u32)
}

pub(crate) fn unshare(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.host_blocking(Sysno::unshare, &[Arg::uint(a[0])])
}

// --- limits and priorities ---

pub(crate) fn getrusage(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut h = HostRusage::default();
    host::call(Sysno::getrusage, &[Arg::int(a[0]), Arg::output(&mut h)])?;
    t.mem.write(a[1], &Rusage::from(&h))?;
    Ok(0)
}

/// 32-bit "unlimited", and the old call's.
const INFINITY: u32 = u32::MAX;
const OLD_INFINITY: u32 = i32::MAX as u32;

/// Limits on memory that [`Mm`](crate::mm::Mm) keeps, by its numbers: the host's would bind the emulator too.
fn of_memory(what: u32) -> Option<usize> {
    [libc::RLIMIT_AS, libc::RLIMIT_DATA].iter().position(|&l| l == what)
}

/// Sets a limit of this process if `new` is given; gives what it was.
fn limit(t: &Task, what: u32, new: Option<HostRlimit>) -> Result<HostRlimit, Errno> {
    let Some(which) = of_memory(what) else {
        let mut old = HostRlimit::default();
        let new = new.as_ref().map_or(Arg::NULL, Arg::input);
        host::call(Sysno::prlimit64, &[Arg::NULL, Arg::uint(what), new, Arg::output(&mut old)])?;
        return Ok(old);
    };
    let [_, hard] = t.mm.limit(which, None);
    if let Some(n) = new {
        if n.cur > n.max {
            return Err(Errno::EINVAL);
        }
        let root = host::call(Sysno::geteuid, &[])? == 0;
        if n.max > hard && !root {
            return Err(Errno::EPERM);
        }
    }
    let [cur, max] = t.mm.limit(which, new.map(|n| [n.cur, n.max]));
    Ok(HostRlimit { cur, max })
}

fn get_limit(t: &mut Task, a: [u32; 6], infinity: u32) -> SysResult {
    let l = limit(t, a[0], None)?;
    let narrow = |v: u64| u32::try_from(v).unwrap_or(infinity).min(infinity);
    t.mem.write(a[1], &Rlimit { cur: narrow(l.cur), max: narrow(l.max) })?;
    Ok(0)
}

pub(crate) fn getrlimit(t: &mut Task, a: [u32; 6]) -> SysResult {
    get_limit(t, a, INFINITY)
}

pub(crate) fn old_getrlimit(t: &mut Task, a: [u32; 6]) -> SysResult {
    get_limit(t, a, OLD_INFINITY)
}

pub(crate) fn setrlimit(t: &mut Task, a: [u32; 6]) -> SysResult {
    let l: Rlimit = t.mem.read(a[1])?;
    let wide = |v: u32| if v == INFINITY { u64::MAX } else { v.into() };
    limit(t, a[0], Some(HostRlimit { cur: wide(l.cur), max: wide(l.max) }))?;
    Ok(0)
}

pub(crate) fn prlimit64(t: &mut Task, a: [u32; 6]) -> SysResult {
    let own = a[0] == 0 || a[0] == std::process::id();
    if own && of_memory(a[1]).is_some() {
        let new: Option<[u64; 2]> = match a[2] {
            0 => None,
            at => Some([t.mem.read(at)?, t.mem.read(at.wrapping_add(8))?]),
        };
        let old = limit(t, a[1], new.map(|[cur, max]| HostRlimit { cur, max }))?;
        t.mem.write_opt(a[3], &old)?;
        return Ok(0);
    }
    if of_memory(a[1]).is_some() && a[2] != 0 {
        // Another process's: it would be its emulator's.
        return Err(Errno::EPERM.into());
    }
    t.mem.prepare_write(a[3], 16);
    t.host_blocking(Sysno::prlimit64, &[Arg::int(a[0]), Arg::uint(a[1]), Arg::uint(a[2]), Arg::uint(a[3])])
}

pub(crate) fn nice(t: &mut Task, a: [u32; 6]) -> SysResult {
    let _ = t;
    let process = [Arg::uint(libc::PRIO_PROCESS), Arg::NULL];
    // The raw call gives 20 - nice.
    let old = 20 - host::call(Sysno::getpriority, &process)? as i32;
    let new = old.saturating_add((a[0] as i32).clamp(-40, 40)).clamp(-20, 19);
    match host::call(Sysno::setpriority, &[process[0], process[1], Arg::int(new as u32)]) {
        Err(Errno::EACCES) => Err(Errno::EPERM.into()),
        r => Ok(r? as u32),
    }
}

pub(crate) fn sched_getaffinity(t: &mut Task, a: [u32; 6]) -> SysResult {
    // Sizes are multiples of a long: 4 bytes for the guest, 8 for the host.
    if a[1] & 3 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut mask = vec![0u8; (a[1] as usize).min(8192).next_multiple_of(8)];
    let len = mask.len() as u32;
    let n = host::call(Sysno::sched_getaffinity, &[Arg::int(a[0]), Arg::uint(len), Arg::output(mask.as_mut_slice())])?
        as u32;
    let n = n.min(a[1]);
    t.mem.write_bytes(a[2], &mask[..n as usize])?;
    Ok(n)
}
