//! The bits of CPU state that change how bytes are decoded and translated: part of a block's identity.

/// Mode bits. Two blocks at the same address with different `Mode`s are different blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Mode(pub u16);

impl Mode {
    /// CS.D: 32-bit default operand and address size.
    pub const CODE32: u16 = 1 << 0;
    /// SS.B: pushes and pops use ESP rather than SP.
    pub const STACK32: u16 = 1 << 1;
    /// CPL is 3.
    pub const USER: u16 = 1 << 2;
    /// CS, DS, ES and SS are flat: base 0, limit 4 GB.
    pub const FLAT: u16 = 1 << 3;
    /// CR0.PE is 1.
    pub const PROTECTED: u16 = 1 << 4;
    /// CR0.PG is 1.
    pub const PAGING: u16 = 1 << 5;
    /// EFLAGS.VM is 1.
    pub const VM86: u16 = 1 << 6;
    /// EFLAGS.TF is 1: one instruction per block, #DB after it.
    pub const TRAP: u16 = 1 << 7;
    /// CR0.EM or CR0.TS is 1, or CR4.OSFXSR is 0: some floating-point instructions raise #NM or #UD.
    pub const FPU_OFF: u16 = 1 << 8;

    /// FS can be read and written over all of the 4 GB from its base. Set by whoever translates, not by [`crate::CpuState::mode`].
    pub const FS_OPEN: u16 = 1 << 9;
    /// The same of GS.
    pub const GS_OPEN: u16 = 1 << 10;
    /// Memory is reached through a window in which pages appear where the guest sees them. Set by whoever translates.
    pub const WINDOW: u16 = 1 << 11;

    /// Reading the time stamp counter isn't just that: CR4.TSD forbids it here, or the clock is the platform's own. Set like
    /// [`Mode::FS_OPEN`].
    pub const TSC_OFF: u16 = 1 << 12;

    /// Translated with each access to memory checked by itself. Set by whoever translates.
    pub const CAREFUL: u16 = 1 << 13;

    /// A Linux user program: flat 32-bit protected mode at CPL 3.
    pub const USER32: Mode =
        Mode(Self::CODE32 | Self::STACK32 | Self::USER | Self::FLAT | Self::PROTECTED | Self::PAGING);

    /// True when every bit of `bits` is set.
    #[must_use]
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }

    /// Default operand and address size of this mode's code, in bits: 16 or 32.
    #[must_use]
    pub const fn bitness(self) -> u32 {
        if self.has(Self::CODE32) { 32 } else { 16 }
    }
}

impl core::fmt::Debug for Mode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let names = [
            "code32", "stack32", "user", "flat", "pe", "pg", "vm86", "tf", "fpu-off", "fs", "gs", "window", "tsc-off",
            "careful",
        ];
        let set = names.iter().enumerate().filter(|(i, _)| self.0 >> i & 1 == 1).map(|(_, n)| *n);
        f.write_str(&set.collect::<Vec<_>>().join("+"))
    }
}
