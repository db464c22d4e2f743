//! Packed integer arithmetic: MMX and its SSE forms (SDM vol. 1, chapters 9, 10.4.4, 11.4.2, 12).
//!
//! A row's function works on whole registers; most apply one scalar operation to every lane.

use super::vector::{Lane, build, lane, map1, map2, width_of};
use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::table::shapes;
use xlat86_arch::eflags;

shapes!(ARITH {
    Paddb => packed(|a, b| map2(a, b, u8::wrapping_add));
    Paddw => packed(|a, b| map2(a, b, u16::wrapping_add));
    Paddd => packed(|a, b| map2(a, b, u32::wrapping_add));
    Paddq => packed(|a, b| map2(a, b, u64::wrapping_add));
    Psubb => packed(|a, b| map2(a, b, u8::wrapping_sub));
    Psubw => packed(|a, b| map2(a, b, u16::wrapping_sub));
    Psubd => packed(|a, b| map2(a, b, u32::wrapping_sub));
    Psubq => packed(|a, b| map2(a, b, u64::wrapping_sub));
    Paddsb => packed(|a, b| map2(a, b, i8::saturating_add));
    Paddsw => packed(|a, b| map2(a, b, i16::saturating_add));
    Paddusb => packed(|a, b| map2(a, b, u8::saturating_add));
    Paddusw => packed(|a, b| map2(a, b, u16::saturating_add));
    Psubsb => packed(|a, b| map2(a, b, i8::saturating_sub));
    Psubsw => packed(|a, b| map2(a, b, i16::saturating_sub));
    Psubusb => packed(|a, b| map2(a, b, u8::saturating_sub));
    Psubusw => packed(|a, b| map2(a, b, u16::saturating_sub));

    Pminub => packed(|a, b| map2(a, b, u8::min));
    Pminuw => packed(|a, b| map2(a, b, u16::min));
    Pminud => packed(|a, b| map2(a, b, u32::min));
    Pminsb => packed(|a, b| map2(a, b, i8::min));
    Pminsw => packed(|a, b| map2(a, b, i16::min));
    Pminsd => packed(|a, b| map2(a, b, i32::min));
    Pmaxub => packed(|a, b| map2(a, b, u8::max));
    Pmaxuw => packed(|a, b| map2(a, b, u16::max));
    Pmaxud => packed(|a, b| map2(a, b, u32::max));
    Pmaxsb => packed(|a, b| map2(a, b, i8::max));
    Pmaxsw => packed(|a, b| map2(a, b, i16::max));
    Pmaxsd => packed(|a, b| map2(a, b, i32::max));

    Pavgb => packed(|a, b| map2(a, b, |x: u8, y: u8| (u16::from(x) + u16::from(y)).div_ceil(2) as u8));
    Pavgw => packed(|a, b| map2(a, b, |x: u16, y: u16| (u32::from(x) + u32::from(y)).div_ceil(2) as u16));
    Pmullw => packed(|a, b| map2(a, b, u16::wrapping_mul));
    Pmulld => packed(|a, b| map2(a, b, u32::wrapping_mul));
    Pmulhw => packed(|a, b| map2(a, b, |x: i16, y: i16| ((i32::from(x) * i32::from(y)) >> 16) as i16));
    Pmulhuw => packed(|a, b| map2(a, b, |x: u16, y: u16| ((u32::from(x) * u32::from(y)) >> 16) as u16));
    Pmulhrsw => packed(|a, b| map2(a, b, |x: i16, y: i16| ((((i32::from(x) * i32::from(y)) >> 14) + 1) >> 1) as i16));
    Pmuludq => packed(|a, b| map2(a, b, |x: u64, y: u64| (x & 0xffff_ffff) * (y & 0xffff_ffff)));
    Pmuldq => packed(|a, b| map2(a, b, |x: i64, y: i64| i64::from(x as i32) * i64::from(y as i32)));
    Pmaddwd => packed(pmaddwd);
    Pmaddubsw => packed(pmaddubsw);
    Psadbw => packed(psadbw);

    Pabsb => packed(|_, b| map1(b, i8::wrapping_abs));
    Pabsw => packed(|_, b| map1(b, i16::wrapping_abs));
    Pabsd => packed(|_, b| map1(b, i32::wrapping_abs));
    Psignb => packed(|a, b| map2(a, b, |x: i8, y: i8| x.wrapping_mul(y.signum())));
    Psignw => packed(|a, b| map2(a, b, |x: i16, y: i16| x.wrapping_mul(y.signum())));
    Psignd => packed(|a, b| map2(a, b, |x: i32, y: i32| x.wrapping_mul(y.signum())));

    Pcmpeqb => packed(|a, b| map2(a, b, |x: u8, y| mask(x == y) as u8));
    Pcmpeqw => packed(|a, b| map2(a, b, |x: u16, y| mask(x == y) as u16));
    Pcmpeqd => packed(|a, b| map2(a, b, |x: u32, y| mask(x == y) as u32));
    Pcmpeqq => packed(|a, b| map2(a, b, |x: u64, y| mask(x == y)));
    Pcmpgtb => packed(|a, b| map2(a, b, |x: i8, y| mask(x > y) as u8));
    Pcmpgtw => packed(|a, b| map2(a, b, |x: i16, y| mask(x > y) as u16));
    Pcmpgtd => packed(|a, b| map2(a, b, |x: i32, y| mask(x > y) as u32));
    Pcmpgtq => packed(|a, b| map2(a, b, |x: i64, y| mask(x > y)));

    Pand => packed(|a, b| a & b);
    Pandn => packed(|a, b| !a & b);
    Por => packed(|a, b| a | b);
    Pxor => packed(|a, b| a ^ b);
    Andps => packed(|a, b| a & b);
    Andnps => packed(|a, b| !a & b);
    Orps => packed(|a, b| a | b);
    Xorps => packed(|a, b| a ^ b);
    Andpd => packed(|a, b| a & b);
    Andnpd => packed(|a, b| !a & b);
    Orpd => packed(|a, b| a | b);
    Xorpd => packed(|a, b| a ^ b);
    Ptest => ptest();

    Phaddw => sized(|n, a, b| pairs(n, a, b, u16::wrapping_add));
    Phaddd => sized(|n, a, b| pairs(n, a, b, u32::wrapping_add));
    Phaddsw => sized(|n, a, b| pairs(n, a, b, i16::saturating_add));
    Phsubw => sized(|n, a, b| pairs(n, a, b, u16::wrapping_sub));
    Phsubd => sized(|n, a, b| pairs(n, a, b, u32::wrapping_sub));
    Phsubsw => sized(|n, a, b| pairs(n, a, b, i16::saturating_sub));
    Packsswb => sized(|n, a, b| pack(n, a, b, |x: i16| x.clamp(-128, 127) as i8));
    Packuswb => sized(|n, a, b| pack(n, a, b, |x: i16| x.clamp(0, 255) as u8));
    Packssdw => sized(|n, a, b| pack(n, a, b, |x: i32| x.clamp(-32768, 32767) as i16));
    Packusdw => sized(|n, a, b| pack(n, a, b, |x: i32| x.clamp(0, 65535) as u16));
    Phminposuw => packed(|_, b| phminposuw(b));
    Mpsadbw => packed_imm(|_, a, b, imm| mpsadbw(a, b, imm));

    Psllw => shift(|v, n| map1(v, |x: u16| x.checked_shl(n).unwrap_or(0)));
    Pslld => shift(|v, n| map1(v, |x: u32| x.checked_shl(n).unwrap_or(0)));
    Psllq => shift(|v, n| map1(v, |x: u64| x.checked_shl(n).unwrap_or(0)));
    Psrlw => shift(|v, n| map1(v, |x: u16| x.checked_shr(n).unwrap_or(0)));
    Psrld => shift(|v, n| map1(v, |x: u32| x.checked_shr(n).unwrap_or(0)));
    Psrlq => shift(|v, n| map1(v, |x: u64| x.checked_shr(n).unwrap_or(0)));
    Psraw => shift(|v, n| map1(v, |x: i16| x >> n.min(15)));
    Psrad => shift(|v, n| map1(v, |x: i32| x >> n.min(31)));
    Pslldq => shift(|v, n| v.checked_shl(8 * n).unwrap_or(0));
    Psrldq => shift(|v, n| v.checked_shr(8 * n).unwrap_or(0));
} codes {
});

/// Destination and source, each a whole register, give the destination's new value.
pub(crate) fn packed(ctx: &mut Ctx<'_>, op: &Op, f: fn(u128, u128) -> u128) -> Exec {
    ctx.mmx_check(op)?;
    let b = ctx.source(op, op.b)?;
    let a = ctx.vector(op.a);
    ctx.set_vector(op.a, f(a, b));
    Ok(())
}

/// The same for functions that need the operands' width in bytes.
pub(crate) fn sized(ctx: &mut Ctx<'_>, op: &Op, f: fn(usize, u128, u128) -> u128) -> Exec {
    ctx.mmx_check(op)?;
    let b = ctx.source(op, op.b)?;
    let a = ctx.vector(op.a);
    ctx.set_vector(op.a, f(width_of(op.a), a, b));
    Ok(())
}

/// The same with an immediate.
pub(crate) fn packed_imm(ctx: &mut Ctx<'_>, op: &Op, f: fn(usize, u128, u128, u8) -> u128) -> Exec {
    ctx.mmx_check(op)?;
    let b = ctx.source(op, op.b)?;
    let a = ctx.vector(op.a);
    ctx.set_vector(op.a, f(width_of(op.a), a, b, op.imm as u8));
    Ok(())
}

/// Shifts by an immediate, or by the low 64 bits of the source; counts beyond any lane's width act as one that is.
fn shift(ctx: &mut Ctx<'_>, op: &Op, f: fn(u128, u32) -> u128) -> Exec {
    ctx.mmx_check(op)?;
    let n = match op.b {
        Operand::Imm => op.imm & 0xff,
        _ => u32::try_from(ctx.source(op, op.b)? as u64).unwrap_or(u32::MAX),
    };
    let a = ctx.vector(op.a);
    ctx.set_vector(op.a, f(a, n.min(255)));
    Ok(())
}

/// All ones or zero.
pub(crate) fn mask(set: bool) -> u64 {
    if set { u64::MAX } else { 0 }
}

fn pmaddwd(a: u128, b: u128) -> u128 {
    build(4, |i| {
        let product = |j| i32::from(lane::<i16>(a, j)) * i32::from(lane::<i16>(b, j));
        product(2 * i).wrapping_add(product(2 * i + 1))
    })
}

fn pmaddubsw(a: u128, b: u128) -> u128 {
    build(8, |i| {
        let product = |j| i32::from(lane::<u8>(a, j)) * i32::from(lane::<i8>(b, j));
        (product(2 * i) + product(2 * i + 1)).clamp(-32768, 32767) as i16
    })
}

fn psadbw(a: u128, b: u128) -> u128 {
    let differences = map2(a, b, u8::abs_diff);
    build(2, |i| (0..8).map(|j| u64::from(lane::<u8>(differences, 8 * i + j))).sum::<u64>())
}

/// Adjacent lanes of `a`, then of `b`, combined.
pub(crate) fn pairs<T: Lane>(n: usize, a: u128, b: u128, f: impl Fn(T, T) -> T) -> u128 {
    let half = n * 4 / T::BITS;
    build(2 * half, |i| {
        let (v, j) = if i < half { (a, i) } else { (b, i - half) };
        f(lane(v, 2 * j), lane(v, 2 * j + 1))
    })
}

/// The lanes of `a`, then of `b`, narrowed.
fn pack<T: Lane, R: Lane>(n: usize, a: u128, b: u128, f: impl Fn(T) -> R) -> u128 {
    let half = n * 8 / T::BITS;
    build(2 * half, |i| f(if i < half { lane(a, i) } else { lane(b, i - half) }))
}

fn phminposuw(b: u128) -> u128 {
    // The first of equal minima.
    let (value, at) = (0..8).map(|i| (lane::<u16>(b, i), i)).min().unwrap_or_default();
    u128::from(value) | (at as u128) << 16
}

fn mpsadbw(a: u128, b: u128, imm: u8) -> u128 {
    let (from_a, from_b) = (usize::from(imm >> 2 & 1) * 4, usize::from(imm & 3) * 4);
    build(8, |i| {
        (0..4).map(|j| u16::from(lane::<u8>(a, from_a + i + j).abs_diff(lane::<u8>(b, from_b + j)))).sum::<u16>()
    })
}

fn ptest(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.source(op, op.b)?;
    let a = ctx.vector(op.a);
    let flags = if a & b == 0 { eflags::ZF } else { 0 } | if !a & b == 0 { eflags::CF } else { 0 };
    ctx.set_status(flags);
    Ok(())
}
