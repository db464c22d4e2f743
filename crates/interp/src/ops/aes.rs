//! AES and carry-less multiplication (SDM vol. 1, 12.13; FIPS 197).
//!
//! The state's byte *i* is row i mod 4, column i div 4. The S-boxes are computed at compile time from their definition.

use super::simd_integer::{packed, packed_imm};
use super::vector::{build, lane};
use crate::table::shapes;

shapes!(AES {
    Aesenc => packed(|a, b| mix(substitute(shift_rows(a, 1), &SBOX), [2, 3, 1, 1]) ^ b);
    Aesenclast => packed(|a, b| substitute(shift_rows(a, 1), &SBOX) ^ b);
    Aesdec => packed(|a, b| mix(substitute(shift_rows(a, 3), &INVERSE_SBOX), [14, 11, 13, 9]) ^ b);
    Aesdeclast => packed(|a, b| substitute(shift_rows(a, 3), &INVERSE_SBOX) ^ b);
    Aesimc => packed(|_, b| mix(b, [14, 11, 13, 9]));
    Aeskeygenassist => packed_imm(|_, _, b, imm| key_assist(b, imm));
    Pclmulqdq => packed_imm(|_, a, b, imm| clmul(lane(a, usize::from(imm & 1)), lane(b, usize::from(imm >> 4 & 1))));
} codes {
});

/// Product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn gf_mul(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut r) = (a, b, 0);
    while b != 0 {
        if b & 1 == 1 {
            r ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    r
}

/// `PRODUCT[c][x]`: c times x, for the coefficients that occur.
static PRODUCT: [[u8; 256]; 16] = {
    let mut table = [[0; 256]; 16];
    let mut i = 0;
    while i < 16 * 256 {
        table[i / 256][i % 256] = gf_mul((i / 256) as u8, i as u8);
        i += 1;
    }
    table
};

const SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        // The inverse is the 254th power; zero maps to itself.
        let (mut inverse, mut n) = (1, 0);
        while n < 254 {
            inverse = gf_mul(inverse, x as u8);
            n += 1;
        }
        let i = inverse;
        table[x] = i ^ i.rotate_left(1) ^ i.rotate_left(2) ^ i.rotate_left(3) ^ i.rotate_left(4) ^ 0x63;
        x += 1;
    }
    table
};

const INVERSE_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        table[SBOX[x] as usize] = x as u8;
        x += 1;
    }
    table
};

/// Rotates row r left by r times `by` columns; 3 undoes 1.
fn shift_rows(v: u128, by: usize) -> u128 {
    build(16, |i| lane::<u8>(v, (i + 4 * by * (i % 4)) % 16))
}

fn substitute(v: u128, table: &[u8; 256]) -> u128 {
    build(16, |i| table[lane::<u8>(v, i) as usize])
}

/// Multiplies each column by the circulant matrix whose first row is `row`.
fn mix(v: u128, row: [u8; 4]) -> u128 {
    let product = |c: u8, x: u8| PRODUCT[usize::from(c)][usize::from(x)];
    build(16, |i| (0..4).fold(0, |sum, k| sum ^ product(row[(k + 4 - i % 4) % 4], lane(v, i / 4 * 4 + k))))
}

fn key_assist(v: u128, rcon: u8) -> u128 {
    let s = substitute(v, &SBOX);
    let (x1, x3): (u32, u32) = (lane(s, 1), lane(s, 3));
    let rotated = |x: u32| x.rotate_right(8) ^ u32::from(rcon);
    build(4, |i| [x1, rotated(x1), x3, rotated(x3)][i])
}

fn clmul(a: u64, b: u64) -> u128 {
    (0..64).filter(|i| b >> i & 1 == 1).fold(0, |r, i| r ^ u128::from(a) << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sbox_is_the_standards() {
        assert_eq!(SBOX[..4], [0x63, 0x7c, 0x77, 0x7b]);
        assert_eq!((SBOX[0x53], SBOX[0xff], INVERSE_SBOX[0x63]), (0xed, 0x16, 0));
    }
}
