//! Encodings from another disassembler's listing against our decoder and the host CPU: lines `HEX<TAB>TEXT` on standard input, 32-bit code.
//!
//! Where our decoder finds an instruction, it must be as long as the listing says; and whatever it finds, the CPU must agree
//! ([`xlat86_difftest::length`]). What neither we nor the listing take for an instruction of the guest's CPU is counted only.

use std::collections::BTreeSet;
use xlat86_arch::{CpuModel, Mode};
use xlat86_decoder::decode_insn;
use xlat86_difftest::length::Ruler;

/// Lines of GNU objdump that stand for a prefix or for bytes it doesn't know, not for an instruction.
fn is_fragment(text: &str) -> bool {
    let prefixes = ["rep", "repz", "repnz", "lock", "data16", "addr16", "cs", "ds", "es", "fs", "gs", "ss", "fwait"];
    text.contains("(bad)") || text.starts_with(".byte") || text.split_whitespace().all(|w| prefixes.contains(&w))
}

fn main() {
    let mut ruler = Ruler::new().expect("room for code");
    let lines: BTreeSet<String> = std::io::stdin().lines().map_while(Result::ok).collect();
    let (mut same, mut foreign, mut fragments, mut differ) = (0, 0, 0, 0);
    for line in &lines {
        let (hex, text) = line.split_once('\t').expect("HEX<TAB>TEXT");
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect();
        let mut padded = [0x90; 16];
        padded[..bytes.len().min(16)].copy_from_slice(&bytes[..bytes.len().min(16)]);
        let insn = decode_insn(&padded, 0, Mode::USER32, CpuModel::MAX.features).expect("16 bytes suffice");
        if let Some(what) = ruler.disagreement(&padded, &insn) {
            println!("{hex} {text}: {what}");
            differ += 1;
        }
        match insn.fault() {
            _ if is_fragment(text) => fragments += 1,
            Some(_) => foreign += 1,
            None if insn.len() == bytes.len() => same += 1,
            None => {
                println!("{hex} {text}: {:?}, {} bytes", insn.code(), insn.len());
                differ += 1;
            }
        }
    }
    println!(
        "{} encodings: {same} of the same length, {foreign} not the guest CPU's, {fragments} prefixes or unknown bytes, {differ} differ",
        lines.len()
    );
    std::process::exit(i32::from(differ != 0));
}
