//! The AT keyboard controller (Intel 8042) with a keyboard: ports 0x60 and 0x64.
//!
//! As much as kernels probe for: self-tests, the command byte, the output port with A20 and reset, and a keyboard that
//! answers its commands and sends the keys that the user presses over the control socket. There is no auxiliary port.

use crate::board::{A20, A20Source, End, Power};
use crate::dev::Device;
use crate::dev::keys::{KEYS, SET_2_TO_1};
use crate::irq::Line;
use std::collections::VecDeque;
use std::sync::Arc;

/// Data port.
pub const DATA: u16 = 0x60;
/// Status (read) and command (write) port.
pub const COMMAND: u16 = 0x64;

const STATUS_OUTPUT_FULL: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;
const BYTE_INTERRUPT: u8 = 0x01;
const BYTE_SYSTEM: u8 = 0x04;
const BYTE_DISABLED: u8 = 0x10;
const BYTE_TRANSLATE: u8 = 0x40;
const OUTPUT_NOT_RESET: u8 = 0x01;
const OUTPUT_A20: u8 = 0x02;
const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
/// Codes that the keyboard keeps for a guest that doesn't read them.
const QUEUE: usize = 64;

/// What the next byte written to the data port is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Keyboard,
    /// Argument of the keyboard's command.
    KeyboardArgument(u8),
    CommandByte,
    OutputPort,
    /// To be given back as if the keyboard had sent it.
    KeyboardOutput,
    /// For the auxiliary port, which isn't there.
    Auxiliary,
}

/// The controller and its keyboard.
pub struct I8042 {
    command_byte: u8,
    next: Next,
    /// The controller's own answer, ahead of what the keyboard sends.
    answer: Option<u8>,
    /// Set 2 codes and answers from the keyboard, not translated yet.
    keyboard: VecDeque<u8>,
    /// The latest code was 0xf0: what follows is released.
    released: bool,
    /// What the data port shows now.
    output: Option<u8>,
    last: u8,
    last_was_command: bool,
    scanning: bool,
    irq: Line,
    a20: Arc<A20>,
    power: Arc<Power>,
}

impl I8042 {
    /// A controller that drives `irq`, the A20 gate and the reset line.
    #[must_use]
    pub fn new(irq: Line, a20: Arc<A20>, power: Arc<Power>) -> I8042 {
        I8042 {
            command_byte: BYTE_SYSTEM | BYTE_TRANSLATE | BYTE_INTERRUPT,
            next: Next::Keyboard,
            answer: None,
            keyboard: VecDeque::new(),
            released: false,
            output: None,
            last: 0,
            last_was_command: false,
            scanning: true,
            irq,
            a20,
            power,
        }
    }

    /// Presses or releases the key called `name`. False when there is none of that name.
    pub fn key(&mut self, name: &str, press: bool) -> bool {
        let Some(&(_, code)) = KEYS.iter().find(|k| k.0 == name) else { return false };
        if self.scanning && self.keyboard.len() + 3 <= QUEUE {
            let [prefix, code] = code.to_be_bytes();
            let prefix = (prefix != 0).then_some(prefix);
            self.keyboard.extend(prefix.into_iter().chain((!press).then_some(0xf0)).chain([code]));
        }
        self.fill();
        true
    }

    /// Moves the next byte to the output buffer if that is empty.
    fn fill(&mut self) {
        while self.output.is_none() {
            let byte = match self.answer.take() {
                Some(b) => Some(b),
                None if self.command_byte & BYTE_DISABLED != 0 => return,
                None => match self.keyboard.pop_front() {
                    Some(b) => self.translate(b),
                    None => return,
                },
            };
            let Some(b) = byte else { continue };
            self.output = Some(b);
            self.last = b;
            if self.command_byte & BYTE_INTERRUPT != 0 {
                self.irq.pulse();
            }
        }
    }

    fn translate(&mut self, b: u8) -> Option<u8> {
        if self.command_byte & BYTE_TRANSLATE == 0 {
            return Some(b);
        }
        if b == 0xf0 {
            self.released = true;
            return None;
        }
        let code = match b {
            // F7 is the only key whose code has its top bit set; answers have it too and pass.
            0x83 => 0x41,
            _ => SET_2_TO_1.get(usize::from(b)).copied().unwrap_or(b),
        };
        // The prefix of extended keys keeps the release for the code that follows it.
        Some(if b != 0xe0 && std::mem::take(&mut self.released) { code | 0x80 } else { code })
    }

    fn output_port(&self) -> u8 {
        let a20 = if self.a20.held_by(A20Source::Keyboard) { OUTPUT_A20 } else { 0 };
        OUTPUT_NOT_RESET | a20 | 0xcc
    }

    fn command(&mut self, command: u8) {
        self.next = Next::Keyboard;
        match command {
            0x20 => self.answer = Some(self.command_byte),
            0x60 => self.next = Next::CommandByte,
            // Test of the auxiliary port: its clock line is stuck, for there is none.
            0xa9 => self.answer = Some(1),
            0xaa => self.answer = Some(0x55),
            0xab => self.answer = Some(0),
            0xad => self.command_byte |= BYTE_DISABLED,
            0xae => self.command_byte &= !BYTE_DISABLED,
            // Input port: keyboard not locked.
            0xc0 => self.answer = Some(0x80),
            0xd0 => self.answer = Some(self.output_port()),
            0xd1 => self.next = Next::OutputPort,
            0xd2 => self.next = Next::KeyboardOutput,
            0xd3 | 0xd4 => self.next = Next::Auxiliary,
            0xdd => self.a20.set(A20Source::Keyboard, false),
            0xdf => self.a20.set(A20Source::Keyboard, true),
            // Pulses the output port's bits that are 0: bit 0 is the CPU's reset.
            0xf0..=0xff if command & OUTPUT_NOT_RESET == 0 => self.power.end(End::Reset),
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match std::mem::replace(&mut self.next, Next::Keyboard) {
            Next::Keyboard => self.keyboard_command(value),
            Next::KeyboardArgument(command) => {
                self.keyboard.push_back(ACK);
                // Scan code set 0 asks which one is in use.
                if command == 0xf0 && value == 0 {
                    self.keyboard.push_back(2);
                }
            }
            Next::CommandByte => self.command_byte = value,
            Next::OutputPort => {
                self.a20.set(A20Source::Keyboard, value & OUTPUT_A20 != 0);
                if value & OUTPUT_NOT_RESET == 0 {
                    self.power.end(End::Reset);
                }
            }
            Next::KeyboardOutput => self.answer = Some(value),
            Next::Auxiliary => self.answer = Some(RESEND),
        }
    }

    fn keyboard_command(&mut self, command: u8) {
        // Being written to enables the keyboard's interface.
        self.command_byte &= !BYTE_DISABLED;
        match command {
            0xed | 0xf0 | 0xf3 => {
                self.next = Next::KeyboardArgument(command);
                self.keyboard.push_back(ACK);
            }
            0xee => self.keyboard.push_back(0xee),
            0xf2 => self.keyboard.extend([ACK, 0xab, 0x83]),
            0xf4 | 0xf6 => {
                self.scanning = true;
                self.keyboard.push_back(ACK);
            }
            0xf5 => {
                self.scanning = false;
                self.keyboard.push_back(ACK);
            }
            0xff => {
                self.keyboard.clear();
                self.scanning = true;
                self.keyboard.extend([ACK, SELF_TEST_PASSED]);
            }
            _ => self.keyboard.push_back(RESEND),
        }
        self.keyboard.truncate(QUEUE);
    }
}

impl Device for I8042 {
    fn read(&mut self, port: u16, _size: u8) -> u32 {
        if port == COMMAND {
            let full = if self.output.is_some() { STATUS_OUTPUT_FULL } else { 0 };
            let command = if self.last_was_command { STATUS_COMMAND } else { 0 };
            return (full | command | STATUS_UNLOCKED | self.command_byte & STATUS_SYSTEM).into();
        }
        let value = self.output.take().unwrap_or(self.last);
        self.fill();
        value.into()
    }

    fn write(&mut self, port: u16, _size: u8, value: u32) {
        self.last_was_command = port == COMMAND;
        if port == COMMAND {
            self.command(value as u8);
        } else {
            self.data(value as u8);
        }
        self.fill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::Lines;
    use xlat86_softmmu::PhysMemory;

    struct Bench {
        lines: Arc<Lines>,
        power: Arc<Power>,
        a20: Arc<A20>,
        kbd: I8042,
    }

    fn bench() -> Bench {
        let (lines, power) = (Lines::new(), Arc::new(Power::default()));
        let a20 = A20::new(PhysMemory::new(2 << 20).unwrap());
        let kbd = I8042::new(lines.connect(1), a20.clone(), power.clone());
        Bench { lines, power, a20, kbd }
    }

    fn drain(kbd: &mut I8042) -> Vec<u8> {
        let mut v = Vec::new();
        while kbd.read(COMMAND, 1) as u8 & STATUS_OUTPUT_FULL != 0 {
            v.push(kbd.read(DATA, 1) as u8);
        }
        v
    }

    #[test]
    fn the_kernels_probe_succeeds() {
        let mut b = bench();
        for (command, answers) in [(0xaa, vec![0x55]), (0xab, vec![0]), (0x20, vec![0x45]), (0xa9, vec![1])] {
            b.kbd.write(COMMAND, 1, command);
            assert_eq!(drain(&mut b.kbd), answers, "{command:x}");
        }
        b.kbd.write(COMMAND, 1, 0x60);
        b.kbd.write(DATA, 1, 0x05);
        b.kbd.write(DATA, 1, 0xf2);
        assert_eq!(drain(&mut b.kbd), [ACK, 0xab, 0x83], "untranslated");
        b.kbd.write(DATA, 1, 0xff);
        assert_eq!(drain(&mut b.kbd), [ACK, SELF_TEST_PASSED]);
    }

    #[test]
    fn keys_arrive_translated() {
        let mut b = bench();
        assert!(b.kbd.key("a", true) && b.kbd.key("a", false));
        assert_eq!(b.lines.risen(), 1 << 1);
        assert_eq!(drain(&mut b.kbd), [0x1e, 0x9e]);
        b.kbd.key("up", true);
        b.kbd.key("up", false);
        b.kbd.key("f7", true);
        assert_eq!(drain(&mut b.kbd), [0xe0, 0x48, 0xe0, 0xc8, 0x41]);
        assert!(!b.kbd.key("any", true));
    }

    #[test]
    fn the_output_port_works_a20_and_reset() {
        let mut b = bench();
        b.kbd.write(COMMAND, 1, 0xd1);
        b.kbd.write(DATA, 1, 0x03);
        assert!(b.a20.held_by(A20Source::Keyboard));
        b.kbd.write(COMMAND, 1, 0xd0);
        assert_eq!(drain(&mut b.kbd), [0xcf]);
        assert_eq!(b.power.ended(), None);
        b.kbd.write(COMMAND, 1, 0xfe);
        assert_eq!(b.power.ended(), Some(End::Reset));
    }
}
