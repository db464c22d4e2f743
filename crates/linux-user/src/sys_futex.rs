//! Futexes: guest words are host words, so the host's kernel does the waiting and waking.

use crate::SysResult;
use crate::abi::{GuestTime, Timespec32, Timespec64};
use crate::host_unsafe::{self as host, Arg};
use crate::sys_poll::Deadline;
use crate::sys_signal::read_timeout;
use crate::task::Task;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use syscalls::{Errno, Sysno};

const CMD_MASK: u32 = !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u32;
const WAIT: u32 = libc::FUTEX_WAIT as u32;
const LOCK_PI: u32 = libc::FUTEX_LOCK_PI as u32;
const WAIT_BITSET: u32 = libc::FUTEX_WAIT_BITSET as u32;
const WAIT_REQUEUE_PI: u32 = libc::FUTEX_WAIT_REQUEUE_PI as u32;
const LOCK_PI2: u32 = 13;

fn futex_with<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [word, op, value, timeout, word2, value3] = a;
    let timed = matches!(op & CMD_MASK, WAIT | LOCK_PI | WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2);
    let mut time = if timed { read_timeout::<T>(t, timeout)? } else { None };
    // Only the first kind of wait counts from now; the others have a point in time.
    let deadline = if op & CMD_MASK == WAIT { Some(Deadline::after(t, &mut time)?) } else { None };
    for w in [word, word2] {
        if w & 3 == 0 {
            t.mem.prepare_write(w, 4);
        }
    }
    let fourth = match &time {
        Some(time) => Arg::input(time),
        // For the other operations it is a number.
        None => Arg::uint(timeout),
    };
    let args = [Arg::uint(word), Arg::uint(op), Arg::uint(value), fourth, Arg::uint(word2), Arg::uint(value3)];
    let r = t.host_blocking(Sysno::futex, &args);
    if let Some(d) = deadline {
        t.keep_left(&d);
    }
    r
}

pub(crate) fn futex(t: &mut Task, a: [u32; 6]) -> SysResult {
    futex_with::<Timespec32>(t, a)
}

pub(crate) fn futex64(t: &mut Task, a: [u32; 6]) -> SysResult {
    futex_with::<Timespec64>(t, a)
}

pub(crate) fn futex_waitv(t: &mut Task, a: [u32; 6]) -> SysResult {
    let timeout = read_timeout::<Timespec64>(t, a[3])?;
    let timeout = timeout.as_ref().map_or(Arg::NULL, Arg::input);
    t.host_blocking(Sysno::futex_waitv, &[Arg::uint(a[0]), Arg::uint(a[1]), Arg::uint(a[2]), timeout, Arg::int(a[4])])
}

/// The robust futex lists of a process's threads, by thread.
#[derive(Default)]
pub struct RobustLists(Mutex<HashMap<u32, u32>>);

impl RobustLists {
    /// Takes the lock. Held across fork; who holds it waits for nothing else.
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<u32, u32>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// In a new process, whose only thread has none yet.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }
}

/// Size of the guest's `struct robust_list_head`: a pointer, an offset, a pointer.
const HEAD: u32 = 12;

pub(crate) fn set_robust_list(t: &mut Task, a: [u32; 6]) -> SysResult {
    if a[1] != HEAD {
        return Err(Errno::EINVAL.into());
    }
    let me = host::call(Sysno::gettid, &[])? as u32;
    t.shared.robust.lock().insert(me, a[0]);
    Ok(0)
}

pub(crate) fn get_robust_list(t: &mut Task, a: [u32; 6]) -> SysResult {
    let me = host::call(Sysno::gettid, &[])? as u32;
    let tid = if a[0] == 0 { me } else { a[0] };
    let list = t.shared.robust.lock().get(&tid).copied();
    let list = match list {
        Some(list) => list,
        None if tid == me => 0,
        None if Path::new(&format!("/proc/self/task/{tid}")).exists() => 0,
        None if Path::new(&format!("/proc/{tid}")).exists() => return Err(Errno::EPERM.into()),
        None => return Err(Errno::ESRCH.into()),
    };
    t.mem.write(a[2], &HEAD)?;
    t.mem.write(a[1], &list)?;
    Ok(0)
}

const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// The kernel's own bound against circular lists.
const LIMIT: usize = 2048;

impl Task {
    /// What the kernel does when a thread ends: marks the locks it still holds, clears its tid, wakes who waits.
    pub fn release_futexes(&mut self) {
        let tid = host::call(Sysno::gettid, &[]).unwrap_or(0) as u32;
        let head = self.shared.robust.lock().remove(&tid);
        if let Some(head) = head {
            let _ = self.walk_robust_list(head, tid);
        }
        let at = std::mem::take(&mut self.clear_tid);
        if at != 0 && self.mem.write(at, &0u32).is_ok() {
            self.wake(at);
        }
    }

    /// The same for the locks of all threads of a process that ends as a whole. One that is killed from outside can't do it.
    pub fn release_all_futexes(&mut self) {
        self.release_futexes();
        if self.in_vfork {
            // The others are the parent's.
            return;
        }
        let all = std::mem::take(&mut *self.shared.robust.lock());
        for (tid, head) in all {
            let _ = self.walk_robust_list(head, tid);
        }
    }

    fn wake(&self, word: u32) {
        let _ = host::call(Sysno::futex, &[Arg::uint(word), Arg::int(libc::FUTEX_WAKE as u32), Arg::uint(1)]);
    }

    fn walk_robust_list(&mut self, head: u32, tid: u32) -> Result<(), Errno> {
        if head == 0 {
            return Ok(());
        }
        let [first, offset, pending]: [u32; 3] = self.mem.read(head)?;
        let mut entry = first;
        for _ in 0..LIMIT {
            // Bit 0 marks a priority-inheritance lock; the host's kernel has handled those.
            if entry & !1 == head {
                break;
            }
            let next: u32 = self.mem.read(entry & !1)?;
            if entry != pending {
                self.mark_dead((entry & !1).wrapping_add(offset), tid)?;
            }
            entry = next;
        }
        if pending != 0 {
            self.mark_dead((pending & !1).wrapping_add(offset), tid)?;
        }
        Ok(())
    }

    fn mark_dead(&self, word: u32, tid: u32) -> Result<(), Errno> {
        loop {
            let v: u32 = self.mem.read(word)?;
            if v & FUTEX_TID_MASK != tid {
                return Ok(());
            }
            if self.mem.compare_exchange(word, v, v & FUTEX_WAITERS | FUTEX_OWNER_DIED)? == v {
                if v & FUTEX_WAITERS != 0 {
                    self.wake(word);
                }
                return Ok(());
            }
        }
    }
}
