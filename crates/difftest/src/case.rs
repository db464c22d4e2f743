//! Test cases as text: one instruction, the state before it and, as silicon left it, the state after it.
//!
//! ```text
//! adc [ebx],al
//!   bytes 10 03
//!   in    eax=12345680 ebx=20000100 flags=003 data=5b
//!   out   flags=092 mem+100=dc
//! ```
//!
//! The first line is for the reader. Registers not named are 0 before, and unchanged after; EIP after is that of the next
//! instruction, or of the same after a fault, unless given. `data=NN`: byte *i* of the data page is NN + 167 *i*. `mem+OFFSET=BYTES`: memory that changed.
//! `fault=VECTOR,ERROR,ADDRESS`: the instruction raised it. Numbers are hexadecimal.

use crate::state::{AT, DATA_LEN, End, Outcome, Regs};
use crate::undefined::undefined;
use core::fmt;
use iced_x86::{Code, Formatter as _};
use xlat86_arch::{CpuModel, FxState, Mode, Vector, eflags};
use xlat86_decoder::decode_insn;

/// One instruction and the state to execute it in.
#[derive(Clone, Debug)]
pub struct Case {
    /// The instruction.
    pub bytes: Vec<u8>,
    /// Its code.
    pub code: Code,
    /// Registers before.
    pub regs: Regs,
    /// First byte of the data page.
    pub fill: u8,
}

/// How far one byte of the data page is from the next.
const RAMP: u8 = 167;

pub(crate) const NAMES: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];

impl Case {
    /// The data page before.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        (0..DATA_LEN).map(|i| self.fill.wrapping_add((i as u8).wrapping_mul(RAMP))).collect()
    }

    /// The instruction in Intel's syntax.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut decoder = iced_x86::Decoder::with_ip(32, &self.bytes, AT.into(), 0);
        iced_x86::IntelFormatter::new().format(&decoder.decode(), &mut text);
        text
    }
}

/// How the outcomes of an instruction differ, leaving out what `undefined` lists.
#[must_use]
pub fn difference(code: Code, silicon: &Outcome, ours: &Outcome) -> Option<String> {
    let mut out = Vec::new();
    let except = undefined(code.mnemonic());
    let both_fault = silicon.end != End::Done && ours.end != End::Done;
    if silicon.end != ours.end && !(both_fault && except.which_fault) {
        out.push(format!("end {:x?}, ours {:x?}", silicon.end, ours.end));
    }
    for (r, (a, b)) in silicon.regs.gpr.iter().zip(&ours.regs.gpr).enumerate() {
        let skip = silicon.end != End::Done && except.registers_on_fault >> r & 1 != 0;
        if a != b && !skip {
            out.push(format!("gpr{r} {a:08x}, ours {b:08x}"));
        }
    }
    if silicon.regs.eip != ours.regs.eip {
        out.push(format!("eip {:08x}, ours {:08x}", silicon.regs.eip, ours.regs.eip));
    }
    let flags = (silicon.regs.eflags ^ ours.regs.eflags) & !except.flags;
    if flags != 0 {
        out.push(format!("flags {:03x}, ours {:03x}, differ {flags:03x}", silicon.regs.eflags, ours.regs.eflags));
    }
    if let Some(i) = silicon.data.iter().zip(&ours.data).position(|(a, b)| a != b) {
        out.push(format!("memory +{i:03x} {:02x}, ours {:02x}", silicon.data[i], ours.data[i]));
    }
    (!out.is_empty()).then(|| out.join("; "))
}

/// A case together with what silicon made of it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Before.
    pub case: Case,
    /// After.
    pub outcome: Outcome,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (case, out) = (&self.case, &self.outcome);
        writeln!(f, "{}", case.text())?;
        writeln!(f, "  bytes {}", hex(&case.bytes))?;
        write!(f, "  in   ")?;
        for (name, v) in NAMES.iter().zip(case.regs.gpr).filter(|(_, v)| *v != 0) {
            write!(f, " {name}={v:x}")?;
        }
        writeln!(f, " flags={:03x} data={:02x}", case.regs.eflags, case.fill)?;
        write!(f, "  out  ")?;
        for (r, name) in NAMES.iter().enumerate().filter(|(r, _)| case.regs.gpr[*r] != out.regs.gpr[*r]) {
            write!(f, " {name}={:x}", out.regs.gpr[r])?;
        }
        let mut expected = AT + case.bytes.len() as u32;
        if let End::Fault { vector, error, addr } = out.end {
            write!(f, " fault={:x},{error:x},{addr:x}", vector.0)?;
            expected = AT;
        }
        if out.regs.eip != expected {
            write!(f, " eip={:x}", out.regs.eip)?;
        }
        write!(f, " flags={:03x}", out.regs.eflags)?;
        let before = case.data();
        let mut at = 0;
        while let Some(n) = (at..before.len()).find(|&i| before[i] != out.data[i]) {
            let end = (n..before.len()).find(|&i| before[i] == out.data[i]).unwrap_or(before.len());
            write!(f, " mem+{n:x}={}", hex(&out.data[n..end]))?;
            at = end;
        }
        writeln!(f)
    }
}

/// Reads the cases in `text`.
///
/// # Errors
/// Names the line that can't be read.
pub fn parse(text: &str) -> Result<Vec<Recorded>, String> {
    let lines = text.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#'));
    let lines: Vec<_> = lines.filter(|(_, l)| l.starts_with("  ")).collect();
    let (cases, rest) = lines.as_chunks::<3>();
    if let [(n, _), ..] = rest {
        return Err(format!("line {}: a case without bytes, in and out", n + 1));
    }
    cases
        .iter()
        .map(|case| parse_case(case.map(|(_, l)| l)).ok_or_else(|| format!("line {}: not a case", case[0].0 + 1)))
        .collect()
}

fn number(s: &str) -> Option<u32> {
    u32::from_str_radix(s, 16).ok()
}

fn bytes(s: &str) -> Option<Vec<u8>> {
    (0..s.len()).step_by(2).map(|i| u8::from_str_radix(s.get(i..i + 2)?, 16).ok()).collect()
}

fn parse_case([code, before, after]: [&str; 3]) -> Option<Recorded> {
    let bytes_ = bytes(code.trim().strip_prefix("bytes ")?)?;
    let insn = decode_insn(&bytes_, AT, Mode::USER32, CpuModel::MAX.features)?;
    let regs = Regs { gpr: [0; 8], eip: AT, eflags: eflags::FIXED_1, fx: FxState::INIT };
    let mut case = Case { bytes: bytes_, code: insn.code(), regs, fill: 0 };
    for word in before.trim().strip_prefix("in")?.split_whitespace() {
        let (name, value) = word.split_once('=')?;
        match name {
            "flags" => case.regs.eflags = number(value)?,
            "data" => case.fill = number(value)? as u8,
            _ => case.regs.gpr[NAMES.iter().position(|n| *n == name)?] = number(value)?,
        }
    }
    let mut outcome = Outcome { end: End::Done, regs: case.regs.clone(), data: case.data() };
    outcome.regs.eip = AT + case.bytes.len() as u32;
    for word in after.trim().strip_prefix("out")?.split_whitespace() {
        let (name, value) = word.split_once('=')?;
        match name {
            "flags" => outcome.regs.eflags = number(value)?,
            "eip" => outcome.regs.eip = number(value)?,
            "fault" => {
                let [vector, error, addr] = *value.split(',').map(number).collect::<Option<Vec<_>>>()? else {
                    return None;
                };
                outcome.end = End::Fault { vector: Vector(vector as u8), error, addr };
                outcome.regs.eip = AT;
            }
            _ if name.starts_with("mem+") => {
                let (at, new) = (number(&name[4..])? as usize, bytes(value)?);
                outcome.data.get_mut(at..at + new.len())?.copy_from_slice(&new);
            }
            _ => outcome.regs.gpr[NAMES.iter().position(|n| *n == name)?] = number(value)?,
        }
    }
    Some(Recorded { case, outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_reads_as_it_was_written() {
        let text =
            "add [ebx],al\n  bytes 0003\n  in    eax=80 ebx=20000100 flags=003 data=5b\n  out   flags=092 mem+100=db\n";
        let cases = parse(text).unwrap();
        assert_eq!(cases.len(), 1);
        assert_eq!(cases[0].to_string(), text);
        assert!(parse("x\n  bytes 00zz\n  in\n  out\n").is_err());
    }
}
