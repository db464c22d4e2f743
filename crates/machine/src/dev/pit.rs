//! The Intel 8254 interval timer: ports 0x40 to 0x43, and the speaker and gate bits of port 0x61.
//!
//! Counters are functions of guest time; nothing counts down. Channel 0 drives IRQ 0. Ticks that the
//! guest was too slow to take are owed to it: they are delivered at twice the rate once it takes them again, so that a
//! kernel that counts ticks keeps the right time under load. At most a second's worth is owed, so that a machine that
//! was stopped doesn't see a storm.

use crate::clock::{self, Nanos};
use crate::dev::Device;
use crate::irq::Line;

/// The timer's ports.
pub const PORTS: std::ops::RangeInclusive<u16> = 0x40..=0x43;
/// Speaker control, which holds channel 2's gate and shows its output.
pub const SPEAKER: u16 = 0x61;
/// The input clock of all channels.
pub const HZ: u64 = 1_193_182;

const CONTROL: u16 = 0x43;
const GATE_2: u8 = 0x01;
const OUTPUT_2: u8 = 0x20;
/// Port 0x61 bit 4 toggles with memory refresh, every 15 us; delay loops of old software count it.
const REFRESH: u8 = 0x10;
const REFRESH_PERIOD: Nanos = 15_085;

/// The order in which the bytes of a count come.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Bytes {
    Low,
    High,
    #[default]
    Both,
}

#[derive(Default)]
struct Channel {
    mode: u8,
    bcd: bool,
    bytes: Bytes,
    /// The count in effect, 1 to 65536; 0 before the first was written.
    count: u32,
    /// When it came into effect, in ticks.
    start: u64,
    /// Level of the gate input.
    gate: bool,
    /// Not counting since then: its gate is low, or (modes 1 and 5) hasn't risen yet.
    stopped: Option<u64>,
    /// The low byte, when the high one is to follow.
    low: Option<u8>,
    /// The next read gives the high byte.
    read_high: bool,
    latch: Option<u16>,
    latched_status: Option<u8>,
    /// Rising edges of the output that were dealt with since `start`.
    edges: u64,
}

impl Channel {
    /// Modes that start when the gate rises, and again each time it does.
    fn triggered(&self) -> bool {
        matches!(self.mode, 1 | 5)
    }

    fn periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    fn control(&mut self, value: u8, now: u64) {
        match value >> 4 & 3 {
            0 => self.latch_count(now),
            bytes => {
                let bytes = [Bytes::Low, Bytes::High, Bytes::Both][usize::from(bytes) - 1];
                // Modes 6 and 7 are 2 and 3: the top bit doesn't count then.
                let mode = [0, 1, 2, 3, 4, 5, 2, 3][usize::from(value >> 1 & 7)];
                let gate = self.gate;
                *self = Channel { mode, bcd: value & 1 != 0, bytes, gate, ..Channel::default() };
            }
        }
    }

    fn latch_count(&mut self, now: u64) {
        if self.latch.is_none() {
            self.latch = Some(self.value(now));
        }
    }

    fn write(&mut self, byte: u8, now: u64) {
        let raw = match (self.bytes, self.low.take()) {
            (Bytes::Low, _) => u16::from(byte),
            (Bytes::High, _) => u16::from(byte) << 8,
            (Bytes::Both, Some(low)) => u16::from_le_bytes([low, byte]),
            (Bytes::Both, None) => {
                self.low = Some(byte);
                return;
            }
        };
        let n = if self.bcd { from_bcd(raw) } else { u32::from(raw) };
        let whole = if self.bcd { 10_000 } else { 0x1_0000 };
        self.count = if n == 0 { whole } else { n };
        self.start = now;
        self.edges = 0;
        // Modes 1 and 5 wait for their gate to rise.
        self.stopped = (!self.gate || self.triggered()).then_some(now);
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(s) = self.latched_status.take() {
            return s;
        }
        let [low, high] = self.latch.unwrap_or_else(|| self.value(now)).to_le_bytes();
        let high_now = self.bytes == Bytes::High || self.bytes == Bytes::Both && self.read_high;
        self.read_high = self.bytes == Bytes::Both && !self.read_high;
        if !self.read_high {
            self.latch = None;
        }
        if high_now { high } else { low }
    }

    /// Ticks counted since the count came into effect.
    fn elapsed(&self, now: u64) -> u64 {
        self.stopped.unwrap_or(now).saturating_sub(self.start)
    }

    /// The counting element.
    fn value(&self, now: u64) -> u16 {
        let (n, t) = (u64::from(self.count.max(1)), self.elapsed(now));
        let whole = if self.bcd { 10_000 } else { 0x1_0000 };
        let v = match self.mode {
            2 => n - t % n,
            3 => (n - t * 2 % n) & !1,
            _ => (n % whole + whole - t % whole) % whole,
        };
        if self.bcd { to_bcd(v as u32 % 10_000) } else { v as u16 }
    }

    fn output(&self, now: u64) -> bool {
        let (n, t) = (u64::from(self.count), self.elapsed(now));
        match self.mode {
            _ if n == 0 => self.mode != 0,
            0 | 1 => t >= n,
            2 => t % n != n - 1,
            3 => t % n < n.div_ceil(2),
            _ => t != n,
        }
    }

    fn status(&self, now: u64) -> u8 {
        let bytes = match self.bytes {
            Bytes::Low => 1,
            Bytes::High => 2,
            Bytes::Both => 3,
        };
        let (null, output) = (u8::from(self.count == 0), u8::from(self.output(now)));
        output << 7 | null << 6 | bytes << 4 | self.mode << 1 | u8::from(self.bcd)
    }

    /// Rising edges of the output since the count came into effect.
    fn edges_by(&self, now: u64) -> u64 {
        match u64::from(self.count) {
            0 => 0,
            n if self.periodic() => self.elapsed(now) / n,
            n => u64::from(self.elapsed(now) >= n),
        }
    }

    /// The tick of the first edge that has not been dealt with.
    fn next_edge(&self) -> Option<u64> {
        let more = self.count != 0 && self.stopped.is_none() && (self.periodic() || self.edges == 0);
        more.then(|| self.start + (self.edges + 1) * u64::from(self.count))
    }

    fn set_gate(&mut self, high: bool, now: u64) {
        let rose = high && !self.gate;
        self.gate = high;
        if rose {
            // Modes 0 and 4 go on counting; the others start again.
            let counts_on = matches!(self.mode, 0 | 4);
            self.start = if counts_on { self.start + (now - self.stopped.unwrap_or(now)) } else { now };
            self.edges = 0;
            self.stopped = None;
        } else if !high && !self.triggered() {
            self.stopped.get_or_insert(now);
        }
    }
}

fn from_bcd(v: u16) -> u32 {
    (0..4).map(|i| u32::from(v >> (4 * i) & 15) * 10u32.pow(i)).sum()
}

fn to_bcd(v: u32) -> u16 {
    (0..4).map(|i| ((v / 10u32.pow(i) % 10) as u16) << (4 * i)).sum()
}

/// The timer.
pub struct Pit {
    channels: [Channel; 3],
    irq: Line,
    /// Ticks of channel 0 that have not been delivered.
    owed: u64,
    /// Bits 0 to 3 of port 0x61.
    speaker: u8,
    now: Nanos,
    clock: clock::Clock,
}

impl Pit {
    /// A timer whose channel 0 drives `irq`.
    #[must_use]
    pub fn new(irq: Line, clock: clock::Clock) -> Pit {
        // Channel 2's gate is bit 0 of port 0x61, low after reset; the others' are wired high.
        let channels = [true, true, false].map(|gate| Channel { gate, ..Channel::default() });
        Pit { channels, irq, owed: 0, speaker: 0, now: 0, clock }
    }

    fn period(&self) -> Nanos {
        clock::at(u64::from(self.channels[0].count.max(1)), HZ)
    }

    fn read_at(&mut self, port: u16, now: Nanos) -> u8 {
        let t = clock::ticks(now, HZ);
        match port {
            SPEAKER => {
                let output = if self.channels[2].output(t) { OUTPUT_2 } else { 0 };
                let refresh = if (now / REFRESH_PERIOD) & 1 != 0 { REFRESH } else { 0 };
                self.speaker | output | refresh
            }
            CONTROL => 0xff,
            _ => self.channels[usize::from(port & 3)].read(t),
        }
    }

    fn write_at(&mut self, port: u16, value: u8, now: Nanos) {
        let t = clock::ticks(now, HZ);
        match port {
            SPEAKER => {
                self.speaker = value & 0x0f;
                self.channels[2].set_gate(value & GATE_2 != 0, t);
            }
            CONTROL if value >> 6 == 3 => {
                for (i, c) in self.channels.iter_mut().enumerate().filter(|(i, _)| value & 2 << i != 0) {
                    debug_assert!(i < 3);
                    if value & 0x20 == 0 {
                        c.latch_count(t);
                    }
                    if value & 0x10 == 0 && c.latched_status.is_none() {
                        c.latched_status = Some(c.status(t));
                    }
                }
            }
            CONTROL => {
                self.channels[usize::from(value >> 6)].control(value, t);
                if value >> 6 == 0 && value & 0x30 != 0 {
                    self.owed = 0;
                }
            }
            _ => {
                let c = &mut self.channels[usize::from(port & 3)];
                c.write(value, t);
                if port & 3 == 0 {
                    self.owed = 0;
                }
            }
        }
    }
}

impl Device for Pit {
    fn read(&mut self, port: u16, _size: u8) -> u32 {
        let now = self.clock.now();
        self.read_at(port, now).into()
    }

    fn write(&mut self, port: u16, _size: u8, value: u32) {
        let now = self.clock.now();
        self.write_at(port, value as u8, now);
    }

    fn tick(&mut self, now: Nanos) {
        self.now = now;
        let c = &mut self.channels[0];
        let edges = c.edges_by(clock::ticks(now, HZ));
        self.owed += edges - c.edges;
        c.edges = edges;
        self.owed = self.owed.min(clock::SECOND / self.period().max(1));
        if self.owed > 0 && !self.irq.is_pending() {
            self.irq.pulse();
            self.owed -= 1;
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        let next = self.channels[0].next_edge().map(|t| clock::at(t, HZ))?;
        Some(if self.owed > 0 { next.min(self.now + self.period() / 2) } else { next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Lines;
    use std::sync::Arc;

    fn pit() -> (Arc<Lines>, Pit) {
        let lines = Lines::new();
        let irq = lines.connect(0);
        (lines, Pit::new(irq, clock::Clock::start(clock::TimeSource::Host)))
    }

    fn count(pit: &mut Pit, channel: u16, mode: u8, n: u16, now: Nanos) {
        pit.write_at(CONTROL, (channel as u8) << 6 | 0x30 | mode << 1, now);
        n.to_le_bytes().iter().for_each(|&b| pit.write_at(0x40 + channel, b, now));
    }

    fn value(pit: &mut Pit, channel: u16, now: Nanos) -> u16 {
        pit.write_at(CONTROL, (channel as u8) << 6, now);
        u16::from_le_bytes([pit.read_at(0x40 + channel, now), pit.read_at(0x40 + channel, now)])
    }

    #[test]
    fn a_rate_generator_counts_and_ticks() {
        let (lines, mut pit) = pit();
        count(&mut pit, 0, 2, 1193, 0);
        assert_eq!(value(&mut pit, 0, clock::at(3, HZ)), 1190);
        let due = pit.deadline().unwrap();
        assert_eq!(due, clock::at(1193, HZ));
        pit.tick(due - 1);
        assert_eq!(lines.risen(), 0);
        pit.tick(due);
        assert_eq!(lines.risen(), 1);
        assert_eq!(pit.deadline(), Some(clock::at(2 * 1193, HZ)));
    }

    #[test]
    fn missed_ticks_are_made_up_for() {
        let (lines, mut pit) = pit();
        count(&mut pit, 0, 2, 11932, 0);
        let mut now = clock::at(5 * 11932, HZ);
        let mut taken = 0;
        pit.tick(now);
        while pit.owed > 0 {
            lines.acknowledge(1);
            taken += 1;
            now = pit.deadline().unwrap();
            pit.tick(now);
        }
        lines.acknowledge(1);
        taken += 1;
        assert_eq!(taken, clock::ticks(now, HZ) / 11932);
        pit.tick(now + 3600 * clock::SECOND);
        assert!(pit.owed <= 100, "an hour's absence is not made up for");
    }

    #[test]
    fn a_one_shot_fires_once() {
        let (lines, mut pit) = pit();
        count(&mut pit, 0, 4, 100, 0);
        pit.tick(clock::at(100, HZ));
        assert_eq!((lines.risen(), pit.deadline()), (1, None));
        lines.acknowledge(1);
        pit.tick(clock::at(500_000, HZ));
        assert_eq!(lines.risen(), 0);
    }

    #[test]
    fn channel_2_runs_while_its_gate_is_high() {
        let (_, mut pit) = pit();
        count(&mut pit, 2, 0, 1000, 0);
        let at = |n| clock::at(n, HZ);
        assert_eq!(value(&mut pit, 2, at(50)), 1000);
        pit.write_at(SPEAKER, GATE_2, at(100));
        assert_eq!(value(&mut pit, 2, at(110)), 990);
        assert_eq!(pit.read_at(SPEAKER, at(1099)) & OUTPUT_2, 0);
        assert_eq!(pit.read_at(SPEAKER, at(1100)) & OUTPUT_2, OUTPUT_2);
        assert_eq!(value(&mut pit, 2, at(1101)), 0xffff, "mode 0 wraps and goes on");
    }

    #[test]
    fn a_retriggerable_one_shot_starts_with_each_rise_of_its_gate() {
        let (_, mut pit) = pit();
        count(&mut pit, 2, 1, 1000, 0);
        let at = |n| clock::at(n, HZ);
        assert_eq!(value(&mut pit, 2, at(50)), 1000, "waits for the gate");
        for rise in [100, 600] {
            pit.write_at(SPEAKER, GATE_2, at(rise));
            pit.write_at(SPEAKER, 0, at(rise + 10));
            assert_eq!(value(&mut pit, 2, at(rise + 100)), 900, "a falling gate doesn't stop it");
        }
        assert_eq!(pit.read_at(SPEAKER, at(1599)) & OUTPUT_2, 0);
        assert_eq!(pit.read_at(SPEAKER, at(1600)) & OUTPUT_2, OUTPUT_2);
    }

    #[test]
    fn square_waves_bcd_and_read_back() {
        let (_, mut pit) = pit();
        count(&mut pit, 0, 3, 100, 0);
        let at = |n| clock::at(n, HZ);
        assert_eq!(value(&mut pit, 0, at(10)), 80, "counts by two");
        pit.write_at(CONTROL, 0xe2, at(60));
        assert_eq!(pit.read_at(0x40, at(60)), 0x36, "low half, both bytes, mode 3");
        pit.write_at(CONTROL, 0x35, 0);
        [0x00, 0x10].iter().for_each(|&b| pit.write_at(0x40, b, 0));
        assert_eq!(value(&mut pit, 0, at(1)), 0x0999);
    }
}
