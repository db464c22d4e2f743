//! Conversions between formats, to and from integers, and packed BCD.

use super::round::{round, round_bits, shift_right_sticky};
use super::{Class, Env, Exact, Format, Num, flag};

/// `n` rounded to format `f`. A denormal operand is reported when `report_denormal` is set: loads and the SSE
/// conversions report it, x87 stores don't.
pub(crate) fn convert(env: &Env, f: Format, n: &Num, report_denormal: bool) -> (Num, u16) {
    let (n, denormal) = env.operand(*n);
    let denormal = if report_denormal { denormal } else { 0 };
    match n.class {
        Class::Unsupported => (Num::INDEFINITE, flag::IE),
        Class::SNan => (n.quiet(), flag::IE),
        _ if env.unmasked(denormal) != 0 => (n, denormal),
        _ => {
            let (r, flags) = round(env, f, Exact::of(&n));
            (r, flags | denormal)
        }
    }
}

/// A 64-bit integer, exactly.
pub(crate) fn int_to_num(v: i64) -> Num {
    let m = v.unsigned_abs();
    match m.leading_zeros() {
        64 => Num::zero(false),
        shift => Num::finite(v < 0, 63 - shift as i32, m << shift),
    }
}

/// The magnitude of a finite `n` or zero as an integer, and the PE and UP flags; `None` when it needs more than 64
/// bits.
fn to_integer(env: &Env, n: &Num) -> Option<(u64, u16)> {
    match n.class {
        Class::Zero => Some((0, 0)),
        Class::Finite if n.exp < 64 => {
            // 63 fraction bits are kept below the point; what is shifted out beyond them stays sticky.
            let sig = shift_right_sticky(u128::from(n.sig) << 63, (63 - n.exp) as u32);
            let (kept, flags) = round_bits(env.rounding, n.sign, sig, 63);
            u64::try_from(kept).ok().map(|m| (m, flags))
        }
        _ => None,
    }
}

/// `n` as a signed integer of `bits` bits, sign-extended. Out of range, infinite and NaN operands give the integer
/// indefinite, the most negative one, and IE.
pub(crate) fn num_to_int(env: &Env, n: &Num, bits: u32) -> (i64, u16) {
    let (n, _) = env.operand(*n);
    let limit = 1u64 << (bits - 1);
    match to_integer(env, &n) {
        Some((m, flags)) if m < limit => (if n.sign { -(m as i64) } else { m as i64 }, flags),
        Some((m, flags)) if m == limit && n.sign => (m.wrapping_neg() as i64, flags),
        _ => (limit.wrapping_neg() as i64, flag::IE),
    }
}

/// `n` rounded to an integral value of the same format.
pub(crate) fn round_to_integral(env: &Env, n: &Num) -> (Num, u16) {
    let (n, _) = env.operand(*n);
    match n.class {
        Class::Unsupported => (Num::INDEFINITE, flag::IE),
        Class::SNan => (n.quiet(), flag::IE),
        Class::Finite if n.exp < 63 => {
            let (m, flags) = to_integer(env, &n).unwrap_or_default();
            match m.leading_zeros() {
                64 => (Num::zero(n.sign), flags),
                shift => (Num::finite(n.sign, 63 - shift as i32, m << shift), flags),
            }
        }
        _ => (n, 0),
    }
}

/// Packed BCD indefinite: what FBSTP stores for a masked invalid operand.
pub(crate) const BCD_INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// An 18-digit packed decimal, exactly. Digits above 9 count with their weight, as the hardware's adders do.
pub(crate) fn bcd_to_num(b: [u8; 10]) -> Num {
    let m = b[..9].iter().rev().fold(0i64, |m, d| m * 100 + i64::from(d >> 4) * 10 + i64::from(d & 15));
    int_to_num(m).with_sign(b[9] & 0x80 != 0)
}

/// `n` rounded to an 18-digit packed decimal; `None` with IE when it has none.
pub(crate) fn num_to_bcd(env: &Env, n: &Num) -> (Option<[u8; 10]>, u16) {
    match to_integer(env, n) {
        Some((m, flags)) if m < 1_000_000_000_000_000_000 => {
            let mut b = [0; 10];
            let mut rest = m;
            for d in &mut b[..9] {
                *d = (rest / 10 % 10 * 16 + rest % 10) as u8;
                rest /= 100;
            }
            b[9] = (n.sign as u8) << 7;
            (Some(b), flags)
        }
        _ => (None, flag::IE),
    }
}
