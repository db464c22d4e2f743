//! Guest time: nanoseconds since the machine was switched on, by the host's monotonic clock.
//!
//! The host's clock and not the number of instructions executed: a guest that gets little CPU time still sees time pass
//! at the right rate, and everything derived from it (PIT, PM timer, RTC) agrees with the TSC, which is the host's.

use std::time::Instant;

/// Nanoseconds since power on.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at 0.
    #[must_use]
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.0.elapsed().as_nanos() as Nanos
    }
}

/// How often a counter of `hz` has counted at `now`.
#[must_use]
pub fn ticks(now: Nanos, hz: u64) -> u64 {
    (u128::from(now) * u128::from(hz) / u128::from(SECOND)) as u64
}

/// When a counter of `hz` reaches `ticks`: the first nanosecond at which [`ticks`] says so.
#[must_use]
pub fn at(ticks: u64, hz: u64) -> Nanos {
    (u128::from(ticks) * u128::from(SECOND)).div_ceil(u128::from(hz)) as Nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_times_agree() {
        for hz in [32_768, 1_193_182, 3_579_545] {
            for n in [0, 1, 2, 3, 1000, hz, hz * 86_400 * 365] {
                assert_eq!(ticks(at(n, hz), hz), n);
                assert!(n == 0 || ticks(at(n, hz) - 1, hz) < n);
            }
        }
    }
}
