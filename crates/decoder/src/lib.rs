//! Bytes in, classified basic blocks out.
//!
//! Decoding is total: any bytes, in any mode, give a [`Block`]; bytes that are no instruction give one whose
//! [`Kind`] is [`Kind::Invalid`]. The decoder reads nothing but the slice it is given and knows no instruction's
//! meaning; it knows what *kind* of thing each one is, from one table that covers every 32-bit code of iced-x86.

#![forbid(unsafe_code)]

mod block;
mod facts;
mod kind;
mod per_code;
mod requires;
mod table;

pub use block::{Block, BlockEnd, Blocks, Insn, MAX_INSN_LEN, decode_block, decode_block_into, decode_insn};
pub use facts::{Facts, facts};
pub use kind::Kind;
pub use per_code::PerCode;
pub use table::{Unit, ends_block, kind_of, repeats, required_features, unit_of};
