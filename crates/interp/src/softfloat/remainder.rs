//! FPREM, FPREM1, FSCALE and FXTRACT.

use super::nan::propagate;
use super::round::round;
use super::{Class, Env, Exact, Format, Num, flag};

/// How far a remainder step came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Quotient {
    /// To the end; the quotient's low three bits.
    Complete(u8),
    /// The value is smaller than before but not yet the remainder.
    Partial,
    /// There is none: a NaN, or an exception.
    Missing,
}

/// One step of the remainder of `a` by `b`: with the quotient rounded to nearest (FPREM1) or truncated (FPREM).
///
/// Exponents 64 or more apart are reduced by a part only (SDM vol. 2A, FPREM): the difference less a multiple of 32.
pub(crate) fn remainder(env: &Env, nearest: bool, a: &Num, b: &Num) -> (Num, Quotient, u16) {
    if let Some((n, flags)) = propagate(env, a, b) {
        return (n, Quotient::Missing, flags);
    }
    if a.is_infinite() || b.is_zero() {
        return (Num::INDEFINITE, Quotient::Missing, flag::IE);
    }
    let denormal = if a.denormal || b.denormal { flag::DE } else { 0 };
    if env.unmasked(denormal) != 0 {
        return (*a, Quotient::Missing, denormal);
    }
    let (exact, quotient) = divide(nearest, a, b);
    // The remainder is exact, but it may be tiny.
    let (n, flags) = round(env, Format::F80, exact);
    (n, quotient, flags | denormal)
}

fn divide(nearest: bool, a: &Num, b: &Num) -> (Exact, Quotient) {
    let d = a.exp - b.exp;
    if a.is_zero() || b.is_infinite() || d < -1 {
        // Less than half of b: its own remainder.
        return (Exact::of(a), Quotient::Complete(0));
    }
    // Both in units of 2^unit, the quotient below 2^65.
    let steps = if d < 64 { d.max(0) } else { 32 + d % 32 };
    let (n, divisor, unit) = (u128::from(a.sig) << steps, u128::from(b.sig) << i32::from(d < 0), a.exp - 63 - steps);
    let (mut quotient, mut rest, mut sign) = (n / divisor, n % divisor, a.sign);
    if nearest && d < 64 && (2 * rest > divisor || (2 * rest == divisor && quotient & 1 == 1)) {
        (quotient, rest, sign) = (quotient + 1, divisor - rest, !sign);
    }
    let exact = match rest.leading_zeros() {
        128 => Exact::Done(Num::zero(a.sign)),
        shift => Exact::Finite { sign, exp: unit + 127 - shift as i32, sig: rest << shift },
    };
    (exact, if d < 64 { Quotient::Complete(quotient as u8 & 7) } else { Quotient::Partial })
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
