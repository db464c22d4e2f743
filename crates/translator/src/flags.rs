//! Liveness of the status flags.
//!
//! Guest flags live in the host's flags, so flags are never computed twice or lazily; liveness only decides which
//! form a piece of glue may take. The answer "dead" must be provable from the instructions at hand.

use iced_x86::{Mnemonic, RflagsBits};
use xlat86_arch::eflags;
use xlat86_decoder::Insn;

/// Most instructions looked at.
const HORIZON: usize = 12;

/// True when every path through `insns` writes all status flags before reading any of them.
pub(crate) fn dead_before(insns: &[Insn]) -> bool {
    let mut missing = eflags::STATUS;
    for insn in insns.iter().take(HORIZON) {
        if insn.iced.rflags_read() & !RflagsBits::DF != RflagsBits::NONE {
            return false;
        }
        missing &= !always_written(insn);
        if missing == 0 {
            return true;
        }
        if xlat86_decoder::ends_block(insn.code()) {
            return false;
        }
    }
    false
}

/// Status flags that `insn` overwrites whatever its operands are, and that depend on nothing but them.
fn always_written(insn: &Insn) -> u32 {
    match insn.iced.mnemonic() {
        Mnemonic::Add
        | Mnemonic::Sub
        | Mnemonic::Cmp
        | Mnemonic::Test
        | Mnemonic::And
        | Mnemonic::Or
        | Mnemonic::Xor
        | Mnemonic::Neg => eflags::STATUS,
        Mnemonic::Inc | Mnemonic::Dec => eflags::STATUS & !eflags::CF,
        _ => 0,
    }
}
