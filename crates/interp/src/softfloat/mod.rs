//! Floating point in integer arithmetic: one implementation for single, double and 80-bit precision.
//!
//! Every operation is *unpack, compute exactly, round once, pack*. A [`Num`] is an unpacked operand of any format; an
//! operation yields an [`Exact`] result with up to 128 significant bits, the lowest of which is sticky; [`round`] is
//! the only place where precision and exponent range are applied and flags of the result arise. The x87 and SSE rules
//! differ in the choice among NaNs, in DAZ/FTZ and in what an unmasked exception delivers; [`Env`] carries them.
//!
//! Nothing here depends on the host's floating point. Exception flags use the bit positions that the x87 status word
//! and MXCSR share.

mod arith;
mod convert;
mod format;
mod nan;
mod remainder;
mod round;
#[cfg(test)]
mod tests;

pub(crate) use arith::{Op2, binary, compare, maximum, minimum, sqrt};
pub(crate) use convert::{BCD_INDEFINITE, bcd_to_num, convert, int_to_num, num_to_bcd, num_to_int, round_to_integral};
pub(crate) use format::{F80, Float};
pub(crate) use remainder::{Quotient, extract, remainder, scale};
pub(crate) use round::round;

use xlat86_arch::{fcw, mxcsr};

/// Exception flags, as in the x87 status word and in MXCSR.
pub(crate) mod flag {
    pub(crate) const IE: u16 = 1 << 0;
    pub(crate) const DE: u16 = 1 << 1;
    pub(crate) const ZE: u16 = 1 << 2;
    pub(crate) const OE: u16 = 1 << 3;
    pub(crate) const UE: u16 = 1 << 4;
    pub(crate) const PE: u16 = 1 << 5;
    /// All six.
    pub(crate) const ALL: u16 = 0x3f;
    /// Those found before computing: unmasked, they leave the destination alone.
    pub(crate) const PRE: u16 = IE | DE | ZE;
    /// The magnitude was rounded up; stands where the x87 status word has C1.
    pub(crate) const UP: u16 = 1 << 9;
}

/// Rounding control, in its encoding order (SDM vol. 1, table 4-8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

impl Rounding {
    /// From the two-bit RC field.
    pub(crate) const fn from_rc(rc: u32) -> Self {
        match rc & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        }
    }
}

/// Precision and exponent range that a result is rounded to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    /// Significant bits, integer bit included.
    pub(crate) precision: u32,
    /// Least exponent of a normal number.
    pub(crate) emin: i32,
    /// Greatest exponent of a finite number.
    pub(crate) emax: i32,
}

impl Format {
    pub(crate) const F32: Format = Format { precision: 24, emin: -126, emax: 127 };
    pub(crate) const F64: Format = Format { precision: 53, emin: -1022, emax: 1023 };
    pub(crate) const F80: Format = Format { precision: 64, emin: -16382, emax: 16383 };

    /// What the control word's PC field selects: it shortens the significand, never the exponent (SDM vol. 1, 8.1.5.2).
    pub(crate) const fn x87(fcw: u16) -> Format {
        let precision = match fcw >> fcw::PC_SHIFT & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        };
        Format { precision, ..Self::F80 }
    }
}

/// Which of two NaN operands an operation returns (SDM vol. 1, table 4-7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NanRule {
    /// The one with the larger significand.
    X87,
    /// The first one.
    Sse,
}

/// What an operation needs to know besides its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Env {
    pub(crate) rounding: Rounding,
    /// Exceptions that are masked, as a set of [`flag`]s.
    pub(crate) masked: u16,
    pub(crate) nan: NanRule,
    /// Denormal operands count as zeros.
    pub(crate) daz: bool,
    /// Tiny results become zeros when underflow is masked.
    pub(crate) ftz: bool,
}

impl Env {
    /// The environment that x87 control word `fcw` sets up.
    pub(crate) const fn x87(fcw: u16) -> Self {
        Env {
            rounding: Rounding::from_rc((fcw >> fcw::RC_SHIFT) as u32),
            masked: fcw & fcw::MASKS,
            nan: NanRule::X87,
            daz: false,
            ftz: false,
        }
    }

    /// The environment that `mxcsr` sets up.
    pub(crate) const fn sse(mxcsr: u32) -> Self {
        Env {
            rounding: Rounding::from_rc(mxcsr >> mxcsr::RC_SHIFT),
            masked: (mxcsr >> mxcsr::MASK_SHIFT) as u16 & flag::ALL,
            nan: NanRule::Sse,
            daz: mxcsr & mxcsr::DAZ != 0,
            ftz: mxcsr & mxcsr::FTZ != 0,
        }
    }

    pub(crate) const fn with_rounding(self, rounding: Rounding) -> Self {
        Env { rounding, ..self }
    }

    /// Those of `flags` whose exception is not masked.
    pub(crate) const fn unmasked(&self, flags: u16) -> u16 {
        flags & flag::ALL & !self.masked
    }

    /// Operand `n` as this environment sees it, and the DE flag when it is a denormal.
    pub(crate) fn operand(&self, n: Num) -> (Num, u16) {
        match n.denormal {
            true if self.daz => (Num::zero(n.sign), 0),
            denormal => (n, if denormal { flag::DE } else { 0 }),
        }
    }
}

/// What kind of value a [`Num`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    Zero,
    Finite,
    Infinity,
    QNan,
    SNan,
    /// An 80-bit encoding that no operation since the 80387 accepts: unnormal, pseudo-NaN, pseudo-infinity (SDM vol. 1,
    /// 8.2.2).
    Unsupported,
}

/// An unpacked value of any format: (-1)^sign * sig * 2^(exp-63).
///
/// Finite operands are normalised (bit 63 of `sig` set) whatever their encoding was; a rounded result that is denormal
/// has `exp` equal to its format's `emin` and bit 63 clear. A NaN has its payload left-aligned under bit 63, bit 62
/// being the quiet bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Num {
    pub(crate) class: Class,
    pub(crate) sign: bool,
    pub(crate) exp: i32,
    pub(crate) sig: u64,
    /// The encoding was a denormal or pseudo-denormal one.
    pub(crate) denormal: bool,
}

/// The integer bit of a [`Num`]'s significand.
pub(crate) const INTEGER_BIT: u64 = 1 << 63;
/// The quiet bit of a NaN.
const QUIET_BIT: u64 = 1 << 62;

impl Num {
    /// The default NaN, "real indefinite": negative, quiet, payload 0.
    pub(crate) const INDEFINITE: Num = Num::new(Class::QNan, true, 0, INTEGER_BIT | QUIET_BIT);

    const fn new(class: Class, sign: bool, exp: i32, sig: u64) -> Num {
        Num { class, sign, exp, sig, denormal: false }
    }
    pub(crate) const fn zero(sign: bool) -> Num {
        Num::new(Class::Zero, sign, 0, 0)
    }
    pub(crate) const fn infinity(sign: bool) -> Num {
        Num::new(Class::Infinity, sign, 0, INTEGER_BIT)
    }
    /// sig * 2^(exp-63), `sig` having bit 63 set.
    pub(crate) const fn finite(sign: bool, exp: i32, sig: u64) -> Num {
        Num::new(Class::Finite, sign, exp, sig)
    }
    pub(crate) const fn is_nan(&self) -> bool {
        matches!(self.class, Class::QNan | Class::SNan)
    }
    pub(crate) const fn is_zero(&self) -> bool {
        matches!(self.class, Class::Zero)
    }
    pub(crate) const fn is_infinite(&self) -> bool {
        matches!(self.class, Class::Infinity)
    }
    /// The same NaN, quiet.
    pub(crate) const fn quiet(self) -> Num {
        Num { class: Class::QNan, sig: self.sig | QUIET_BIT, ..self }
    }
    pub(crate) const fn with_sign(self, sign: bool) -> Num {
        Num { sign, ..self }
    }
}

/// The result of an operation before rounding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exact {
    /// Needs no rounding: a zero or an infinity.
    Done(Num),
    /// (-1)^sign * sig * 2^(exp-127), bit 127 of `sig` set; bit 0 is sticky.
    Finite { sign: bool, exp: i32, sig: u128 },
    /// Invalid operation.
    Invalid,
    /// Division of a finite number by zero: an infinity with this sign.
    DivideByZero(bool),
}

impl Exact {
    /// A finite non-zero `Num` as an unrounded result.
    pub(crate) const fn of(n: &Num) -> Exact {
        match n.class {
            Class::Finite => Exact::Finite { sign: n.sign, exp: n.exp, sig: (n.sig as u128) << 64 },
            _ => Exact::Done(*n),
        }
    }
}
