//! Liveness of the status flags.
//!
//! Guest flags live in the host's flags, so flags are never computed twice or lazily; liveness only decides which
//! form a piece of glue may take. The answer "dead" must be provable from the instructions at hand.

use iced_x86::{Mnemonic, OpKind, RflagsBits};
use xlat86_arch::eflags;
use xlat86_decoder::{Insn, Kind, ends_block};

/// Most instructions looked at.
const HORIZON: usize = 12;

/// If `insns` overwrite all status flags before reading any, with `seen_by_faults` also before any of them can fault (a signal's context shows flags): the number of
/// instructions up to and including the one that completes it. At the start of each of them the flags may hold anything, and nobody can tell
/// but by stopping there; so asynchronous signals are held off until they are past ([`crate::Mark::exact`]).
pub(crate) fn dead_before(insns: &[Insn], seen_by_faults: bool) -> Option<usize> {
    let mut missing = eflags::STATUS;
    for (i, insn) in insns.iter().take(HORIZON).enumerate() {
        if insn.iced.rflags_read() & !RflagsBits::DF != RflagsBits::NONE || seen_by_faults && may_fault(insn) {
            return None;
        }
        missing &= !always_written(insn);
        if missing == 0 {
            return Some(i + 1);
        }
        if ends_block(insn.code()) {
            return None;
        }
    }
    None
}

/// Can `insn` raise an exception?
fn may_fault(insn: &Insn) -> bool {
    let i = &insn.iced;
    let memory = i.op_kinds().any(|k| k == OpKind::Memory) && !matches!(i.mnemonic(), Mnemonic::Lea | Mnemonic::Nop);
    insn.kind != Kind::Plain || memory || matches!(i.mnemonic(), Mnemonic::Div | Mnemonic::Idiv | Mnemonic::Aam)
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
        | Mnemonic::Neg
        | Mnemonic::Cmpxchg
        | Mnemonic::Xadd
        | Mnemonic::Popf
        | Mnemonic::Popfd => eflags::STATUS,
        Mnemonic::Inc | Mnemonic::Dec => eflags::STATUS & !eflags::CF,
        _ => 0,
    }
}
