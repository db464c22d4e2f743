//! The 16550 UARTs, COM1 to COM4: vm-superio's registers behind this machine's ports and input queue.
//!
//! What vm-superio leaves out is here: interrupts as a level made of pending and enabled causes, by their priority, and the FIFO's being on or off.
//! (National Semiconductor, PC16550D, sections 8.3 to 8.6.) Characters take no time to send. The FIFO's trigger levels don't count: whatever has arrived is
//! worth an interrupt. Modem signals don't change, so they cause none.

use crate::console::{Input, Output};
use crate::dev::Device;
use crate::irq::Line;
use std::convert::Infallible;
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};

/// First port and interrupt of each.
pub const COM: [(u16, u8); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

/// Registers, by their offset from the first port.
const DATA: u8 = 0;
const IER: u8 = 1;
const IIR_FCR: u8 = 2;
const LCR: u8 = 3;
const MCR: u8 = 4;
const LSR: u8 = 5;
const IER_RECEIVED: u8 = 1 << 0;
const IER_EMPTY: u8 = 1 << 1;
const IIR_NONE: u8 = 0x01;
const IIR_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_FIFO: u8 = 0xc0;
const FCR_ON: u8 = 1 << 0;
const FCR_CLEAR: u8 = 1 << 1;
const LCR_DIVISOR: u8 = 1 << 7;
const MCR_LOOP: u8 = 1 << 4;
const LSR_READY: u8 = 1 << 0;

/// What vm-superio thinks of interrupts isn't asked.
struct Nobody;

impl Trigger for Nobody {
    type E = Infallible;
    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// One UART.
pub struct Uart {
    serial: Serial<Nobody, NoEvents, Output>,
    irq: Line,
    input: Input,
    /// The transmitter has become empty, and nobody has been told.
    emptied: bool,
    fifo: bool,
}

impl Uart {
    /// A UART that drives `irq`, writes to `output` and receives `input`.
    #[must_use]
    pub fn new(irq: Line, input: Input, output: Output) -> Uart {
        Uart { serial: Serial::new(Nobody, output), irq, input, emptied: false, fifo: false }
    }

    fn has(&mut self, register: u8, bit: u8) -> bool {
        self.serial.read(register) & bit != 0
    }

    /// The interrupt enable register, which the divisor may hide.
    fn enabled(&mut self) -> u8 {
        let lcr = self.serial.read(LCR);
        // Writing this register can't fail, nor have an effect but on what is read next.
        let _ = self.serial.write(LCR, lcr & !LCR_DIVISOR);
        let enabled = self.serial.read(IER);
        let _ = self.serial.write(LCR, lcr);
        enabled
    }

    /// The most important cause for an interrupt.
    fn cause(&mut self) -> u8 {
        let enabled = self.enabled();
        if enabled & IER_RECEIVED != 0 && self.has(LSR, LSR_READY) {
            IIR_RECEIVED
        } else if enabled & IER_EMPTY != 0 && self.emptied {
            IIR_EMPTY
        } else {
            IIR_NONE
        }
    }

    fn drive(&mut self) {
        let asks = self.cause() != IIR_NONE;
        self.irq.set(asks);
    }

    /// Moves as much of the input as there is room for.
    fn receive(&mut self) {
        let room = match self.has(LSR, LSR_READY) {
            _ if self.has(MCR, MCR_LOOP) => 0,
            ready if !self.fifo => usize::from(!ready),
            _ => self.serial.fifo_capacity(),
        };
        let bytes = self.input.take(room);
        if !bytes.is_empty() {
            // As many as there was room for.
            let _ = self.serial.enqueue_raw_bytes(&bytes);
        }
        self.drive();
    }
}

impl Device for Uart {
    fn read(&mut self, port: u16, _size: u8) -> u32 {
        let register = port as u8 & 7;
        let value = if register == IIR_FCR {
            let cause = self.cause();
            // Being told is enough for the one cause that isn't a state.
            self.emptied &= cause != IIR_EMPTY;
            cause | if self.fifo { IIR_FIFO } else { 0 }
        } else {
            self.serial.read(register)
        };
        self.drive();
        self.receive();
        value.into()
    }

    fn write(&mut self, port: u16, _size: u8, value: u32) {
        let (register, value) = (port as u8 & 7, value as u8);
        let (before, divisor) = (self.enabled(), self.has(LCR, LCR_DIVISOR));
        if register == DATA && !divisor {
            self.emptied = false;
            self.drive();
        }
        // Output that can't be written is lost, as on a line nobody listens to.
        let _ = self.serial.write(register, value);
        match register {
            DATA if !divisor => self.emptied = true,
            // The transmitter always is empty; enabling that interrupt raises it.
            IER if !divisor && !before & value & IER_EMPTY != 0 => self.emptied = true,
            IIR_FCR => {
                let fifo = value & FCR_ON != 0;
                if self.fifo != fifo || value & FCR_CLEAR != 0 {
                    while self.has(LSR, LSR_READY) && !divisor {
                        self.serial.read(DATA);
                    }
                }
                self.fifo = fifo;
            }
            _ => {}
        }
        self.receive();
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
    use std::sync::Arc;

    fn uart() -> (Arc<Lines>, Input, Uart) {
        let lines = Lines::new();
        let input = Input::default();
        let uart = Uart::new(lines.connect(4), input.clone(), Output::nowhere());
        (lines, input, uart)
    }

    fn get(uart: &mut Uart, register: u8) -> u8 {
        uart.read(0x3f8 + u16::from(register), 1) as u8
    }

    fn put(uart: &mut Uart, register: u8, value: u8) {
        uart.write(0x3f8 + u16::from(register), 1, value.into());
    }

    #[test]
    fn bytes_go_both_ways() {
        let lines = Lines::new();
        let (output, written) = Output::recorder();
        let input = Input::default();
        let mut uart = Uart::new(lines.connect(4), input.clone(), output);
        for b in b"hi\n" {
            put(&mut uart, DATA, *b);
        }
        uart.tick(0);
        assert_eq!(*written.lock().unwrap(), b"hi\n");
        put(&mut uart, IIR_FCR, FCR_ON);
        put(&mut uart, IER, IER_RECEIVED);
        input.push(&[b'x'; 100]);
        uart.tick(0);
        assert_eq!(lines.risen(), 1 << 4);
        let mut n = 0;
        while get(&mut uart, LSR) & LSR_READY != 0 {
            assert_eq!(get(&mut uart, DATA), b'x');
            n += 1;
        }
        assert_eq!((n, lines.levels()), (100, 0), "what doesn't fit into the FIFO follows when there is room");
    }

    #[test]
    fn causes_have_priorities_and_last() {
        let (lines, input, mut uart) = uart();
        put(&mut uart, IER, IER_RECEIVED | IER_EMPTY);
        input.push(b"x");
        uart.tick(0);
        assert_eq!((get(&mut uart, IIR_FCR), get(&mut uart, IIR_FCR)), (IIR_RECEIVED, IIR_RECEIVED));
        assert_eq!((get(&mut uart, DATA), get(&mut uart, IIR_FCR)), (b'x', IIR_EMPTY));
        assert_eq!((get(&mut uart, IIR_FCR), lines.levels()), (IIR_NONE, 0));
        // Each character sent is one more edge, whether or not anybody has asked why.
        for _ in 0..2 {
            lines.acknowledge(1 << 4);
            put(&mut uart, DATA, b'y');
            assert_eq!((lines.levels(), lines.risen()), (1 << 4, 1 << 4));
        }
        put(&mut uart, IER, 0);
        assert_eq!((get(&mut uart, IIR_FCR), lines.levels()), (IIR_NONE, 0));
        lines.acknowledge(1 << 4);
        put(&mut uart, IER, IER_EMPTY);
        assert_eq!(lines.risen(), 1 << 4);
    }

    #[test]
    fn without_fifo_each_byte_is_an_edge() {
        let (lines, input, mut uart) = uart();
        put(&mut uart, IER, IER_RECEIVED);
        input.push(b"abc");
        uart.tick(0);
        for b in *b"abc" {
            assert_eq!(lines.risen(), 1 << 4);
            lines.acknowledge(1 << 4);
            assert_eq!(get(&mut uart, DATA), b);
        }
        assert_eq!((lines.risen(), get(&mut uart, LSR) & LSR_READY), (0, 0));
    }

    #[test]
    fn the_fifo_shows_and_is_cleared() {
        let (_, input, mut uart) = uart();
        assert_eq!(get(&mut uart, IIR_FCR) & IIR_FIFO, 0);
        input.push(b"lost");
        put(&mut uart, IIR_FCR, FCR_ON);
        assert_eq!(get(&mut uart, IIR_FCR) & IIR_FIFO, IIR_FIFO);
        put(&mut uart, IIR_FCR, FCR_ON | FCR_CLEAR);
        assert_eq!(get(&mut uart, LSR) & LSR_READY, 0);
        // Looped back, the terminal's input waits.
        put(&mut uart, MCR, MCR_LOOP);
        input.push(b"later");
        put(&mut uart, DATA, b'l');
        assert_eq!((get(&mut uart, DATA), get(&mut uart, LSR) & LSR_READY), (b'l', 0));
        put(&mut uart, MCR, 0);
        assert_eq!(get(&mut uart, DATA), b'l');
        assert_eq!(get(&mut uart, DATA), b'a');
    }
}
