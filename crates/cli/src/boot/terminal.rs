//! The user's terminal as the guest's console: raw mode, and the keys that are not for the guest.

use super::monitor;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io::{Read, Write, stderr, stdin};
use std::sync::{Mutex, PoisonError};
use xlat86_machine::{Control, Request};

/// What the terminal was set to before. Static, because every way out restores it, that of a panic included.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Restores the terminal when dropped.
pub(super) struct Raw;

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal into raw mode, if standard input is one: every key goes to the guest.
pub(super) fn raw() -> Raw {
    let input = stdin();
    if isatty(&input)
        && let Ok(before) = tcgetattr(&input)
    {
        let mut now = before.clone();
        now.make_raw();
        if tcsetattr(&input, OptionalActions::Now, &now).is_ok() {
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        }
    }
    Raw
}

/// Gives the terminal back as it was.
pub(crate) fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}

fn is_raw() -> bool {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Shows text of our own on standard error; a raw terminal needs the carriage returns spelled out.
pub(super) fn say(text: &str) {
    let text = if is_raw() { text.replace('\n', "\r\n") } else { text.to_owned() };
    // There is nobody to tell that standard error is closed.
    let _ = stderr().write_all(text.as_bytes());
}

const ESCAPE: u8 = 0x01;

/// What a byte from the terminal is.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    /// For the guest, or for the monitor's line.
    Byte(u8),
    Quit,
    Monitor,
    Help,
    Nothing,
}

/// Finds the escape sequences.
#[derive(Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    fn next(&mut self, byte: u8) -> Key {
        if !std::mem::take(&mut self.escaped) {
            self.escaped = byte == ESCAPE;
            return if self.escaped { Key::Nothing } else { Key::Byte(byte) };
        }
        match byte {
            b'x' | b'X' => Key::Quit,
            b'c' | b'C' => Key::Monitor,
            b'h' | b'H' | b'?' => Key::Help,
            ESCAPE | b'a' | b'A' => Key::Byte(ESCAPE),
            _ => Key::Nothing,
        }
    }
}

const HELP: &str = "\nCtrl-A x quits, Ctrl-A c opens or closes the monitor, Ctrl-A Ctrl-A sends Ctrl-A\n";

/// Reads standard input on a thread of its own until its end, and gives it to `guest`. Ctrl-A means something on a terminal only.
pub(super) fn read(guest: impl Fn(&[u8]) + Send + 'static, control: Control) {
    let terminal = isatty(stdin());
    let read = move || {
        let (mut keys, mut line, mut bytes) = (Keys::default(), None, [0; 256]);
        while let Ok(n @ 1..) = stdin().read(&mut bytes) {
            if !terminal {
                guest(&bytes[..n]);
                continue;
            }
            for &b in &bytes[..n] {
                match keys.next(b) {
                    Key::Byte(b) => match &mut line {
                        None => guest(&[b]),
                        Some(line) => monitor::key(line, b, &control),
                    },
                    Key::Quit => drop(control.ask(Request::Quit)),
                    Key::Help => say(HELP),
                    Key::Monitor if line.is_some() => {
                        line = None;
                        say("\n");
                    }
                    Key::Monitor => {
                        line = Some(String::new());
                        say(monitor::PROMPT);
                    }
                    Key::Nothing => {}
                }
            }
        }
    };
    // Without the thread there is no input; the guest's output still shows.
    if let Err(e) = std::thread::Builder::new().name("terminal".into()).spawn(read) {
        say(&format!("xlat86: no input from the terminal: {e}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_can_be_sent_too() {
        let mut keys = Keys::default();
        let all: Vec<Key> = b"a\x01x\x01c\x01\x01\x01zb".iter().map(|&b| keys.next(b)).collect();
        let n = || Key::Nothing;
        assert_eq!(
            all,
            [Key::Byte(b'a'), n(), Key::Quit, n(), Key::Monitor, n(), Key::Byte(1), n(), n(), Key::Byte(b'b')]
        );
    }
}
