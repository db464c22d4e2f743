//! EFLAGS bits (SDM vol. 1, 3.4.3).

/// EFLAGS bit masks, named as in the manual.
#[allow(missing_docs)]
pub mod eflags {
    pub const CF: u32 = 1 << 0;
    /// Reserved, always reads 1.
    pub const FIXED_1: u32 = 1 << 1;
    pub const PF: u32 = 1 << 2;
    pub const AF: u32 = 1 << 4;
    pub const ZF: u32 = 1 << 6;
    pub const SF: u32 = 1 << 7;
    pub const TF: u32 = 1 << 8;
    pub const IF: u32 = 1 << 9;
    pub const DF: u32 = 1 << 10;
    pub const OF: u32 = 1 << 11;
    pub const IOPL: u32 = 3 << 12;
    pub const IOPL_SHIFT: u32 = 12;
    pub const NT: u32 = 1 << 14;
    pub const RF: u32 = 1 << 16;
    pub const VM: u32 = 1 << 17;
    pub const AC: u32 = 1 << 18;
    pub const VIF: u32 = 1 << 19;
    pub const VIP: u32 = 1 << 20;
    pub const ID: u32 = 1 << 21;

    /// The six status flags.
    pub const STATUS: u32 = CF | PF | AF | ZF | SF | OF;
    /// Status flags and DF: what translated code keeps in the host's flags register.
    pub const LIVE: u32 = STATUS | DF;
    /// Every bit that exists; the others read as 0 (bit 1 as 1).
    pub const DEFINED: u32 = STATUS | FIXED_1 | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}
