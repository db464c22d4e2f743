//! From an instruction to its meaning.
//!
//! A row says what a mnemonic means, or a single code where a mnemonic's codes differ in more than width. Rows stand
//! in the family files under `ops`; here they become one table with a handler for each code.

use crate::op::Handler;
use crate::ops;
use iced_x86::{Code, Mnemonic, OpCodeOperandKind as K};
use xlat86_decoder::{PerCode, facts};

/// What a row is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Key {
    /// All codes of a mnemonic that have no row of their own.
    All(Mnemonic),
    /// One code.
    One(Code),
}

/// An instruction's meaning: a handler, or one for each operand width.
#[derive(Clone, Copy)]
pub(crate) enum Meaning {
    /// The same for every code.
    Any(Handler),
    /// By operand width: 8, 16, 32 bits.
    ByWidth([Option<Handler>; 3]),
}

/// One row.
pub(crate) type Row = (Key, Meaning);

/// The row of a mnemonic.
pub(crate) const fn all(m: Mnemonic, meaning: Meaning) -> Row {
    (Key::All(m), meaning)
}

/// The row of one code.
pub(crate) const fn one(c: Code, meaning: Meaning) -> Row {
    (Key::One(c), meaning)
}

/// One handler, whatever the code.
pub(crate) const fn any(h: Handler) -> Meaning {
    Meaning::Any(h)
}

/// A handler generic over the widths 8, 16 and 32.
macro_rules! widths {
    ($f:ident) => {
        $crate::table::Meaning::ByWidth([Some($f::<u8>), Some($f::<u16>), Some($f::<u32>)])
    };
}
/// A handler generic over the widths 16 and 32.
macro_rules! wide {
    ($f:ident) => {
        $crate::table::Meaning::ByWidth([None, Some($f::<u16>), Some($f::<u32>)])
    };
}
pub(crate) use {wide, widths};

/// A family's rows: mnemonics, then single codes, each with a function and the arguments that make it a handler.
macro_rules! shapes {
    ($name:ident { $($m:ident => $f:ident $(::<$($t:ty),*>)? ($($arg:expr),* $(,)?);)* }
     codes { $($c:ident => $cf:ident $(::<$($ct:ty),*>)? ($($carg:expr),* $(,)?);)* }) => {
        pub(crate) const $name: &[$crate::table::Row] = &[
            $($crate::table::all(iced_x86::Mnemonic::$m,
                $crate::table::Meaning::Any(|ctx, op| $f $(::<$($t),*>)? (ctx, op, $($arg),*))),)*
            $($crate::table::one(iced_x86::Code::$c,
                $crate::table::Meaning::Any(|ctx, op| $cf $(::<$($ct),*>)? (ctx, op, $($carg),*))),)*
        ];
    };
}
pub(crate) use shapes;

/// Every family's rows.
fn rows() -> impl Iterator<Item = &'static Row> {
    ops::FAMILIES.iter().copied().flatten()
}

static TABLE: PerCode<Option<Handler>> = PerCode::new(|code| {
    let named = |key: Key| rows().find(|row| row.0 == key).map(|row| row.1);
    match named(Key::One(code)).or_else(|| named(Key::All(code.mnemonic())))? {
        Meaning::Any(h) => Some(h),
        Meaning::ByWidth(h) => h[width(code)? as usize],
    }
});

/// The handler of `code`.
pub(crate) fn handler(code: Code) -> Option<Handler> {
    *TABLE.get(code)
}

/// log2 of the operand width of `code` in bytes: that of its first general-register operand, or else its operand size.
fn width(code: Code) -> Option<u8> {
    let info = facts(code);
    let operand = info.op_kinds().find_map(|k| match k {
        K::r8_or_mem | K::r8_reg | K::r8_opcode | K::al => Some(0),
        K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode | K::ax => Some(1),
        K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::eax => Some(2),
        _ => None,
    });
    operand.or(match info.operand_size {
        16 => Some(1),
        32 => Some(2),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_given_twice() {
        let mut seen = Vec::new();
        for (key, _) in rows() {
            assert!(!seen.contains(key), "{key:?}");
            seen.push(*key);
        }
    }

    #[test]
    fn every_valid_code_has_a_meaning() {
        use xlat86_decoder::{Kind, kind_of};
        // Codes with a WAIT in front stand for two instructions and never come out of decoding.
        let valid = |c: &Code| kind_of(*c) != Kind::Invalid && !c.op_code().fwait();
        let missing: Vec<_> = Code::values().filter(|c| valid(c) && handler(*c).is_none()).collect();
        assert!(missing.is_empty(), "no row for {missing:?}");
    }

    #[test]
    fn every_row_serves_an_instruction_that_decodes() {
        use xlat86_decoder::{Kind, kind_of};
        for (key, _) in rows() {
            let used = Code::values().any(|c| {
                kind_of(c) != Kind::Invalid
                    && (*key == Key::One(c) || *key == Key::All(c.mnemonic()))
                    && handler(c).is_some()
            });
            assert!(used, "{key:?} is dead");
        }
    }
}
