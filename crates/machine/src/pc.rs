//! The PC: which devices there are and at which ports. To add a device, write its file and register it here.

use crate::board::{A20, Power};
use crate::clock::{Clock, Nanos};
use crate::console::{Input, Output};
use crate::dev::Device;
use crate::dev::acpi_pm::{self, AcpiPm};
use crate::dev::debug::{self, DebugConsole, DebugExit};
use crate::dev::fw_cfg::{self, FwCfg};
use crate::dev::i8042::{self, I8042};
use crate::dev::pic::{self, Pic};
use crate::dev::pit::{self, Pit};
use crate::dev::rtc::{self, Rtc};
use crate::dev::system_control::{self, SystemControl};
use crate::dev::uart::{self, Uart};
use crate::irq::Lines;
use crate::pci::{self, Pci};
use crate::virtio::{Backend, Dma, Virtio};
use std::ops::RangeInclusive;
use std::sync::Arc;
use xlat86_softmmu::PhysMemory;

/// A device's number on the bus.
type Slot = u8;
/// Nobody answers.
const NOBODY: Slot = Slot::MAX;

/// Devices by port: each port belongs to at most one.
pub struct Bus {
    devices: Vec<Box<dyn Device>>,
    ports: Box<[Slot; 0x1_0000]>,
}

impl Bus {
    fn new() -> Bus {
        Bus { devices: Vec::new(), ports: Box::new([NOBODY; 0x1_0000]) }
    }

    /// Registers `device` for `ranges`, which nobody has yet.
    fn add(&mut self, device: Box<dyn Device>, ranges: &[RangeInclusive<u16>]) {
        let slot = self.devices.len() as Slot;
        for port in ranges.iter().cloned().flatten() {
            let owner = &mut self.ports[usize::from(port)];
            assert!(*owner == NOBODY, "port {port:x} is taken");
            *owner = slot;
        }
        self.devices.push(device);
    }

    fn at(&mut self, port: u16) -> Option<&mut Box<dyn Device>> {
        self.devices.get_mut(usize::from(self.ports[usize::from(port)]))
    }

    /// Does anybody answer at `port`?
    #[must_use]
    pub fn has(&self, port: u16) -> bool {
        self.ports[usize::from(port)] != NOBODY
    }

    /// Is an access of `size` bytes at `port` made of several?
    fn splits(&mut self, port: u16, size: u8) -> bool {
        self.at(port).is_some_and(|d| d.width() < size)
    }

    /// Reads; where nobody answers, all ones.
    pub fn read(&mut self, port: u16, size: u8) -> u32 {
        if self.splits(port, size) {
            return (0..size).fold(0, |v, i| v | self.read(port.wrapping_add(i.into()), 1) << (8 * i));
        }
        let mask = u32::MAX >> (32 - 8 * u32::from(size));
        self.at(port).map_or(u32::MAX, |d| d.read(port, size)) & mask
    }

    /// Writes; where nobody answers, nothing happens. True when the device has become due at another time; that of others doesn't change.
    pub fn write(&mut self, port: u16, size: u8, value: u32) -> bool {
        if self.splits(port, size) {
            return (0..size).fold(false, |any, i| any | self.write(port.wrapping_add(i.into()), 1, value >> (8 * i)));
        }
        let mask = u32::MAX >> (32 - 8 * u32::from(size));
        let Some(d) = self.at(port) else { return false };
        let before = d.deadline();
        d.write(port, size, value & mask);
        d.deadline() != before
    }
}

/// What a PC is made with.
pub struct Parts {
    /// Input and output of the serial ports that are connected to something.
    pub serial: Vec<(Input, Output)>,
    /// Where the debug console's bytes go.
    pub debug_console: Output,
    /// The virtio devices, by slot.
    pub virtio: Vec<Box<dyn Backend>>,
    /// Files of the firmware configuration interface.
    pub fw_cfg: Vec<(&'static str, Vec<u8>)>,
}

/// The devices of the machine.
pub struct Pc {
    bus: Bus,
    pic: Shared<Pic>,
    keyboard: Shared<I8042>,
    pm: Shared<AcpiPm>,
    /// Ends of the run that devices asked for.
    pub power: Arc<Power>,
    /// Its clock.
    pub clock: Clock,
    /// The A20 gate.
    pub a20: Arc<A20>,
}

/// A device that others than the bus reach too. Everything runs under the machine's one lock, so nobody ever waits.
struct Shared<D>(Arc<std::sync::Mutex<D>>);

impl<D> Shared<D> {
    fn new(device: D) -> Self {
        Shared(Arc::new(std::sync::Mutex::new(device)))
    }
    fn get(&self) -> std::sync::MutexGuard<'_, D> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn again(&self) -> Box<Self> {
        Box::new(Shared(self.0.clone()))
    }
}

impl<D: Device> Device for Shared<D> {
    fn width(&self) -> u8 {
        self.get().width()
    }
    fn read(&mut self, port: u16, size: u8) -> u32 {
        self.get().read(port, size)
    }
    fn write(&mut self, port: u16, size: u8, value: u32) {
        self.get().write(port, size, value);
    }
    fn tick(&mut self, now: Nanos) {
        self.get().tick(now);
    }
    fn deadline(&self) -> Option<Nanos> {
        self.get().deadline()
    }
}

impl Pc {
    /// A PC around `memory`, just switched on, whose time is `clock`'s.
    pub fn new(memory: &Arc<PhysMemory>, parts: Parts, clock: Clock) -> std::io::Result<Pc> {
        let (lines, power) = (Lines::new(), Arc::new(Power::default()));
        let a20 = A20::new(memory.clone());
        let ram = memory.ram_bytes();
        let pic = Shared::new(Pic::new(lines.clone()));
        let keyboard = Shared::new(I8042::new(lines.connect(1), a20.clone(), power.clone()));
        let pm = Shared::new(AcpiPm::new(lines.connect(acpi_pm::SCI), power.clone(), clock.clone()));
        let mut bus = Bus::new();
        bus.add(pic.again(), &pic::PORTS);
        bus.add(Box::new(Pit::new(lines.connect(0), clock.clone())), &[pit::PORTS, pit::SPEAKER..=pit::SPEAKER]);
        bus.add(Box::new(Rtc::new(lines.connect(8), clock.clone(), ram)), &[rtc::PORTS]);
        let one = |port| port..=port;
        bus.add(keyboard.again(), &[one(i8042::DATA), one(i8042::COMMAND)]);
        bus.add(Box::new(SystemControl::new(a20.clone(), power.clone())), &[one(system_control::PORT)]);
        bus.add(Box::new(DebugExit(power.clone())), &[debug::EXIT..=debug::EXIT + 3]);
        bus.add(Box::new(DebugConsole(parts.debug_console)), &[one(debug::CONSOLE)]);
        bus.add(Box::new(FwCfg::new(ram, &parts.fw_cfg)), &[fw_cfg::PORTS]);
        bus.add(pm.again(), &[acpi_pm::PORTS]);
        for ((port, irq), (input, output)) in uart::COM.into_iter().zip(parts.serial) {
            bus.add(Box::new(Uart::new(lines.connect(irq), input, output)), &[port..=port + 7]);
        }
        let mut bridge = Pci::new(lines.clone());
        let dma = Dma::new(memory.clone())?;
        for backend in parts.virtio {
            bridge.add(Box::new(Virtio::new(backend, dma.clone())));
        }
        bus.add(Box::new(bridge), &[pci::CONFIG, pci::IO_WINDOW]);
        Ok(Pc { bus, pic, keyboard, pm, power, clock, a20 })
    }

    /// The bus.
    pub fn bus(&mut self) -> &mut Bus {
        &mut self.bus
    }

    /// True while an interrupt waits for the CPU.
    #[must_use]
    pub fn intr(&self) -> bool {
        self.pic.get().intr()
    }

    /// The CPU takes the interrupt: its vector.
    pub fn acknowledge(&mut self) -> u8 {
        self.pic.get().acknowledge()
    }

    /// Lets the devices do what is due.
    pub fn tick(&mut self) {
        let now = self.clock.now();
        self.bus.devices.iter_mut().for_each(|d| d.tick(now));
    }

    /// When [`Pc::tick`] next has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        self.bus.devices.iter().filter_map(|d| d.deadline()).min()
    }

    /// Presses or releases a key; false when there is none of that name.
    pub fn key(&mut self, name: &str, press: bool) -> bool {
        self.keyboard.get().key(name, press)
    }

    /// Presses the power button.
    pub fn press_power_button(&mut self) {
        self.pm.get().press_power_button();
    }

    /// The interrupt controllers' registers, for people.
    #[must_use]
    pub fn describe_interrupts(&self) -> String {
        self.pic.get().describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::{Console, Rng};

    fn pc() -> Pc {
        let memory = PhysMemory::new(2 << 20).unwrap();
        let parts = Parts {
            serial: vec![(Input::default(), Output::nowhere())],
            debug_console: Output::nowhere(),
            virtio: vec![Box::new(Console::new(Input::default(), Output::nowhere())), Box::new(Rng)],
            fw_cfg: vec![("etc/test", vec![1, 2, 3])],
        };
        Pc::new(&memory, parts, Clock::start(crate::clock::TimeSource::Host)).unwrap()
    }

    #[test]
    fn nobody_reads_as_all_ones() {
        let mut pc = pc();
        let all = [1, 2, 4].map(|size| pc.bus().read(0x1234, size));
        assert_eq!(all, [0xff, 0xffff, 0xffff_ffff]);
        pc.bus().write(0x1234, 4, 0);
    }

    #[test]
    fn wide_accesses_to_narrow_devices_are_several() {
        let mut pc = pc();
        // Index and data of CMOS memory at once; then both ports of a wide read: the index can't be read.
        pc.bus().write(0x70, 2, 0x5a40);
        assert_eq!(pc.bus().read(0x70, 2), 0x5aff);
        // The UART's divisor latch; its third register is the next port's.
        pc.bus().write(0x3fb, 1, 0x80);
        pc.bus().write(0x3f8, 2, 0x0102);
        assert_eq!([0x3f8, 0x3f9].map(|port| pc.bus().read(port, 1)), [2, 1]);
        // A dword at the end of one device goes on where nobody answers.
        assert_eq!(pc.bus().read(0x71, 4) >> 8, 0x00ff_ffff);
    }

    #[test]
    fn any_access_to_any_port_is_harmless() {
        let mut pc = pc();
        // A fixed sequence (xorshift32), biased to the ports that somebody has.
        let owned: Vec<u16> = (0..=u16::MAX).filter(|&p| pc.bus.ports[usize::from(p)] != NOBODY).collect();
        let mut x = 0x2545_f491u32;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x
        };
        for i in 0..300_000 {
            let n = next() as usize;
            let port = if n & 7 == 0 { n as u16 } else { owned[(n >> 8) % owned.len()] };
            let size = [1, 2, 4][(next() % 3) as usize];
            if next() & 1 == 0 {
                let value = pc.bus().read(port, size);
                assert!(size == 4 || value >> (8 * size) == 0, "{port:x} gives more than {size} bytes");
            } else {
                pc.bus().write(port, size, next());
            }
            if i % 64 == 0 {
                pc.tick();
                let _ = (pc.deadline(), pc.intr(), pc.acknowledge());
            }
        }
    }
}
