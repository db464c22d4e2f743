//! What the encoder has to know about a code: which of its operands are general registers, and where they are encoded.
//!
//! One row per iced code, computed when first met from iced's own operand descriptions.

use crate::legacy;
use crate::tlb::Access;
use iced_x86::{Code, Instruction, Mnemonic, OpCodeOperandKind, OpKind};
use xlat86_decoder::{PerCode, facts};

/// What a register number in an encoding means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Class {
    /// No register, or one whose number is the same on the host (XMM, MMX, x87, an opcode extension).
    #[default]
    Same,
    /// A 16- or 32-bit general register: ESP moves to R12.
    Gpr,
    /// An 8-bit general register: 4 to 7 are AH, CH, DH, BH and go away under REX.
    Gpr8,
}

/// The encoding of one code, as far as re-encoding cares.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// ModRM.reg.
    pub(crate) reg: Class,
    /// ModRM.rm when it names a register.
    pub(crate) rm: Class,
    /// The low three bits of the opcode.
    pub(crate) opcode_reg: Class,
    /// There is a ModRM byte.
    pub(crate) modrm: bool,
    /// The prefix that selects the instruction: 0x66, 0xF2, 0xF3 or 0.
    pub(crate) mandatory: u8,
    /// Re-encoding is all that this plain instruction ever needs, unless it names ESP.
    pub(crate) direct: bool,
    /// 0xA0 to 0xA3: a bare 32-bit offset.
    pub(crate) moffs: bool,
    /// BT and kin: a register operand's upper bits are part of the address.
    pub(crate) bit_string: bool,
    /// What its ModRM byte must not name if it is to stay what it is in 64-bit mode: bits of [`Renamed`].
    pub(crate) renamed: u8,
    /// The first operand is written.
    pub(crate) writes_first: bool,
}

/// What ModRM bytes name that may have to be named otherwise.
pub(crate) struct Renamed;

impl Renamed {
    /// Register 4 as ModRM.reg.
    pub(crate) const REG_ESP: u8 = 1;
    /// Register 4 as ModRM.rm.
    pub(crate) const RM_ESP: u8 = 2;
    /// Memory behind a base, at most a byte's displacement away.
    pub(crate) const NEAR: u8 = 4;
    /// Other memory.
    pub(crate) const FAR: u8 = 8;
}

impl Shape {
    /// How `insn`, of this shape, accesses its memory operand.
    pub(crate) fn access(&self, insn: &Instruction) -> Access {
        let size = insn.memory_size().size().max(1) as u32;
        Access { size, write: self.writes_first && insn.op0_kind() == OpKind::Memory }
    }
}

static SHAPES: PerCode<Shape> = PerCode::new(shape);

/// The shape of `code`.
pub(crate) fn shape_of(code: Code) -> &'static Shape {
    SHAPES.get(code)
}

fn shape(code: Code) -> Shape {
    use OpCodeOperandKind as K;
    let facts = facts(code);
    let mut s = Shape::default();
    if !facts.legacy {
        return s;
    }
    s.mandatory = facts.mandatory_prefix;
    s.direct = is_direct(code);
    s.modrm = facts.group;
    s.writes_first = facts.writes_first;
    s.bit_string = matches!(code.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    for kind in facts.op_kinds() {
        match kind {
            K::r8_reg => (s.reg, s.modrm) = (Class::Gpr8, true),
            K::r16_reg | K::r32_reg => (s.reg, s.modrm) = (Class::Gpr, true),
            K::r16_rm | K::r32_rm | K::r16_or_mem | K::r32_or_mem => (s.rm, s.modrm) = (Class::Gpr, true),
            K::r8_or_mem => (s.rm, s.modrm) = (Class::Gpr8, true),
            K::r8_opcode => s.opcode_reg = Class::Gpr8,
            K::r16_opcode | K::r32_opcode => s.opcode_reg = Class::Gpr,
            K::mem_offs => s.moffs = true,
            K::mem
            | K::mm_reg
            | K::mm_rm
            | K::mm_or_mem
            | K::xmm_reg
            | K::xmm_rm
            | K::xmm_or_mem
            | K::seg_reg
            | K::cr_reg
            | K::dr_reg => s.modrm = true,
            _ => {}
        }
    }
    let bit = |renamed: bool, bit: u8| if renamed { bit } else { 0 };
    s.renamed = Renamed::FAR
        | bit(s.reg == Class::Gpr, Renamed::REG_ESP)
        | bit(s.rm == Class::Gpr, Renamed::RM_ESP)
        // Bits that a register selects are as far away as it says.
        | bit(s.bit_string, Renamed::NEAR);
    s
}

/// The plain instructions that compilers use most and that nothing here treats specially.
fn is_direct(code: Code) -> bool {
    use Mnemonic as M;
    matches!(
        code.mnemonic(),
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Cmp
            | M::Test
            | M::And
            | M::Or
            | M::Xor
            | M::Adc
            | M::Sbb
            | M::Neg
            | M::Not
            | M::Shl
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Imul
            | M::Mul
            | M::Div
            | M::Idiv
            | M::Add
            | M::Sub
            | M::Lea
            | M::Sete
            | M::Setne
            | M::Cdq
            | M::Movaps
            | M::Movups
            | M::Movss
            | M::Movsd
            | M::Movdqa
            | M::Movdqu
            | M::Movd
            | M::Movq
            | M::Pxor
            | M::Fld
            | M::Fstp
            | M::Fxch
            | M::Bt
            | M::Cmove
            | M::Cmovne
    ) && !facts(code).op_kinds().any(|k| k == OpCodeOperandKind::seg_reg)
        && !legacy::is_alias_82(code)
}
