//! The PCI host bridge and its one bus: configuration mechanism 1 and the routing of I/O accesses to functions.
//! (PCI Local Bus Specification 3.0, sections 3.2.2.3 and 6.)
//!
//! There is no firmware, so the bridge hands out base addresses and interrupts itself; guests may move them.

use crate::dev::Device;
use crate::irq::{Line, Lines};
use std::sync::Arc;

/// CONFIG_ADDRESS and CONFIG_DATA.
pub const CONFIG: std::ops::RangeInclusive<u16> = 0xcf8..=0xcff;
/// I/O ports that functions may use.
pub const IO_WINDOW: std::ops::RangeInclusive<u16> = 0xc000..=0xfeff;
/// Interrupts of the slots, by slot number modulo 3: what the ACPI tables say too.
pub const IRQS: [u8; 3] = [10, 11, 5];
/// Slots that the tables describe.
pub const SLOTS: usize = 32;

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
const VENDOR_INTEL: u16 = 0x8086;
/// 82441FX: the bridge that operating systems have known longest.
const DEVICE_440FX: u16 = 0x1237;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
const COMMAND_IO: u8 = 0x01;
/// I/O, memory, bus master, and interrupt disable in the second byte.
const COMMAND_WRITABLE: [u8; 2] = [0x07, 0x04];
const COMMAND_INTX_OFF: u8 = 0x04;
const STATUS_INTERRUPT: u8 = 0x08;
const STATUS_CAPABILITIES: u8 = 0x10;
const BAR_IO: u32 = 1;

/// Identity of a function, as in the header's first 64 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor and device number.
    pub id: (u16, u16),
    /// Base class, subclass, programming interface.
    pub class: [u8; 3],
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor and number.
    pub subsystem: (u16, u16),
}

/// Configuration space of one function with at most one I/O base address register.
pub struct Config {
    bytes: [u8; 256],
    /// Size of the I/O range, a power of two; 0 when there is none.
    io_size: u32,
    capabilities_end: usize,
    last_capability: usize,
}

impl Config {
    /// A function of that identity.
    #[must_use]
    pub fn new(of: Identity, io_size: u16) -> Config {
        debug_assert!(io_size == 0 || io_size.is_power_of_two());
        let mut c =
            Config { bytes: [0; 256], io_size: io_size.into(), capabilities_end: 0x40, last_capability: CAPABILITIES };
        c.put16(0x00, of.id.0);
        c.put16(0x02, of.id.1);
        c.bytes[0x08] = of.revision;
        c.bytes[0x09..0x0c].copy_from_slice(&[of.class[2], of.class[1], of.class[0]]);
        c.put16(0x2c, of.subsystem.0);
        c.put16(0x2e, of.subsystem.1);
        if io_size != 0 {
            c.put32(BAR0, BAR_IO);
        }
        c
    }

    /// Appends a capability: `body` follows its number and link.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) {
        let at = self.capabilities_end;
        self.bytes[at] = id;
        self.bytes[at + 2..at + 2 + body.len()].copy_from_slice(body);
        let link = if self.last_capability == CAPABILITIES { CAPABILITIES } else { self.last_capability + 1 };
        self.bytes[link] = at as u8;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.last_capability = at;
        self.capabilities_end = (at + 2 + body.len()).next_multiple_of(4);
    }

    fn put16(&mut self, at: usize, v: u16) {
        self.bytes[at..at + 2].copy_from_slice(&v.to_le_bytes());
    }

    fn put32(&mut self, at: usize, v: u32) {
        self.bytes[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }

    fn bar(&self) -> u32 {
        u32::from_le_bytes([self.bytes[BAR0], self.bytes[BAR0 + 1], self.bytes[BAR0 + 2], self.bytes[BAR0 + 3]])
    }

    /// The ports that the function answers at now.
    fn io(&self) -> Option<std::ops::Range<u32>> {
        let on = self.io_size != 0 && self.bytes[COMMAND] & COMMAND_IO != 0;
        let base = self.bar() & !3;
        on.then(|| base..base.saturating_add(self.io_size))
    }

    fn write(&mut self, at: usize, value: u8) {
        match at {
            0x04 | 0x05 => {
                let mask = COMMAND_WRITABLE[at - COMMAND];
                self.bytes[at] = value & mask;
            }
            BAR0..=0x13 if self.io_size != 0 => {
                // The low bits are wired; a write of all ones reads back as the size.
                self.bytes[at] = value;
                self.put32(BAR0, self.bar() & !(self.io_size - 1) | BAR_IO);
            }
            0x0c | INTERRUPT_LINE => self.bytes[at] = value,
            _ => {}
        }
    }
}

/// What stands behind a function's configuration space.
pub trait Function: Send {
    /// Its configuration space at power on.
    fn config(&self) -> Config;
    /// Reads from its I/O range.
    fn read(&mut self, offset: u16, size: u8) -> u32;
    /// Writes to its I/O range.
    fn write(&mut self, offset: u16, size: u8, value: u32);
    /// True while it asks for an interrupt.
    fn interrupt(&self) -> bool;
    /// Something outside may have happened: does what can be done now.
    fn tick(&mut self) {}
}

struct Slot {
    config: Config,
    function: Option<Box<dyn Function>>,
    line: Option<Line>,
}

impl Slot {
    fn update_line(&mut self) {
        let (Some(f), Some(line)) = (&self.function, &self.line) else { return };
        let asks = f.interrupt();
        let status = &mut self.config.bytes[STATUS];
        *status = *status & !STATUS_INTERRUPT | if asks { STATUS_INTERRUPT } else { 0 };
        line.set(asks && self.config.bytes[COMMAND + 1] & COMMAND_INTX_OFF == 0);
    }
}

/// The bridge and its bus.
pub struct Pci {
    slots: Vec<Slot>,
    address: u32,
    lines: Arc<Lines>,
    next_io: u16,
}

impl Pci {
    /// A bus with nothing but its bridge.
    #[must_use]
    pub fn new(lines: Arc<Lines>) -> Pci {
        let bridge = Identity { id: (VENDOR_INTEL, DEVICE_440FX), class: [6, 0, 0], revision: 2, subsystem: (0, 0) };
        let bridge = Slot { config: Config::new(bridge, 0), function: None, line: None };
        Pci { slots: vec![bridge], address: 0, lines, next_io: *IO_WINDOW.start() }
    }

    /// Puts `function` into the next slot, which there is.
    pub fn add(&mut self, function: Box<dyn Function>) {
        assert!(self.slots.len() < SLOTS, "the bus has {SLOTS} slots");
        let mut config = function.config();
        let irq = IRQS[self.slots.len() % IRQS.len()];
        if config.io_size != 0 {
            let size = config.io_size as u16;
            let base = self.next_io.next_multiple_of(size);
            self.next_io = base + size;
            config.put32(BAR0, u32::from(base) | BAR_IO);
            config.bytes[COMMAND] |= COMMAND_IO;
        }
        config.bytes[INTERRUPT_LINE] = irq;
        config.bytes[INTERRUPT_PIN] = 1;
        self.slots.push(Slot { config, function: Some(function), line: Some(self.lines.connect(irq)) });
    }

    /// Lets all functions do what can be done now.
    pub fn tick_functions(&mut self) {
        for s in &mut self.slots {
            if let Some(f) = &mut s.function {
                f.tick();
            }
            s.update_line();
        }
    }

    /// The slot that CONFIG_ADDRESS names, and the register's offset; only function 0 of bus 0 exists.
    fn addressed(&self) -> Option<(usize, usize)> {
        let slot = (self.address >> 11 & 31) as usize;
        let other = self.address >> 16 & 0xff != 0 || self.address >> 8 & 7 != 0;
        (self.address & ENABLE != 0 && !other && slot < self.slots.len())
            .then_some((slot, (self.address & 0xfc) as usize))
    }

    fn read_config(&self, offset: usize, size: u8) -> u32 {
        let Some((slot, at)) = self.addressed() else { return u32::MAX };
        let bytes = &self.slots[slot].config.bytes;
        (0..usize::from(size)).fold(0, |v, i| v | u32::from(bytes[at + ((offset + i) & 3)]) << (8 * i))
    }

    fn write_config(&mut self, offset: usize, size: u8, value: u32) {
        let Some((slot, at)) = self.addressed() else { return };
        for i in 0..usize::from(size) {
            self.slots[slot].config.write(at + ((offset + i) & 3), (value >> (8 * i)) as u8);
        }
        self.slots[slot].update_line();
    }

    fn at_port(&mut self, port: u16) -> Option<(&mut Slot, u16)> {
        self.slots.iter_mut().find_map(|s| {
            let range = s.config.io()?;
            range.contains(&port.into()).then(|| (s, port - range.start as u16))
        })
    }
}

impl Device for Pci {
    fn width(&self) -> u8 {
        4
    }
    fn read(&mut self, port: u16, size: u8) -> u32 {
        if !CONFIG.contains(&port) {
            let Some((slot, offset)) = self.at_port(port) else { return u32::MAX };
            let value = slot.function.as_mut().map_or(u32::MAX, |f| f.read(offset, size));
            slot.update_line();
            return value;
        }
        match (port, size) {
            (CONFIG_ADDRESS, 4) => self.address,
            (CONFIG_DATA.., _) => self.read_config(usize::from(port & 3), size),
            _ => u32::MAX,
        }
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        if !CONFIG.contains(&port) {
            if let Some((slot, offset)) = self.at_port(port) {
                if let Some(f) = &mut slot.function {
                    f.write(offset, size, value);
                }
                slot.update_line();
            }
            return;
        }
        match (port, size) {
            (CONFIG_ADDRESS, 4) => self.address = value,
            (CONFIG_DATA.., _) => self.write_config(usize::from(port & 3), size, value),
            _ => {}
        }
    }

    fn tick(&mut self, _now: crate::clock::Nanos) {
        self.tick_functions();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u32);
    impl Function for Echo {
        fn config(&self) -> Config {
            let id = Identity { id: (0x1af4, 0x1042), class: [1, 0, 0], revision: 1, subsystem: (0x1af4, 2) };
            let mut c = Config::new(id, 64);
            c.add_capability(9, &[16, 1]);
            c.add_capability(5, &[0; 5]);
            c
        }
        fn read(&mut self, offset: u16, _size: u8) -> u32 {
            self.0 + u32::from(offset)
        }
        fn write(&mut self, _offset: u16, _size: u8, value: u32) {
            self.0 = value;
        }
        fn interrupt(&self) -> bool {
            self.0 & 1 != 0
        }
    }

    fn config(pci: &mut Pci, slot: u32, at: u32) -> u32 {
        pci.write(CONFIG_ADDRESS, 4, ENABLE | slot << 11 | at);
        pci.read(CONFIG_DATA, 4)
    }

    #[test]
    fn the_bus_enumerates() {
        let mut pci = Pci::new(Lines::new());
        pci.add(Box::new(Echo(0)));
        assert_eq!(config(&mut pci, 0, 0), 0x1237_8086);
        assert_eq!(config(&mut pci, 0, 8), 0x0600_0002);
        assert_eq!(config(&mut pci, 1, 0), 0x1042_1af4);
        assert_eq!(config(&mut pci, 2, 0), u32::MAX);
        assert_eq!(config(&mut pci, 1 << 5, 0), u32::MAX, "no second bus");
        assert_eq!(config(&mut pci, 1, 0x34) & 0xff, 0x40);
        assert_eq!(config(&mut pci, 1, 0x40), 0x0110_4409);
        assert_eq!(config(&mut pci, 1, 0x44) & 0xffff, 0x0005, "the last links to nothing");
    }

    #[test]
    fn base_addresses_are_sized_and_moved() {
        let mut pci = Pci::new(Lines::new());
        pci.add(Box::new(Echo(100)));
        let bar = config(&mut pci, 1, 0x10);
        assert_eq!(pci.read(bar as u16 & !3, 4), 100);
        pci.write(CONFIG_DATA, 4, u32::MAX);
        assert_eq!(pci.read(CONFIG_DATA, 4), !63 | BAR_IO);
        pci.write(CONFIG_DATA, 4, 0xd000);
        assert_eq!(pci.read(0xd008, 4), 108);
        assert_eq!(pci.read(bar as u16 & !3, 4), u32::MAX);
        config(&mut pci, 1, 4);
        pci.write(CONFIG_DATA, 2, 0);
        assert_eq!(pci.read(0xd008, 4), u32::MAX, "I/O is switched off");
    }

    #[test]
    fn interrupts_follow_the_function_unless_disabled() {
        let lines = Lines::new();
        let mut pci = Pci::new(lines.clone());
        pci.add(Box::new(Echo(0)));
        pci.write(*IO_WINDOW.start(), 4, 1);
        assert_eq!(lines.levels(), 1 << IRQS[1]);
        config(&mut pci, 1, 4);
        pci.write(CONFIG_DATA, 2, 0x0401);
        assert_eq!(lines.levels(), 0);
    }
}
