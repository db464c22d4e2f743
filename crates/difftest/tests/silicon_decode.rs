//! The decoder against the CPU: every opcode of the four legacy maps, with every prefix that can matter and every
//! kind of operand, in 16- and 32-bit code. Each encoding is run natively (`silicon/decode.c`); the decoder must agree
//! on its length and on whether it is an instruction.
//!
//! Needs a host that runs i386 code and `gcc -m32`, and some minutes: `cargo test --release -p xlat86-difftest --test
//! silicon_decode -- --ignored`. Its findings stand in docs/decoding.md and as cases in the decoder's tests.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use xlat86_arch::{CpuModel, Mode};
use xlat86_decoder::{Insn, Kind, decode_insn};
use xlat86_difftest::length::{exempt, is_prefix};

type Bytes = [u8; 16];

const PREFIXES: &[&[u8]] = &[
    &[],
    &[0x66],
    &[0x67],
    &[0xf2],
    &[0xf3],
    &[0xf0],
    &[0x3e],
    &[0x66, 0xf2],
    &[0x66, 0xf3],
    &[0xf3, 0x66],
    &[0xf2, 0xf3],
    &[0xf3, 0xf2],
    &[0xf0, 0xf2],
    &[0xf0, 0xf3],
    &[0xf0, 0x66],
    &[0x66, 0x67],
    &[0x66, 0x66],
    &[0x67, 0x67],
];
const MAPS: &[&[u8]] = &[&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];

/// Every register field with every register operand, and each form of memory operand.
fn modrms() -> impl Iterator<Item = u8> {
    let rest = [0x00, 0x04, 0x05, 0x06, 0x40, 0x80].into_iter().chain(0xc0..=0xc7);
    rest.flat_map(|b| (0..8u8).map(move |reg| b | reg << 3))
}

fn encodings() -> Vec<Bytes> {
    let mut all = Vec::new();
    for (prefix, map) in PREFIXES.iter().flat_map(|p| MAPS.iter().map(move |m| (p, m))) {
        for opcode in 0..=255u8 {
            let escape = map.is_empty() && (is_prefix(opcode) || opcode == 0x0f);
            let other_map = map == &[0x0f] && matches!(opcode, 0x38 | 0x3a);
            if escape || other_map {
                continue;
            }
            for modrm in modrms() {
                let head = [prefix, map, &[opcode, modrm][..]].concat();
                let mut bytes = [0; 16];
                bytes[..head.len()].copy_from_slice(&head);
                all.push(bytes);
            }
        }
    }
    all
}

/// Encodings of 14 to 16 bytes: where an instruction becomes too long.
fn long_encodings() -> Vec<Bytes> {
    let tails: &[&[u8]] =
        &[&[0x90], &[0x0f, 0x0b], &[0x0f, 0xff, 0xc0], &[0x89, 0x00], &[0x81, 0x05], &[0x0f, 0x05], &[0xb8], &[0xd6]];
    let mut all = Vec::new();
    for (tail, pad) in tails.iter().flat_map(|t| [0x2e, 0x66, 0x67, 0xf0, 0xf2, 0xf3].map(|p| (t, p))) {
        for prefixes in 4..=15 {
            let mut bytes = [0; 16];
            bytes[..prefixes].fill(pad);
            bytes[prefixes..].iter_mut().zip(*tail).for_each(|(to, from)| *to = *from);
            all.push(bytes);
        }
    }
    all
}

/// What the CPU here says: length and outcome.
fn run_natively(probe: &Path, bits: u32, encodings: &[Bytes]) -> Vec<(usize, String)> {
    let dir = probe.parent().unwrap();
    let (input, output) = (dir.join(format!("in{bits}")), dir.join(format!("out{bits}")));
    let hex = |b: &Bytes| b.map(|b| format!("{b:02x}")).concat();
    std::fs::write(&input, encodings.iter().map(hex).collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let (stdin, stdout) = (File::open(&input).unwrap(), File::create(&output).unwrap());
    let status =
        Command::new(probe).arg(bits.to_string()).stdin(stdin).stdout(stdout).stderr(Stdio::inherit()).status();
    assert!(status.unwrap().success());
    let text = std::fs::read_to_string(&output).unwrap();
    let rows = text.lines().map(|l| l.split_once(' ').unwrap()).map(|(n, o)| (n.parse().unwrap(), o.to_owned()));
    rows.collect()
}

/// A disagreement, or `None`.
fn disagreement(insn: &Insn, length: usize, outcome: &str) -> Option<String> {
    let expected = match insn.fault() {
        Some(fault) => fault.vector.name(),
        None if outcome == "#UD" => "an instruction",
        None => outcome,
    };
    let same_length = insn.kind == Kind::Invalid || insn.len() == length;
    if expected == outcome && same_length {
        return None;
    }
    let ours = format!("{:?}, {expected}, {} bytes", insn.code(), insn.len());
    Some(format!("{ours}; CPU: {outcome}, {length} bytes"))
}

fn compare(probe: &Path, bits: u32) -> BTreeMap<String, Vec<String>> {
    let mode = Mode(Mode::PROTECTED | Mode::USER | if bits == 32 { Mode::CODE32 } else { 0 });
    let encodings = [encodings(), long_encodings()].concat();
    let native = run_natively(probe, bits, &encodings);
    assert_eq!(native.len(), encodings.len());
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (bytes, (length, outcome)) in encodings.iter().zip(native) {
        let insn = decode_insn(bytes, 0, mode, CpuModel::MAX.features).expect("16 bytes suffice");
        if exempt(&insn, bytes).is_none()
            && let Some(text) = disagreement(&insn, length, &outcome)
        {
            found.entry(text).or_default().push(bytes.map(|b| format!("{b:02x}")).concat());
        }
    }
    found
}

#[test]
#[ignore = "runs two million encodings on this machine's CPU; needs gcc -m32"]
fn decoder_agrees_with_the_cpu() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("silicon/decode.c");
    let probe = dir.join("decode");
    let flags = ["-m32", "-O1", "-fno-pie", "-no-pie", "-o"];
    let built = Command::new("gcc").args(flags).arg(&probe).arg(source).status();
    assert!(built.expect("gcc").success());
    let mut failed = false;
    for bits in [32, 16] {
        for (text, bytes) in compare(&probe, bits) {
            println!("{bits}-bit: {text}: {} cases, as {}", bytes.len(), bytes[..bytes.len().min(3)].join(", "));
            failed = true;
        }
    }
    assert!(!failed, "the decoder and this CPU disagree");
}
