//! The 16550 UARTs, COM1 to COM4: vm-superio's device behind this machine's ports, lines and input queue.

use crate::console::{Input, Output};
use crate::dev::Device;
use crate::irq::Line;
use vm_superio::serial::{NoEvents, Serial};

/// First port and interrupt of each.
pub const COM: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// One UART.
pub struct Uart {
    serial: Serial<Line, NoEvents, Output>,
    input: Input,
}

impl Uart {
    /// A UART that drives `irq`, writes to `output` and receives `input`.
    #[must_use]
    pub fn new(irq: Line, input: Input, output: Output) -> Uart {
        Uart { serial: Serial::new(irq, output), input }
    }

    /// Moves as much of the input as the FIFO has room for.
    fn receive(&mut self) {
        let bytes = self.input.take(self.serial.fifo_capacity());
        if !bytes.is_empty() {
            // As many as there was room for; and an edge on an interrupt line can't fail.
            let _ = self.serial.enqueue_raw_bytes(&bytes);
        }
    }
}

impl Device for Uart {
    fn read(&mut self, port: u16, _size: u8) -> u32 {
        let value = self.serial.read(port as u8 & 7).into();
        self.receive();
        value
    }

    fn write(&mut self, port: u16, _size: u8, value: u32) {
        // Output that can't be written is lost, as on a line nobody listens to.
        let _ = self.serial.write(port as u8 & 7, value as u8);
    }

    fn tick(&mut self, _now: crate::clock::Nanos) {
        self.receive();
        self.serial.writer_mut().send();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Lines;

    #[test]
    fn bytes_go_both_ways() {
        let lines = Lines::new();
        let (output, written) = Output::recorder();
        let input = Input::default();
        let mut uart = Uart::new(lines.connect(4), input.clone(), output);
        for b in b"hi\n" {
            uart.write(0x3f8, 1, (*b).into());
        }
        uart.tick(0);
        assert_eq!(*written.lock().unwrap(), b"hi\n");
        uart.write(0x3f9, 1, 1);
        input.push(&[b'x'; 100]);
        uart.tick(0);
        assert_eq!(lines.risen(), 1 << 4);
        let mut n = 0;
        while uart.read(0x3fd, 1) & 1 != 0 {
            assert_eq!(uart.read(0x3f8, 1), u32::from(b'x'));
            n += 1;
        }
        assert_eq!(n, 100, "what doesn't fit into the FIFO follows when there is room");
    }
}
