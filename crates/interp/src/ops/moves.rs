//! Moves between registers and memory that touch no flags and no segment registers.

use crate::ctx::{Ctx, Exec};
use crate::op::Op;
use crate::op::Operand;
use crate::table::{Row, all, any, one, wide, widths};
use crate::width::Width;
use iced_x86::{Code, Mnemonic::*};
use xlat86_arch::Fault;

pub(super) fn mov<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.get::<T>(op, op.b)?;
    ctx.set::<T>(op, op.a, v)
}

fn movzx<S: Width, D: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.get::<S>(op, op.b)?;
    ctx.set::<D>(op, op.a, v)
}

fn movsx<S: Width, D: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.get::<S>(op, op.b)?;
    ctx.set::<D>(op, op.a, S::signed(v) as u32)
}

/// The byte-swapped operand is the memory one.
fn movbe<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.get::<T>(op, op.b)?.swap_bytes() >> (32 - T::BITS);
    ctx.set::<T>(op, op.a, v)
}

fn lea<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    if op.b != Operand::Mem {
        return Err(Fault::ud().into());
    }
    let at = ctx.address(op);
    ctx.set::<T>(op, op.a, at)
}

/// With a memory operand XCHG locks whether or not it has the prefix (SDM vol. 2B, XCHG).
fn xchg<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let op = &Op { lock: true, ..*op };
    let b = ctx.get::<T>(op, if op.b == Operand::Mem { op.a } else { op.b })?;
    let (to, from) = if op.b == Operand::Mem { (op.b, op.a) } else { (op.a, op.b) };
    let (old, _) = ctx.update::<T>(op, to, |_| b)?;
    ctx.set::<T>(op, from, old)
}

/// With a 16-bit register the result is undefined; silicon clears it.
fn bswap<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = if T::BITS == 16 { 0 } else { ctx.get::<T>(op, op.a)?.swap_bytes() };
    ctx.set::<T>(op, op.a, v)
}

/// AL from the table at (E)BX, indexed by AL.
fn xlat(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let at = ctx.cpu.gpr[3].wrapping_add(ctx.gpr::<u8>(0));
    let at = if op.mem.addr16 { at & 0xffff } else { at };
    let v: u8 = ctx.read(op.mem.seg, at)?;
    ctx.set_gpr::<u8>(0, v.into());
    Ok(())
}

fn cbw(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_gpr::<u16>(0, u8::signed(ctx.gpr::<u8>(0)) as u32);
    Ok(())
}

fn cwde(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_gpr::<u32>(0, u16::signed(ctx.gpr::<u16>(0)) as u32);
    Ok(())
}

fn cwd(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_gpr::<u16>(2, (u16::signed(ctx.gpr::<u16>(0)) >> 31) as u32);
    Ok(())
}

fn cdq(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.set_gpr::<u32>(2, (u32::signed(ctx.gpr::<u32>(0)) >> 31) as u32);
    Ok(())
}

/// NOP in all its forms, hints, and what only matters to caches and other observers of memory: this CPU performs
/// each access completely before the next.
fn nop(_: &mut Ctx<'_>, _: &Op) -> Exec {
    Ok(())
}

/// Flushing a line must be allowed to read it (SDM vol. 2A, CLFLUSH).
fn clflush(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.load::<u8>(op)?;
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    all(Mov, widths!(mov)),
    one(Code::Movzx_r16_rm8, any(movzx::<u8, u16>)),
    one(Code::Movzx_r32_rm8, any(movzx::<u8, u32>)),
    one(Code::Movzx_r16_rm16, any(movzx::<u16, u16>)),
    one(Code::Movzx_r32_rm16, any(movzx::<u16, u32>)),
    one(Code::Movsx_r16_rm8, any(movsx::<u8, u16>)),
    one(Code::Movsx_r32_rm8, any(movsx::<u8, u32>)),
    one(Code::Movsx_r16_rm16, any(movsx::<u16, u16>)),
    one(Code::Movsx_r32_rm16, any(movsx::<u16, u32>)),
    all(Movnti, wide!(mov)),
    all(Movbe, wide!(movbe)),
    all(Lea, wide!(lea)),
    all(Xchg, widths!(xchg)),
    all(Bswap, wide!(bswap)),
    all(Xlatb, any(xlat)),
    all(Cbw, any(cbw)),
    all(Cwde, any(cwde)),
    all(Cwd, any(cwd)),
    all(Cdq, any(cdq)),
    all(Nop, any(nop)),
    all(Pause, any(nop)),
    all(Reservednop, any(nop)),
    all(Prefetchnta, any(nop)),
    all(Prefetcht0, any(nop)),
    all(Prefetcht1, any(nop)),
    all(Prefetcht2, any(nop)),
    all(Lfence, any(nop)),
    all(Mfence, any(nop)),
    all(Sfence, any(nop)),
    all(Clflush, any(clflush)),
];
