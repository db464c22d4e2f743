//! IN and OUT, and the permission to use a port.

use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::table::{Row, any, one};
use crate::width::Width;
use iced_x86::Code;
use xlat86_arch::{Fault, Gva, Mode};

/// Offset of the I/O map base in a 32-bit TSS.
const IO_MAP_BASE: u32 = 0x66;

impl Ctx<'_> {
    /// May `len` ports from `port` be used? Always in real mode and at CPL <= IOPL; otherwise by the TSS's bitmap
    /// (SDM vol. 1, 19.5.2).
    pub(super) fn require_io(&mut self, port: u16, len: u32) -> Exec {
        let v86 = self.mode.has(Mode::VM86);
        if !v86 && (!self.mode.has(Mode::PROTECTED) || self.cpu.cpl <= self.iopl()) {
            return Ok(());
        }
        let denied = Err(Fault::gp(0).into());
        let tr = self.cpu.tr;
        let tss32 = tr.attr.present() && tr.attr.typ() & !2 == 9;
        if !tss32 || tr.limit < IO_MAP_BASE + 1 {
            return denied;
        }
        let map: u16 = self.mmu.read_system(Gva(tr.base.wrapping_add(IO_MAP_BASE)))?;
        let at = u32::from(map) + u32::from(port >> 3);
        // Always two bytes, so that any access is covered: the map ends with a byte of ones.
        if at + 1 > tr.limit {
            return denied;
        }
        let bits: u16 = self.mmu.read_system(Gva(tr.base.wrapping_add(at)))?;
        if bits >> (port & 7) & ((1 << len) - 1) == 0 { Ok(()) } else { denied }
    }
}

/// The port: an immediate byte or DX.
fn port(ctx: &Ctx<'_>, op: &Op, o: Operand) -> u16 {
    if o == Operand::Imm { (op.imm & 0xff) as u16 } else { ctx.gpr::<u16>(2) as u16 }
}

fn r#in<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let port = port(ctx, op, op.b);
    ctx.require_io(port, T::SIZE as u32)?;
    ctx.note_io(port, T::SIZE as u32);
    let v = ctx.outside(op).port_in(port, T::SIZE as u8);
    ctx.set_gpr::<T>(0, v);
    Ok(())
}

fn out<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let port = port(ctx, op, op.a);
    ctx.require_io(port, T::SIZE as u32)?;
    ctx.note_io(port, T::SIZE as u32);
    let value = ctx.gpr::<T>(0);
    ctx.outside(op).port_out(port, T::SIZE as u8, value);
    // The port may have been that of the A20 gate.
    ctx.mmu.sync(ctx.cpu);
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    one(Code::In_AL_imm8, any(r#in::<u8>)),
    one(Code::In_AX_imm8, any(r#in::<u16>)),
    one(Code::In_EAX_imm8, any(r#in::<u32>)),
    one(Code::In_AL_DX, any(r#in::<u8>)),
    one(Code::In_AX_DX, any(r#in::<u16>)),
    one(Code::In_EAX_DX, any(r#in::<u32>)),
    one(Code::Out_imm8_AL, any(out::<u8>)),
    one(Code::Out_imm8_AX, any(out::<u16>)),
    one(Code::Out_imm8_EAX, any(out::<u32>)),
    one(Code::Out_DX_AL, any(out::<u8>)),
    one(Code::Out_DX_AX, any(out::<u16>)),
    one(Code::Out_DX_EAX, any(out::<u32>)),
];
