//! Memory layouts that cross the border: i386's (as `include/uapi` compiles for 32 bits) and the host's beside them.
//!
//! i386 aligns 64-bit integers to 4 bytes, so they are [`U64`] here: two halves. Sizes and offsets are asserted at
//! compile time, in the module of each type.

mod file;
mod ipc;
mod net;
mod proc;
mod signal;
mod time;

pub use file::*;
pub use ipc::*;
pub use net::*;
pub use proc::*;
pub use signal::*;
pub use time::*;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A 64-bit integer with i386's alignment of 4.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct U64 {
    /// Low half.
    pub lo: u32,
    /// High half.
    pub hi: u32,
}

impl U64 {
    /// The number.
    pub const fn get(self) -> u64 {
        self.lo as u64 | (self.hi as u64) << 32
    }
}

impl From<u64> for U64 {
    fn from(v: u64) -> Self {
        U64 { lo: v as u32, hi: (v >> 32) as u32 }
    }
}

impl From<i64> for U64 {
    fn from(v: i64) -> Self {
        U64::from(v as u64)
    }
}

/// Declares a plain-data layout: `repr(C)`, no padding (checked by the derive), and its size.
macro_rules! layout {
    ($(#[$doc:meta])* $name:ident = $size:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty),* }
        const _: () = assert!(size_of::<$name>() == $size);
        impl Default for $name {
            fn default() -> Self { zerocopy::FromZeros::new_zeroed() }
        }
    };
}
pub(crate) use layout;

/// Asserts field offsets of a layout at compile time.
macro_rules! offsets {
    ($name:ident { $($field:ident: $at:literal),* $(,)? }) => {
        const _: () = { $(assert!(core::mem::offset_of!($name, $field) == $at);)* };
    };
}
pub(crate) use offsets;
