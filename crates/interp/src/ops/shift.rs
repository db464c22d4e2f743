//! Shifts and rotates.
//!
//! Counts are taken modulo 32 first (SDM vol. 2B, SAL/SAR/SHL/SHR); with a count of 0 no flag changes. Where the manual
//! leaves a flag undefined (OF with counts above 1, AF after every shift) silicon is followed: the formula of count 1,
//! and AF set (AMD; Intel's clear it).

use crate::ctx::{Ctx, Exec};
use crate::flags::{szp, when};
use crate::op::Op;
use crate::table::{Row, all, wide, widths};
use crate::width::Width;
use iced_x86::Mnemonic::*;
use xlat86_arch::eflags::{AF, CF, OF};

/// The count operand; without one, as in the D1 encodings iced gives it as an immediate.
fn count(ctx: &mut Ctx<'_>, op: &Op) -> Result<u32, crate::Stop> {
    Ok(ctx.get::<u8>(op, op.b)? & 31)
}

/// Top bit of `v`.
fn top<T: Width>(v: u32) -> u32 {
    v >> (T::BITS - 1) & 1
}

/// CF and OF.
fn carry_overflow(carry: u32, overflow: u32) -> u32 {
    when(carry & 1 != 0, CF) | when(overflow & 1 != 0, OF)
}

fn shl<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = count(ctx, op)?;
    let (a, r) = ctx.update::<T>(op, op.a, |a| a << n)?;
    if n != 0 {
        let carry = (u64::from(a) << n >> T::BITS) as u32;
        ctx.set_status(szp::<T>(r) | AF | carry_overflow(carry, top::<T>(r) ^ carry));
    }
    Ok(())
}

fn shr<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = count(ctx, op)?;
    let (a, r) = ctx.update::<T>(op, op.a, |a| a >> n)?;
    if n != 0 {
        ctx.set_status(szp::<T>(r) | AF | carry_overflow(a >> (n - 1), top::<T>(r << 1 & T::MASK) ^ top::<T>(r)));
    }
    Ok(())
}

fn sar<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = count(ctx, op)?;
    let (a, r) = ctx.update::<T>(op, op.a, |a| (T::signed(a) >> n) as u32)?;
    if n != 0 {
        ctx.set_status(szp::<T>(r) | AF | carry_overflow((T::signed(a) >> (n - 1)) as u32, 0));
    }
    Ok(())
}

fn rol<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = count(ctx, op)?;
    let by = n % T::BITS;
    let (_, r) = ctx.update::<T>(op, op.a, |a| ((u64::from(a) << by) | (u64::from(a) >> (T::BITS - by))) as u32)?;
    if n != 0 {
        ctx.set_flags(CF | OF, carry_overflow(r, top::<T>(r) ^ r));
    }
    Ok(())
}

fn ror<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = count(ctx, op)?;
    let by = n % T::BITS;
    let (_, r) = ctx.update::<T>(op, op.a, |a| ((u64::from(a) >> by) | (u64::from(a) << (T::BITS - by))) as u32)?;
    if n != 0 {
        ctx.set_flags(CF | OF, carry_overflow(top::<T>(r), top::<T>(r) ^ top::<T>(r << 1)));
    }
    Ok(())
}

/// Rotates the `BITS + 1` bits of CF and the operand left by `by`; gives the new carry in bit `BITS`.
fn through_carry<T: Width>(a: u32, carry: u32, by: u32) -> u64 {
    let all = u64::from(carry) << T::BITS | u64::from(a);
    (all << by | all >> (T::BITS + 1 - by)) & ((2u64 << T::BITS) - 1)
}

fn rcl<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = count(ctx, op)?;
    let by = n % (T::BITS + 1);
    let c = ctx.cpu.eflags & CF;
    let (a, r) = ctx.update::<T>(op, op.a, |a| through_carry::<T>(a, c, by) as u32)?;
    if n != 0 {
        let carry = (through_carry::<T>(a, c, by) >> T::BITS) as u32;
        ctx.set_flags(CF | OF, carry_overflow(carry, top::<T>(r) ^ carry));
    }
    Ok(())
}

fn rcr<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = count(ctx, op)?;
    let by = n % (T::BITS + 1);
    let left = T::BITS + 1 - by;
    let c = ctx.cpu.eflags & CF;
    let (a, r) = ctx.update::<T>(op, op.a, |a| through_carry::<T>(a, c, left) as u32)?;
    if n != 0 {
        let carry = (through_carry::<T>(a, c, left) >> T::BITS) as u32;
        ctx.set_flags(CF | OF, carry_overflow(carry, top::<T>(r) ^ top::<T>(r << 1)));
    }
    Ok(())
}

/// The count of SHLD and SHRD is the third operand.
fn double_count(ctx: &mut Ctx<'_>, op: &Op) -> Result<u32, crate::Stop> {
    Ok(ctx.get::<u8>(op, op.c)? & 31)
}

/// With 16-bit operands and a count above 16 the manual defines nothing; silicon shifts through the source and then
/// through the source again, `a:b:b`, and clears CF
/// (SHLD from 16 on: OF as CF).
fn shld<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = double_count(ctx, op)?;
    let b = ctx.get::<T>(op, op.b)?;
    let wide = |a: u32| {
        let (a, b) = (u128::from(a), u128::from(b));
        (a << (2 * T::BITS) | b << T::BITS | b) << n
    };
    let (a, r) = ctx.update::<T>(op, op.a, |a| (wide(a) >> (2 * T::BITS)) as u32)?;
    if n != 0 {
        let carry = (wide(a) >> (3 * T::BITS)) as u32;
        let carry = if n > T::BITS { 0 } else { carry };
        let overflow = if n < T::BITS { top::<T>(r) ^ carry } else { carry };
        ctx.set_status(szp::<T>(r) | AF | carry_overflow(carry, overflow));
    }
    Ok(())
}

fn shrd<T: Width>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let n = double_count(ctx, op)?;
    let b = ctx.get::<T>(op, op.b)?;
    let wide = |a: u32| {
        let (a, b) = (u128::from(a), u128::from(b));
        b << (2 * T::BITS) | b << T::BITS | a
    };
    let (a, r) = ctx.update::<T>(op, op.a, |a| (wide(a) >> n) as u32)?;
    if n != 0 {
        let carry = if n > T::BITS { 0 } else { (wide(a) >> (n - 1)) as u32 };
        ctx.set_status(szp::<T>(r) | AF | carry_overflow(carry, top::<T>(r) ^ top::<T>(r << 1)));
    }
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    all(Shl, widths!(shl)),
    all(Sal, widths!(shl)),
    all(Shr, widths!(shr)),
    all(Sar, widths!(sar)),
    all(Rol, widths!(rol)),
    all(Ror, widths!(ror)),
    all(Rcl, widths!(rcl)),
    all(Rcr, widths!(rcr)),
    all(Shld, wide!(shld)),
    all(Shrd, wide!(shrd)),
];
