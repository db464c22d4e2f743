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

struct State {
    set: Set,
    /// When the thread looks at this by itself.
    looks: Nanos,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    Off,
    At(Nanos),
    Gone,
}

impl Alarm {
    /// An alarm by `clock` for `bell`, not set.
    pub(crate) fn new(clock: crate::clock::Clock, bell: Doorbell) -> std::io::Result<Alarm> {
        let shared = Arc::new((Mutex::new(State { set: Set::Off, looks: Nanos::MAX }), Condvar::new()));
        let theirs = shared.clone();
        let wait = move || {
            let (state, changed) = &*theirs;
            let mut last = 0;
            let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let time = clock.now();
                let mut looks = Nanos::MAX;
                if let Set::At(due) = now.set
                    && due <= time
                {
                    // It will be set again in a moment, as a rule to a period later. To be woken for that would cost more than all else about a tick.
                    looks = due.saturating_add(due - last.min(due));
                    last = due;
                    now.set = Set::Off;
                    now.looks = looks;
                    drop(now);
                    bell.stop_cpu();
                    now = state.lock().unwrap_or_else(PoisonError::into_inner);
                }
                now.looks = match now.set {
                    Set::Gone => return,
                    Set::Off => looks,
                    Set::At(t) => looks.min(t),
                };
                now = match now.looks {
                    Nanos::MAX => changed.wait(now).unwrap_or_else(PoisonError::into_inner),
                    t => {
                        let left = Duration::from_nanos(t.saturating_sub(clock.now()));
                        changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0
                    }
                };
            }
        };
        std::thread::Builder::new().name("alarm".into()).spawn(wait)?;
        Ok(Alarm(shared))
    }

    fn put(&self, set: Set) {
        let (state, changed) = &*self.0;
        let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
        now.set = set;
        // The thread finds out by itself what begins later than it looks.
        let in_time = match set {
            Set::Off => true,
            Set::At(t) => t >= now.looks,
            Set::Gone => false,
        };
        drop(now);
        if !in_time {
            changed.notify_one();
        }
    }

    /// Rings at `time` and not at the time set before; `None`: not at all.
    pub(crate) fn set(&self, time: Option<Nanos>) {
        self.put(time.map_or(Set::Off, Set::At));
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.put(Set::Gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SECOND, TimeSource};

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

    /// How late an alarm by the host's clock may be on a busy machine. Far below what is waited for in vain.
    const LATE: Nanos = 10 * SECOND;

    /// Waits until `alarm` has gone off; its time is over then.
    fn goes_off(alarm: &Alarm, clock: &Clock) -> bool {
        let end = clock.now() + LATE;
        while clock.now() < end {
            if alarm.0.0.lock().unwrap().set == Set::Off {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    #[test]
    fn an_alarm_goes_off_whether_set_to_the_next_period_or_before_it() {
        let clock = Clock::start(TimeSource::Host);
        let alarm = Alarm::new(clock.clone(), Doorbell::default()).unwrap();
        const MS: Nanos = 1_000_000;
        // The periods: as before, shorter, longer, over already; then far off, and sooner after all.
        for period in [MS, MS, MS, MS / 10, 5 * MS, 0, 0, MS] {
            let due = clock.now() + period;
            alarm.set(Some(due));
            assert!(goes_off(&alarm, &clock) && clock.now() >= due, "{period}");
        }
        alarm.set(Some(clock.now() + 100 * LATE));
        alarm.set(Some(clock.now() + MS));
        assert!(goes_off(&alarm, &clock));
    }
}
