//! A unit as text: each guest instruction with the host code it became. For `--dump`, golden files and reports.

use crate::Unit;
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use std::fmt::Write as _;

/// Which columns to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Columns {
    /// Guest instructions.
    pub guest: bool,
    /// Host instructions.
    pub host: bool,
}

/// `unit`, translated from `guest` (its bytes from its first instruction on), with its counts at the end.
#[must_use]
pub fn listing(unit: &Unit, guest: &[u8], columns: Columns) -> String {
    let mut out = String::new();
    let mut formatter = GasFormatter::new();
    let mut host_insns = 0;
    let starts: Vec<_> = unit.marks.iter().filter(|m| m.boundary).collect();
    let mut host = |out: &mut String, from: u32, to: u32| {
        let code = &unit.code[from as usize..to as usize];
        for i in Decoder::with_ip(64, code, from.into(), DecoderOptions::NONE).iter() {
            host_insns += 1;
            if columns.host {
                let _ = write!(out, "          | {:04x}  ", i.ip());
                formatter.format(&i, out);
                out.push('\n');
            }
        }
    };
    let mut guest_formatter = GasFormatter::new();
    for (n, mark) in starts.iter().enumerate() {
        let at = mark.eip.wrapping_sub(unit.eip) as usize;
        if columns.guest
            && let Some(bytes) = guest.get(at..)
        {
            let i = Decoder::with_ip(32, bytes, mark.eip.into(), DecoderOptions::NONE).decode();
            let _ = write!(out, "{:08x}  ", mark.eip);
            guest_formatter.format(&i, &mut out);
            out.push('\n');
        }
        let end = starts.get(n + 1).map_or_else(|| unit.exits_start(), |m| m.host);
        host(&mut out, mark.host, end);
    }
    if columns.host && unit.exits_start() < unit.code.len() as u32 {
        out.push_str("exits\n");
    }
    host(&mut out, unit.exits_start(), unit.code.len() as u32);
    let _ = writeln!(
        out,
        "guest: {} instructions, {} bytes; host: {host_insns} instructions, {} bytes",
        unit.insns,
        unit.len,
        unit.code.len()
    );
    out
}
