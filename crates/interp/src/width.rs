//! Operand widths. Values travel zero-extended in a `u32`; a width says how much of it counts.

use xlat86_softmmu::Scalar;

/// An operand width of 8, 16 or 32 bits: what an operation is generic over.
pub(crate) trait Width: Scalar + Into<u32> {
    /// Width in bits.
    const BITS: u32 = 8 * Self::SIZE as u32;
    /// The bits that count.
    const MASK: u32 = u32::MAX >> (32 - Self::BITS);

    /// Truncates.
    fn low(v: u32) -> Self;

    /// Sign-extends the low `BITS` bits of `v`.
    #[inline(always)]
    fn signed(v: u32) -> i32 {
        ((v << (32 - Self::BITS)) as i32) >> (32 - Self::BITS)
    }
}

impl Width for u8 {
    #[inline(always)]
    fn low(v: u32) -> Self {
        v as u8
    }
}
impl Width for u16 {
    #[inline(always)]
    fn low(v: u32) -> Self {
        v as u16
    }
}
impl Width for u32 {
    #[inline(always)]
    fn low(v: u32) -> Self {
        v
    }
}
