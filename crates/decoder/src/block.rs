//! Basic blocks.

use crate::Kind;
use crate::table::{CodeInfo, Only, info_of};
use iced_x86::{Code, CodeSize, ConstantOffsets, Decoder, DecoderError, DecoderOptions, Instruction, OpKind, Register};
use xlat86_arch::{Fault, Features, Mode};

/// Longest legal instruction in bytes; a longer one raises #GP(0) (SDM vol. 2A, 2.3.11).
pub const MAX_INSN_LEN: usize = 15;

/// iced as a CPU without extensions that change the meaning of older encodings: 0F 0D and 0F 18 to 0F 1F are hint
/// NOPs whatever later CPUs put there (ENDBR32, CLDEMOTE, MPX, CET), and F3 before BSF, BSR and WBINVD is ignored.
const OPTIONS: u32 = DecoderOptions::FORCE_RESERVED_NOP
    | DecoderOptions::NO_MPFX_0FBC
    | DecoderOptions::NO_MPFX_0FBD
    | DecoderOptions::NO_WBNOINVD;

/// One decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// iced's view: operands, code, flags. Its `ip32()` is the guest EIP.
    ///
    /// F2 and F3 prefixes that the CPU ignores are left out of it, so that it re-encodes to the same meaning on a
    /// host whose extensions would give them one (TZCNT, LZCNT, WBNOINVD, XACQUIRE).
    pub iced: Instruction,
    /// Classification.
    pub kind: Kind,
    over_long: bool,
}

impl Default for Insn {
    fn default() -> Self {
        Insn { iced: Instruction::default(), kind: Kind::Invalid, over_long: false }
    }
}

impl Insn {
    /// Guest EIP (offset within CS) of the first byte.
    #[must_use]
    pub fn eip(&self) -> u32 {
        self.iced.ip32()
    }
    /// Length in bytes, 1 to 15. Of an invalid instruction: the bytes that had to be seen to know.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no instruction is empty")]
    pub fn len(&self) -> usize {
        self.iced.len()
    }
    /// EIP of the following instruction.
    #[must_use]
    pub fn next_eip(&self) -> u32 {
        self.iced.next_ip32()
    }
    /// iced's name for this encoding. A code the guest's CPU lacks keeps its name and is [`Kind::Invalid`].
    #[must_use]
    pub fn code(&self) -> Code {
        self.iced.code()
    }
    /// Where displacement and immediates stand in `bytes`, which this was decoded from. They are decoded once more: few ever ask.
    #[must_use]
    pub fn offsets(&self, bytes: &[u8]) -> ConstantOffsets {
        let bitness = if self.iced.code_size() == CodeSize::Code16 { 16 } else { 32 };
        let mut decoder = Decoder::new(bitness, bytes, OPTIONS);
        let iced = decoder.decode();
        decoder.get_constant_offsets(&iced)
    }
    /// What executing an invalid instruction raises; `None` for all others.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match (self.kind, self.over_long) {
            (Kind::Invalid, true) => Some(Fault::gp(0)),
            (Kind::Invalid, false) => Some(Fault::ud()),
            _ => None,
        }
    }
}

/// Why a block ends where it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockEnd {
    /// The last instruction changes EIP, or is one after which the mode may differ.
    ControlFlow,
    /// The next instruction starts on another page or would cross into it, or the only one does cross.
    PageEnd,
    /// The instruction limit was reached.
    Limit,
    /// The last instruction is [`Kind::Invalid`]: executing it raises #UD (or #GP when over-long).
    Invalid,
    /// The bytes ran out inside the next instruction. With no instruction before it, the caller has to
    /// supply the following page's bytes or deliver that page's fetch fault.
    Truncated,
}

/// A basic block: straight-line instructions up to the first that may change EIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// EIP of the first instruction.
    pub eip: u32,
    /// Mode it was decoded under.
    pub mode: Mode,
    /// Total length in bytes.
    pub len: u32,
    /// The instructions, in order. Empty only when `end` is `Truncated`.
    pub insns: Vec<Insn>,
    /// Why it ends.
    pub end: BlockEnd,
    /// The block is one instruction whose bytes lie on two pages: it depends on both.
    pub crosses_page: bool,
}

impl Default for Block {
    fn default() -> Self {
        Block {
            eip: 0,
            mode: Mode::default(),
            len: 0,
            insns: Vec::new(),
            end: BlockEnd::Truncated,
            crosses_page: false,
        }
    }
}

/// Decodes one instruction at the head of `bytes`; `None` when they run out inside it.
#[must_use]
pub fn decode_insn(bytes: &[u8], eip: u32, mode: Mode, features: Features) -> Option<Insn> {
    if let Some(insn) = without_tables(bytes, eip, mode, features) {
        return Some(insn);
    }
    let mut block = Block::default();
    decode_block_into(&mut block, bytes, eip, MAX_INSN_LEN, mode, features, 1);
    block.insns.pop()
}

/// CPUID, and of 32-bit code POPFD and the load of a segment register from another register. What libraries do at their start has
/// these interpreted, and programs whose translations were kept often need nothing else decoded: so they are spared the decoder's
/// tables, which take longer to make than a small program to run.
fn without_tables(bytes: &[u8], eip: u32, mode: Mode, features: Features) -> Option<Insn> {
    use Register::{DS, EAX, ES, FS, GS, SS};
    const CPUID: u8 = 0xa2;
    const MOV_SREG: u8 = 0x8e;
    const POPF: u8 = 0x9d;
    /// Those that can be loaded, by number; for the other numbers ask the tables.
    const SEGMENTS: [Register; 8] = [ES, Register::None, SS, DS, FS, GS, Register::None, Register::None];
    let is_32 = mode.bitness() == 32;
    let (mut iced, len) = match *bytes {
        [0x0f, CPUID, ..] => (Instruction::with(Code::Cpuid), 2),
        [POPF, ..] if is_32 => (Instruction::with(Code::Popfd), 1),
        [MOV_SREG, modrm @ 0xc0..=0xff, ..] if is_32 => {
            let segment = Some(SEGMENTS[usize::from(modrm >> 3 & 7)]).filter(|s| *s != Register::None)?;
            (Instruction::with2(Code::Mov_Sreg_r32m16, segment, EAX + u32::from(modrm & 7)).ok()?, 2)
        }
        _ => return None,
    };
    iced.set_code_size(if is_32 { CodeSize::Code32 } else { CodeSize::Code16 });
    iced.set_len(len);
    iced.set_next_ip(u64::from(eip) + len as u64);
    let kind = kind_under(info_of(iced.code()), &iced, mode, features);
    Some(Insn { iced, kind, over_long: false })
}

/// Decodes the basic block at the head of `bytes`.
///
/// `eip` is the offset of `bytes[0]` within CS and `page_left` the number of bytes from it to the end of its
/// page (1 to 4096): no instruction after the first starts beyond, and none but the first crosses. `bytes` may reach
/// into the next page by up to 14 bytes so that an instruction that crosses can be decoded as a block of its own.
/// At most `limit` instructions (0 counts as 1), and one when `mode` has [`Mode::TRAP`].
#[must_use]
pub fn decode_block(bytes: &[u8], eip: u32, page_left: usize, mode: Mode, features: Features, limit: usize) -> Block {
    let mut block = Block::default();
    decode_block_into(&mut block, bytes, eip, page_left, mode, features, limit);
    block
}

/// [`decode_block`] into a block that keeps its allocation; whatever it held is replaced.
pub fn decode_block_into(
    block: &mut Block,
    bytes: &[u8],
    eip: u32,
    page_left: usize,
    mode: Mode,
    features: Features,
    limit: usize,
) {
    block.insns.clear();
    Blocks::new(bytes, eip, page_left, mode, features).next_into(block, limit);
}

/// The basic blocks at the head of some bytes, one after the other.
pub struct Blocks<'a> {
    decoder: Decoder<'a>,
    bytes: &'a [u8],
    eip: u32,
    page_left: usize,
    mode: Mode,
    features: Features,
}

impl<'a> Blocks<'a> {
    /// Of `bytes`; arguments as for [`decode_block`].
    #[must_use]
    pub fn new(bytes: &'a [u8], eip: u32, page_left: usize, mode: Mode, features: Features) -> Self {
        let decoder = Decoder::with_ip(mode.bitness(), bytes, u64::from(eip), OPTIONS);
        Blocks { decoder, bytes, eip, page_left, mode, features }
    }

    /// Appends the next block's instructions, at most `limit`, to those that `block` holds already; everything else is replaced. Nothing follows
    /// a block that doesn't end by [`BlockEnd::ControlFlow`] or [`BlockEnd::Limit`].
    pub fn next_into(&mut self, block: &mut Block, limit: usize) {
        let Blocks { ref mut decoder, bytes, eip, page_left, mode, features } = *self;
        let limit = block.insns.len() + if mode.has(Mode::TRAP) { 1 } else { limit.max(1) };
        let start = decoder.position();
        block.eip = eip.wrapping_add(start as u32);
        block.mode = mode;
        block.crosses_page = false;
        let mut pos = start;
        block.end = loop {
            if pos >= page_left && pos > start {
                break BlockEnd::PageEnd;
            }
            if block.insns.len() == limit {
                break BlockEnd::Limit;
            }
            // Decoded in place: copying what iced has just written field by field stalls on every store.
            block.insns.push(Insn::default());
            let insn = block.insns.last_mut().expect("just pushed");
            decoder.decode_out(&mut insn.iced);
            let next = decoder.position();
            let crosses = next > page_left;
            let truncated = decoder.last_error() == DecoderError::NoMoreBytes;
            if truncated || (crosses && pos > start) {
                block.insns.pop();
                // Where the bytes of this page are all there, it is the page that ends, not the input.
                let page_ends = pos > start && bytes.len() >= page_left;
                break if page_ends { BlockEnd::PageEnd } else { BlockEnd::Truncated };
            }
            let info = info_of(insn.iced.code());
            insn.kind = kind_under(info, &insn.iced, mode, features);
            if !info.repeats {
                drop_ignored_repeats(&mut insn.iced);
            }
            block.crosses_page = crosses;
            pos = next;
            if insn.kind == Kind::Invalid {
                insn.over_long = insn.len() == MAX_INSN_LEN && is_over_long(&bytes[pos - MAX_INSN_LEN..], mode);
                break BlockEnd::Invalid;
            }
            if info.ends_block {
                break BlockEnd::ControlFlow;
            }
            if crosses {
                break BlockEnd::PageEnd;
            }
        };
        block.len = (pos - start) as u32;
    }
}

fn kind_under(info: &CodeInfo, iced: &Instruction, mode: Mode, features: Features) -> Kind {
    let recognised = features.contains(info.requires)
        && match info.only {
            Only::Always => true,
            Only::Protected => mode.has(Mode::PROTECTED) && !mode.has(Mode::VM86),
            Only::Memory => iced.op0_kind() == OpKind::Memory,
        };
    if recognised { info.kind } else { Kind::Invalid }
}

fn drop_ignored_repeats(iced: &mut Instruction) {
    if iced.has_rep_prefix() || iced.has_repne_prefix() {
        iced.set_has_rep_prefix(false);
        iced.set_has_repne_prefix(false);
    }
}

/// Tells an instruction that needs more than 15 bytes from an undefined one that ends exactly there; iced reports
/// both as invalid, 15 bytes long.
///
/// Segment overrides, LOCK and repetitions of any prefix change no instruction's length, and nothing is 15 bytes
/// long without one of them; so leave one out and see whether the other 14 bytes suffice.
#[cold]
fn is_over_long(bytes: &[u8], mode: Mode) -> bool {
    let bytes = &bytes[..MAX_INSN_LEN];
    let idle = |i: usize| match bytes[i] {
        0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 => true,
        b @ (0x66 | 0x67) => bytes[..i].contains(&b),
        // The last of these counts: an earlier one is idle.
        0xf2 | 0xf3 => bytes[i + 1..].iter().take_while(|&&b| is_prefix(b)).any(|b| matches!(b, 0xf2 | 0xf3)),
        _ => false,
    };
    let prefixes = bytes.iter().take_while(|&&b| is_prefix(b)).count();
    let Some(drop) = (0..prefixes).find(|&i| idle(i)) else { return false };
    let mut rest = [0; MAX_INSN_LEN - 1];
    rest[..drop].copy_from_slice(&bytes[..drop]);
    rest[drop..].copy_from_slice(&bytes[drop + 1..]);
    let mut decoder = Decoder::new(mode.bitness(), &rest, OPTIONS);
    let _ = decoder.decode();
    decoder.last_error() == DecoderError::NoMoreBytes
}

fn is_prefix(b: u8) -> bool {
    matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}
