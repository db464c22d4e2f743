//! Questions that only the host's own CPU can answer.
//!
//! The manual bounds the error of transcendental functions and reciprocal approximations but doesn't define their bits; a
//! guest sees the host's, and so must whoever imitates it.

use core::arch::asm;

/// The time stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC has no side effects.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// RCPSS (`rsqrt` false) or RSQRTSS of `x`.
#[must_use]
pub fn approx(rsqrt: bool, x: f32) -> f32 {
    let mut y = x;
    // SAFETY: register-only SSE instructions.
    unsafe {
        if rsqrt {
            asm!("rsqrtss {0}, {0}", inout(xmm_reg) y, options(pure, nomem, nostack));
        } else {
            asm!("rcpss {0}, {0}", inout(xmm_reg) y, options(pure, nomem, nostack));
        }
    }
    y
}

/// An x87 instruction whose result is the silicon's choice.
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

/// Executes `op` with ST(0) and ST(1) given (80-bit, little endian) under control word `fcw` with all exceptions masked. Gives the contents of
/// the registers that were ST(0) and ST(1) before it, for FPTAN and FSINCOS the one that was ST(0) and the one pushed, and
/// the status word. This thread's x87 state is kept.
#[must_use]
pub fn x87(op: Transcendental, st0: [u8; 10], st1: [u8; 10], fcw: u16) -> ([u8; 10], [u8; 10], u16) {
    let mut saved = [0u8; 108];
    let (mut a, mut b) = (st0, st1);
    let fcw = fcw | 0x3f;
    let mut fsw = 0u16;
    macro_rules! run {
        ($insn:literal, $then:literal, $first:ident, $second:ident) => {
            // SAFETY: FNSAVE and FRSTOR bracket everything, so the x87 is as before; memory operands are ours.
            unsafe {
                asm!(
                    "fnsave [{saved}]", "fldcw [{fcw}]", "fld tbyte ptr [{b}]", "fld tbyte ptr [{a}]", "fnclex",
                    $insn,
                    "fnstsw [{fsw}]",
                    $then,
                    concat!("fstp tbyte ptr [{", stringify!($first), "}]"),
                    concat!("fstp tbyte ptr [{", stringify!($second), "}]"),
                    "frstor [{saved}]",
                    saved = in(reg) &mut saved, fcw = in(reg) &fcw, a = in(reg) &mut a, b = in(reg) &mut b,
                    fsw = in(reg) &mut fsw, options(nostack)
                )
            }
        };
    }
    use Transcendental as T;
    match op {
        T::F2xm1 => run!("f2xm1", "", a, b),
        T::Fsin => run!("fsin", "", a, b),
        T::Fcos => run!("fcos", "", a, b),
        // These pop: what was ST(1) is on top, and a constant takes the place of the popped one.
        T::Fyl2x => run!("fyl2x", "fldz\nfxch", b, a),
        T::Fyl2xp1 => run!("fyl2xp1", "fldz\nfxch", b, a),
        T::Fpatan => run!("fpatan", "fldz\nfxch", b, a),
        // These push, unless they report an operand out of range by C2.
        T::Fptan => run!("fptan", "", b, a),
        T::Fsincos => run!("fsincos", "", b, a),
    }
    (a, b, fsw)
}
