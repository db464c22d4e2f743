//! Stopping the world: making sure that no thread is inside translated code.
//!
//! A thread says that it is *inside* from before it looks up code until it has mapped where it left to guest state; it looks at `stop`
//! after saying so. Whoever wants exclusive access sets `stop`, kicks those inside, and waits. Both sides use sequentially consistent order, so one of
//! them sees the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use xlat86_host::signals;

/// One thread that runs guest code.
#[derive(Debug)]
pub(crate) struct Member {
    /// Process and thread: a vfork child shares this memory with another process.
    thread: AtomicU64,
    inside: AtomicBool,
}

/// All threads that run one guest's code.
#[derive(Debug, Default)]
pub(crate) struct World {
    members: Mutex<Vec<Arc<Member>>>,
    stop: AtomicBool,
    exclusive: Mutex<()>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Member {
    fn current() -> Arc<Member> {
        let m = Member { thread: AtomicU64::new(0), inside: AtomicBool::new(false) };
        m.is_current();
        Arc::new(m)
    }

    /// The current thread is the one that runs guest code as this member, and isn't inside.
    pub(crate) fn is_current(&self) {
        let (pid, tid) = (signals::process_id() as u32, signals::thread_id() as u32);
        self.thread.store(u64::from(pid) << 32 | u64::from(tid), Ordering::SeqCst);
        self.inside.store(false, Ordering::SeqCst);
    }

    fn kick(&self) {
        let thread = self.thread.load(Ordering::SeqCst);
        signals::kick((thread >> 32) as i32, thread as i32);
    }
}

impl World {
    /// Adds the current thread.
    pub(crate) fn join(&self) -> Arc<Member> {
        let m = Member::current();
        lock(&self.members).push(m.clone());
        m
    }

    /// Removes `member`.
    pub(crate) fn part(&self, member: &Arc<Member>) {
        lock(&self.members).retain(|m| !Arc::ptr_eq(m, member));
    }

    /// After a fork, in the child: the current thread is the only one left.
    pub(crate) fn only(&self, member: &mut Arc<Member>) {
        *member = Member::current();
        *lock(&self.members) = vec![member.clone()];
    }

    /// Says that the current thread may use translated code; waits while somebody has exclusive access.
    ///
    /// Nothing to do for one that is inside already: it has looked at `stop` since, and whoever sets it kicks.
    pub(crate) fn go_inside(&self, me: &Member) {
        if me.inside.load(Ordering::Relaxed) {
            return;
        }
        loop {
            me.inside.store(true, Ordering::SeqCst);
            if !self.stop.load(Ordering::SeqCst) {
                return;
            }
            me.inside.store(false, Ordering::SeqCst);
            drop(lock(&self.exclusive));
        }
    }

    /// Has the current thread said so?
    pub(crate) fn is_inside(&self, me: &Member) -> bool {
        me.inside.load(Ordering::Relaxed)
    }

    /// Says that the current thread holds on to no translated code.
    pub(crate) fn come_out(&self, me: &Member) {
        me.inside.store(false, Ordering::Release);
    }

    /// Runs `f` while no thread is inside. The caller must have come out itself.
    pub(crate) fn exclusively<T>(&self, f: impl FnOnce() -> T) -> T {
        let _guard = lock(&self.exclusive);
        self.stop.store(true, Ordering::SeqCst);
        // Held throughout: whoever joins now goes inside only after this.
        let members = lock(&self.members);
        for m in members.iter() {
            let mut waited = 0u32;
            while m.inside.load(Ordering::SeqCst) {
                // Once per millisecond: a kick that struck just before it entered would otherwise be its last.
                if waited.is_multiple_of(20) {
                    m.kick();
                }
                waited += 1;
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        let t = f();
        self.stop.store(false, Ordering::SeqCst);
        t
    }
}
