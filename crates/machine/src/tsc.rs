//! The rate of the host's time stamp counter, which is the guest's: measured, because not every host CPU tells.
//!
//! The guest is told through CPUID. A kernel that measured it itself would be wrong whenever the host takes the CPU away
//! from it between reading one clock and the other.

use std::time::{Duration, Instant};

/// What is measured over: errors of reading both clocks, some 100 ns, are 5 parts in a million of it.
const PERIOD: Duration = Duration::from_millis(20);
/// Readings taken to find one that nothing interrupted.
const TRIES: usize = 8;

/// Both clocks at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    time: Instant,
    tsc: u64,
}

impl Reading {
    /// Now.
    pub(crate) fn take() -> Reading {
        let once = || {
            let (before, tsc, after) = (Instant::now(), xlat86_host::tsc(), Instant::now());
            (after - before, Reading { time: before + (after - before) / 2, tsc })
        };
        let mut best = once();
        for _ in 1..TRIES {
            let next = once();
            if next.0 < best.0 {
                best = next;
            }
        }
        best.1
    }

    /// Counts per second since this reading; waits if it was taken just now.
    pub(crate) fn hz(self) -> u64 {
        std::thread::sleep(PERIOD.saturating_sub(self.time.elapsed()));
        let now = Reading::take();
        let counts = u128::from(now.tsc.wrapping_sub(self.tsc));
        (counts * 1_000_000_000 / (now.time - self.time).as_nanos().max(1)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (a, b) = (Reading::take().hz(), Reading::take().hz());
        assert!(a > 100_000_000 && a.abs_diff(b) < a / 1000, "{a} and {b}");
    }
}
