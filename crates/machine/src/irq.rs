//! Interrupt lines: what devices drive and the interrupt controllers sample.
//!
//! The sixteen inputs of the PIC pair. Several sources may share an input, which is high while any of them is. Nobody
//! is called when a line changes: the machine looks at the controllers after every device access and tick.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::Relaxed};

/// Number of inputs.
pub const INPUTS: usize = 16;

/// The inputs and what is known of them. All state is relaxed atomics: devices and controllers run under one lock.
#[derive(Default)]
pub struct Lines {
    /// For each input, the sources that hold it high.
    high: [AtomicU32; INPUTS],
    /// Inputs that are high.
    levels: AtomicU16,
    /// For each input, how many sources it has.
    sources: [AtomicU8; INPUTS],
    /// Inputs that rose and were not acknowledged since.
    risen: AtomicU16,
}

/// One source's connection to an input.
pub struct Line {
    lines: Arc<Lines>,
    irq: u8,
    mask: u32,
}

impl Lines {
    /// No sources, all low.
    #[must_use]
    pub fn new() -> Arc<Lines> {
        Arc::default()
    }

    /// Connects one more source to input `irq`. There may be 32.
    #[must_use]
    pub fn connect(self: &Arc<Lines>, irq: u8) -> Line {
        let n = self.sources[usize::from(irq)].fetch_add(1, Relaxed);
        Line { lines: self.clone(), irq, mask: 1 << (n % 32) }
    }

    /// A bit for each input that is high now.
    #[must_use]
    pub fn levels(&self) -> u16 {
        self.levels.load(Relaxed)
    }

    /// A bit for each input that has risen since it was acknowledged.
    #[must_use]
    pub fn risen(&self) -> u16 {
        self.risen.load(Relaxed)
    }

    /// Forgets that the inputs in `mask` have risen.
    pub fn acknowledge(&self, mask: u16) {
        self.risen.fetch_and(!mask, Relaxed);
    }
}

impl Line {
    /// Drives the line.
    pub fn set(&self, high: bool) {
        let input = &self.lines.high[usize::from(self.irq)];
        if !high {
            if input.fetch_and(!self.mask, Relaxed) & !self.mask == 0 {
                self.lines.levels.fetch_and(!(1 << self.irq), Relaxed);
            }
        } else if input.fetch_or(self.mask, Relaxed) == 0 {
            self.lines.levels.fetch_or(1 << self.irq, Relaxed);
            self.lines.risen.fetch_or(1 << self.irq, Relaxed);
        }
    }

    /// Drives the line high and low again: an edge.
    pub fn pulse(&self) {
        self.lines.risen.fetch_or(1 << self.irq, Relaxed);
    }

    /// True while an edge has not been acknowledged.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.lines.risen() & 1 << self.irq != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_inputs_are_high_while_any_source_is() {
        let lines = Lines::new();
        let (a, b) = (lines.connect(10), lines.connect(10));
        a.set(true);
        b.set(true);
        a.set(false);
        assert_eq!((lines.levels(), lines.risen()), (1 << 10, 1 << 10));
        b.set(false);
        assert_eq!(lines.levels(), 0);
        lines.acknowledge(1 << 10);
        assert!(!a.is_pending());
        b.pulse();
        assert!(a.is_pending());
    }
}
