//! What iced knows about the encoding of each code, as a constant table made at build time.

use iced_x86::{Code, OpCodeOperandKind};

/// One code's encoding.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    op_count: u8,
    op_kinds: [u8; 5],
    /// The prefix that selects the instruction: 0x66, 0xF2, 0xF3 or 0.
    pub mandatory_prefix: u8,
    /// A real instruction of 16- or 32-bit mode in the legacy encoding (not VEX, EVEX, XOP, 3DNow!).
    pub legacy: bool,
    /// REP or REPNE have a meaning.
    pub repeats: bool,
    /// ModRM extends the opcode.
    pub group: bool,
    /// Stands for WAIT and another instruction; never comes out of decoding.
    pub wait: bool,
    /// Operand size in bits, 0 when the code doesn't depend on it.
    pub operand_size: u32,
    /// Address size in bits, 0 when the code doesn't depend on it.
    pub address_size: u32,
    /// The first operand is written, at least sometimes.
    pub writes_first: bool,
}

static FACTS: &[Facts] = &include!(concat!(env!("OUT_DIR"), "/facts.rs"));

/// The encoding of `code`.
#[must_use]
pub fn facts(code: Code) -> &'static Facts {
    &FACTS[code as usize]
}

impl Facts {
    /// How each operand is encoded.
    pub fn op_kinds(&self) -> impl Iterator<Item = OpCodeOperandKind> + use<> {
        let (kinds, n) = (self.op_kinds, usize::from(self.op_count));
        (0..n).map(move |i| OpCodeOperandKind::try_from(usize::from(kinds[i])).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_iced_says() {
        assert_eq!(FACTS.len(), Code::values().len());
        for code in Code::values() {
            let kinds: Vec<_> = facts(code).op_kinds().collect();
            assert_eq!(kinds, code.op_code().op_kinds(), "{code:?}");
            assert_eq!(facts(code).operand_size, code.op_code().operand_size(), "{code:?}");
        }
    }
}
