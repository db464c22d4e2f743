//! fork: a copy of the process in which only the calling thread goes on.
//!
//! A lock that another thread holds at that moment stays locked in the child, where nobody is left to let go of it. So whoever forks holds them all:
//! [`holding_all_locks`] names every lock that threads of a process share and a child can take.

use crate::held::Held;
use crate::host_unsafe::{self as host, Forked};
use crate::kept::Kept;
use crate::sys_proc::{CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_PARENT_SETTID, CLONE_PIDFD, CLONE_SETTLS, New};
use crate::task::Task;
use crate::tracee;
use crate::{Stop, SysResult};

/// Does `fork` while this thread holds every lock, so that the child finds all of them free and what they protect whole.
///
/// The map comes first: who holds it may wait for the world to stop. All others are taken once it has, since running
/// code takes some of them; who holds one of those waits for nothing else. The C library sees to its own; the standard library's are avoided ([`host::spawn`]).
fn holding_all_locks<T>(t: &Task, fork: impl FnOnce() -> T) -> T {
    let _map = t.mm.lock();
    t.vcpu.process().around_fork(|| {
        let _actions = t.actions();
        let _ldt = t.vcpu.ldt().lock();
        let shared = &t.shared;
        // Only who holds the list of threads locks another thread's filters, this one's included.
        let _threads = shared.seccomp.lock();
        let _kept: Vec<_> = shared.kept().map(Kept::lock).collect();
        let _robust = shared.robust.lock();
        let _tracees = shared.tracees.lock();
        let _positions = shared.positions.lock();
        let _stderr = std::io::stderr().lock();
        fork()
    })
}

pub(crate) fn create(t: &mut Task, new: New) -> SysResult {
    let simple = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_SETTLS;
    let host_flags = new.flags & !simple & !CLONE_PIDFD;
    let mut pidfd = 0u32;
    let forked = holding_all_locks(t, || {
        if host_flags == 0 && new.flags & CLONE_PIDFD == 0 && new.exit_signal == libc::SIGCHLD as u32 {
            host::fork()
        } else {
            let want_fd = (new.flags & CLONE_PIDFD != 0).then_some(&mut pidfd);
            host::fork_with(host_flags | u64::from(new.exit_signal), want_fd)
        }
    })?;
    match forked {
        Forked::Child => {
            t.vcpu.after_fork();
            t.is_main = true;
            t.signals.held = Held::default();
            t.shared.only_thread(t);
            t.become_child(&new)?;
            let plain = new.exit_signal == libc::SIGCHLD as u32;
            t.trace_birth(if plain { tracee::O_FORK } else { tracee::O_CLONE });
            Err(Stop::KeepRegisters)
        }
        Forked::Parent(pid) => {
            if new.flags & CLONE_PARENT_SETTID != 0 {
                t.mem.write(new.parent_tid, &pid)?;
            }
            if new.flags & CLONE_PIDFD != 0 {
                t.mem.write(new.pidfd, &pidfd)?;
            }
            Ok(pid)
        }
    }
}
