//! Instructions as the interpreter keeps them: decoded once per cached block, with everything resolved that doesn't
//! depend on the state.

use crate::ctx::{Ctx, Exec};
use iced_x86::{Code, OpKind, Register};
use xlat86_arch::Seg;
use xlat86_decoder::Insn;

/// An instruction's meaning. While it runs EIP is already that of the next instruction; when it gives
/// [`crate::Stop::Fault`] the run loop puts EIP back, and the handler must have changed nothing.
pub(crate) type Handler = fn(&mut Ctx<'_>, &Op) -> Exec;

/// Where an operand is. Register operands carry the register's number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Operand {
    /// No such operand, or one that the mnemonic implies.
    #[default]
    None,
    /// General register, or its low 16 or 8 bits.
    Gpr(u8),
    /// Bits 8 to 15 of EAX, ECX, EDX or EBX (numbered 0 to 3).
    High(u8),
    /// The memory operand, [`Op::mem`].
    Mem,
    /// The immediate or branch target, [`Op::imm`].
    Imm,
    /// The second immediate, [`Op::imm2`].
    Imm2,
    /// Segment register.
    Seg(u8),
    /// Control register.
    Cr(u8),
    /// Debug register.
    Dr(u8),
    /// x87 register, relative to the top of stack.
    St(u8),
    /// MMX register.
    Mm(u8),
    /// SSE register.
    Xmm(u8),
}

/// [`MemRef::base`] and [`MemRef::index`] when there is none.
pub(crate) const NO_REG: u8 = 0xff;

/// A memory operand. String instructions use only `seg` and `addr16`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MemRef {
    pub(crate) disp: u32,
    /// General register number or [`NO_REG`].
    pub(crate) base: u8,
    /// General register number or [`NO_REG`].
    pub(crate) index: u8,
    /// log2 of the index's factor.
    pub(crate) scale: u8,
    /// Segment, override applied.
    pub(crate) seg: Seg,
    /// The address size is 16 bits: offsets wrap at 64 KB, string and loop instructions use SI, DI, CX.
    pub(crate) addr16: bool,
    /// Bytes read or written; 0 for more than 255.
    pub(crate) size: u8,
}

/// One instruction, ready to execute.
#[derive(Clone, Copy)]
pub(crate) struct Op {
    pub(crate) run: Handler,
    /// EIP of the instruction.
    pub(crate) eip: u32,
    /// EIP of the one after it.
    pub(crate) next: u32,
    /// Immediate, sign-extended, or the target of a direct branch.
    pub(crate) imm: u32,
    /// Second immediate (ENTER), the selector of a far branch, or the opcode that an x87 instruction records (SDM vol.
    /// 1, 8.1.9).
    pub(crate) imm2: u16,
    pub(crate) code: Code,
    /// First operand: the destination, where there is one.
    pub(crate) a: Operand,
    pub(crate) b: Operand,
    pub(crate) c: Operand,
    /// LOCK prefix, or XCHG with memory, which locks by itself.
    pub(crate) lock: bool,
    /// REP (REPE) prefix.
    pub(crate) rep: bool,
    /// REPNE prefix.
    pub(crate) repne: bool,
    pub(crate) mem: MemRef,
}

impl Op {
    /// Prepares `insn`, whose bytes `bytes` begins with, for `run`.
    pub(crate) fn new(insn: &Insn, bytes: &[u8], run: Handler) -> Op {
        let i = &insn.iced;
        let mut op = Op {
            run,
            eip: insn.eip(),
            next: insn.next_eip(),
            imm: 0,
            imm2: x87_opcode(bytes),
            code: i.code(),
            a: Operand::None,
            b: Operand::None,
            c: Operand::None,
            lock: i.has_lock_prefix(),
            rep: i.has_rep_prefix(),
            repne: i.has_repne_prefix(),
            mem: MemRef {
                disp: 0,
                base: NO_REG,
                index: NO_REG,
                scale: 0,
                seg: Seg::Ds,
                addr16: address_size(i) == 16,
                size: u8::try_from(i.memory_size().size()).unwrap_or(0),
            },
        };
        let mut operands = [Operand::None; 3];
        for (n, slot) in operands.iter_mut().enumerate().take(i.op_count() as usize) {
            *slot = op.operand(insn, n as u32);
        }
        [op.a, op.b, op.c] = operands;
        op
    }

    /// Operand `n`, leaving values that need room in `self`.
    fn operand(&mut self, insn: &Insn, n: u32) -> Operand {
        let i = &insn.iced;
        match i.op_kind(n) {
            OpKind::Register => register(i.op_register(n)),
            OpKind::NearBranch16 | OpKind::NearBranch32 => {
                self.imm = i.near_branch_target() as u32;
                Operand::Imm
            }
            OpKind::FarBranch16 => {
                (self.imm, self.imm2) = (i.far_branch16().into(), i.far_branch_selector());
                Operand::Imm
            }
            OpKind::FarBranch32 => {
                (self.imm, self.imm2) = (i.far_branch32(), i.far_branch_selector());
                Operand::Imm
            }
            OpKind::Immediate8_2nd => {
                self.imm2 = i.immediate8_2nd().into();
                Operand::Imm2
            }
            OpKind::Memory => {
                let m = &mut self.mem;
                m.disp = i.memory_displacement32();
                m.base = number(i.memory_base());
                m.index = number(i.memory_index());
                m.scale = i.memory_index_scale().trailing_zeros() as u8;
                m.seg = segment(i.memory_segment());
                Operand::Mem
            }
            OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegDI | OpKind::MemorySegEDI => {
                self.mem.seg = segment(i.memory_segment());
                Operand::None
            }
            OpKind::MemoryESDI | OpKind::MemoryESEDI => Operand::None,
            _ => {
                self.imm = i.immediate(n) as u32;
                Operand::Imm
            }
        }
    }
}

/// The low three bits of an x87 instruction's first byte and its second; 0 for other instructions.
fn x87_opcode(bytes: &[u8]) -> u16 {
    let is_prefix = |b: &u8| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let mut opcode = bytes.iter().skip_while(|b| is_prefix(b));
    match (opcode.next(), opcode.next()) {
        (Some(&first @ 0xd8..=0xdf), Some(&second)) => u16::from(first & 7) << 8 | u16::from(second),
        _ => 0,
    }
}

/// Address size in bits: it shows in the operands, or in the code when operands are implied.
fn address_size(i: &iced_x86::Instruction) -> u32 {
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::Memory => {
                let part = |r: Register| (r != Register::None && r != Register::AL).then(|| r.size() as u32 * 8);
                let size = part(i.memory_base()).or(part(i.memory_index())).unwrap_or(8 * i.memory_displ_size());
                return if size == 16 { 16 } else { 32 };
            }
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => return 16,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => return 32,
            _ => {}
        }
    }
    match xlat86_decoder::facts(i.code()).address_size {
        16 => 16,
        _ => 32,
    }
}

/// Number of the general register that contains `r`, or [`NO_REG`].
fn number(r: Register) -> u8 {
    if r.is_gpr32() || r.is_gpr16() { r.number() as u8 } else { NO_REG }
}

fn segment(r: Register) -> Seg {
    Seg::ALL[r.number() % 6]
}

fn register(r: Register) -> Operand {
    let n = r.number() as u8;
    match r {
        Register::AH | Register::CH | Register::DH | Register::BH => Operand::High(n - 4),
        _ if r.is_gpr() => Operand::Gpr(n & 7),
        _ if r.is_segment_register() => Operand::Seg(n),
        _ if r.is_cr() => Operand::Cr(n & 7),
        _ if r.is_dr() => Operand::Dr(n & 7),
        _ if r.is_st() => Operand::St(n),
        _ if r.is_mm() => Operand::Mm(n),
        _ if r.is_xmm() => Operand::Xmm(n & 7),
        _ => Operand::None,
    }
}
