//! The MC146818 real-time clock with its CMOS memory: index at port 0x70, data at 0x71.
//!
//! Time of day is the host's (a fixed one where the guest's instructions are the clock), plus whatever the guest has set it ahead or back. Registers are computed when they are read.

use crate::clock::{self, Clock, Nanos, SECOND};
use crate::dev::Device;
use crate::irq::Line;

/// Index and data.
pub const PORTS: std::ops::RangeInclusive<u16> = 0x70..=0x71;

/// Time registers: seconds, minutes, hours, day of the week, day, month, year; alarms lie between.
const TIME: [u8; 7] = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09];
/// Alarm registers: seconds, minutes, hours.
const ALARM: [u8; 3] = [0x01, 0x03, 0x05];
const CENTURY: u8 = 0x32;
const REG_A: u8 = 0x0a;
const REG_B: u8 = 0x0b;
const REG_C: u8 = 0x0c;
const REG_D: u8 = 0x0d;
const A_UIP: u8 = 0x80;
const B_SET: u8 = 0x80;
const B_PIE: u8 = 0x40;
const B_AIE: u8 = 0x20;
const B_UIE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24H: u8 = 0x02;
const C_IRQF: u8 = 0x80;
const D_VALID: u8 = 0x80;
/// An alarm register with both top bits set matches anything.
const ANY: u8 = 0xc0;
const PM: u8 = 0x80;
/// The update-in-progress flag rises this long before the time registers change.
const UPDATE: Nanos = 244_000;
const BASE_HZ: u64 = 32_768;
const DAY: i64 = 86_400;

/// Seconds since 1970 and the calendar, and back. (Proleptic Gregorian calendar; eras of 400 years begin in March.)
mod calendar {
    pub(super) fn days(year: i64, month: i64, day: i64) -> i64 {
        let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let (era, of_era) = (y.div_euclid(400), y.rem_euclid(400));
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * m + 2) / 5 + day - 1 - 719_468
    }

    /// Year, month, day.
    pub(super) fn date(days: i64) -> (i64, i64, i64) {
        let z = days + 719_468;
        let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let m = (5 * doy + 2) / 153;
        let (month, year) = if m < 10 { (m + 3, 0) } else { (m - 9, 1) };
        (era * 400 + yoe + year, month, doy - (153 * m + 2) / 5 + 1)
    }
}

/// The clock.
pub struct Rtc {
    index: u8,
    /// Registers as last written, and the rest of the memory.
    cmos: [u8; 128],
    /// Guest time of day at power on, in nanoseconds since 1970. (The century register goes beyond what 64 bits hold.)
    epoch: i128,
    /// While the guest sets the time, the clock stands and its registers are plain memory: any order of writes is right.
    stopped: Option<[u8; 8]>,
    /// Since when periodic and once-a-second events have been dealt with.
    done: Nanos,
    irq: Line,
    clock: Clock,
}

impl Rtc {
    /// A clock that shows `clock`'s time of day (UTC), and how much RAM there is.
    #[must_use]
    pub fn new(irq: Line, clock: Clock, ram_bytes: u64) -> Rtc {
        let mut cmos = [0; 128];
        cmos[usize::from(REG_A)] = 0x26;
        cmos[usize::from(REG_B)] = B_24H;
        let mut word = |at: usize, v: u64| cmos[at..at + 2].copy_from_slice(&(v.min(0xffff) as u16).to_le_bytes());
        // What firmware leaves: base memory in KiB, memory above 1 MiB in KiB, above 16 MiB in 64 KiB.
        word(0x15, 640);
        word(0x17, (ram_bytes.saturating_sub(1 << 20)) >> 10);
        word(0x30, (ram_bytes.saturating_sub(1 << 20)) >> 10);
        word(0x34, (ram_bytes.saturating_sub(16 << 20)) >> 16);
        let epoch = i128::from(clock.epoch());
        Rtc { index: 0, cmos, epoch, stopped: None, done: 0, irq, clock }
    }

    fn reg(&self, r: u8) -> u8 {
        self.cmos[usize::from(r)]
    }

    fn seconds(&self, now: Nanos) -> i64 {
        (self.epoch + i128::from(now)).div_euclid(SECOND.into()) as i64
    }

    /// Nanoseconds of the current second.
    fn fraction(&self, now: Nanos) -> Nanos {
        (self.epoch + i128::from(now)).rem_euclid(SECOND.into()) as Nanos
    }

    fn encode(&self, v: i64) -> u8 {
        let v = v as u8;
        if self.reg(REG_B) & B_BINARY != 0 { v } else { ((v / 10) << 4) | (v % 10) }
    }

    fn decode(&self, v: u8) -> i64 {
        i64::from(if self.reg(REG_B) & B_BINARY != 0 { v } else { (v >> 4) * 10 + (v & 15) })
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.reg(REG_B) & B_24H != 0 {
            return self.encode(hour);
        }
        self.encode((hour + 11) % 12 + 1) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, v: u8) -> i64 {
        if self.reg(REG_B) & B_24H != 0 {
            return self.decode(v);
        }
        self.decode(v & !PM) % 12 + if v & PM != 0 { 12 } else { 0 }
    }

    /// The seven time registers and the century at second `t`.
    fn registers(&self, t: i64) -> [u8; 8] {
        let (days, of_day) = (t.div_euclid(DAY), t.rem_euclid(DAY));
        let (year, month, day) = calendar::date(days);
        // 1970 began on a Thursday; Sunday is 1.
        let weekday = (days + 4).rem_euclid(7) + 1;
        let two = |v| self.encode(v);
        [
            two(of_day % 60),
            two(of_day / 60 % 60),
            self.encode_hour(of_day / 3600),
            two(weekday),
            two(day),
            two(month),
            two(year.rem_euclid(100)),
            two(year.div_euclid(100)),
        ]
    }

    fn slot(register: u8) -> Option<usize> {
        TIME.iter().position(|&r| r == register).or((register == CENTURY).then_some(7))
    }

    /// The second that the eight registers say.
    fn meant(&self, registers: [u8; 8]) -> i64 {
        let [s, m, h, _, day, month, year, century] = registers;
        let d = |v| self.decode(v);
        let days = calendar::days(d(century) * 100 + d(year), d(month).max(1), d(day).max(1));
        days * DAY + self.decode_hour(h) * 3600 + d(m) * 60 + d(s)
    }

    fn read_at(&mut self, now: Nanos) -> u8 {
        if let Some(i) = Self::slot(self.index) {
            return self.stopped.unwrap_or_else(|| self.registers(self.seconds(now)))[i];
        }
        match self.index {
            REG_A => {
                let updating = self.reg(REG_B) & B_SET == 0 && self.fraction(now) >= SECOND - UPDATE;
                self.reg(REG_A) | if updating { A_UIP } else { 0 }
            }
            REG_C => {
                self.tick(now);
                self.irq.set(false);
                std::mem::take(&mut self.cmos[usize::from(REG_C)])
            }
            REG_D => D_VALID,
            r => self.reg(r),
        }
    }

    fn write_at(&mut self, value: u8, now: Nanos) {
        if let Some(i) = Self::slot(self.index) {
            return self.set_time(i, value, now);
        }
        match self.index {
            REG_A => self.cmos[usize::from(REG_A)] = value & !A_UIP,
            REG_B => self.write_b(value, now),
            REG_C | REG_D => {}
            r => self.cmos[usize::from(r)] = value,
        }
    }

    fn write_b(&mut self, value: u8, now: Nanos) {
        self.tick(now);
        let running = self.registers(self.seconds(now));
        self.cmos[usize::from(REG_B)] = value;
        if value & B_SET != 0 {
            self.stopped.get_or_insert(running);
        } else if let Some(all) = self.stopped.take() {
            self.epoch = i128::from(self.meant(all)) * i128::from(SECOND) - i128::from(now);
        }
        self.done = now;
    }

    fn set_time(&mut self, slot: usize, value: u8, now: Nanos) {
        if let Some(all) = &mut self.stopped {
            all[slot] = value;
            return;
        }
        let t = self.seconds(now);
        let mut all = self.registers(t);
        all[slot] = value;
        self.epoch += i128::from(self.meant(all) - t) * i128::from(SECOND);
    }

    /// Rate of the periodic interrupt in Hz. (MC146818 data sheet, table 5, 32.768 kHz column.)
    fn periodic_hz(&self) -> Option<u64> {
        match self.reg(REG_A) & 15 {
            0 => None,
            n @ 1..=2 => Some(BASE_HZ >> (n + 6)),
            n => Some(BASE_HZ >> (n - 1)),
        }
    }

    fn alarm_matches(&self, t: i64) -> bool {
        let now = self.registers(t);
        ALARM.iter().zip(now).all(|(&r, v)| self.reg(r) & ANY == ANY || self.reg(r) == v)
    }

    /// Seconds that began since `self.done`, up to `now`; at most a day of them, after which alarms repeat.
    fn seconds_since(&self, now: Nanos) -> std::ops::RangeInclusive<i64> {
        let (from, to) = (self.seconds(self.done) + 1, self.seconds(now));
        from.max(to - DAY)..=to
    }
}

impl Device for Rtc {
    fn read(&mut self, port: u16, _size: u8) -> u32 {
        let now = self.clock.now();
        if port & 1 == 0 { 0xff } else { self.read_at(now).into() }
    }

    fn write(&mut self, port: u16, _size: u8, value: u32) {
        let now = self.clock.now();
        if port & 1 == 0 {
            // Bit 7 masks NMIs, which this machine doesn't raise.
            self.index = value as u8 & 0x7f;
        } else {
            self.write_at(value as u8, now);
        }
    }

    fn tick(&mut self, now: Nanos) {
        let mut flags = 0;
        if self.stopped.is_none() && !self.seconds_since(now).is_empty() {
            flags |= B_UIE;
            if self.reg(REG_B) & B_AIE != 0 && self.seconds_since(now).any(|t| self.alarm_matches(t)) {
                flags |= B_AIE;
            }
        }
        if let Some(hz) = self.periodic_hz()
            && clock::ticks(now, hz) != clock::ticks(self.done, hz)
        {
            flags |= B_PIE;
        }
        self.done = now;
        let c = &mut self.cmos[usize::from(REG_C)];
        *c |= flags;
        if *c & self.cmos[usize::from(REG_B)] & (B_PIE | B_AIE | B_UIE) != 0 {
            self.cmos[usize::from(REG_C)] |= C_IRQF;
            self.irq.set(true);
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        let b = self.reg(REG_B);
        let second = (b & (B_UIE | B_AIE) != 0 && self.stopped.is_none())
            .then(|| self.done + (SECOND - self.fraction(self.done)));
        let periodic = self.periodic_hz().filter(|_| b & B_PIE != 0);
        let periodic = periodic.map(|hz| clock::at(clock::ticks(self.done, hz) + 1, hz));
        [second, periodic].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Lines;
    use std::sync::Arc;

    fn rtc() -> (Arc<Lines>, Rtc) {
        let lines = Lines::new();
        let irq = lines.connect(8);
        let mut rtc = Rtc::new(irq, Clock::start(clock::TimeSource::Host), 64 << 20);
        // 2000-02-29 23:59:58 UTC at power on.
        rtc.epoch = 951_868_798 * i128::from(SECOND);
        (lines, rtc)
    }

    fn get(rtc: &mut Rtc, r: u8, now: Nanos) -> u8 {
        rtc.index = r;
        rtc.read_at(now)
    }

    fn put(rtc: &mut Rtc, r: u8, v: u8, now: Nanos) {
        rtc.index = r;
        rtc.write_at(v, now);
    }

    #[test]
    fn the_calendar_knows_leap_years() {
        for (y, m, d, days) in [(1970, 1, 1, 0), (2000, 2, 29, 11_016), (2100, 3, 1, 47_541), (2026, 11, 22, 20_779)] {
            assert_eq!(calendar::days(y, m, d), days);
            assert_eq!(calendar::date(days), (y, m, d));
        }
    }

    #[test]
    fn time_reads_in_either_form() {
        let (_, mut rtc) = rtc();
        let all = |rtc: &mut Rtc, now| [0u8, 2, 4, 6, 7, 8, 9, 0x32].map(|r| get(rtc, r, now));
        assert_eq!(all(&mut rtc, 0), [0x58, 0x59, 0x23, 3, 0x29, 0x02, 0x00, 0x20]);
        assert_eq!(all(&mut rtc, 2 * SECOND), [0, 0, 0, 4, 1, 3, 0, 0x20]);
        put(&mut rtc, REG_B, B_BINARY, 0);
        assert_eq!(all(&mut rtc, 0)[..3], [58, 59, 11 | PM]);
    }

    #[test]
    fn time_can_be_set() {
        let (_, mut rtc) = rtc();
        put(&mut rtc, REG_B, B_SET | B_24H, 0);
        for (r, v) in [(0x00, 0x30), (0x02, 0x15), (0x04, 0x07), (0x07, 0x04), (0x08, 0x07), (0x09, 0x26)] {
            put(&mut rtc, r, v, SECOND);
        }
        put(&mut rtc, REG_B, B_24H, 5 * SECOND);
        assert_eq!([0u8, 2, 4, 7, 8, 9].map(|r| get(&mut rtc, r, 7 * SECOND)), [0x32, 0x15, 0x07, 0x04, 0x07, 0x26]);
    }

    /// As Linux writes it: year, month, day. On the way the registers name a 30th of February.
    #[test]
    fn time_is_set_in_any_order() {
        let (_, mut rtc) = rtc();
        rtc.epoch += 60 * i128::from(SECOND) * 60 * 24 * 30;
        put(&mut rtc, REG_B, B_SET | B_24H, 0);
        for (r, v) in [(0x09, 0x26), (0x08, 0x02), (0x07, 0x10), (0x04, 0x07), (0x02, 0x15), (0x00, 0x30)] {
            put(&mut rtc, r, v, 0);
        }
        assert_eq!(get(&mut rtc, 0x08, 0), 0x02, "what was written reads back");
        put(&mut rtc, REG_B, B_24H, SECOND);
        assert_eq!([0x09u8, 8, 7, 4, 2, 0].map(|r| get(&mut rtc, r, SECOND)), [0x26, 0x02, 0x10, 0x07, 0x15, 0x30]);
    }

    #[test]
    fn no_date_is_too_far() {
        let (_, mut rtc) = rtc();
        for b in [B_24H, B_24H | B_SET, B_BINARY, B_BINARY | B_SET] {
            put(&mut rtc, REG_B, b, 0);
            for r in TIME.into_iter().chain([CENTURY]) {
                put(&mut rtc, r, 0xff, 0);
            }
            put(&mut rtc, REG_B, b & !B_SET, SECOND);
            rtc.tick(2 * SECOND);
            assert!(rtc.seconds(2 * SECOND) > 0);
        }
    }

    #[test]
    fn interrupts_wait_to_be_read() {
        let (lines, mut rtc) = rtc();
        put(&mut rtc, REG_B, B_24H | B_UIE, 0);
        assert_eq!(rtc.deadline(), Some(SECOND));
        rtc.tick(SECOND);
        assert_eq!(lines.levels(), 1 << 8);
        assert_eq!(get(&mut rtc, REG_C, SECOND + 1) & 0x90, C_IRQF | B_UIE);
        assert_eq!((lines.levels(), get(&mut rtc, REG_C, SECOND + 2) & C_IRQF), (0, 0));
        put(&mut rtc, REG_B, B_24H | B_PIE, SECOND + 3);
        assert_eq!(rtc.deadline().unwrap(), clock::at(1025, 1024));
    }

    #[test]
    fn alarms_match_the_time_of_day() {
        let (lines, mut rtc) = rtc();
        for (r, v) in [(ALARM[0], 0x01), (ALARM[1], 0), (ALARM[2], ANY)] {
            put(&mut rtc, r, v, 0);
        }
        put(&mut rtc, REG_B, B_24H | B_AIE, 0);
        rtc.tick(2 * SECOND);
        assert_eq!(lines.levels(), 0);
        rtc.tick(3 * SECOND);
        assert_eq!(lines.levels(), 1 << 8);
    }
}
