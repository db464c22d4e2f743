//! MMX and SSE data movement: moves, shuffles, blends, inserts and extracts, widening moves.

use super::simd_integer::{packed, packed_imm, sized};
use super::vector::{Lane, build, lane, width_of, with_lane};
use crate::ctx::{Ctx, Exec};
use crate::memory::Access;
use crate::op::{Op, Operand};
use crate::table::shapes;
use xlat86_arch::Reg;

shapes!(MOVE {
    Movaps => mov(true);
    Movapd => mov(true);
    Movdqa => mov(true);
    Movups => mov(false);
    Movupd => mov(false);
    Movdqu => mov(false);
    Lddqu => mov(false);
    Movntps => mov(true);
    Movntpd => mov(true);
    Movntdq => mov(true);
    Movntdqa => mov(true);
    Movntq => mov(true);
    Movd => mov_low(32);
    Movq => mov_low(64);
    Movq2dq => mov_low(64);
    Movdq2q => mov_low(64);
    Maskmovq => maskmov();
    Maskmovdqu => maskmov();

    Movhlps => packed(|a, b| join(lane(b, 1), lane(a, 1)));
    Movlhps => packed(|a, b| join(lane(a, 0), lane(b, 0)));
    Movddup => packed(|_, b| join(lane(b, 0), lane(b, 0)));
    Movsldup => packed(|_, b| build(4, |i| lane::<u32>(b, i & 2)));
    Movshdup => packed(|_, b| build(4, |i| lane::<u32>(b, i | 1)));
    Movmskps => signs(4, 32);
    Movmskpd => signs(2, 64);
    Pmovmskb => signs(16, 8);

    Punpcklbw => sized(|n, a, b| interleave::<u8>(n, a, b, false));
    Punpcklwd => sized(|n, a, b| interleave::<u16>(n, a, b, false));
    Punpckldq => sized(|n, a, b| interleave::<u32>(n, a, b, false));
    Punpcklqdq => sized(|n, a, b| interleave::<u64>(n, a, b, false));
    Punpckhbw => sized(|n, a, b| interleave::<u8>(n, a, b, true));
    Punpckhwd => sized(|n, a, b| interleave::<u16>(n, a, b, true));
    Punpckhdq => sized(|n, a, b| interleave::<u32>(n, a, b, true));
    Punpckhqdq => sized(|n, a, b| interleave::<u64>(n, a, b, true));
    Unpcklps => sized(|n, a, b| interleave::<u32>(n, a, b, false));
    Unpckhps => sized(|n, a, b| interleave::<u32>(n, a, b, true));
    Unpcklpd => sized(|n, a, b| interleave::<u64>(n, a, b, false));
    Unpckhpd => sized(|n, a, b| interleave::<u64>(n, a, b, true));

    Pshufb => sized(pshufb);
    Pshufw => packed_imm(|_, _, b, imm| build(4, |i| lane::<u16>(b, pick(imm, i))));
    Pshufd => packed_imm(|_, _, b, imm| build(4, |i| lane::<u32>(b, pick(imm, i))));
    Pshuflw => packed_imm(|_, _, b, imm| build(8, |i| lane::<u16>(b, if i < 4 { pick(imm, i) } else { i })));
    Pshufhw => packed_imm(|_, _, b, imm| build(8, |i| lane::<u16>(b, if i < 4 { i } else { 4 + pick(imm, i - 4) })));
    Shufps => packed_imm(|_, a, b, imm| build(4, |i| lane::<u32>(if i < 2 { a } else { b }, pick(imm, i))));
    Shufpd => packed_imm(|_, a, b, imm| join(lane(a, usize::from(imm & 1)), lane(b, usize::from(imm >> 1 & 1))));
    Palignr => packed_imm(palignr);
    Blendps => packed_imm(|_, a, b, imm| blend::<u32>(a, b, |i| imm >> i & 1 == 1));
    Blendpd => packed_imm(|_, a, b, imm| blend::<u64>(a, b, |i| imm >> i & 1 == 1));
    Pblendw => packed_imm(|_, a, b, imm| blend::<u16>(a, b, |i| imm >> i & 1 == 1));
    Blendvps => blend_by_xmm0(|a, b, m| blend::<u32>(a, b, |i| m >> (32 * i + 31) & 1 == 1));
    Blendvpd => blend_by_xmm0(|a, b, m| blend::<u64>(a, b, |i| m >> (64 * i + 63) & 1 == 1));
    Pblendvb => blend_by_xmm0(|a, b, m| blend::<u8>(a, b, |i| m >> (8 * i + 7) & 1 == 1));

    Pmovsxbw => packed(|_, b| build(8, |i| i16::from(lane::<i8>(b, i))));
    Pmovsxbd => packed(|_, b| build(4, |i| i32::from(lane::<i8>(b, i))));
    Pmovsxbq => packed(|_, b| build(2, |i| i64::from(lane::<i8>(b, i))));
    Pmovsxwd => packed(|_, b| build(4, |i| i32::from(lane::<i16>(b, i))));
    Pmovsxwq => packed(|_, b| build(2, |i| i64::from(lane::<i16>(b, i))));
    Pmovsxdq => packed(|_, b| build(2, |i| i64::from(lane::<i32>(b, i))));
    Pmovzxbw => packed(|_, b| build(8, |i| u16::from(lane::<u8>(b, i))));
    Pmovzxbd => packed(|_, b| build(4, |i| u32::from(lane::<u8>(b, i))));
    Pmovzxbq => packed(|_, b| build(2, |i| u64::from(lane::<u8>(b, i))));
    Pmovzxwd => packed(|_, b| build(4, |i| u32::from(lane::<u16>(b, i))));
    Pmovzxwq => packed(|_, b| build(2, |i| u64::from(lane::<u16>(b, i))));
    Pmovzxdq => packed(|_, b| build(2, |i| u64::from(lane::<u32>(b, i))));

    Pinsrb => packed_imm(|_, a, b, imm| with_lane(a, usize::from(imm & 15), b as u8));
    Pinsrw => packed_imm(|n, a, b, imm| with_lane(a, usize::from(imm) & (n / 2 - 1), b as u16));
    Pinsrd => packed_imm(|_, a, b, imm| with_lane(a, usize::from(imm & 3), b as u32));
    Insertps => insertps();
    Pextrb => extract(|_, v, imm| lane::<u8>(v, imm & 15).bits());
    Pextrw => extract(|n, v, imm| lane::<u16>(v, imm & (n / 2 - 1)).bits());
    Pextrd => extract(|_, v, imm| lane::<u32>(v, imm & 3).bits());
    Extractps => extract(|_, v, imm| lane::<u32>(v, imm & 3).bits());
} codes {
    Movss_xmm_xmmm32 => load_scalar(32);
    Movss_xmmm32_xmm => store_scalar(32);
    Movsd_xmm_xmmm64 => load_scalar(64);
    Movsd_xmmm64_xmm => store_scalar(64);
    Movlps_xmm_m64 => packed(|a, b| join(lane(b, 0), lane(a, 1)));
    Movlpd_xmm_m64 => packed(|a, b| join(lane(b, 0), lane(a, 1)));
    Movhps_xmm_m64 => packed(|a, b| join(lane(a, 0), lane(b, 0)));
    Movhpd_xmm_m64 => packed(|a, b| join(lane(a, 0), lane(b, 0)));
    Movlps_m64_xmm => store_half(0);
    Movlpd_m64_xmm => store_half(0);
    Movhps_m64_xmm => store_half(1);
    Movhpd_m64_xmm => store_half(1);
});

/// Two quadwords, low one first.
fn join(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

/// Two-bit field `i` of a shuffle's immediate.
fn pick(imm: u8, i: usize) -> usize {
    usize::from(imm >> (2 * i) & 3)
}

/// A move of the operand's whole width.
fn mov(ctx: &mut Ctx<'_>, op: &Op, aligned: bool) -> Exec {
    ctx.mmx_check(op)?;
    let v = match op.b {
        Operand::Mem if !aligned => ctx.load128(op, false)?,
        b => ctx.source(op, b)?,
    };
    finish_move(ctx, op, v, aligned)
}

/// MOVD, MOVQ and kin: the low `bits` bits, zero-extended.
fn mov_low(ctx: &mut Ctx<'_>, op: &Op, bits: u32) -> Exec {
    ctx.mmx_check(op)?;
    let v = ctx.source(op, op.b)? & (u128::MAX >> (128 - bits));
    finish_move(ctx, op, v, true)
}

/// Writes a move's result; one that only reads an MMX register enters MMX mode all the same.
fn finish_move(ctx: &mut Ctx<'_>, op: &Op, v: u128, aligned: bool) -> Exec {
    ctx.set_destination(op, op.a, v, aligned)?;
    if matches!(op.b, Operand::Mm(_)) {
        ctx.mmx_enter();
    }
    Ok(())
}

/// MOVSS and MOVSD to a register: from memory the rest is cleared, from a register it stays.
fn load_scalar(ctx: &mut Ctx<'_>, op: &Op, bits: u32) -> Exec {
    let b = ctx.source(op, op.b)?;
    let low = u128::MAX >> (128 - bits);
    let rest = if op.b == Operand::Mem { 0 } else { ctx.vector(op.a) & !low };
    ctx.set_vector(op.a, rest | b & low);
    Ok(())
}

fn store_scalar(ctx: &mut Ctx<'_>, op: &Op, bits: u32) -> Exec {
    let low = u128::MAX >> (128 - bits);
    let v = ctx.vector(op.a) & !low | ctx.vector(op.b) & low;
    ctx.set_destination(op, op.a, v, false)
}

fn store_half(ctx: &mut Ctx<'_>, op: &Op, half: usize) -> Exec {
    let v: u64 = lane(ctx.vector(op.b), half);
    Ok(ctx.store(op, v)?)
}

/// MASKMOVQ and MASKMOVDQU: stores the bytes whose mask byte has its top bit set, at DS:(E)DI or through the override.
/// All bytes must be writable, selected or not, and MMX mode is entered even when they aren't.
fn maskmov(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.mmx_check(op)?;
    let (v, m, n) = (ctx.vector(op.b), ctx.vector(op.c), width_of(op.b));
    if matches!(op.b, Operand::Mm(_)) {
        ctx.mmx_enter();
    }
    let at = ctx.cpu.reg(Reg::Edi) & if op.mem.addr16 { 0xffff } else { u32::MAX };
    let first = ctx.linear(op.mem.seg, at, n as u32, Access::Write)?;
    ctx.mmu.probe_write(first, n as u32)?;
    for i in (0..n).filter(|i| m >> (8 * i + 7) & 1 == 1) {
        ctx.mmu.write(first.wrapping_add(i as u32), lane::<u8>(v, i))?;
    }
    Ok(())
}

/// The sign bits of `n` lanes, of half as many in an MMX register.
fn signs(ctx: &mut Ctx<'_>, op: &Op, n: usize, bits: usize) -> Exec {
    ctx.mmx_check(op)?;
    let v = ctx.vector(op.b);
    let n = n * width_of(op.b) / 16;
    let mask = (0..n).fold(0, |m, i| m | (v >> (i * bits + bits - 1) & 1) << i);
    finish_move(ctx, op, mask, true)
}

fn interleave<T: Lane>(n: usize, a: u128, b: u128, high: bool) -> u128 {
    let lanes = n * 8 / T::BITS;
    let from = if high { lanes / 2 } else { 0 };
    build(lanes, |i| lane::<T>(if i & 1 == 0 { a } else { b }, from + i / 2))
}

fn pshufb(n: usize, a: u128, b: u128) -> u128 {
    build(n, |i| match lane::<u8>(b, i) {
        m if m & 0x80 != 0 => 0,
        m => lane::<u8>(a, usize::from(m) & (n - 1)),
    })
}

fn palignr(n: usize, a: u128, b: u128, imm: u8) -> u128 {
    build(n, |i| match i + usize::from(imm) {
        j if j < n => lane::<u8>(b, j),
        j if j < 2 * n => lane::<u8>(a, j - n),
        _ => 0,
    })
}

fn blend<T: Lane>(a: u128, b: u128, from_b: impl Fn(usize) -> bool) -> u128 {
    build(128 / T::BITS, |i| lane::<T>(if from_b(i) { b } else { a }, i))
}

fn blend_by_xmm0(ctx: &mut Ctx<'_>, op: &Op, f: fn(u128, u128, u128) -> u128) -> Exec {
    let b = ctx.source(op, op.b)?;
    let r = f(ctx.vector(op.a), b, ctx.cpu.fx.xmm[0]);
    ctx.set_vector(op.a, r);
    Ok(())
}

fn insertps(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.source(op, op.b)?;
    let imm = op.imm as usize;
    // From memory there is one element only; the source field doesn't count.
    let x: u32 = lane(b, if op.b == Operand::Mem { 0 } else { imm >> 6 & 3 });
    let v = with_lane(ctx.vector(op.a), imm >> 4 & 3, x);
    let cleared = build(4, |i| if imm >> i & 1 == 1 { 0 } else { lane::<u32>(v, i) });
    ctx.set_vector(op.a, cleared);
    Ok(())
}

fn extract(ctx: &mut Ctx<'_>, op: &Op, f: fn(usize, u128, usize) -> u128) -> Exec {
    ctx.mmx_check(op)?;
    let v = f(width_of(op.b), ctx.vector(op.b), (op.imm & 0xff) as usize);
    finish_move(ctx, op, v, false)
}
