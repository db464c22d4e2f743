//! From guest bytes to host code.
//!
//! Guest and host speak the same instruction set family, so there is no intermediate form: a guest instruction goes in, the
//! same instruction comes out re-encoded for 64-bit mode, or a few host instructions that have its effect. What each guest register
//! becomes, what a block may assume and what it leaves behind is the block ABI of docs/translation.md.
//!
//! [`translate`] is a pure function from bytes to a [`Unit`]; [`Cache`] keeps units in executable memory, chained to each other.
//! Nothing here executes anything.

#![forbid(unsafe_code)]
#![allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "in what dynasm! makes of a register")]

mod branch;
mod buf;
mod cache;
mod checked;
mod config;
mod crossing;
mod decimal;
mod emit;
mod esp;
mod flags;
mod group;
mod image;
mod kept;
mod landing;
mod legacy;
mod line;
mod listing;
mod operand;
mod packed;
mod reencode;
mod replayed;
mod sensitive;
mod shape;
mod stack;
mod string;
mod stubs;
mod tables;
mod tlb;
mod unit;

#[cfg(test)]
mod tests;

pub use cache::{BlockInfo, Cache, CacheStats, CodeKey, Full, Place};
pub use config::{AddressForm, Config};
pub use image::{Image, Piece, image};
pub use listing::{Columns, listing};
pub use stubs::Stub;
pub use tables::{TableId, Tables};
pub use unit::{Exit, ExitKind, Fix, Mark, Quick, Source, Unit, translate};
