//! Rounding to a format: the one place where results meet precision and exponent range.

use super::{Env, Exact, Format, INTEGER_BIT, Num, Rounding, flag};

/// How far an unmasked x87 overflow or underflow moves the exponent to bring it back into range (SDM vol. 1, 8.5.4 and
/// 8.5.5).
const BIAS_ADJUST: i32 = 24576;

/// Drops the low `n` bits (1 to 127) of `sig`. Gives what is left, one larger when rounded up, and the PE and UP flags.
pub(super) fn round_bits(rounding: Rounding, sign: bool, sig: u128, n: u32) -> (u128, u16) {
    let kept = sig >> n;
    let rest = sig & ((1 << n) - 1);
    let half = 1u128 << (n - 1);
    if rest == 0 {
        return (kept, 0);
    }
    let up = match rounding {
        Rounding::Nearest => rest > half || (rest == half && kept & 1 == 1),
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    if up { (kept + 1, flag::PE | flag::UP) } else { (kept, flag::PE) }
}

/// Shifts right by `n`; what falls out stays visible in bit 0.
pub(super) fn shift_right_sticky(sig: u128, n: u32) -> u128 {
    match n {
        0 => sig,
        1..=127 => sig >> n | u128::from(sig << (128 - n) != 0),
        _ => u128::from(sig != 0),
    }
}

/// Rounds to `precision` bits with no bound on the exponent.
fn round_unbounded(rounding: Rounding, precision: u32, sign: bool, exp: i32, sig: u128) -> (Num, u16) {
    let (kept, flags) = round_bits(rounding, sign, sig, 128 - precision);
    // A carry out of the top leaves a power of two.
    let (exp, kept) = if kept >> precision == 1 { (exp + 1, kept >> 1) } else { (exp, kept) };
    (Num::finite(sign, exp, (kept as u64) << (64 - precision)), flags)
}

/// Rounds an exact result to `f`. Tininess is detected after rounding (SDM vol. 1, 4.9.1.5).
///
/// For an unmasked overflow or underflow the value is the one that the x87 delivers to a register, with its
/// exponent moved by 24576; SSE delivers nothing then.
pub(crate) fn round(env: &Env, f: Format, x: Exact) -> (Num, u16) {
    let (sign, exp, sig) = match x {
        Exact::Done(n) => return (n, 0),
        Exact::Invalid => return (Num::INDEFINITE, flag::IE),
        Exact::DivideByZero(sign) => return (Num::infinity(sign), flag::ZE),
        Exact::Finite { sign, exp, sig } => (sign, exp, sig),
    };
    let (n, flags) = round_unbounded(env.rounding, f.precision, sign, exp, sig);
    if n.exp > f.emax {
        return overflow(env, f, n, flags);
    }
    if n.exp >= f.emin {
        return (n, flags);
    }
    if env.unmasked(flag::UE) != 0 {
        return match n.exp + BIAS_ADJUST {
            exp if exp >= f.emin => (Num { exp, ..n }, flags | flag::UE),
            _ => (Num::zero(sign), flag::UE | flag::PE),
        };
    }
    if env.ftz {
        return (Num::zero(sign), flag::UE | flag::PE);
    }
    let (kept, flags) = {
        let sig = shift_right_sticky(sig, (f.emin - exp) as u32);
        round_bits(env.rounding, sign, sig, 128 - f.precision)
    };
    let flags = if flags & flag::PE != 0 { flags | flag::UE } else { flags };
    let n = match kept {
        0 => Num::zero(sign),
        _ => Num::finite(sign, f.emin, (kept as u64) << (64 - f.precision)),
    };
    (n, flags)
}

fn overflow(env: &Env, f: Format, n: Num, flags: u16) -> (Num, u16) {
    if env.unmasked(flag::OE) != 0 {
        return match n.exp - BIAS_ADJUST {
            exp if exp <= f.emax => (Num { exp, ..n }, flags | flag::OE),
            _ => (Num::infinity(n.sign), flag::OE | flag::PE | flag::UP),
        };
    }
    let to_infinity = match env.rounding {
        Rounding::Nearest => true,
        Rounding::Down => n.sign,
        Rounding::Up => !n.sign,
        Rounding::Zero => false,
    };
    if to_infinity {
        (Num::infinity(n.sign), flag::OE | flag::PE | flag::UP)
    } else {
        let largest = u64::MAX << (64 - f.precision);
        debug_assert!(largest & INTEGER_BIT != 0);
        (Num::finite(n.sign, f.emax, largest), flag::OE | flag::PE)
    }
}
