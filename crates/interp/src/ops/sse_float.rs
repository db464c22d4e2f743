//! SSE floating-point arithmetic, comparison and rounding (SDM vol. 1, 10.4.1, 11.4.1, 12.8).

use super::vector::{Gather, Lane, build, lane, with_lane};
use super::x87_arith::order_flags;
use crate::ctx::{Ctx, Exec};
use crate::op::Op;
use crate::softfloat::{
    Env, Float, Num, Op2, Rounding, binary, compare, flag, maximum, minimum, round_to_integral, sqrt,
};
use crate::table::shapes;
use core::cmp::Ordering;

/// A lane holding the bits of a float.
pub(crate) trait FloatLane: Lane + Float + PartialEq {}
impl FloatLane for u32 {}
impl FloatLane for u64 {}

shapes!(FLOAT {
    Addps => arith::<u32>(4, Op2::Add);
    Subps => arith::<u32>(4, Op2::Sub);
    Mulps => arith::<u32>(4, Op2::Mul);
    Divps => arith::<u32>(4, Op2::Div);
    Addss => arith::<u32>(1, Op2::Add);
    Subss => arith::<u32>(1, Op2::Sub);
    Mulss => arith::<u32>(1, Op2::Mul);
    Divss => arith::<u32>(1, Op2::Div);
    Addpd => arith::<u64>(2, Op2::Add);
    Subpd => arith::<u64>(2, Op2::Sub);
    Mulpd => arith::<u64>(2, Op2::Mul);
    Divpd => arith::<u64>(2, Op2::Div);
    Addsd => arith::<u64>(1, Op2::Add);
    Subsd => arith::<u64>(1, Op2::Sub);
    Mulsd => arith::<u64>(1, Op2::Mul);
    Divsd => arith::<u64>(1, Op2::Div);

    Minps => lanes2::<u32>(4, min);
    Maxps => lanes2::<u32>(4, max);
    Minss => lanes2::<u32>(1, min);
    Maxss => lanes2::<u32>(1, max);
    Minpd => lanes2::<u64>(2, min);
    Maxpd => lanes2::<u64>(2, max);
    Minsd => lanes2::<u64>(1, min);
    Maxsd => lanes2::<u64>(1, max);

    Sqrtps => lanes2::<u32>(4, square_root);
    Sqrtss => lanes2::<u32>(1, square_root);
    Sqrtpd => lanes2::<u64>(2, square_root);
    Sqrtsd => lanes2::<u64>(1, square_root);
    Rcpps => approximate(4, false);
    Rcpss => approximate(1, false);
    Rsqrtps => approximate(4, true);
    Rsqrtss => approximate(1, true);

    Addsubps => alternate::<u32>();
    Addsubpd => alternate::<u64>();
    Haddps => horizontal::<u32>(Op2::Add);
    Haddpd => horizontal::<u64>(Op2::Add);
    Hsubps => horizontal::<u32>(Op2::Sub);
    Hsubpd => horizontal::<u64>(Op2::Sub);
    Dpps => dot_product::<u32>();
    Dppd => dot_product::<u64>();

    Cmpps => compare_lanes::<u32>(4);
    Cmpss => compare_lanes::<u32>(1);
    Cmppd => compare_lanes::<u64>(2);
    Comiss => compare_scalar::<u32>(true);
    Ucomiss => compare_scalar::<u32>(false);
    Comisd => compare_scalar::<u64>(true);
    Ucomisd => compare_scalar::<u64>(false);

    Roundps => round_lanes::<u32>(4);
    Roundss => round_lanes::<u32>(1);
    Roundpd => round_lanes::<u64>(2);
    Roundsd => round_lanes::<u64>(1);
} codes {
    Cmpsd_xmm_xmmm64_imm8 => compare_lanes::<u64>(1);
});

/// The low `n` lanes of destination and source through `f`; further lanes of the destination stay.
fn lanes2<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op, n: usize, f: impl Fn(&Env, T, T) -> (T, u16)) -> Exec {
    let b = ctx.source(op, op.b)?;
    let a = ctx.vector(op.a);
    let (env, all) = (ctx.sse_env(), Gather::default());
    let r = (0..n).fold(a, |r, i| with_lane(r, i, all.take(f(&env, lane(a, i), lane(b, i)))));
    ctx.sse_raise(all.flags())?;
    ctx.set_vector(op.a, r);
    Ok(())
}

/// `a` how `b` in one lane. Of an exception that is unmasked only the flags count.
fn compute<T: FloatLane>(env: &Env, how: Op2, a: T, b: T) -> (T, u16) {
    pack(env, binary(how, env, T::FORMAT, &a.unpack(), &b.unpack()))
}

fn pack<T: FloatLane>(env: &Env, (n, flags): (Num, u16)) -> (T, u16) {
    (if env.unmasked(flags) == 0 { T::pack(&n) } else { T::cut(0) }, flags)
}

fn arith<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op, n: usize, how: Op2) -> Exec {
    lanes2(ctx, op, n, |env, a: T, b: T| compute(env, how, a, b))
}

fn min<T: FloatLane>(env: &Env, a: T, b: T) -> (T, u16) {
    choose(env, a, b, minimum(env, &a.unpack(), &b.unpack()))
}

fn max<T: FloatLane>(env: &Env, a: T, b: T) -> (T, u16) {
    choose(env, a, b, maximum(env, &a.unpack(), &b.unpack()))
}

/// MIN and MAX deliver an operand unchanged, a signalling NaN too, except that DAZ makes a denormal a zero.
fn choose<T: FloatLane>(env: &Env, a: T, b: T, (first, flags): (bool, u16)) -> (T, u16) {
    let x = if first { a } else { b };
    let n = x.unpack();
    (if n.denormal && env.daz { T::pack(&Num::zero(n.sign)) } else { x }, flags)
}

fn square_root<T: FloatLane>(env: &Env, _: T, b: T) -> (T, u16) {
    pack(env, sqrt(env, T::FORMAT, &b.unpack()))
}

/// RCP and RSQRT: the silicon's approximation, without exceptions.
fn approximate(ctx: &mut Ctx<'_>, op: &Op, n: usize, rsqrt: bool) -> Exec {
    let b = ctx.source(op, op.b)?;
    let mut r = ctx.vector(op.a);
    for i in 0..n {
        let x = ctx.platform.approx(rsqrt, f32::from_bits(lane(b, i)));
        r = with_lane(r, i, x.to_bits());
    }
    ctx.set_vector(op.a, r);
    Ok(())
}

/// Subtracts in even lanes and adds in odd ones.
fn alternate<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.source(op, op.b)?;
    let a = ctx.vector(op.a);
    let (env, all) = (ctx.sse_env(), Gather::default());
    let how = |i| if i & 1 == 0 { Op2::Sub } else { Op2::Add };
    let r = build(128 / T::BITS, |i| all.take(compute::<T>(&env, how(i), lane(a, i), lane(b, i))));
    ctx.sse_raise(all.flags())?;
    ctx.set_vector(op.a, r);
    Ok(())
}

fn horizontal<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op, how: Op2) -> Exec {
    let b = ctx.source(op, op.b)?;
    let a = ctx.vector(op.a);
    let (env, all) = (ctx.sse_env(), Gather::default());
    let r = super::simd_integer::pairs(16, a, b, |x: T, y: T| all.take(compute(&env, how, x, y)));
    ctx.sse_raise(all.flags())?;
    ctx.set_vector(op.a, r);
    Ok(())
}

/// DPPS and DPPD: products of the lanes that the immediate's high half selects, summed as a tree, stored to the lanes
/// that its low half selects. Each step rounds, and an unmasked exception ends it (SDM vol. 2A, DPPS).
fn dot_product<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let b = ctx.source(op, op.b)?;
    let (a, imm, n) = (ctx.vector(op.a), op.imm as usize, 128 / T::BITS);
    let (env, all) = (ctx.sse_env(), Gather::default());
    let mut terms: Vec<T> = (0..n)
        .map(|i| match imm >> (4 + i) & 1 {
            1 => all.take(compute(&env, Op2::Mul, lane(a, i), lane(b, i))),
            _ => T::cut(0),
        })
        .collect();
    ctx.sse_raise(all.flags())?;
    while terms.len() > 1 {
        let all = Gather::default();
        terms = terms.chunks_exact(2).map(|t| all.take(compute(&env, Op2::Add, t[0], t[1]))).collect();
        ctx.sse_raise(all.flags())?;
    }
    let r = build(n, |i| if imm >> i & 1 == 1 { terms[0] } else { T::cut(0) });
    ctx.set_vector(op.a, r);
    Ok(())
}

/// The eight predicates of CMPPS (SDM vol. 2A, table 3-1): whether it holds, and whether a quiet NaN is invalid.
fn predicate(imm: u32, o: Option<Ordering>) -> bool {
    let holds = match imm & 3 {
        0 => o == Some(Ordering::Equal),
        1 => o == Some(Ordering::Less),
        2 => matches!(o, Some(Ordering::Less | Ordering::Equal)),
        _ => o.is_none(),
    };
    holds != (imm & 4 != 0)
}

fn compare_lanes<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op, n: usize) -> Exec {
    let imm = op.imm;
    let signal_quiet = matches!(imm & 3, 1 | 2);
    lanes2(ctx, op, n, |env, a: T, b: T| {
        let (o, flags) = compare(env, &a.unpack(), &b.unpack(), signal_quiet);
        (T::cut(if predicate(imm, o) { u128::MAX } else { 0 }), flags)
    })
}

fn compare_scalar<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op, signal_quiet: bool) -> Exec {
    let b: T = T::cut(ctx.source(op, op.b)?);
    let a: T = T::cut(ctx.vector(op.a));
    let (o, flags) = compare(&ctx.sse_env(), &a.unpack(), &b.unpack(), signal_quiet);
    ctx.sse_raise(flags)?;
    ctx.set_status(order_flags(o));
    Ok(())
}

/// ROUNDPS and kin: the immediate chooses the rounding, or MXCSR, and may suppress the precision exception.
fn round_lanes<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op, n: usize) -> Exec {
    let imm = op.imm;
    lanes2(ctx, op, n, |env, _: T, b: T| {
        let env = if imm & 4 != 0 { *env } else { env.with_rounding(Rounding::from_rc(imm)) };
        let (v, flags) = round_to_integral(&env, &b.unpack());
        (T::pack(&v), if imm & 8 != 0 { flags & !flag::PE } else { flags })
    })
}
