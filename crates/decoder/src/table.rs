//! Everything the decoder knows about a code, in one row per code, built once from the lists in `kind` and
//! `requires` and from iced's description of the operands.

use crate::facts::facts;
use crate::kind::{BY_CODE, BY_MNEMONIC, Ends, Kind, PROTECTED_ONLY, Row};
use crate::per_code::PerCode;
use crate::requires::requires;
use iced_x86::{Code, Mnemonic, OpCodeOperandKind};
use xlat86_arch::Features;

/// Which part of the floating-point machinery an instruction uses: decides what CR0.EM, CR0.TS and CR4.OSFXSR do to
/// it (SDM vol. 3A, tables 2-2 and 13-1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Unit {
    /// None: never #NM.
    Integer,
    /// x87, FXSAVE and FXRSTOR: #NM when EM or TS.
    X87,
    /// WAIT: #NM when MP and TS.
    Wait,
    /// MMX registers: #UD when EM, #NM when TS.
    Mmx,
    /// XMM registers or MXCSR: #UD when EM or not OSFXSR, #NM when TS.
    Sse,
}

/// Where an instruction is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Only {
    /// Everywhere its features are.
    Always,
    /// Neither in real-address nor in virtual-8086 mode.
    Protected,
    /// With a memory operand (iced accepts a register as well).
    Memory,
}

/// What is known about one code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeInfo {
    pub(crate) requires: Features,
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    pub(crate) ends_block: bool,
    pub(crate) only: Only,
    /// F3 and F2 repeat it; with any other instruction they are ignored.
    pub(crate) repeats: bool,
}

static TABLE: PerCode<CodeInfo> = PerCode::new(info);

#[inline]
pub(crate) fn info_of(code: Code) -> &'static CodeInfo {
    TABLE.get(code)
}

/// The kind of `code` on a CPU that has what it requires. Extensions that are not offered at all are invalid.
#[must_use]
pub fn kind_of(code: Code) -> Kind {
    info_of(code).kind
}

/// True when a block ends after `code`: control may go elsewhere, or the next bytes may be fetched or decoded
/// differently.
#[must_use]
pub fn ends_block(code: Code) -> bool {
    info_of(code).ends_block
}

/// The features that `code` needs; [`Features::NEVER`] among them when it is not offered.
#[must_use]
pub fn required_features(code: Code) -> Features {
    info_of(code).requires
}

/// The floating-point unit that `code` uses.
#[must_use]
pub fn unit_of(code: Code) -> Unit {
    info_of(code).unit
}

/// True when `code` is a string instruction, INS or OUTS: one that F3 and F2 repeat.
#[must_use]
pub fn repeats(code: Code) -> bool {
    info_of(code).repeats
}

/// The row that names `code`, if one does. `None` also for encodings no 16- or 32-bit code segment holds.
fn classified(code: Code) -> Option<(Kind, Ends)> {
    fn find<T: PartialEq>(rows: &[Row<T>], item: T) -> Option<(Kind, Ends)> {
        rows.iter().find(|row| row.2.contains(&item)).map(|row| (row.0, row.1))
    }
    find(BY_CODE, code).or_else(|| find(BY_MNEMONIC, code.mnemonic()))
}

/// True when `code` can come out of decoding 16- or 32-bit code and some model offers it.
fn offered(code: Code) -> bool {
    facts(code).legacy && !requires(code).contains(Features::NEVER)
}

fn info(code: Code) -> CodeInfo {
    let (kind, ends) = match classified(code) {
        Some(row) if offered(code) => row,
        _ => (Kind::Invalid, Ends::Yes),
    };
    CodeInfo {
        requires: requires(code),
        kind,
        unit: unit(code, kind),
        ends_block: ends == Ends::Yes,
        only: match code {
            _ if PROTECTED_ONLY.contains(&code.mnemonic()) => Only::Protected,
            Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D => Only::Memory,
            _ => Only::Always,
        },
        repeats: facts(code).repeats,
    }
}

fn unit(code: Code, kind: Kind) -> Unit {
    use OpCodeOperandKind as K;
    let touches = |kinds: &[K]| facts(code).op_kinds().any(|k| kinds.contains(&k));
    match code.mnemonic() {
        _ if kind == Kind::Invalid => Unit::Integer,
        Mnemonic::Wait => Unit::Wait,
        _ if kind == Kind::Fpu => Unit::X87,
        Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr => Unit::Sse,
        Mnemonic::Emms => Unit::Mmx,
        _ if touches(&[K::xmm_reg, K::xmm_rm, K::xmm_or_mem]) => Unit::Sse,
        _ if touches(&[K::mm_reg, K::mm_rm, K::mm_or_mem]) => Unit::Mmx,
        _ => Unit::Integer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(codes: impl Iterator<Item = Code>) -> Vec<String> {
        codes.map(|c| format!("{c:?}")).collect()
    }

    #[test]
    fn every_code_is_classified() {
        let missing = names(Code::values().filter(|&c| offered(c) && classified(c).is_none()));
        assert!(missing.is_empty(), "no row names {missing:?}");
    }

    #[test]
    fn no_row_names_what_is_not_offered() {
        let dead = names(Code::values().filter(|&c| BY_CODE.iter().any(|r| r.2.contains(&c)) && !offered(c)));
        assert_eq!(dead, ["INVALID"]);
        let offered: Vec<Mnemonic> = Code::values().filter(|&c| offered(c)).map(Code::mnemonic).collect();
        let dead: Vec<_> = BY_MNEMONIC.iter().flat_map(|r| r.2).filter(|m| !offered.contains(m)).collect();
        assert_eq!(dead, [&Mnemonic::Rsm]);
    }

    #[test]
    fn nothing_is_named_twice() {
        let mut seen = std::collections::HashSet::new();
        for &m in BY_MNEMONIC.iter().flat_map(|r| r.2) {
            assert!(seen.insert(m), "{m:?} stands in two rows");
        }
        let mut codes = std::collections::HashSet::new();
        for &c in BY_CODE.iter().flat_map(|r| r.2) {
            assert!(codes.insert(c), "{c:?} stands in two rows");
            assert!(c == Code::INVALID || !seen.contains(&c.mnemonic()), "{c:?} is named by mnemonic as well");
        }
    }

    /// The SDM's instructions that only CPL 0 may execute (vol. 3A, 5.9) and those that leak or change system state
    /// without faulting, by iced's own list of privileged codes and by name.
    #[test]
    fn sensitive_instructions_are_sensitive() {
        for code in Code::values().filter(|&c| offered(c)) {
            let op = code.op_code();
            let system = op.is_privileged()
                || op.is_input_output()
                || op.is_save_restore() && !matches!(code.mnemonic(), Mnemonic::Fxsave | Mnemonic::Fxrstor)
                || code.instruction_is_far_or_interrupt();
            let fpu = unit(code, kind_of(code)) == Unit::X87;
            if system && !fpu && kind_of(code) != Kind::Invalid {
                assert_eq!(kind_of(code), Kind::Sensitive, "{code:?}");
            }
        }
    }

    trait Flow {
        fn instruction_is_far_or_interrupt(self) -> bool;
    }
    impl Flow for Code {
        fn instruction_is_far_or_interrupt(self) -> bool {
            use iced_x86::FlowControl as F;
            let far =
                self.is_jmp_far() || self.is_jmp_far_indirect() || self.is_call_far() || self.is_call_far_indirect();
            far || self.flow_control() == F::Interrupt
        }
    }

    /// iced's own idea of control flow agrees with ours: what it says leaves the straight line ends a block.
    #[test]
    fn control_flow_ends_blocks() {
        use iced_x86::FlowControl as F;
        for code in Code::values().filter(|&c| offered(c)) {
            if code.flow_control() != F::Next {
                assert!(ends_block(code), "{code:?}");
            } else {
                assert_ne!(kind_of(code), Kind::Branch, "{code:?}");
            }
        }
    }

    #[test]
    fn plain_instructions_leave_the_stack_pointer_alone() {
        for code in Code::values().filter(|&c| kind_of(c) == Kind::Plain) {
            let mut insn = iced_x86::Instruction::default();
            insn.set_code(code);
            assert!(!insn.is_stack_instruction(), "{code:?}");
        }
    }

    #[test]
    fn what_repeats_is_a_string_instruction() {
        for code in Code::values().filter(|&c| kind_of(c) != Kind::Invalid) {
            let io = matches!(
                format!("{:?}", code.mnemonic()).as_str(),
                "Insb" | "Insw" | "Insd" | "Outsb" | "Outsw" | "Outsd"
            );
            assert_eq!(repeats(code), kind_of(code) == Kind::String || io, "{code:?}");
        }
    }
}
