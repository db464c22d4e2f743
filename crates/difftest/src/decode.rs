//! Oracle for the decoder: laws that hold for any bytes in any mode, and agreement with a second decoder, Zydis.

use iced_x86::{Code, Instruction};
use xlat86_arch::{CpuModel, Features, Mode};
use xlat86_decoder::{Block, BlockEnd, Insn, Kind, MAX_INSN_LEN, decode_block, decode_insn, required_features};
use zydis::{DecoderMode, MachineMode, Mnemonic, NoOperands, StackWidth};

/// How to decode: what `decode_block` takes beside the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// EIP of the first byte.
    pub eip: u32,
    /// Bytes to the page's end.
    pub page_left: usize,
    /// Mode bits.
    pub mode: Mode,
    /// The CPU's features.
    pub features: Features,
    /// At most so many instructions.
    pub limit: usize,
}

impl Setting {
    /// 32-bit user code, the default model, far from the page's end.
    pub const USER32: Setting =
        Setting { eip: 0x0804_8000, page_left: 4096, mode: Mode::USER32, features: CpuModel::MAX.features, limit: 64 };

    fn block(&self, bytes: &[u8]) -> Block {
        decode_block(bytes, self.eip, self.page_left, self.mode, self.features, self.limit)
    }
}

/// Splits fuzzer input into a setting (its first six bytes) and code.
#[must_use]
pub fn from_fuzzer(input: &[u8]) -> Option<(Setting, &[u8])> {
    let (&[mode, model, limit, page_lo, page_hi, eip], code) = input.split_first_chunk()?;
    let bits = [Mode::CODE32, Mode::PROTECTED, Mode::VM86, Mode::TRAP, Mode::STACK32];
    let mode = bits.iter().enumerate().filter(|(i, _)| mode >> i & 1 == 1).fold(0, |m, (_, bit)| m | bit);
    let models = CpuModel::all();
    let setting = Setting {
        // Negative ones put the block across EIP's wrap at 4 GB.
        eip: i32::from(eip as i8) as u32,
        page_left: usize::from(u16::from_le_bytes([page_lo, page_hi]) & 0xfff) + 1,
        mode: Mode(mode),
        features: models[usize::from(model) % models.len()].features,
        limit: usize::from(limit),
    };
    Some((setting, code))
}

/// Fuzz entry: checks everything on one input.
///
/// # Panics
/// When a law is broken.
pub fn check_input(input: &[u8]) {
    if let Some((setting, code)) = from_fuzzer(input) {
        check(&setting, code);
    }
}

/// Checks every law on the block at the head of `bytes`.
///
/// # Panics
/// When one is broken, saying which.
pub fn check(setting: &Setting, bytes: &[u8]) {
    let (block, zydis) = (setting.block(bytes), Zydis::new(setting.mode));
    check_shape(setting, bytes, &block);
    check_locality(setting, bytes, &block);
    for (insn, at) in with_positions(&block) {
        check_insn(setting, &bytes[at..], insn);
        if let Some(text) = zydis.disagreement(&bytes[at..], insn) {
            panic!("{text}: {:02x?}", &bytes[at..at + insn.len()]);
        }
    }
}

fn with_positions(block: &Block) -> impl Iterator<Item = (&Insn, usize)> {
    block.insns.iter().scan(0, |pos, insn| {
        let at = *pos;
        *pos += insn.len();
        Some((insn, at))
    })
}

/// Lengths, addresses, page borders, limit and end fit together.
fn check_shape(s: &Setting, bytes: &[u8], block: &Block) {
    let len = block.len as usize;
    assert_eq!(len, block.insns.iter().map(Insn::len).sum::<usize>(), "lengths add up");
    assert!(len <= bytes.len(), "no byte is made up");
    assert!(block.insns.len() <= s.limit.max(1), "the limit holds");
    assert!(!s.mode.has(Mode::TRAP) || block.insns.len() <= 1, "TF: one instruction");
    assert!(!block.insns.is_empty() || block.end == BlockEnd::Truncated, "only truncation leaves a block empty");
    for (i, (insn, at)) in with_positions(block).enumerate() {
        assert_eq!(insn.eip(), s.eip.wrapping_add(at as u32), "addresses follow lengths");
        assert_eq!(insn.next_eip(), insn.eip().wrapping_add(insn.len() as u32));
        assert!((1..=MAX_INSN_LEN).contains(&insn.len()));
        assert!(i == 0 || at + insn.len() <= s.page_left, "only the first instruction may cross the page");
        let last = i + 1 == block.insns.len();
        assert!(last || !xlat86_decoder::ends_block(insn.code()), "{:?} in the middle of a block", insn.code());
        assert_eq!(
            insn.kind == Kind::Invalid,
            last && block.end == BlockEnd::Invalid,
            "invalid: last, and the end says so"
        );
        assert_eq!(insn.kind == Kind::Invalid, insn.fault().is_some());
    }
    assert_eq!(block.crosses_page, len > s.page_left);
    match block.end {
        BlockEnd::Truncated => assert!(bytes.len() - len < MAX_INSN_LEN, "15 bytes always suffice"),
        BlockEnd::PageEnd => assert!(len + MAX_INSN_LEN > s.page_left, "the page's end is near"),
        BlockEnd::Limit => assert_eq!(block.insns.len(), if s.mode.has(Mode::TRAP) { 1 } else { s.limit.max(1) }),
        BlockEnd::ControlFlow => assert!(xlat86_decoder::ends_block(block.insns.last().unwrap().code())),
        BlockEnd::Invalid => {}
    }
}

/// The instructions depend on nothing but their own bytes, and fewer bytes give fewer of the same.
fn check_locality(s: &Setting, bytes: &[u8], block: &Block) {
    let len = block.len as usize;
    for n in (0..len).rev().take(2 * MAX_INSN_LEN) {
        let part = s.block(&bytes[..n]);
        assert!(block.insns.starts_with(&part.insns), "decoding {n} of {len} bytes gives other instructions");
        assert!(part.len as usize <= n);
    }
    assert_eq!(s.block(&bytes[..len]).insns, block.insns, "what follows the block doesn't count");
    let mut other = bytes.to_vec();
    other[len..].iter_mut().for_each(|b| *b = !*b);
    let other = s.block(&other);
    assert!(other.insns.starts_with(&block.insns), "what follows the block doesn't count");
    if matches!(block.end, BlockEnd::ControlFlow | BlockEnd::Invalid | BlockEnd::Limit) {
        assert_eq!(other, *block);
    }
}

/// One instruction is the same alone, and iced encodes what it decoded to something that decodes the same. Near
/// branches are left out of the latter: without idle prefixes they end elsewhere, and may no longer reach.
fn check_insn(s: &Setting, bytes: &[u8], insn: &Insn) {
    let alone = decode_insn(bytes, insn.eip(), s.mode, s.features).expect("it was decoded before");
    assert_eq!(alone, *insn, "an instruction's block doesn't count");
    if insn.kind == Kind::Invalid {
        return;
    }
    assert!(s.features.contains(required_features(insn.code())), "{:?} is beyond this CPU", insn.code());
    if insn.kind == Kind::Branch {
        return;
    }
    let mut encoder = iced_x86::Encoder::new(s.mode.bitness());
    encoder.encode(&insn.iced, u64::from(insn.eip())).unwrap_or_else(|e| panic!("{:?}: {e}", insn.code()));
    let again = decode_insn(&encoder.take_buffer(), insn.eip(), s.mode, s.features).expect("whole");
    assert!(same_meaning(&insn.iced, &again.iced), "{:?} re-encodes as {:?}", insn.iced, again.iced);
}

/// Equal but for their length, and with it the following address.
fn same_meaning(a: &Instruction, b: &Instruction) -> bool {
    let mut b = *b;
    b.set_len(a.len());
    b.set_next_ip(a.next_ip());
    *a == b
}

/// Zydis as the CPU that the decoder assumes: without extensions that change older encodings.
fn zydis(mode: Mode) -> zydis::Decoder {
    let real = !mode.has(Mode::PROTECTED) || mode.has(Mode::VM86);
    let (machine, stack) = match (mode.bitness(), real) {
        (32, _) => (MachineMode::LEGACY_32, StackWidth::_32),
        (_, true) => (MachineMode::REAL_16, StackWidth::_16),
        (_, false) => (MachineMode::LEGACY_16, StackWidth::_16),
    };
    let mut decoder = zydis::Decoder::new(machine, stack).expect("a valid pair");
    for off in [
        DecoderMode::MPX,
        DecoderMode::CET,
        DecoderMode::LZCNT,
        DecoderMode::TZCNT,
        DecoderMode::WBNOINVD,
        DecoderMode::CLDEMOTE,
        DecoderMode::IPREFETCH,
    ] {
        decoder.enable_mode(off, false).expect("a mode");
    }
    decoder
}

/// The second decoder, made for one mode: making it costs more than decoding.
pub struct Zydis {
    mode: Mode,
    decoder: zydis::Decoder,
}

impl Zydis {
    /// For code of `mode`.
    #[must_use]
    pub fn new(mode: Mode) -> Zydis {
        Zydis { mode, decoder: zydis(mode) }
    }

    /// How Zydis sees the head of `bytes` differently from `insn`; `None` when it agrees, or differs as [`known`] says.
    #[must_use]
    pub fn disagreement(&self, bytes: &[u8], insn: &Insn) -> Option<String> {
        let theirs = self.decoder.decode_first::<NoOperands>(&bytes[..bytes.len().min(MAX_INSN_LEN)]);
        let theirs = theirs.ok().flatten().map(|i| (i.mnemonic, usize::from(i.length)));
        let agreed = match (theirs, insn.kind) {
            (Some((_, len)), kind) if kind != Kind::Invalid => len == insn.len(),
            (None, Kind::Invalid) => true,
            // A feature that this CPU, or every model of ours, lacks: Zydis knows no such thing as a model.
            (Some(_), _) => insn.code() != Code::INVALID,
            (None, _) => false,
        };
        if agreed || known(insn, theirs.map(|t| t.0)).is_some() {
            return None;
        }
        let ours = format!("{:?}, {:?}, {} bytes", insn.code(), insn.kind, insn.len());
        Some(format!("{:?}: {ours}; Zydis: {theirs:?}", self.mode))
    }
}

/// Where Zydis is known to differ, and why it isn't followed.
fn known(insn: &Insn, theirs: Option<Mnemonic>) -> Option<&'static str> {
    match (insn.code(), theirs) {
        (Code::Sysenter | Code::Sysexitd, None) => Some("in real mode they raise #GP, not #UD (SDM vol. 2B)"),
        (Code::INVALID, Some(Mnemonic::PTWRITE | Mnemonic::MONTMUL | Mnemonic::PCOMMIT | Mnemonic::RDPRU)) => {
            Some("not offered; Zydis accepts them also under prefixes that iced rejects")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Every opcode of the legacy maps under the prefixes that choose among instructions, with every register field
    /// and each form of operand.
    fn encodings() -> impl Iterator<Item = [u8; 16]> {
        let prefixes: &[&[u8]] = &[&[], &[0x66], &[0x67], &[0xf2], &[0xf3], &[0xf0], &[0x66, 0xf2], &[0xf3, 0x66]];
        let maps: &[&[u8]] = &[&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
        let heads = prefixes.iter().flat_map(move |p| maps.iter().map(move |m| [*p, *m].concat()));
        let operands = |m: u16| matches!(m & 0xc7, 0x00 | 0x04 | 0x05 | 0x06 | 0x40 | 0x80 | 0xc0 | 0xc1);
        heads.flat_map(move |head| {
            (0..=0xffff).filter(move |&w| operands(w)).map(move |opcode_and_modrm: u16| {
                let mut bytes = [0; 16];
                bytes[..head.len()].copy_from_slice(&head);
                bytes[head.len()..head.len() + 2].copy_from_slice(&opcode_and_modrm.to_be_bytes());
                bytes
            })
        })
    }

    #[test]
    fn zydis_agrees_on_every_opcode() {
        let mut found: BTreeMap<String, [u8; 16]> = BTreeMap::new();
        for mode in [Mode::USER32, Mode(Mode::PROTECTED), Mode(0)] {
            let zydis = Zydis::new(mode);
            for bytes in encodings() {
                let insn = decode_insn(&bytes, 0, mode, CpuModel::MAX.features).expect("16 bytes suffice");
                if let Some(text) = zydis.disagreement(&bytes, &insn) {
                    found.entry(text).or_insert(bytes);
                }
            }
        }
        assert!(found.is_empty(), "{found:#02x?}");
    }

    #[test]
    fn corpus_holds() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/decode");
        let mut files = 0;
        for entry in std::fs::read_dir(dir).expect("the seed corpus") {
            check_input(&std::fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files >= 24, "only {files} seeds");
    }

    /// Bytes that look like code more often than random ones do: prefixes, escapes, then anything.
    fn code() -> impl Strategy<Value = Vec<u8>> {
        let prefix = prop::sample::select(vec![0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64]);
        let map = prop::sample::select(vec![&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]]);
        let insn = (prop::collection::vec(prefix, 0..4), map, prop::collection::vec(any::<u8>(), 1..7));
        let insn = insn.prop_map(|(p, m, rest)| [&p, m, &rest[..]].concat());
        let long = (prop::sample::select(vec![0x66, 0x2e, 0xf3]), 8..16usize).prop_map(|(p, n)| vec![p; n]);
        prop::collection::vec(prop_oneof![8 => insn, 1 => long], 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn laws_hold_on_any_bytes(input in prop::collection::vec(any::<u8>(), 0..96)) {
            check_input(&input);
        }

        #[test]
        fn laws_hold_on_likely_code(head in any::<[u8; 6]>(), near in 0..64u8, code in code()) {
            let [mode, model, limit, _, _, eip] = head;
            check_input(&[&[mode, model, limit, near, 0, eip], &code[..]].concat());
        }

        #[test]
        fn laws_hold_in_user_code(code in code()) {
            check(&Setting::USER32, &code);
        }
    }
}
