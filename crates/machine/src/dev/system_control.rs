//! System control port A (0x92): fast A20 and fast reset.

use crate::board::{A20, A20Source, End, Power};
use crate::dev::Device;
use std::sync::Arc;

/// The port.
pub const PORT: u16 = 0x92;

const RESET: u8 = 0x01;
const A20_OPEN: u8 = 0x02;

/// The port's state.
pub struct SystemControl {
    a20: Arc<A20>,
    power: Arc<Power>,
}

impl SystemControl {
    /// A port that works the gate and the reset line.
    #[must_use]
    pub fn new(a20: Arc<A20>, power: Arc<Power>) -> SystemControl {
        SystemControl { a20, power }
    }
}

impl Device for SystemControl {
    fn read(&mut self, _port: u16, _size: u8) -> u32 {
        if self.a20.held_by(A20Source::PortA) { A20_OPEN.into() } else { 0 }
    }

    fn write(&mut self, _port: u16, _size: u8, value: u32) {
        self.a20.set(A20Source::PortA, value as u8 & A20_OPEN != 0);
        if value as u8 & RESET != 0 {
            self.power.end(End::Reset);
        }
    }
}
