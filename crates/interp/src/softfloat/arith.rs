//! Addition, multiplication, division, square root, comparison.

use super::nan::propagate;
use super::round::{round, shift_right_sticky};
use super::{Class, Env, Exact, Format, Num, Rounding, flag};
use core::cmp::Ordering;

/// Operations on two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op2 {
    Add,
    Sub,
    /// Subtraction with the operands exchanged.
    SubR,
    Mul,
    Div,
    /// Division with the operands exchanged.
    DivR,
}

/// `a` op `b`, rounded to `f`.
pub(crate) fn binary(op: Op2, env: &Env, f: Format, a: &Num, b: &Num) -> (Num, u16) {
    let ((a, da), (b, db)) = (env.operand(*a), env.operand(*b));
    if let Some(r) = propagate(env, &a, &b) {
        return r;
    }
    let exact = match op {
        Op2::Add => add(env.rounding, &a, &b),
        Op2::Sub => add(env.rounding, &a, &b.with_sign(!b.sign)),
        Op2::SubR => add(env.rounding, &b, &a.with_sign(!a.sign)),
        Op2::Mul => mul(&a, &b),
        Op2::Div => div(&a, &b),
        Op2::DivR => div(&b, &a),
    };
    finish(env, f, exact, da | db)
}

/// Rounds, unless an exception found before stops the operation: invalid and zero-divide are found before a denormal
/// operand is, and an unmasked denormal operand before any property of the result (SDM vol. 1, 4.9.2).
fn finish(env: &Env, f: Format, exact: Exact, denormal: u16) -> (Num, u16) {
    match exact {
        Exact::Invalid | Exact::DivideByZero(_) => round(env, f, exact),
        _ if env.unmasked(denormal) != 0 => (Num::INDEFINITE, denormal),
        _ => {
            let (n, flags) = round(env, f, exact);
            (n, flags | denormal)
        }
    }
}

fn add(rounding: Rounding, a: &Num, b: &Num) -> Exact {
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) if a.sign != b.sign => return Exact::Invalid,
        (Class::Infinity, _) => return Exact::Done(*a),
        (_, Class::Infinity) => return Exact::Done(*b),
        (Class::Zero, Class::Zero) => {
            return Exact::Done(Num::zero(if a.sign == b.sign { a.sign } else { rounding == Rounding::Down }));
        }
        (Class::Zero, _) => return Exact::of(b),
        (_, Class::Zero) => return Exact::of(a),
        _ => {}
    }
    let (big, small) = if (a.exp, a.sig) >= (b.exp, b.sig) { (a, b) } else { (b, a) };
    // One bit of room above for the carry; 63 below, so that a sticky bit is far under the rounding point even after
    // cancellation.
    let x = u128::from(big.sig) << 63;
    let y = shift_right_sticky(u128::from(small.sig) << 63, (big.exp - small.exp) as u32);
    let sum = if a.sign == b.sign { x + y } else { x - y };
    if sum == 0 {
        return Exact::Done(Num::zero(rounding == Rounding::Down));
    }
    normalised(big.sign, big.exp + 1, sum)
}

/// sig * 2^(exp-127) with the leading bit moved to the top.
fn normalised(sign: bool, exp: i32, sig: u128) -> Exact {
    let shift = sig.leading_zeros();
    Exact::Finite { sign, exp: exp - shift as i32, sig: sig << shift }
}

fn mul(a: &Num, b: &Num) -> Exact {
    let sign = a.sign != b.sign;
    match (a.class, b.class) {
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => Exact::Invalid,
        (Class::Infinity, _) | (_, Class::Infinity) => Exact::Done(Num::infinity(sign)),
        (Class::Zero, _) | (_, Class::Zero) => Exact::Done(Num::zero(sign)),
        _ => normalised(sign, a.exp + b.exp + 1, u128::from(a.sig) * u128::from(b.sig)),
    }
}

fn div(a: &Num, b: &Num) -> Exact {
    let sign = a.sign != b.sign;
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => Exact::Invalid,
        (Class::Infinity, _) => Exact::Done(Num::infinity(sign)),
        (_, Class::Infinity) | (Class::Zero, _) => Exact::Done(Num::zero(sign)),
        (_, Class::Zero) => Exact::DivideByZero(sign),
        _ => {
            // Two digits of a long division in base 2^64; a/b < 2 keeps the first one in range.
            let d = u128::from(b.sig);
            let n = u128::from(a.sig) << 63;
            let (high, rest) = (n / d, (n % d) << 64);
            let sig = (high << 64) | (rest / d) | u128::from(rest % d != 0);
            normalised(sign, a.exp - b.exp, sig)
        }
    }
}

/// The square root of `a`, rounded to `f`.
pub(crate) fn sqrt(env: &Env, f: Format, a: &Num) -> (Num, u16) {
    let (a, denormal) = env.operand(*a);
    if let Some(r) = propagate(env, &a, &a) {
        return r;
    }
    let exact = match a.class {
        Class::Zero => Exact::Done(a),
        _ if a.sign => Exact::Invalid,
        Class::Infinity => Exact::Done(a),
        _ => {
            let n = u128::from(a.sig) << if a.exp & 1 == 0 { 63 } else { 64 };
            let root = n.isqrt();
            let rest = n - root * root;
            // The bit after the root's 64 is set when n > (root + 1/2)^2; equality is impossible.
            let sig = root << 64 | u128::from(rest > root) << 63 | u128::from(rest != 0);
            Exact::Finite { sign: false, exp: a.exp >> 1, sig }
        }
    };
    finish(env, f, exact, denormal)
}

/// Orders `a` and `b`; `None` when unordered. `signal_quiet`: a quiet NaN is an invalid operand too.
pub(crate) fn compare(env: &Env, a: &Num, b: &Num, signal_quiet: bool) -> (Option<Ordering>, u16) {
    let ((a, da), (b, db)) = (env.operand(*a), env.operand(*b));
    if let Some((_, flags)) = propagate(env, &a, &b) {
        return (None, if signal_quiet { flag::IE } else { flags });
    }
    (Some(order(&a, &b)), da | db)
}

fn order(a: &Num, b: &Num) -> Ordering {
    // Zeros of either sign are equal; otherwise the sign decides, then the magnitude.
    let key = |n: &Num| match n.class {
        Class::Zero => (0, 0, 0),
        Class::Infinity => (1, i32::MAX, 0),
        _ => (1, n.exp, n.sig),
    };
    let side = |n: &Num| if n.is_zero() { 0 } else { 1 - 2 * i32::from(n.sign) };
    side(a).cmp(&side(b)).then_with(|| if a.sign { key(b).cmp(&key(a)) } else { key(a).cmp(&key(b)) })
}

/// MIN: `a` when it is less than `b`, else `b` (also when either is a NaN, or both are zeros).
pub(crate) fn minimum(env: &Env, a: &Num, b: &Num) -> (bool, u16) {
    let (o, flags) = compare(env, a, b, true);
    (o == Some(Ordering::Less), flags)
}

/// MAX: `a` when it is greater than `b`, else `b`. Gives whether `a` is chosen.
pub(crate) fn maximum(env: &Env, a: &Num, b: &Num) -> (bool, u16) {
    let (o, flags) = compare(env, a, b, true);
    (o == Some(Ordering::Greater), flags)
}
