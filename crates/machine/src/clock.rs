//! Guest time: nanoseconds since the machine was switched on. All of the machine's clocks are derived from it: PIT, PM timer, RTC, TSC.
//!
//! By default it is the host's monotonic clock: a guest that gets little CPU time still sees time pass at the right rate, and everything
//! agrees with the TSC, which is the host's.
//!
//! It can also be the guest's own course: one instruction takes [`INSN`], and while the CPU is halted time passes as on the host. Then a guest that
//! is executed slowly isn't drowned in timer ticks, and the same instructions always find the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since power on.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// What an instruction takes, where instructions are the clock: a CPU of 250 MHz that executes one in each cycle. Shorter, and delay loops of drivers
/// would be long; longer, and a kernel would hardly get to anything between its timer's ticks.
pub const INSN: Nanos = 4;

/// The rate of the TSC where instructions are the clock.
pub const TSC_HZ: u64 = SECOND;

/// Time of day at power on where instructions are the clock, in seconds since 1970: the start of the year 2000. Two runs have to see the same.
const EPOCH: u64 = 946_684_800;

/// What makes guest time pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimeSource {
    /// The host's monotonic clock.
    #[default]
    Host,
    /// The guest's instructions.
    Instructions,
}

/// The machine's clock.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Host(Instant),
    Instructions(Arc<Course>),
}

/// How far the guest has come. One thread runs both the CPU and the devices; an atomic is what doesn't say so to the compiler.
#[derive(Debug, Default)]
struct Course {
    /// Instructions executed.
    insns: AtomicU64,
    /// Nanoseconds halted.
    halted: AtomicU64,
}

impl Clock {
    /// Starts at 0.
    #[must_use]
    pub fn start(source: TimeSource) -> Clock {
        Clock(match source {
            TimeSource::Host => Source::Host(Instant::now()),
            TimeSource::Instructions => Source::Instructions(Arc::default()),
        })
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Nanos {
        match &self.0 {
            Source::Host(start) => start.elapsed().as_nanos() as Nanos,
            Source::Instructions(c) => c.insns.load(Relaxed) * INSN + c.halted.load(Relaxed),
        }
    }

    /// The time of day at 0, in nanoseconds since 1970 (UTC).
    #[must_use]
    pub fn epoch(&self) -> i64 {
        match &self.0 {
            Source::Host(start) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
                now - start.elapsed().as_nanos() as i64
            }
            Source::Instructions(_) => (EPOCH * SECOND) as i64,
        }
    }

    /// Does it follow the guest's instructions?
    #[must_use]
    pub fn counts_instructions(&self) -> bool {
        matches!(self.0, Source::Instructions(_))
    }

    /// The guest has executed `insns` instructions in all.
    pub fn retired(&self, insns: u64) {
        if let Source::Instructions(c) = &self.0 {
            c.insns.store(insns, Relaxed);
        }
    }

    /// The guest has been halted for `time` more.
    pub fn halted(&self, time: Nanos) {
        if let Source::Instructions(c) = &self.0 {
            c.halted.fetch_add(time, Relaxed);
        }
    }

    /// The number of instructions that the guest has executed when it is `time`, if it isn't halted before. `None`: they don't tell.
    #[must_use]
    pub fn insns_at(&self, time: Nanos) -> Option<u64> {
        match &self.0 {
            Source::Host(_) => None,
            Source::Instructions(c) => Some(time.saturating_sub(c.halted.load(Relaxed)).div_ceil(INSN)),
        }
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

    #[test]
    fn instructions_and_halts_are_all_that_makes_time_pass() {
        let clock = Clock::start(TimeSource::Instructions);
        let same = clock.clone();
        clock.retired(1000);
        assert_eq!(same.now(), 1000 * INSN);
        clock.halted(7);
        clock.retired(1001);
        assert_eq!(same.now(), 1001 * INSN + 7);
        assert_eq!(clock.epoch(), 946_684_800_000_000_000);
        for time in [same.now() + 1, same.now() + INSN, same.now() + SECOND] {
            let insns = clock.insns_at(time).unwrap();
            clock.retired(insns - 1);
            assert!(clock.now() < time);
            clock.retired(insns);
            assert!(clock.now() >= time);
        }
    }

    #[test]
    fn the_hosts_clock_passes_by_itself() {
        let clock = Clock::start(TimeSource::Host);
        let before = clock.now();
        clock.retired(u64::MAX);
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!((1_000_000..SECOND * 60).contains(&(clock.now() - before)));
        assert_eq!(clock.insns_at(SECOND), None);
    }
}
