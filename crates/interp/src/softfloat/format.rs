//! Packing and unpacking of the three memory formats (SDM vol. 1, 4.2.2 and 8.2).

use super::{Class, Format, INTEGER_BIT, Num, QUIET_BIT};

/// A memory format. Single and double precision are represented by their bit patterns.
pub(crate) trait Float: Copy {
    const FORMAT: Format;
    fn unpack(self) -> Num;
    /// `n` must have been rounded to this format; of a NaN the low payload bits are dropped.
    fn pack(n: &Num) -> Self;
}

/// Unpacks an IEEE format with an implicit integer bit; `bits` holds `width` bits.
fn unpack_ieee(bits: u64, width: u32, f: Format) -> Num {
    let fraction_bits = f.precision - 1;
    let sign = bits >> (width - 1) & 1 == 1;
    let biased = (bits >> fraction_bits & ((1 << (width - f.precision)) - 1)) as i32;
    // The fraction under bit 63; the shift drops sign and exponent.
    let fraction = bits << (64 - fraction_bits) >> 1;
    if biased == f.emax * 2 + 1 {
        return match fraction {
            0 => Num::infinity(sign),
            _ => Num::new(nan_class(fraction), sign, 0, INTEGER_BIT | fraction),
        };
    }
    match (biased, fraction) {
        (0, 0) => Num::zero(sign),
        (0, _) => denormal(sign, f.emin, fraction),
        _ => Num::finite(sign, biased - f.emax, INTEGER_BIT | fraction),
    }
}

fn pack_ieee(n: &Num, width: u32, f: Format) -> u64 {
    let fraction_bits = f.precision - 1;
    let fraction = (n.sig & !INTEGER_BIT) >> (63 - fraction_bits);
    let biased = match n.class {
        Class::Zero => 0,
        Class::Finite if n.sig & INTEGER_BIT == 0 => 0,
        Class::Finite => (n.exp + f.emax) as u64,
        _ => (f.emax * 2 + 1) as u64,
    };
    (n.sign as u64) << (width - 1) | biased << fraction_bits | fraction
}

fn nan_class(sig: u64) -> Class {
    if sig & QUIET_BIT != 0 { Class::QNan } else { Class::SNan }
}

fn denormal(sign: bool, emin: i32, sig: u64) -> Num {
    let shift = sig.leading_zeros();
    Num { denormal: true, ..Num::finite(sign, emin - shift as i32, sig << shift) }
}

impl Float for u32 {
    const FORMAT: Format = Format::F32;
    fn unpack(self) -> Num {
        unpack_ieee(self.into(), 32, Format::F32)
    }
    fn pack(n: &Num) -> u32 {
        pack_ieee(n, 32, Format::F32) as u32
    }
}

impl Float for u64 {
    const FORMAT: Format = Format::F64;
    fn unpack(self) -> Num {
        unpack_ieee(self, 64, Format::F64)
    }
    fn pack(n: &Num) -> u64 {
        pack_ieee(n, 64, Format::F64)
    }
}

/// A value in the 80-bit format of the x87 registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct F80 {
    /// Significand with its explicit integer bit.
    pub(crate) sig: u64,
    /// Sign (bit 15) and biased exponent.
    pub(crate) se: u16,
}

impl F80 {
    pub(crate) const fn from_bytes(b: [u8; 10]) -> F80 {
        let [a0, a1, a2, a3, a4, a5, a6, a7, e0, e1] = b;
        F80 { sig: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]), se: u16::from_le_bytes([e0, e1]) }
    }

    pub(crate) const fn to_bytes(self) -> [u8; 10] {
        let [a0, a1, a2, a3, a4, a5, a6, a7] = self.sig.to_le_bytes();
        let [e0, e1] = self.se.to_le_bytes();
        [a0, a1, a2, a3, a4, a5, a6, a7, e0, e1]
    }
}

impl Float for F80 {
    const FORMAT: Format = Format::F80;

    fn unpack(self) -> Num {
        let sign = self.se >> 15 == 1;
        match (self.se & 0x7fff, self.sig) {
            (0, 0) => Num::zero(sign),
            (0, sig) => denormal(sign, Format::F80.emin, sig),
            (_, sig) if sig & INTEGER_BIT == 0 => Num::new(Class::Unsupported, sign, 0, sig),
            (0x7fff, INTEGER_BIT) => Num::infinity(sign),
            (0x7fff, sig) => Num::new(nan_class(sig), sign, 0, sig),
            (biased, sig) => Num::finite(sign, i32::from(biased) - Format::F80.emax, sig),
        }
    }

    fn pack(n: &Num) -> F80 {
        let biased = match n.class {
            Class::Zero => 0,
            Class::Finite if n.sig & INTEGER_BIT == 0 => 0,
            Class::Finite => (n.exp + Format::F80.emax) as u16,
            _ => 0x7fff,
        };
        F80 { sig: n.sig, se: (n.sign as u16) << 15 | biased }
    }
}
