//! The pair of Intel 8259A interrupt controllers of an AT, with the edge/level registers of PCI machines.
//!
//! Ports 0x20, 0x21 (master), 0xa0, 0xa1 (slave, on the master's input 2), 0x4d0, 0x4d1 (edge/level). Inputs are sampled
//! from [`Lines`], where an edge stays latched until it is acknowledged.

use crate::dev::Device;
use crate::irq::Lines;
use std::sync::Arc;

/// Command and data ports, and the edge/level registers.
pub const PORTS: [std::ops::RangeInclusive<u16>; 3] = [0x20..=0x21, 0xa0..=0xa1, 0x4d0..=0x4d1];

const ICW1: u8 = 0x10;
const ICW1_IC4: u8 = 0x01;
const ICW1_SNGL: u8 = 0x02;
const ICW1_LTIM: u8 = 0x08;
const ICW4_AEOI: u8 = 0x02;
const ICW4_SFNM: u8 = 0x10;
const OCW3: u8 = 0x08;
const OCW3_RR: u8 = 0x02;
const OCW3_RIS: u8 = 0x01;
const OCW3_POLL: u8 = 0x04;
const OCW3_ESMM: u8 = 0x40;
const OCW3_SMM: u8 = 0x20;
/// The master's input that the slave drives.
const CASCADE: u8 = 2;
/// Inputs that are edges on every machine: timer, keyboard, cascade; RTC, coprocessor.
const ALWAYS_EDGE: u16 = 0x2107;

/// One 8259A.
#[derive(Default)]
struct Chip {
    /// Interrupt mask register.
    imr: u8,
    /// In-service register.
    isr: u8,
    /// Vector of input 0.
    base: u8,
    /// The input with the lowest priority.
    lowest: u8,
    /// Which initialisation command word is expected next; 0 when none is.
    expects: u8,
    icw4_follows: bool,
    single: bool,
    level_triggered: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    fn new() -> Chip {
        Chip { lowest: 7, ..Chip::default() }
    }

    /// Inputs from the highest priority to the lowest.
    fn by_priority(&self) -> impl Iterator<Item = u8> + use<> {
        let lowest = self.lowest;
        (1..=8).map(move |i| (lowest + i) & 7)
    }

    /// The input to be served next, given the requesting ones. (8259A data sheet, "Interrupt Sequence" and "Special Mask Mode".)
    fn next(&self, irr: u8, cascade: Option<u8>) -> Option<u8> {
        let blocks = if self.special_mask { self.isr & !self.imr } else { self.isr };
        for n in self.by_priority() {
            let bit = 1 << n;
            // Special fully nested: another request of the slave may interrupt the one in service.
            let nested = self.special_fully_nested && cascade == Some(n);
            if blocks & bit != 0 && !nested {
                return None;
            }
            if irr & !self.imr & bit != 0 {
                return Some(n);
            }
        }
        None
    }

    fn acknowledge(&mut self, n: u8) {
        if !self.auto_eoi {
            self.isr |= 1 << n;
        } else if self.rotate_on_auto_eoi {
            self.lowest = n;
        }
    }

    fn command(&mut self, value: u8) -> bool {
        if value & ICW1 != 0 {
            let base = self.base;
            *self = Chip { base, expects: 2, ..Chip::new() };
            self.icw4_follows = value & ICW1_IC4 != 0;
            self.single = value & ICW1_SNGL != 0;
            self.level_triggered = value & ICW1_LTIM != 0;
            return true;
        }
        if value & OCW3 != 0 {
            self.poll = value & OCW3_POLL != 0;
            if value & OCW3_RR != 0 {
                self.read_isr = value & OCW3_RIS != 0;
            }
            if value & OCW3_ESMM != 0 {
                self.special_mask = value & OCW3_SMM != 0;
            }
            return false;
        }
        let level = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            1 | 5 => {
                if let Some(n) = self.by_priority().find(|n| self.isr & 1 << n != 0) {
                    self.isr &= !(1 << n);
                    if value >> 5 == 5 {
                        self.lowest = n;
                    }
                }
            }
            3 => self.isr &= !(1 << level),
            6 => self.lowest = level,
            7 => {
                self.isr &= !(1 << level);
                self.lowest = level;
            }
            _ => {}
        }
        false
    }

    fn data(&mut self, value: u8) {
        match self.expects {
            2 => {
                self.base = value & 0xf8;
                self.expects = match (self.single, self.icw4_follows) {
                    (false, _) => 3,
                    (true, true) => 4,
                    (true, false) => 0,
                };
            }
            3 => self.expects = if self.icw4_follows { 4 } else { 0 },
            4 => {
                self.auto_eoi = value & ICW4_AEOI != 0;
                self.special_fully_nested = value & ICW4_SFNM != 0;
                self.expects = 0;
            }
            _ => self.imr = value,
        }
    }
}

/// The pair.
pub struct Pic {
    chips: [Chip; 2],
    /// Inputs that are levels: the edge/level control registers.
    elcr: u16,
    lines: Arc<Lines>,
}

impl Pic {
    /// Controllers of `lines`, not initialised.
    #[must_use]
    pub fn new(lines: Arc<Lines>) -> Pic {
        Pic { chips: [Chip::new(), Chip::new()], elcr: 0, lines }
    }

    fn levels(&self) -> u16 {
        let whole = |chip: &Chip| if chip.level_triggered { 0xff } else { 0 };
        self.elcr | whole(&self.chips[0]) | whole(&self.chips[1]) << 8
    }

    /// Interrupt request registers; the slave's output included.
    fn irr(&self) -> [u8; 2] {
        let by_level = self.levels();
        let all = self.lines.levels() & by_level | self.lines.risen() & !by_level;
        let slave = (all >> 8) as u8;
        let output = u8::from(self.chips[1].next(slave, None).is_some()) << CASCADE;
        [all as u8 & !(1 << CASCADE) | output, slave]
    }

    fn next(&self, chip: usize) -> Option<u8> {
        self.chips[chip].next(self.irr()[chip], (chip == 0).then_some(CASCADE))
    }

    /// True while the CPU's INTR input is high.
    #[must_use]
    pub fn intr(&self) -> bool {
        self.next(0).is_some()
    }

    /// The CPU acknowledges an interrupt: its vector. A request that has gone away meanwhile gives input 7 ("spurious").
    pub fn acknowledge(&mut self) -> u8 {
        let Some(n) = self.next(0) else { return self.chips[0].base + 7 };
        if n != CASCADE {
            self.lines.acknowledge(1 << n);
            self.chips[0].acknowledge(n);
            return self.chips[0].base + n;
        }
        let slave = self.next(1);
        self.chips[0].acknowledge(CASCADE);
        let Some(n) = slave else { return self.chips[1].base + 7 };
        self.lines.acknowledge(0x100 << n);
        self.chips[1].acknowledge(n);
        self.chips[1].base + n
    }

    /// Registers of both controllers, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let irr = self.irr();
        let one = |i: usize, name| {
            let c = &self.chips[i];
            format!("{name}: irr {:08b} imr {:08b} isr {:08b} base {:02x}\n", irr[i], c.imr, c.isr, c.base)
        };
        one(0, "master") + &one(1, "slave ") + &format!("level-triggered {:016b}\n", self.elcr)
    }

    /// A poll: acknowledges without the CPU's INTA, and tells which input it was.
    fn poll(&mut self, chip: usize) -> u8 {
        self.chips[chip].poll = false;
        let Some(n) = self.next(chip) else { return 0 };
        self.lines.acknowledge(if chip == 0 { 1 << n } else { 0x100 << n });
        self.chips[chip].acknowledge(n);
        0x80 | n
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        if port & !1 == 0x4d0 {
            return self.elcr.to_le_bytes()[usize::from(port & 1)];
        }
        let chip = usize::from(port >= 0xa0);
        if self.chips[chip].poll {
            return self.poll(chip);
        }
        let c = &self.chips[chip];
        match port & 1 {
            0 if c.read_isr => c.isr,
            0 => self.irr()[chip],
            _ => c.imr,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        if port & !1 == 0x4d0 {
            let shift = 8 * (port & 1);
            self.elcr = (self.elcr & !(0xff << shift) | u16::from(value) << shift) & !ALWAYS_EDGE;
            return;
        }
        let chip = usize::from(port >= 0xa0);
        if port & 1 != 0 {
            self.chips[chip].data(value);
        } else if self.chips[chip].command(value) {
            // Initialisation clears the edge latches.
            self.lines.acknowledge(if chip == 0 { 0x00ff } else { 0xff00 });
        }
    }
}

impl Device for Pic {
    fn read(&mut self, port: u16, _size: u8) -> u32 {
        self.read_byte(port).into()
    }

    fn write(&mut self, port: u16, _size: u8, value: u32) {
        self.write_byte(port, value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux sets them up: vectors 0x30 and 0x38, nothing masked.
    fn pair() -> (Arc<Lines>, Pic) {
        let lines = Lines::new();
        let mut pic = Pic::new(lines.clone());
        for (port, bytes) in [(0x20, [0x11, 0x30, 4, 1]), (0xa0, [0x11, 0x38, 2, 1])] {
            pic.write(port, 1, bytes[0]);
            bytes[1..].iter().for_each(|&b| pic.write(port + 1, 1, b));
            pic.write(port + 1, 1, 0);
        }
        (lines, pic)
    }

    #[test]
    fn priorities_nest() {
        let (lines, mut pic) = pair();
        lines.connect(4).pulse();
        assert_eq!(pic.acknowledge(), 0x34);
        lines.connect(5).pulse();
        assert!(!pic.intr(), "a lower priority waits");
        lines.connect(1).pulse();
        assert_eq!(pic.acknowledge(), 0x31);
        pic.write(0x20, 1, 0x20);
        assert!(!pic.intr());
        pic.write(0x20, 1, 0x64);
        assert_eq!(pic.acknowledge(), 0x35, "a specific EOI ends input 4");
    }

    #[test]
    fn the_slave_comes_through_input_2() {
        let (lines, mut pic) = pair();
        lines.connect(8).pulse();
        lines.connect(3).pulse();
        assert_eq!(pic.acknowledge(), 0x38);
        pic.write(0xa0, 1, 0x20);
        pic.write(0x20, 1, 0x20);
        assert_eq!(pic.acknowledge(), 0x33);
    }

    #[test]
    fn levels_ask_again_until_they_fall() {
        let (lines, mut pic) = pair();
        pic.write(0x4d1, 1, 1 << 2);
        let line = lines.connect(10);
        line.set(true);
        assert_eq!(pic.acknowledge(), 0x3a);
        pic.write(0xa0, 1, 0x20);
        pic.write(0x20, 1, 0x20);
        assert!(pic.intr());
        line.set(false);
        assert!(!pic.intr());
        assert_eq!(pic.acknowledge(), 0x37, "nobody asks: spurious");
        assert_eq!(pic.read(0x20, 1), 0);
    }

    #[test]
    fn masks_and_polls() {
        let (lines, mut pic) = pair();
        pic.write(0x21, 1, 0xff);
        lines.connect(6).pulse();
        assert!(!pic.intr());
        assert_eq!(pic.read(0x20, 1), 1 << 6, "requests show though masked");
        pic.write(0x21, 1, 0);
        pic.write(0x20, 1, 0x0c);
        assert_eq!(pic.read(0x20, 1), 0x86);
        pic.write(0x20, 1, 0x0b);
        assert_eq!(pic.read(0x20, 1), 1 << 6, "in service");
    }

    #[test]
    fn rotation_and_automatic_end() {
        let (lines, mut pic) = pair();
        pic.write(0x20, 1, 0xc3);
        lines.connect(0).pulse();
        lines.connect(4).pulse();
        assert_eq!(pic.acknowledge(), 0x34, "4 follows 3, which is the lowest");
        pic.write(0x20, 1, 0x11);
        [0x30, 4, 3].iter().for_each(|&b| pic.write(0x21, 1, b));
        lines.connect(7).pulse();
        assert_eq!((pic.acknowledge(), pic.intr()), (0x37, false));
        pic.write(0x20, 1, 0x0b);
        assert_eq!(pic.read(0x20, 1), 0, "AEOI leaves nothing in service");
    }
}
