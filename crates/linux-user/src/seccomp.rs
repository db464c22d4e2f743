//! Seccomp for the guest: its filters see i386 numbers and its own instruction pointer, and run here, before a call is
//! answered. They are a thread's, inherited by what it creates and by what it executes.

use crate::abi::Siginfo;
use crate::bpf::{self, Data, Insn};
use crate::host_unsafe::{self as host, Arg};
use crate::task::Task;
use crate::{Stop, SysResult};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use syscalls::{Errno, Sysno};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const AUDIT_ARCH_I386: u32 = 0x4000_0003;

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const ACTION: u32 = 0xffff_0000;

const TSYNC: u32 = 1;
/// Where threads can't follow, say so by an error rather than by naming one.
const TSYNC_ESRCH: u32 = 16;
/// What all filters of a thread may have in instructions, and what each counts besides (`MAX_INSNS_PER_PATH`).
const MAX_INSNS: usize = 32768;
const OVERHEAD: usize = 4;
/// LOG and SPEC_ALLOW: nothing to do for them here.
const HARMLESS: u32 = 2 | 4;

/// read, write, exit, sigreturn: all that strict mode allows.
const STRICT: [u32; 4] = [3, 4, 1, 119];

/// A filter and those installed before it.
struct Filter {
    program: Vec<Insn>,
    before: Option<Arc<Filter>>,
}

#[derive(Clone, Default)]
enum State {
    #[default]
    Off,
    Strict,
    Filter(Arc<Filter>),
}

impl State {
    fn filter(&self) -> Option<&Arc<Filter>> {
        if let State::Filter(f) = self { Some(f) } else { None }
    }
}

/// The newest filter and those before it.
fn chain(first: Option<&Arc<Filter>>) -> impl Iterator<Item = &Arc<Filter>> {
    std::iter::successors(first, |f| f.before.as_ref())
}

/// A thread's state; the lock lets another thread synchronise its own to it.
#[derive(Default)]
pub struct Seccomp {
    state: Mutex<State>,
    /// Whose it is, once that thread runs.
    tid: AtomicU32,
}

/// All threads of the process, for TSYNC.
#[derive(Default)]
pub struct Threads(Mutex<Vec<Weak<Seccomp>>>);

impl Threads {
    /// Takes the lock. Held across fork; who holds it waits only for threads' own.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Weak<Seccomp>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// State for a new thread, that of `parent`.
    pub(crate) fn add(&self, parent: &Seccomp) -> Arc<Seccomp> {
        let new = parent.copy();
        let mut all = self.lock();
        all.retain(|t| t.strong_count() != 0);
        all.push(Arc::downgrade(&new));
        new
    }

    /// In a new process: `one` is its only thread's.
    pub(crate) fn only(&self, one: &Arc<Seccomp>) {
        *self.lock() = vec![Arc::downgrade(one)];
    }
}

impl Seccomp {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The same, for another thread or process.
    pub(crate) fn copy(&self) -> Arc<Seccomp> {
        Arc::new(Seccomp { state: Mutex::new(self.lock().clone()), tid: AtomicU32::new(0) })
    }

    /// Says which thread's it is.
    pub(crate) fn belongs_to(&self, tid: u32) {
        self.tid.store(tid, Ordering::Release);
    }

    /// Is there any call that may not be made?
    pub(crate) fn filters_calls(&self) -> bool {
        self.mode() != 0
    }

    /// The filters, newest first.
    fn filters(&self) -> Vec<Arc<Filter>> {
        chain(self.lock().filter()).cloned().collect()
    }

    fn mode(&self) -> u32 {
        match *self.lock() {
            State::Off => 0,
            State::Strict => 1,
            State::Filter(_) => 2,
        }
    }

    /// The state that a program executed by this thread starts with, in a memory file; `None` when there is none.
    pub(crate) fn save(&self) -> Result<Option<std::fs::File>, Errno> {
        let filters = self.filters();
        if filters.is_empty() {
            return Ok(None);
        }
        let fd = host::call(Sysno::memfd_create, &[Arg::cstr(c"seccomp"), Arg::NULL])?;
        let file = host::own_fd(fd as i32);
        let mut bytes = Vec::new();
        for f in filters.iter().rev() {
            bytes.extend((f.program.len() as u32).to_le_bytes());
            bytes.extend(f.program.as_slice().as_bytes());
        }
        std::io::Write::write_all(&mut &file, &bytes).map_err(|_| Errno::ENOMEM)?;
        Ok(Some(file))
    }

    /// Takes over what [`Seccomp::save`] wrote. `None`: it isn't that.
    pub(crate) fn restore(fd: i32) -> Option<Seccomp> {
        let file = host::own_fd(fd);
        let mut bytes = Vec::new();
        let mut at = 0;
        loop {
            let mut chunk = [0; 4096];
            let n = std::os::unix::fs::FileExt::read_at(&file, &mut chunk, at).ok()?;
            if n == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..n]);
            at += n as u64;
        }
        let mut rest = bytes.as_slice();
        let mut state = State::Off;
        while !rest.is_empty() {
            let (len, after) = u32::read_from_prefix(rest).ok()?;
            let size = (len as usize).checked_mul(size_of::<Insn>())?;
            let mut program = vec![Insn::new_zeroed(); len as usize];
            program.as_mut_slice().as_mut_bytes().copy_from_slice(after.get(..size)?);
            let before = match state {
                State::Filter(f) => Some(f),
                _ => None,
            };
            state = State::Filter(Arc::new(Filter { program, before }));
            rest = &after[size..];
        }
        Some(Seccomp { state: Mutex::new(state), ..Seccomp::default() })
    }
}

impl Task {
    /// Asks the filters about call `nr`. `Some` when it is not to be made: its result.
    pub(crate) fn filter_call(&mut self, nr: u32, args: [u32; 6]) -> Option<SysResult> {
        let verdict = match &*self.seccomp.lock() {
            State::Off => return None,
            State::Strict if STRICT.contains(&nr) => return None,
            State::Strict => KILL_PROCESS,
            State::Filter(first) => {
                let eip = self.vcpu.state().eip;
                let mut data: Data = [nr, AUDIT_ARCH_I386, eip, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                for (word, arg) in data[4..].iter_mut().step_by(2).zip(args) {
                    *word = arg;
                }
                // All are asked; the strictest wins, and of equal ones the newest.
                chain(Some(first))
                    .map(|f| bpf::run(&f.program, &data))
                    .min_by_key(|v| (v & ACTION) as i32)
                    .unwrap_or(ALLOW)
            }
        };
        if matches!(*self.seccomp.lock(), State::Strict) {
            self.die(libc::SIGKILL, &Siginfo::default());
        }
        let data = verdict & !ACTION;
        match verdict & ACTION {
            ALLOW | LOG => None,
            ERRNO => Some(Err(Stop::Errno(Errno::new((data as i32).min(4095))))),
            // Nobody traces or listens.
            TRACE | USER_NOTIF => Some(Err(Stop::Errno(Errno::ENOSYS))),
            TRAP => {
                let eip = self.vcpu.state().eip;
                self.force_sigsys(data, eip, nr, AUDIT_ARCH_I386);
                Some(Err(Stop::KeepRegisters))
            }
            KILL_THREAD if self.shared.threads.load(Ordering::Acquire) != 0 => {
                self.ended = Some(0);
                Some(Err(Stop::KeepRegisters))
            }
            _ => self.die(libc::SIGSYS, &Siginfo { signo: libc::SIGSYS as u32, ..Siginfo::default() }),
        }
    }
}

fn may_filter() -> Result<(), Errno> {
    const CAP_SYS_ADMIN: u32 = 21;
    let no_new_privs = host::call(
        Sysno::prctl,
        &[Arg::wide(libc::PR_GET_NO_NEW_PRIVS as u64), Arg::NULL, Arg::NULL, Arg::NULL, Arg::NULL],
    )?;
    let header = [0x2008_0522u32, 0];
    let mut sets = [0u32; 6];
    host::call(Sysno::capget, &[Arg::input(&header), Arg::output(&mut sets)])?;
    if no_new_privs == 1 || sets[0] >> CAP_SYS_ADMIN & 1 != 0 { Ok(()) } else { Err(Errno::EACCES) }
}

fn set_strict(t: &mut Task) -> SysResult {
    let mut state = t.seccomp.lock();
    if matches!(*state, State::Filter(_)) {
        return Err(Errno::EINVAL.into());
    }
    *state = State::Strict;
    Ok(0)
}

fn set_filter(t: &mut Task, flags: u32, at: u32) -> SysResult {
    if flags & !(TSYNC | TSYNC_ESRCH | HARMLESS) != 0 {
        return Err(Errno::EINVAL.into());
    }
    // struct sock_fprog: a 16-bit length, padding, a pointer.
    let [len, from]: [u32; 2] = t.mem.read(at)?;
    let len = len as u16 as usize;
    if !(1..=bpf::MAX).contains(&len) {
        return Err(Errno::EINVAL.into());
    }
    may_filter()?;
    let mut program = vec![Insn::new_zeroed(); len];
    t.mem.read_bytes(from, program.as_mut_slice().as_mut_bytes())?;
    if !bpf::is_valid(&program) {
        return Err(Errno::EINVAL.into());
    }
    // Held until all have the new one, so that nobody else's comes between.
    let threads = t.shared.seccomp.lock();
    let before = match &*t.seccomp.lock() {
        State::Strict => return Err(Errno::EINVAL.into()),
        state => state.filter().cloned(),
    };
    if chain(before.as_ref()).map(|f| f.program.len() + OVERHEAD).sum::<usize>() + len > MAX_INSNS {
        return Err(Errno::ENOMEM.into());
    }
    let others: Vec<Arc<Seccomp>> = match flags & TSYNC {
        // Between vfork and execve the threads are the parent's.
        0 => Vec::new(),
        _ if t.in_vfork => Vec::new(),
        _ => threads.iter().filter_map(Weak::upgrade).filter(|o| !Arc::ptr_eq(o, &t.seccomp)).collect(),
    };
    if let Some(other) = others.iter().find(|o| !may_follow(&o.lock(), before.as_ref())) {
        // Its own filters would be lost.
        return match flags & TSYNC_ESRCH {
            0 => Ok(other.tid.load(Ordering::Acquire)),
            _ => Err(Errno::ESRCH.into()),
        };
    }
    let new = State::Filter(Arc::new(Filter { program, before }));
    for other in others {
        *other.lock() = new.clone();
    }
    *t.seccomp.lock() = new;
    Ok(0)
}

/// Is all that filters a thread with this state among the filters of the one that it is to follow?
fn may_follow(state: &State, leader: Option<&Arc<Filter>>) -> bool {
    match state {
        State::Off => true,
        State::Strict => false,
        State::Filter(f) => chain(leader).any(|l| Arc::ptr_eq(l, f)),
    }
}

pub(crate) fn seccomp(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [operation, flags, at, ..] = a;
    match operation {
        0 if flags == 0 && at == 0 => set_strict(t),
        1 => set_filter(t, flags, at),
        // Which actions there are.
        2 if flags == 0 => match t.mem.read::<u32>(at)? {
            KILL_PROCESS | KILL_THREAD | TRAP | ERRNO | TRACE | LOG | ALLOW => Ok(0),
            _ => Err(Errno::EOPNOTSUPP.into()),
        },
        _ => Err(Errno::EINVAL.into()),
    }
}

/// prctl(PR_SET_SECCOMP).
pub(crate) fn prctl_set(t: &mut Task, mode: u32, at: u32) -> SysResult {
    match mode {
        1 => set_strict(t),
        2 => set_filter(t, 0, at),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// prctl(PR_GET_SECCOMP).
pub(crate) fn prctl_get(t: &mut Task) -> SysResult {
    Ok(t.seccomp.mode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn filters_survive_being_handed_on() {
        let ret = |k: u32| Insn::read_from_bytes([[6, 0, 0, 0], k.to_le_bytes()].as_flattened()).unwrap();
        let older = Arc::new(Filter { program: vec![ret(1), ret(2)], before: None });
        let newer = Arc::new(Filter { program: vec![ret(3)], before: Some(older) });
        let s = Seccomp { state: Mutex::new(State::Filter(newer)), ..Seccomp::default() };
        let file = s.save().unwrap().unwrap();
        let again = Seccomp::restore(file.into_raw_fd()).unwrap();
        let programs: Vec<Vec<Insn>> = again.filters().iter().map(|f| f.program.clone()).collect();
        assert_eq!(programs, [vec![ret(3)], vec![ret(1), ret(2)]]);
        assert!(Seccomp::default().save().unwrap().is_none());
    }

    #[test]
    fn threads_follow_only_where_they_lose_nothing() {
        let filter = |before| Arc::new(Filter { program: Vec::new(), before });
        let first = filter(None);
        let (leader, other) = (filter(Some(first.clone())), filter(Some(first.clone())));
        let may = |s: State| may_follow(&s, Some(&leader));
        assert!(may(State::Off) && may(State::Filter(first)) && may(State::Filter(leader.clone())));
        assert!(!may(State::Filter(other)) && !may(State::Strict));
    }
}
