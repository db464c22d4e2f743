//! ESP is moved lazily.
//!
//! Every PUSH, POP, CALL and RET moves ESP, and each move depends on the one before: natively the host's stack engine
//! removes that chain, for R12 nobody does. So moves by constants are added up at translation time: guest ESP is R12 plus
//! a *bias*, which goes into the displacements of memory operands, into the marks (state is repaired by it when code is stopped or
//! faults), and into R12 itself before anything that needs the register: jumps, leaving, other uses of ESP.

use crate::emit::Emitter;
use crate::operand::{self, HostMem, R8, R12};
use dynasmrt::{DynasmApi, dynasm};
use iced_x86::{Code, OpKind, Register};
use xlat86_decoder::Insn;

impl Emitter<'_> {
    /// Guest stack memory at `disp` bytes from guest ESP.
    pub(crate) fn stack(&self, disp: i32) -> HostMem {
        HostMem::at(R12, self.esp.wrapping_add(disp))
    }

    /// Guest ESP moves by `n` bytes.
    pub(crate) fn move_esp(&mut self, n: i32) {
        self.esp = self.esp.wrapping_add(n);
        if !self.config.lazy_esp {
            self.sync_esp();
        }
    }

    /// Makes R12 equal to guest ESP. No flags.
    pub(crate) fn sync_esp(&mut self) {
        if self.esp != 0 {
            operand::lea(&mut self.buf, R12, &HostMem::at(R12, self.esp));
            self.groups.esp_moved(self.esp);
            self.esp = 0;
            self.mark_esp();
        }
    }

    /// Makes R12 what guest ESP will be when it has moved by `n` bytes, with the current instruction.
    pub(crate) fn move_esp_ahead(&mut self, n: i32) {
        let by = self.esp.wrapping_add(n);
        if by != 0 {
            operand::lea(&mut self.buf, R12, &HostMem::at(R12, by));
            self.groups.esp_moved(by);
        }
        self.esp = n.wrapping_neg();
        self.mark_esp();
    }

    /// R12 has been given guest ESP's value by other means.
    pub(crate) fn esp_is_set(&mut self) {
        self.groups.drop_esp();
        self.esp = 0;
    }

    /// The flags of adding `n` to ESP, or subtracting it, without moving R12.
    fn esp_flags(&mut self, add: bool, n: i32) {
        // A comparison subtracts; adding takes a copy.
        let r = if self.esp == 0 && !add { R12 } else { R8 };
        match self.esp {
            0 if add => dynasm!(self.buf ; .arch x64 ; mov r8d, r12d),
            0 => {}
            esp => operand::lea(&mut self.buf, R8, &HostMem::at(R12, esp)),
        }
        let modrm = 0xc0 | if add { 0 } else { 7 } << 3 | r & 7;
        match i8::try_from(n) {
            Ok(n) => self.buf.bytes.extend_from_slice(&[0x41, 0x83, modrm, n as u8]),
            Err(_) => {
                self.buf.bytes.extend_from_slice(&[0x41, 0x81, modrm]);
                self.buf.bytes.extend_from_slice(&n.to_le_bytes());
            }
        }
    }

    /// Emits `insn` if it is one of those that move ESP by a constant or copy it, without moving R12; true when it was.
    pub(crate) fn lazy_esp(&mut self, insn: &Insn) -> bool {
        if !self.config.lazy_esp {
            return false;
        }
        let i = &insn.iced;
        let to_esp = i.op_count() == 2 && i.op0_kind() == OpKind::Register && i.op0_register() == Register::ESP;
        match insn.code() {
            Code::Add_rm32_imm8 | Code::Add_rm32_imm32 | Code::Sub_rm32_imm8 | Code::Sub_rm32_imm32 if to_esp => {
                let n = i.immediate(1) as i32;
                let add = matches!(insn.code(), Code::Add_rm32_imm8 | Code::Add_rm32_imm32);
                if !self.flags_are_dead() {
                    self.esp_flags(add, n);
                }
                self.move_esp(if add { n } else { n.wrapping_neg() });
            }
            Code::Lea_r32_m if to_esp && i.memory_base() == Register::ESP && i.memory_index() == Register::None => {
                self.move_esp(i.memory_displacement32() as i32);
            }
            Code::Mov_r32_rm32 | Code::Mov_rm32_r32
                if i.op1_kind() == OpKind::Register && i.op1_register() == Register::ESP && !to_esp =>
            {
                if i.op0_kind() != OpKind::Register {
                    return false;
                }
                let to = operand::host_reg(i.op0_register().number() as u8);
                if self.esp == 0 {
                    dynasm!(self.buf ; .arch x64 ; mov Rd(to), r12d);
                } else {
                    operand::lea(&mut self.buf, to, &HostMem::at(R12, self.esp));
                }
            }
            Code::Mov_r32_rm32 | Code::Mov_rm32_r32
                if to_esp && i.op1_kind() == OpKind::Register && i.op1_register() != Register::ESP =>
            {
                let from = operand::host_reg(i.op1_register().number() as u8);
                dynasm!(self.buf ; .arch x64 ; mov r12d, Rd(from));
                self.esp_is_set();
            }
            Code::Lea_r32_m if to_esp && i.memory_base() != Register::ESP => {
                let mem = operand::prepare_offset(&mut self.buf, i, 0);
                operand::lea(&mut self.buf, R12, &mem);
                self.esp_is_set();
            }
            _ => return false,
        }
        true
    }
}

/// Does `insn` name ESP or SP as a register operand?
pub(crate) fn names_esp(insn: &Insn) -> bool {
    let i = &insn.iced;
    let is_esp = |kind: OpKind, r: Register| kind == OpKind::Register && matches!(r, Register::ESP | Register::SP);
    is_esp(i.op0_kind(), i.op0_register())
        || is_esp(i.op1_kind(), i.op1_register())
        || is_esp(i.op2_kind(), i.op2_register())
}
