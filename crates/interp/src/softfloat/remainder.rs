//! FPREM, FPREM1, FSCALE and FXTRACT.

use super::nan::propagate;
use super::round::round;
use super::{Class, Env, Exact, Format, Num, flag};

/// The outcome of a remainder step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Partial {
    pub(crate) value: Num,
    /// The low three bits of the quotient; `None` when the reduction is incomplete.
    pub(crate) quotient: Option<u8>,
}

/// One step of the remainder of `a` by `b`: with the quotient rounded to nearest (FPREM1) or truncated (FPREM).
///
/// Exponents 64 or more apart are reduced by a part only (SDM vol. 2A, FPREM): the difference less a multiple of 32.
pub(crate) fn remainder(env: &Env, nearest: bool, a: &Num, b: &Num) -> (Partial, u16) {
    let whole = |value| Partial { value, quotient: Some(0) };
    if let Some((n, flags)) = propagate(env, a, b) {
        return (whole(n), flags);
    }
    if a.is_infinite() || b.is_zero() {
        return (whole(Num::INDEFINITE), flag::IE);
    }
    let denormal = if a.denormal || b.denormal { flag::DE } else { 0 };
    if env.unmasked(denormal) != 0 || a.is_zero() {
        return (whole(*a), denormal);
    }
    let d = a.exp - b.exp;
    if b.is_infinite() || d < -1 {
        // Smaller than half of b: its own remainder. It may still be a tiny result.
        let (value, flags) = round(env, Format::F80, Exact::of(a));
        return (whole(value), flags | denormal);
    }
    let steps = if d < 64 { d } else { 32 + d % 32 };
    let (quotient, rest) = long_division(a.sig, b.sig, steps);
    // What remains is rest * 2^(b.exp-63), or, of a partial reduction, that scaled by the steps not taken.
    let scale = if d < 64 { b.exp } else { a.exp - steps };
    let mut n = Exact::Done(Num::zero(a.sign));
    let mut quotient = quotient;
    if nearest && d < 64 {
        // Compare the remainder with half the divisor. With d == -1 the quotient is 0 and `rest` counts half units.
        let (r2, b2) = if d == -1 { (u128::from(a.sig), u128::from(b.sig) << 1) } else { (rest, u128::from(b.sig)) };
        let twice = r2 << 1;
        if twice > b2 || (twice == b2 && quotient & 1 == 1) {
            quotient += 1;
            n = exact(!a.sign, if d == -1 { scale - 1 } else { scale }, b2 - r2);
        } else {
            n = exact_or(n, a.sign, if d == -1 { scale - 1 } else { scale }, r2);
        }
    } else if d == -1 {
        n = Exact::of(a);
    } else {
        n = exact_or(n, a.sign, scale, rest);
    }
    let (value, flags) = round(env, Format::F80, n);
    (Partial { value, quotient: (d < 64).then_some(quotient as u8 & 7) }, flags | denormal)
}

/// floor(a * 2^steps / b) modulo 2^64, and the rest; `steps` below 64. For a negative `steps` the quotient is 0.
fn long_division(a: u64, b: u64, steps: i32) -> (u64, u128) {
    if steps < 0 {
        return (0, 0);
    }
    let n = u128::from(a) << steps;
    ((n / u128::from(b)) as u64, n % u128::from(b))
}

fn exact(sign: bool, exp: i32, sig: u128) -> Exact {
    let shift = sig.leading_zeros();
    Exact::Finite { sign, exp: exp + 64 - shift as i32, sig: sig << shift }
}

fn exact_or(zero: Exact, sign: bool, exp: i32, sig: u128) -> Exact {
    if sig == 0 { zero } else { exact(sign, exp, sig) }
}

/// FSCALE: `a` times two to the power of `b` truncated (SDM vol. 2A, table 3-30).
pub(crate) fn scale(env: &Env, f: Format, a: &Num, b: &Num) -> (Num, u16) {
    if let Some(r) = propagate(env, a, b) {
        return r;
    }
    let denormal = if a.denormal || b.denormal { flag::DE } else { 0 };
    let exact = match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) if b.sign => Exact::Invalid,
        (Class::Zero, Class::Infinity) if !b.sign => Exact::Invalid,
        (Class::Infinity | Class::Zero, _) => Exact::Done(*a),
        (_, Class::Infinity) if b.sign => Exact::Done(Num::zero(a.sign)),
        (_, Class::Infinity) => Exact::Done(Num::infinity(a.sign)),
        _ => {
            // Beyond 2^17 any operand overflows or underflows even after the bias adjustment.
            let by = match b.class {
                Class::Finite if b.exp >= 17 => 1 << 17,
                Class::Finite if b.exp >= 0 => (b.sig >> (63 - b.exp)) as i32,
                _ => 0,
            };
            let exp = a.exp + if b.sign { -by } else { by };
            Exact::Finite { sign: a.sign, exp, sig: u128::from(a.sig) << 64 }
        }
    };
    match exact {
        Exact::Invalid => (Num::INDEFINITE, flag::IE),
        _ if env.unmasked(denormal) != 0 => (*a, denormal),
        _ => {
            let (n, flags) = round(env, f, exact);
            (n, flags | denormal)
        }
    }
}

/// FXTRACT: the exponent and the significand of `a`, and the flags.
pub(crate) fn extract(env: &Env, a: &Num) -> (Num, Num, u16) {
    if let Some((n, flags)) = propagate(env, a, a) {
        return (n, n, flags);
    }
    let denormal = if a.denormal { flag::DE } else { 0 };
    match a.class {
        Class::Infinity => (Num::infinity(false), *a, 0),
        Class::Zero => (Num::infinity(true), *a, flag::ZE),
        _ => (super::int_to_num(a.exp.into()), Num::finite(a.sign, 0, a.sig), denormal),
    }
}
