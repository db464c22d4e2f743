//! Basic blocks.

use crate::Kind;
use iced_x86::{Code, ConstantOffsets, Instruction};
use xlat86_arch::Mode;

/// Longest legal instruction in bytes; a longer one raises #GP(0) (SDM vol. 2A, 2.3.11).
pub const MAX_INSN_LEN: usize = 15;

/// One decoded instruction.
#[derive(Clone, Copy, Debug)]
pub struct Insn {
    /// iced's view: operands, code, flags. Its `ip32()` is the guest EIP.
    pub iced: Instruction,
    /// Where displacement and immediates stand in the bytes.
    pub offsets: ConstantOffsets,
    /// Classification.
    pub kind: Kind,
}

impl Insn {
    /// Guest EIP (offset within CS) of the first byte.
    #[must_use]
    pub fn eip(&self) -> u32 {
        self.iced.ip32()
    }
    /// Length in bytes, 1 to 15.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iced.len()
    }
    /// EIP of the following instruction.
    #[must_use]
    pub fn next_eip(&self) -> u32 {
        self.iced.next_ip32()
    }
    /// iced's name for this encoding.
    #[must_use]
    pub fn code(&self) -> Code {
        self.iced.code()
    }
}

/// Why a block ends where it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockEnd {
    /// The last instruction changes EIP, or is one after which the mode may differ.
    ControlFlow,
    /// The next instruction starts on another page.
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
#[derive(Clone, Debug)]
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
}

/// Decodes one instruction at the head of `bytes`; `None` when they run out inside it.
#[must_use]
pub fn decode_insn(bytes: &[u8], eip: u32, mode: Mode) -> Option<Insn> {
    let _ = (bytes, eip, mode);
    None
}

/// Decodes the basic block at the head of `bytes`.
///
/// `eip` is the offset of `bytes[0]` within CS and `page_left` the number of bytes from it to the end of its
/// page (1 to 4096): no instruction after the first starts beyond, and none but the first crosses. `bytes` may reach into the next page by up to 14 bytes so that an
/// instruction that crosses can be decoded as a block of its own. At most `limit` instructions.
#[must_use]
pub fn decode_block(bytes: &[u8], eip: u32, page_left: usize, mode: Mode, limit: usize) -> Block {
    let _ = (bytes, page_left, limit);
    Block { eip, mode, len: 0, insns: Vec::new(), end: BlockEnd::Truncated }
}
