//! The x87 state of this thread's host CPU, which is the guest's while translated code runs on it.
//!
//! Rust code doesn't use the x87, so the guest's state may stay where it is between two runs of translated code.

use core::arch::asm;

/// A 512-byte FXSAVE image in the 64-bit format (instruction and operand pointers are 64 bits wide).
#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub struct Image(pub [u8; 512]);

/// Saves this thread's x87 and SSE state.
#[must_use]
pub fn save() -> Image {
    let mut image = Image([0; 512]);
    // SAFETY: a 16-byte aligned area of 512 bytes; saving changes nothing.
    unsafe { asm!("fxsave64 [{}]", in(reg) &mut image, options(nostack, preserves_flags)) };
    image
}

/// Loads this thread's x87 state from `image`. Its SSE half isn't taken over: XMM registers and MXCSR belong to the compiler here.
pub fn restore_x87(image: &Image) {
    let mut merged = save();
    merged.0[..24].copy_from_slice(&image.0[..24]);
    merged.0[32..160].copy_from_slice(&image.0[32..160]);
    // SAFETY: a complete image whose SSE half and MXCSR are the current ones, so the compiler's state is
    // unchanged but for registers that the clobber list names.
    unsafe {
        asm!("fxrstor64 [{}]", in(reg) &merged, options(nostack, readonly, preserves_flags),
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _, out("st(5)") _,
            out("st(6)") _, out("st(7)") _, out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
            out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _);
    };
}
