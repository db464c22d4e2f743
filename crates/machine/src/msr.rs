//! Model-specific registers that kernels expect of a Pentium Pro's descendant and that say nothing about this machine.
//! (SDM vol. 4, table 2-2.) The CPU itself has those that mean something.

/// Platform number, for microcode updates: there are none.
const IA32_PLATFORM_ID: u32 = 0x17;
/// Revision of the microcode: 0, none loaded. Software writes 0 before it asks.
const IA32_BIOS_SIGN_ID: u32 = 0x8b;
/// Fast strings on; no branch trace store and no precise event sampling. XD isn't disabled.
const IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE: u64 = 1 | 1 << 11 | 1 << 12;

/// The value of such a register.
pub(crate) fn read(msr: u32) -> Option<u64> {
    match msr {
        IA32_PLATFORM_ID | IA32_BIOS_SIGN_ID => Some(0),
        IA32_MISC_ENABLE => Some(MISC_ENABLE),
        _ => None,
    }
}

/// Writes such a register: nothing changes.
pub(crate) fn write(msr: u32) -> Option<()> {
    matches!(msr, IA32_BIOS_SIGN_ID | IA32_MISC_ENABLE).then_some(())
}
