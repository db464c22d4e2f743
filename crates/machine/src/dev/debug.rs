//! Ports for test kernels: isa-debug-exit (0xf4) and the debug console (0xe9), as QEMU and Bochs have them.

use crate::board::{End, Power};
use crate::clock::Nanos;
use crate::console::Output;
use crate::dev::Device;
use std::io::Write;
use std::sync::Arc;

/// A write of `v` ends the run with status `(v << 1) | 1`.
pub const EXIT: u16 = 0xf4;
/// Bytes written here go to the console.
pub const CONSOLE: u16 = 0xe9;

/// The exit port.
pub struct DebugExit(pub Arc<Power>);

impl Device for DebugExit {
    fn width(&self) -> u8 {
        4
    }
    fn read(&mut self, _port: u16, _size: u8) -> u32 {
        0
    }
    fn write(&mut self, _port: u16, _size: u8, value: u32) {
        self.0.end(End::Status((value << 1) as u8 | 1));
    }
}

/// The console port. Reads give its own number, by which software finds out that it is there.
pub struct DebugConsole(pub Output);

impl Device for DebugConsole {
    fn width(&self) -> u8 {
        4
    }
    fn read(&mut self, _port: u16, _size: u8) -> u32 {
        CONSOLE.into()
    }
    fn write(&mut self, _port: u16, size: u8, value: u32) {
        // A guest can't be told that its debug output went nowhere.
        let _ = self.0.write_all(&value.to_le_bytes()[..usize::from(size)]);
    }
    fn tick(&mut self, _now: Nanos) {
        self.0.send();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_odd() {
        for (value, status) in [(0u32, 1u8), (0x10, 0x21), (0x7f, 0xff), (0x80, 1)] {
            let power = Arc::new(Power::default());
            DebugExit(power.clone()).write(EXIT, 4, value);
            assert_eq!(power.ended(), Some(End::Status(status)));
        }
    }
}
