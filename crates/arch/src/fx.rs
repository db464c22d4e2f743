//! x87, MMX and SSE state, kept as the FXSAVE image (SDM vol. 1, 10.5.1, table 10-2).
//!
//! One layout serves the interpreter, the translator (which loads it with FXRSTOR) and signal frames.
//! Two of its properties must be kept in mind: the register file is stored relative to the top of stack
//! (`st[0]` is ST(0), not R0), and the tag word is abridged (bit *i* set: physical register R*i* not empty).

/// The 512-byte FXSAVE image, 32-bit format.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct FxState {
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word; TOP is bits 11 to 13.
    pub fsw: u16,
    /// Abridged tag word: bit *i* is 1 when physical register *i* is in use.
    pub ftw: u8,
    /// Reserved.
    pub _r0: u8,
    /// Last x87 opcode (11 bits).
    pub fop: u16,
    /// Last x87 instruction's offset.
    pub fip: u32,
    /// Last x87 instruction's code selector.
    pub fcs: u16,
    /// Reserved.
    pub _r1: u16,
    /// Last x87 memory operand's offset.
    pub fdp: u32,
    /// Last x87 memory operand's selector.
    pub fds: u16,
    /// Reserved.
    pub _r2: u16,
    /// SSE control and status.
    pub mxcsr: u32,
    /// Writable bits of MXCSR.
    pub mxcsr_mask: u32,
    /// ST(0) to ST(7), 10 bytes each in a 16-byte slot; MMX registers are the low 8 bytes of the *physical* ones.
    pub st: [[u8; 16]; 8],
    /// XMM0 to XMM7, then eight slots that 32-bit code never touches.
    pub xmm: [u128; 16],
    /// Reserved and available to software.
    pub _r3: [u8; 96],
}

/// MXCSR bits (SDM vol. 1, 10.2.3).
#[allow(missing_docs)]
pub mod mxcsr {
    pub const IE: u32 = 1 << 0;
    pub const DE: u32 = 1 << 1;
    pub const ZE: u32 = 1 << 2;
    pub const OE: u32 = 1 << 3;
    pub const UE: u32 = 1 << 4;
    pub const PE: u32 = 1 << 5;
    pub const DAZ: u32 = 1 << 6;
    /// The six mask bits.
    pub const MASKS: u32 = 0x3f << 7;
    pub const MASK_SHIFT: u32 = 7;
    pub const RC_SHIFT: u32 = 13;
    pub const FTZ: u32 = 1 << 15;
    /// Value after reset: all exceptions masked, round to nearest.
    pub const RESET: u32 = 0x1f80;
    /// Bits that may be written; setting others raises #GP.
    pub const WRITABLE: u32 = 0xffff;
}

/// x87 control word bits (SDM vol. 1, 8.1.5).
#[allow(missing_docs)]
pub mod fcw {
    /// The six exception masks.
    pub const MASKS: u16 = 0x3f;
    pub const PC_SHIFT: u16 = 8;
    pub const RC_SHIFT: u16 = 10;
    /// Value after FNINIT.
    pub const INIT: u16 = 0x037f;
}

/// x87 status word bits (SDM vol. 1, 8.1.3).
#[allow(missing_docs)]
pub mod fsw {
    pub const IE: u16 = 1 << 0;
    pub const DE: u16 = 1 << 1;
    pub const ZE: u16 = 1 << 2;
    pub const OE: u16 = 1 << 3;
    pub const UE: u16 = 1 << 4;
    pub const PE: u16 = 1 << 5;
    pub const SF: u16 = 1 << 6;
    pub const ES: u16 = 1 << 7;
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const TOP_SHIFT: u16 = 11;
    pub const TOP: u16 = 7 << 11;
    pub const C3: u16 = 1 << 14;
    pub const B: u16 = 1 << 15;
}

impl FxState {
    /// State after FNINIT and with MXCSR at its reset value; what Linux gives a new process.
    pub const INIT: FxState = FxState {
        fcw: fcw::INIT,
        fsw: 0,
        ftw: 0,
        _r0: 0,
        fop: 0,
        fip: 0,
        fcs: 0,
        _r1: 0,
        fdp: 0,
        fds: 0,
        _r2: 0,
        mxcsr: mxcsr::RESET,
        mxcsr_mask: mxcsr::WRITABLE,
        st: [[0; 16]; 8],
        xmm: [0; 16],
        _r3: [0; 96],
    };

    /// Top of the x87 register stack: the physical register that is ST(0).
    #[must_use]
    pub const fn top(&self) -> u8 {
        ((self.fsw >> fsw::TOP_SHIFT) & 7) as u8
    }
}

impl FxState {
    /// The 512 bytes of the image.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 512] {
        let mut b = [0; 512];
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(0, &self.fcw.to_le_bytes());
        put(2, &self.fsw.to_le_bytes());
        put(4, &[self.ftw]);
        put(6, &self.fop.to_le_bytes());
        put(8, &self.fip.to_le_bytes());
        put(12, &self.fcs.to_le_bytes());
        put(16, &self.fdp.to_le_bytes());
        put(20, &self.fds.to_le_bytes());
        put(24, &self.mxcsr.to_le_bytes());
        put(28, &self.mxcsr_mask.to_le_bytes());
        for (i, st) in self.st.iter().enumerate() {
            put(32 + 16 * i, st);
        }
        for (i, x) in self.xmm.iter().enumerate() {
            put(160 + 16 * i, &x.to_le_bytes());
        }
        b
    }

    /// Reads the image; reserved fields become 0.
    #[must_use]
    pub fn from_bytes(b: &[u8; 512]) -> FxState {
        let u16_at = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let slot = |i: usize| core::array::from_fn(|n| b[i + n]);
        FxState {
            fcw: u16_at(0),
            fsw: u16_at(2),
            ftw: b[4],
            fop: u16_at(6),
            fip: u32_at(8),
            fcs: u16_at(12),
            fdp: u32_at(16),
            fds: u16_at(20),
            mxcsr: u32_at(24),
            mxcsr_mask: u32_at(28),
            st: core::array::from_fn(|i| slot(32 + 16 * i)),
            xmm: core::array::from_fn(|i| u128::from_le_bytes(slot(160 + 16 * i))),
            ..FxState::INIT
        }
    }
}

impl Default for FxState {
    fn default() -> Self {
        Self::INIT
    }
}

impl core::fmt::Debug for FxState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(
            f,
            "fcw={:04x} fsw={:04x} ftw={:02x} fop={:03x} fip={:08x} fdp={:08x} mxcsr={:08x}",
            self.fcw, self.fsw, self.ftw, self.fop, self.fip, self.fdp, self.mxcsr
        )?;
        for (i, st) in self.st.iter().enumerate() {
            let se = u16::from_le_bytes([st[8], st[9]]);
            let sig = u64::from_le_bytes([st[0], st[1], st[2], st[3], st[4], st[5], st[6], st[7]]);
            writeln!(f, "st{i}={se:04x}:{sig:016x}")?;
        }
        for (i, x) in self.xmm.iter().take(8).enumerate() {
            writeln!(f, "xmm{i}={x:032x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn bytes_round_trip() {
        let bytes: [u8; 512] =
            core::array::from_fn(|i| if matches!(i, 5 | 14 | 15 | 22 | 23 | 416..) { 0 } else { i as u8 });
        assert_eq!(FxState::from_bytes(&bytes).to_bytes(), bytes);
    }

    #[test]
    fn layout_is_the_fxsave_image() {
        assert_eq!(size_of::<FxState>(), 512);
        assert_eq!(offset_of!(FxState, fip), 8);
        assert_eq!(offset_of!(FxState, fdp), 16);
        assert_eq!(offset_of!(FxState, mxcsr), 24);
        assert_eq!(offset_of!(FxState, st), 32);
        assert_eq!(offset_of!(FxState, xmm), 160);
        assert_eq!(offset_of!(FxState, _r3), 416);
    }
}
