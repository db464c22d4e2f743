//! Liveness of the status flags.
//!
//! Guest flags live in the host's flags, so flags are never computed twice or lazily; liveness only decides which
//! form a piece of glue may take. The answer "dead" must be provable from the instructions at hand.

use crate::unit::Source;
use iced_x86::{Code, Mnemonic, RflagsBits};
use xlat86_arch::{CpuModel, Mode, eflags};
use xlat86_decoder::{Insn, decode_block, ends_block};

/// Most instructions looked at.
const HORIZON: usize = 12;

/// True when every path through `insns` writes all status flags before reading any of them. Where they end in a direct jump or call,
/// the code it reaches is looked at too.
pub(crate) fn dead_before(source: &mut dyn Source, insns: &[Insn]) -> bool {
    let mut missing = eflags::STATUS;
    match scan(insns, &mut missing) {
        Scan::Dead => true,
        Scan::Live => false,
        Scan::GoesTo(target) => {
            let mut bytes = [0; 32];
            let n = source.peek(target, &mut bytes);
            let block = decode_block(&bytes[..n], target, n.max(1), Mode::USER32, CpuModel::MAX.features, HORIZON);
            let dead = matches!(scan(&block.insns, &mut missing), Scan::Dead);
            if dead {
                source.depend(target);
            }
            dead
        }
    }
}

/// What straight-line code does to the flags.
enum Scan {
    Dead,
    Live,
    /// Neither reads nor overwrites all of them, and goes on at this guest address.
    GoesTo(u32),
}

fn scan(insns: &[Insn], missing: &mut u32) -> Scan {
    for insn in insns.iter().take(HORIZON) {
        if insn.iced.rflags_read() & !RflagsBits::DF != RflagsBits::NONE {
            return Scan::Live;
        }
        *missing &= !always_written(insn);
        if *missing == 0 {
            return Scan::Dead;
        }
        if ends_block(insn.code()) {
            let direct = matches!(insn.code(), Code::Call_rel32_32 | Code::Jmp_rel32_32 | Code::Jmp_rel8_32);
            return if direct { Scan::GoesTo(insn.iced.near_branch32()) } else { Scan::Live };
        }
    }
    Scan::Live
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
