//! Status flags of arithmetic results (SDM vol. 1, 3.4.3.1).
//!
//! Operands and results come zero-extended to 32 bits. Carries are taken from the sum itself, so that one
//! formula serves with and without carry in.

use crate::width::Width;
use xlat86_arch::eflags::{AF, CF, OF, PF, SF, ZF};

/// PF for each value of a result's low byte: set when the number of ones is even.
static PARITY: [u8; 256] = {
    let mut t = [0; 256];
    let mut i = 0;
    while i < 256 {
        t[i] = if (i as u8).count_ones().is_multiple_of(2) { PF as u8 } else { 0 };
        i += 1;
    }
    t
};

/// `bit` when `cond`.
#[inline(always)]
pub(crate) fn when(cond: bool, bit: u32) -> u32 {
    if cond { bit } else { 0 }
}

/// PF of the low byte of `r`.
#[inline(always)]
pub(crate) fn parity(r: u32) -> u32 {
    u32::from(PARITY[(r & 0xff) as usize])
}

/// SF, ZF and PF of `r`.
#[inline(always)]
pub(crate) fn szp<T: Width>(r: u32) -> u32 {
    let r = r & T::MASK;
    parity(r) | when(r == 0, ZF) | ((r >> (T::BITS - 1)) * SF)
}

/// All six flags of `r = a + b (+ carry)`.
#[inline(always)]
pub(crate) fn add<T: Width>(a: u32, b: u32, r: u32) -> u32 {
    let top = T::BITS - 1;
    let carry = (a & b) | ((a | b) & !r);
    let overflow = (a ^ r) & (b ^ r);
    szp::<T>(r) | ((carry >> top & 1) * CF) | ((overflow >> top & 1) * OF) | ((a ^ b ^ r) & AF)
}

/// All six flags of `r = a - b (- borrow)`.
#[inline(always)]
pub(crate) fn sub<T: Width>(a: u32, b: u32, r: u32) -> u32 {
    let top = T::BITS - 1;
    let borrow = (!a & b) | ((!a | b) & r);
    let overflow = (a ^ b) & (a ^ r);
    szp::<T>(r) | ((borrow >> top & 1) * CF) | ((overflow >> top & 1) * OF) | ((a ^ b ^ r) & AF)
}

/// Tests condition `cc` (0 to 15 as encoded in Jcc, SETcc and CMOVcc; SDM vol. 1, appendix B) on `f`.
#[inline(always)]
pub(crate) fn condition(cc: u8, f: u32) -> bool {
    let less = (f & SF != 0) != (f & OF != 0);
    let yes = match cc >> 1 {
        0 => f & OF != 0,
        1 => f & CF != 0,
        2 => f & ZF != 0,
        3 => f & (CF | ZF) != 0,
        4 => f & SF != 0,
        5 => f & PF != 0,
        6 => less,
        _ => less || f & ZF != 0,
    };
    yes != (cc & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_and_borrows_of_every_byte_pair() {
        for a in 0..256u32 {
            for b in 0..256u32 {
                for c in 0..2 {
                    let f = add::<u8>(a, b, (a + b + c) & 0xff);
                    assert_eq!(f & CF != 0, a + b + c > 0xff);
                    assert_eq!(f & AF != 0, (a & 15) + (b & 15) + c > 15);
                    let wide = i32::from(a as i8) + i32::from(b as i8) + c as i32;
                    assert_eq!(f & OF != 0, i8::try_from(wide).is_err());
                    let f = sub::<u8>(a, b, a.wrapping_sub(b + c) & 0xff);
                    assert_eq!(f & CF != 0, a < b + c);
                    assert_eq!(f & AF != 0, (a & 15) < (b & 15) + c);
                    let wide = i32::from(a as i8) - i32::from(b as i8) - c as i32;
                    assert_eq!(f & OF != 0, i8::try_from(wide).is_err());
                }
            }
        }
    }
}
