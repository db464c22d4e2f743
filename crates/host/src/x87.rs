//! Operations whose exact result only silicon can tell: the x87 transcendental instructions and the SSE approximations.
//!
//! One instruction at a time, on operands given as data; the x87 state of the calling thread comes back as it was.

use core::arch::asm;
use core::arch::x86_64::{_mm_cvtss_f32, _mm_rcp_ss, _mm_rsqrt_ss, _mm_set_ss};

/// An x87 instruction that the manual bounds in error but doesn't define to the bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Transcendental {
    F2xm1,
    Fyl2x,
    Fyl2xp1,
    Fptan,
    Fpatan,
    Fsin,
    Fcos,
    Fsincos,
}

/// What an instruction left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct X87Result {
    /// The registers that were ST(0) and ST(1) before the instruction.
    pub old: [[u8; 10]; 2],
    /// The register that it pushed, if it did.
    pub pushed: [u8; 10],
    /// The status word.
    pub fsw: u16,
}

#[repr(C, align(16))]
struct Image([u8; 512]);

/// Executes `op` with `st0` and `st1` (80-bit, little endian) in ST(0) and ST(1) under control word `fcw`. Its masks
/// count: an unmasked exception has its effect on the results but isn't raised.
#[must_use]
pub fn transcendental(op: Transcendental, st0: [u8; 10], st1: [u8; 10], fcw: u16) -> X87Result {
    let mut image = Image([0; 512]);
    let mut saved = 0u16;
    macro_rules! execute {
        ($insn:literal) => {
            // SAFETY: the operands are live for the whole sequence and `image` is 512 aligned bytes. 80-bit loads raise
            // nothing, no waiting instruction follows the one that may leave an exception pending, and the
            // registers are declared clobbered: the x87 stack is empty again and the control word the caller's.
            unsafe {
                asm!(
                    "fnstcw word ptr [{saved}]",
                    "fninit",
                    "fldcw word ptr [{fcw}]",
                    "fld tbyte ptr [{b}]",
                    "fld tbyte ptr [{a}]",
                    $insn,
                    "fxsave64 [{image}]",
                    "fninit",
                    "fldcw word ptr [{saved}]",
                    saved = in(reg) &raw mut saved,
                    fcw = in(reg) &raw const fcw,
                    a = in(reg) st0.as_ptr(),
                    b = in(reg) st1.as_ptr(),
                    image = in(reg) &raw mut image,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    options(nostack),
                )
            }
        };
    }
    match op {
        Transcendental::F2xm1 => execute!("f2xm1"),
        Transcendental::Fyl2x => execute!("fyl2x"),
        Transcendental::Fyl2xp1 => execute!("fyl2xp1"),
        Transcendental::Fptan => execute!("fptan"),
        Transcendental::Fpatan => execute!("fpatan"),
        Transcendental::Fsin => execute!("fsin"),
        Transcendental::Fcos => execute!("fcos"),
        Transcendental::Fsincos => execute!("fsincos"),
    }
    let fsw = u16::from_le_bytes([image.0[2], image.0[3]]);
    // The image is relative to TOP; the two loads filled physical registers 7 and 6, a push fills 5.
    let physical = |r: u16| {
        let at = 32 + 16 * usize::from(r.wrapping_sub(fsw >> 11) & 7);
        let mut v = [0; 10];
        v.copy_from_slice(&image.0[at..at + 10]);
        v
    };
    X87Result { old: [physical(6), physical(7)], pushed: physical(5), fsw }
}

/// RCPSS, or RSQRTSS, of `x`.
#[must_use]
pub fn approximate(rsqrt: bool, x: f32) -> f32 {
    // SAFETY: SSE is part of every x86-64 CPU.
    unsafe {
        let v = _mm_set_ss(x);
        _mm_cvtss_f32(if rsqrt { _mm_rsqrt_ss(v) } else { _mm_rcp_ss(v) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f];
    const ZERO: [u8; 10] = [0; 10];

    #[test]
    fn registers_are_told_by_their_old_numbers() {
        // log2(1) * 1 is 0 in the old ST(1); tan(0) is 0 with 1 pushed.
        let r = transcendental(Transcendental::Fyl2x, ONE, ONE, 0x37f);
        assert_eq!((r.old[1], r.fsw & 0x3f), (ZERO, 0));
        let r = transcendental(Transcendental::Fptan, ZERO, ONE, 0x37f);
        assert_eq!((r.old, r.pushed), ([ZERO, ONE], ONE));
    }

    #[test]
    fn unmasked_exceptions_are_not_raised_and_the_state_is_kept() {
        let infinity = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f];
        let r = transcendental(Transcendental::Fsin, infinity, ONE, 0x340);
        assert_eq!((r.old[0], r.fsw & 0x81), (infinity, 0x81));
        // Another x87 instruction of this thread meets no pending exception.
        assert_eq!(transcendental(Transcendental::Fcos, ZERO, ONE, 0x37f).old[0], ONE);
    }

    #[test]
    fn approximations_are_close() {
        assert!((approximate(false, 4.0) - 0.25).abs() < 1e-3);
        assert!((approximate(true, 4.0) - 0.5).abs() < 1e-3);
    }
}
