//! The monitor: commands typed at the terminal, carried out as requests.

use super::terminal::say;
use xlat86_machine::{About, Answer, Control, Request};

pub(super) const PROMPT: &str = "\n(xlat86) ";

const HELP: &str = "\
info registers|irq|tlb|shadow|blocks   about a part of the machine
x ADDRESS [LENGTH]                     guest memory by linear address
xp ADDRESS [LENGTH]                    guest memory by physical address
key NAME                               presses and releases a key of the keyboard
pause, resume, step [COUNT]            the CPU
power                                  presses the power button
quit                                   ends the run
Ctrl-A c                               closes the monitor";

const RETURN: u8 = b'\r';
const NEWLINE: u8 = b'\n';
const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
const KILL: u8 = 0x15;

/// A key for the line being typed.
pub(super) fn key(line: &mut String, byte: u8, control: &Control) {
    match byte {
        RETURN | NEWLINE => {
            say("\n");
            match parse(&std::mem::take(line)) {
                Ok(None) => {}
                Ok(Some(request)) => say(&show(&request, &control.ask(request.clone()))),
                Err(why) => say(&why),
            }
            say(PROMPT);
        }
        BACKSPACE | DELETE => say(line.pop().map_or("", |_| "\x08 \x08")),
        KILL => {
            line.clear();
            say(PROMPT);
        }
        b' '..=b'~' => {
            line.push(byte.into());
            say(&char::from(byte).to_string());
        }
        _ => {}
    }
}

fn number(text: &str) -> Result<u64, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16));
    u64::from_str_radix(digits, radix).map_err(|_| format!("{text} is no number"))
}

/// A line as a request; nothing for an empty one, and what to say for one that is none.
fn parse(line: &str) -> Result<Option<Request>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let read = |address: &str, length: Option<&&str>, physical| {
        let length = length.map_or(Ok(64), |l| number(l))? as usize;
        Ok(Some(Request::Read { address: number(address)?, length, physical }))
    };
    match words[..] {
        [] => Ok(None),
        ["info" | "i", about] => {
            let all = [
                ("registers", About::Registers),
                ("irq", About::Irq),
                ("tlb", About::Tlb),
                ("shadow", About::Shadow),
                ("blocks", About::Blocks),
            ];
            let found = all.iter().find(|a| a.0 == about).ok_or_else(|| format!("nothing is known about {about}"))?;
            Ok(Some(Request::Info { about: found.1 }))
        }
        ["x", address] => read(address, None, false),
        ["x", address, ref length] => read(address, Some(length), false),
        ["xp", address] => read(address, None, true),
        ["xp", address, ref length] => read(address, Some(length), true),
        ["key", name] => Ok(Some(Request::Key { name: name.to_owned(), press: None })),
        ["pause" | "stop"] => Ok(Some(Request::Pause)),
        ["resume" | "cont" | "c"] => Ok(Some(Request::Resume)),
        ["step" | "s"] => Ok(Some(Request::Step { count: 1 })),
        ["step" | "s", count] => Ok(Some(Request::Step { count: number(count)?.min(u32::MAX.into()) as u32 })),
        ["power"] => Ok(Some(Request::PowerButton)),
        ["quit" | "q"] => Ok(Some(Request::Quit)),
        ["help" | "h" | "?"] => Err(HELP.to_owned()),
        _ => Err("no such command; `help` lists them".to_owned()),
    }
}

/// An answer as text.
fn show(request: &Request, answer: &Answer) -> String {
    match answer {
        Answer::Done => "ok".to_owned(),
        Answer::Text(text) | Answer::Error(text) => text.trim_end().to_owned(),
        Answer::Registers(all) => {
            let items: Vec<String> = all.iter().map(|(name, v)| format!("{name} {v:08x}")).collect();
            items.chunks(6).map(|some| some.join("  ")).collect::<Vec<_>>().join("\n")
        }
        Answer::Memory(hex) => {
            let start = if let Request::Read { address, .. } = request { *address } else { 0 };
            dump(start, hex)
        }
    }
}

/// Sixteen bytes a line.
fn dump(start: u64, hex: &str) -> String {
    let line = |(i, digits): (usize, &[u8])| {
        let bytes: Vec<&str> = digits.chunks(2).map(|b| std::str::from_utf8(b).unwrap_or("??")).collect();
        let value = |b: &&str| u8::from_str_radix(b, 16).unwrap_or(0);
        let text = bytes.iter().map(value).map(|b| if matches!(b, b' '..=b'~') { b.into() } else { '.' });
        format!("{:08x}  {:<47}  {}", start + 16 * i as u64, bytes.join(" "), text.collect::<String>())
    };
    hex.as_bytes().chunks(32).enumerate().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_requests() {
        let read = |address, length, physical| Ok(Some(Request::Read { address, length, physical }));
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse(" x 0xc0000000 "), read(0xc000_0000, 64, false));
        assert_eq!(parse("xp 4096 0x10"), read(4096, 16, true));
        assert_eq!(parse("info irq"), Ok(Some(Request::Info { about: About::Irq })));
        assert_eq!(parse("s 3"), Ok(Some(Request::Step { count: 3 })));
        for bad in ["x", "x z", "info nothing", "go", "step -1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_shows_as_bytes_and_text() {
        let hex: String = b"0123456789abcdefXY\0".iter().map(|b| format!("{b:02x}")).collect();
        let lines = dump(0x1000, &hex);
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "00001000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef",
                "00001010  58 59 00                                         XY.",
            ]
        );
    }
}
