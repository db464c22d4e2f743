//! What translated code knows about changing segments and privilege levels without leaving.
//!
//! What a system's code runs under, its segments and its level, is a *world*, named by a number in the frame. An instruction that
//! leads from one world to another is carried out outside the first time; what it came to is noted in a record, the *crossing*,
//! together with all that this depended on. The next time the code at that place compares and takes over what the record holds. Whoever
//! makes something else true that a record relies on (the mapping of the descriptor table, CR3, MSRs) empties the records.
//!
//! Comparisons add what is there to what the record has negated, so that they need no flags: the sum is zero.

use core::mem::offset_of;

/// The part of the frame that names the world, as a crossing to it holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct WorldRegs {
    /// Base of the FS and GS segments.
    pub seg_base: [u32; 2],
    /// ES, CS, SS, DS, FS and GS selectors.
    pub selector: [u16; 6],
    /// Always 0.
    pub zero: u32,
    /// The world's number (not 0) in the upper half.
    pub world: u64,
}

/// A segment that a crossing loads: selector and descriptor, as they have to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Descriptor {
    /// The selector, negated.
    pub selector: u64,
    /// Host address of the descriptor: guest memory, or [`Crossing::null`].
    at: u64,
    /// The descriptor, negated.
    value: u64,
}

impl Descriptor {
    /// `selector` names the descriptor `value`, which is at host address `at`.
    pub(crate) fn new(selector: u16, at: u64, value: u64) -> Self {
        Descriptor { selector: u64::from(selector).wrapping_neg(), at, value: value.wrapping_neg() }
    }
}

/// A crossing: see the module's documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(64))]
pub struct Crossing {
    /// The world that it leads from, and the guest address of the instruction ([`Crossing::key`]), negated. 0: there is none.
    pub key: u64,
    /// What the instruction loads: one segment; CS and SS by a return to an outer level.
    pub loads: [Descriptor; 2],
    /// The flags that the instruction loads and doesn't change, gathered ([`RETURN_KEEPS`]), negated.
    pub kept_flags: u64,
    /// The world that it leads to.
    pub to: WorldRegs,
    /// Host address of that world's jump table.
    pub table: u64,
    /// ESP and EIP there, when the record is to say.
    pub stack: [u32; 2],
    /// The zero flag as VERW leaves it, in its place in the copy of the flags that EAX has after LAHF.
    pub zero_flag: u32,
    /// Always 0: what a null selector names.
    pub null: u64,
}

/// A selector that an instruction loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// The selector.
    pub selector: u16,
    /// Its descriptor, and the byte of RAM that it is at. `None`: it is null.
    pub descriptor: Option<(u64, u64)>,
}

/// EFLAGS bits whose change by IRETD isn't a crossing's business: all that it may load but the status flags, DF and IF.
pub const RETURN_KEEPS: u32 = 0x003e_7100;

/// The bits of `value` that `mask` selects, side by side: what the host's PEXT does.
#[must_use]
pub fn gather(value: u32, mask: u32) -> u32 {
    let selected = (0..32).filter(|i| mask >> i & 1 != 0);
    selected.enumerate().fold(0, |r, (to, from)| r | (value >> from & 1) << to)
}

/// Records of a CPU. A place has the one that its address says, alone or not.
pub(crate) const CROSSINGS: usize = 1024;

impl Crossing {
    /// Where the records are, from the frame on.
    pub(crate) const START: usize = 0x1000;

    /// Offset from the frame of the record of the instruction at guest address `eip`. IRETD has two: `outer` for returns to an outer level.
    #[must_use]
    pub const fn offset(eip: u32, outer: bool) -> i32 {
        (Self::START + Self::index(eip, outer) * size_of::<Self>()) as i32
    }

    pub(crate) const fn index(eip: u32, outer: bool) -> usize {
        ((eip ^ eip >> 10) as usize ^ (outer as usize) << 9) % CROSSINGS
    }

    /// What has to be in [`Crossing::key`], negated, for an instruction at `eip` in `world` ([`WorldRegs::world`]). The address counts
    /// with its sign, as a displacement does.
    #[must_use]
    pub const fn key(world: u64, eip: u32) -> u64 {
        world.wrapping_add(eip as i32 as u64)
    }

    /// Offsets in a record of a load's selector, its descriptor's host address and its descriptor.
    #[must_use]
    pub const fn load(which: usize) -> (i32, i32, i32) {
        let at = (offset_of!(Crossing, loads) + which * size_of::<Descriptor>()) as i32;
        (
            at + offset_of!(Descriptor, selector) as i32,
            at + offset_of!(Descriptor, at) as i32,
            at + offset_of!(Descriptor, value) as i32,
        )
    }
}
