//! Decimal arithmetic (SDM vol. 2A, AAA to DAS). Flags the manual leaves undefined follow silicon.

use crate::ctx::{Ctx, Exec};
use crate::flags::{self, szp, when};
use crate::op::Op;
use crate::table::{Row, all, any};
use iced_x86::Mnemonic::*;
use xlat86_arch::Fault;
use xlat86_arch::eflags::{AF, CF, OF};

const AX: u8 = 0;

/// DAA and DAS: `sign` is how the corrections go.
fn packed(ctx: &mut Ctx<'_>, apply: fn(u32, u32) -> u32, flags: fn(u32, u32, u32) -> u32) -> Exec {
    let al = ctx.gpr::<u8>(AX);
    let half = al & 15 > 9 || ctx.flag(AF);
    let full = al > 0x99 || ctx.flag(CF);
    let correction = if half { 6 } else { 0 } + if full { 0x60 } else { 0 };
    let r = apply(al, correction) & 0xff;
    // DAS reports a borrow of its first step too.
    let borrow = half && apply(al, 6) > 0xff && apply(0, 1) != 1;
    ctx.set_gpr::<u8>(AX, r);
    let overflow = flags(al, correction, r) & OF;
    ctx.set_status(szp::<u8>(r) | when(half, AF) | when(full || borrow, CF) | overflow);
    Ok(())
}

fn daa(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    packed(ctx, u32::wrapping_add, flags::add::<u8>)
}

fn das(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    packed(ctx, u32::wrapping_sub, flags::sub::<u8>)
}

/// AAA and AAS correct AL by 6 and AH by 1, together: AX by 106H. SF, ZF, PF and OF go by AX before
/// the high half of AL is cleared.
fn unpacked(ctx: &mut Ctx<'_>, apply: fn(u32, u32) -> u32, flags: fn(u32, u32, u32) -> u32) -> Exec {
    let ax = ctx.gpr::<u16>(AX);
    let adjust = ax & 15 > 9 || ctx.flag(AF);
    let correction = if adjust { 0x106 } else { 0 };
    let r = apply(ax, correction) & 0xffff;
    ctx.set_gpr::<u16>(AX, r & 0xff0f);
    let overflow = flags(ax, correction, r) & OF;
    ctx.set_status(szp::<u16>(r) | when(adjust, AF | CF) | overflow);
    Ok(())
}

fn aaa(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    unpacked(ctx, u32::wrapping_add, flags::add::<u16>)
}

fn aas(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    unpacked(ctx, u32::wrapping_sub, flags::sub::<u16>)
}

fn aam(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let (al, base) = (ctx.gpr::<u8>(AX), op.imm & 0xff);
    let high = al.checked_div(base).ok_or(Fault::de())?;
    ctx.set_gpr::<u16>(AX, (high << 8) | (al % base));
    ctx.set_status(szp::<u8>(al % base));
    Ok(())
}

fn aad(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let ax = ctx.gpr::<u16>(AX);
    let (low, high) = (ax & 0xff, ((ax >> 8) * (op.imm & 0xff)) & 0xff);
    let r = (low + high) & 0xff;
    ctx.set_gpr::<u16>(AX, r);
    ctx.set_status(flags::add::<u8>(low, high, r));
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    all(Daa, any(daa)),
    all(Das, any(das)),
    all(Aaa, any(aaa)),
    all(Aas, any(aas)),
    all(Aam, any(aam)),
    all(Aad, any(aad)),
];
