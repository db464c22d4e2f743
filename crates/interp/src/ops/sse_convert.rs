//! Conversions between integers and floats, and between float formats (SDM vol. 1, 11.4.1.6 and 11.4.2.2).

use super::sse_float::FloatLane;
use super::vector::{Gather, build, lane, with_lane};
use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::softfloat::{Env, Exact, Rounding, convert, int_to_num, num_to_int, round};
use crate::table::shapes;

shapes!(CONVERT {
    Cvtdq2ps => from_int::<u32>(4, 0);
    Cvtdq2pd => from_int::<u64>(2, 0);
    Cvtpi2pd => from_int::<u64>(2, 0);
    Cvtpi2ps => from_int::<u32>(2, 64);
    Cvtsi2ss => from_int::<u32>(1, 96);
    Cvtsi2sd => from_int::<u64>(1, 64);

    Cvtps2dq => to_int::<u32>(4, false);
    Cvttps2dq => to_int::<u32>(4, true);
    Cvtpd2dq => to_int::<u64>(2, false);
    Cvttpd2dq => to_int::<u64>(2, true);
    Cvtps2pi => to_int::<u32>(2, false);
    Cvttps2pi => to_int::<u32>(2, true);
    Cvtpd2pi => to_int::<u64>(2, false);
    Cvttpd2pi => to_int::<u64>(2, true);
    Cvtss2si => to_int::<u32>(1, false);
    Cvttss2si => to_int::<u32>(1, true);
    Cvtsd2si => to_int::<u64>(1, false);
    Cvttsd2si => to_int::<u64>(1, true);

    Cvtps2pd => between::<u32, u64>(2, 0);
    Cvtpd2ps => between::<u64, u32>(2, 0);
    Cvtss2sd => between::<u32, u64>(1, 64);
    Cvtsd2ss => between::<u64, u32>(1, 96);
} codes {
});

/// The result with the destination's top `keep` bits unchanged.
fn merged(ctx: &Ctx<'_>, op: &Op, r: u128, keep: u32) -> u128 {
    let low = u128::MAX >> keep;
    ctx.vector(op.a) & !low | r & low
}

/// A conversion with an MMX register enters MMX mode before it looks at the numbers, and stays there when they raise
/// #XM.
fn enter_mmx(ctx: &mut Ctx<'_>, o: Operand) {
    if let Operand::Mm(_) = o {
        ctx.mmx_enter();
    }
}

/// `n` doublewords to `T`.
fn from_int<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op, n: usize, keep: u32) -> Exec {
    ctx.mmx_check(op)?;
    let b = ctx.source(op, op.b)?;
    let (env, all) = (ctx.sse_env(), Gather::default());
    let r = build(n, |i| T::pack(&all.take(round(&env, T::FORMAT, Exact::of(&int_to_num(lane::<i32>(b, i).into()))))));
    enter_mmx(ctx, op.b);
    ctx.sse_raise(all.flags())?;
    let r = merged(ctx, op, r, keep);
    ctx.set_vector(op.a, r);
    Ok(())
}

/// `n` lanes of `T` to doublewords; the rest of the destination is cleared.
fn to_int<T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op, n: usize, truncate: bool) -> Exec {
    ctx.mmx_check(op)?;
    let b = ctx.source(op, op.b)?;
    let (env, all) = (ctx.sse_env(), Gather::default());
    let env = if truncate { env.with_rounding(Rounding::Zero) } else { env };
    let r = build(n, |i| all.take(num_to_int(&env, &lane::<T>(b, i).unpack(), 32)) as u32);
    enter_mmx(ctx, op.a);
    ctx.sse_raise(all.flags())?;
    ctx.set_vector(op.a, r);
    Ok(())
}

fn between<F: FloatLane, T: FloatLane>(ctx: &mut Ctx<'_>, op: &Op, n: usize, keep: u32) -> Exec {
    let b = ctx.source(op, op.b)?;
    let (env, all) = (ctx.sse_env(), Gather::default());
    let one = |env: &Env, x: F| {
        let (r, flags) = convert(env, T::FORMAT, &x.unpack(), true);
        (if env.unmasked(flags) == 0 { T::pack(&r) } else { T::cut(0) }, flags)
    };
    let r = (0..n).fold(0, |r, i| with_lane(r, i, all.take(one(&env, lane(b, i)))));
    ctx.sse_raise(all.flags())?;
    let r = merged(ctx, op, r, keep);
    ctx.set_vector(op.a, r);
    Ok(())
}
