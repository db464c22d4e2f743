//! Devices: each is one file (constants, registers, state, port access, tests) and one registration in [`crate::pc`].

pub mod acpi_pm;
pub mod debug;
pub mod fw_cfg;
pub mod i8042;
mod keys;
pub mod pic;
pub mod pit;
pub mod rtc;
pub mod system_control;
pub mod uart;

use crate::clock::Nanos;

/// What answers at I/O ports. Accesses are 1, 2 or 4 bytes wide and little-endian.
pub trait Device: Send {
    /// The widest access in bytes that it understands. The bus takes wider ones apart, as it does for devices with eight data lines: into accesses to one
    /// port after the other. 4: the device takes apart by itself what spans several of its registers.
    fn width(&self) -> u8 {
        1
    }
    /// Reads from `port`. Bits above `size` bytes are ignored.
    fn read(&mut self, port: u16, size: u8) -> u32;
    /// Writes to `port`. Bits of `value` above `size` bytes are 0.
    fn write(&mut self, port: u16, size: u8, value: u32);
    /// It is `now`: does what was due.
    fn tick(&mut self, _now: Nanos) {}
    /// When [`Device::tick`] next has something to do.
    fn deadline(&self) -> Option<Nanos> {
        None
    }
}
