//! How other threads get the attention of the thread that runs the CPU: in guest code, in a host sleep, or between.

use crate::clock::Nanos;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use xlat86_vcpu::Kicker;

#[derive(Default)]
struct Shared {
    rung: Mutex<bool>,
    changed: Condvar,
    kicker: Mutex<Option<Kicker>>,
}

/// Rings are not counted: whoever answers looks at everything.
#[derive(Clone, Default)]
pub struct Doorbell(Arc<Shared>);

impl Doorbell {
    /// From now on a ring stops this CPU too, and no other.
    pub fn connect(&self, kicker: Kicker) {
        *self.0.kicker.lock().unwrap_or_else(PoisonError::into_inner) = Some(kicker);
    }

    fn rung(&self) -> MutexGuard<'_, bool> {
        self.0.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for attention.
    pub fn ring(&self) {
        *self.rung() = true;
        self.0.changed.notify_one();
        self.stop_cpu();
    }

    /// The CPU is to leave guest code; for its own thread, which needn't be woken.
    pub fn stop_cpu(&self) {
        if let Some(k) = &*self.0.kicker.lock().unwrap_or_else(PoisonError::into_inner) {
            k.kick();
        }
    }

    /// Answers: rings before this are dealt with by what the caller does next.
    pub fn answer(&self) {
        *self.rung() = false;
    }

    /// Sleeps until a ring, or for `at_most`. True after a ring.
    pub fn sleep(&self, at_most: Option<Nanos>) -> bool {
        let asleep = |rung: &mut bool| !*rung;
        let changed = &self.0.changed;
        let guard = match at_most {
            None => changed.wait_while(self.rung(), asleep).unwrap_or_else(PoisonError::into_inner),
            Some(n) => {
                let waited = changed.wait_timeout_while(self.rung(), Duration::from_nanos(n), asleep);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        *guard
    }
}

/// Rings a doorbell at a time that can be changed: how time passes for a CPU that is busy.
pub(crate) struct Alarm(Arc<(Mutex<State>, Condvar)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Off,
    At(Nanos),
    Gone,
}

impl Alarm {
    /// An alarm by `clock` for `bell`, not set.
    pub(crate) fn new(clock: crate::clock::Clock, bell: Doorbell) -> std::io::Result<Alarm> {
        let shared = Arc::new((Mutex::new(State::Off), Condvar::new()));
        let theirs = shared.clone();
        let wait = move || {
            let (state, changed) = &*theirs;
            let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                now = match *now {
                    State::Gone => return,
                    State::Off => changed.wait(now).unwrap_or_else(PoisonError::into_inner),
                    State::At(t) => match t.saturating_sub(clock.now()) {
                        0 => {
                            *now = State::Off;
                            drop(now);
                            bell.stop_cpu();
                            state.lock().unwrap_or_else(PoisonError::into_inner)
                        }
                        left => {
                            let left = Duration::from_nanos(left);
                            changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0
                        }
                    },
                };
            }
        };
        std::thread::Builder::new().name("alarm".into()).spawn(wait)?;
        Ok(Alarm(shared))
    }

    fn put(&self, new: State) {
        let (state, changed) = &*self.0;
        let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
        // A later time needn't wake the thread: it finds out when the earlier one comes.
        let later = matches!((*now, new), (State::At(old), State::At(new)) if new >= old);
        if *now != new {
            *now = new;
            if !later {
                changed.notify_one();
            }
        }
    }

    /// Rings at `time` and not at the time set before; `None`: not at all.
    pub(crate) fn set(&self, time: Option<Nanos>) {
        self.put(time.map_or(State::Off, State::At));
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.put(State::Gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn a_ring_ends_a_sleep_before_or_during_it() {
        let bell = Doorbell::default();
        bell.ring();
        assert!(bell.sleep(None));
        bell.answer();
        let other = bell.clone();
        let ringer = std::thread::spawn(move || other.ring());
        assert!(bell.sleep(Some(60 * SECOND)));
        ringer.join().unwrap();
        bell.answer();
        assert!(!bell.sleep(Some(1)));
    }
}
