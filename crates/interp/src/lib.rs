//! The reference meaning of every instruction.
//!
//! Written to be obviously right first: operations are generic over width, flags are computed eagerly, an
//! instruction either completes or changes nothing. The one optimisation is that decoded blocks are kept.
//!
//! A handler (`fn(&mut Ctx, &Op) -> Exec`) is an instruction's meaning; a row ties it to a mnemonic; the families
//! under `ops` hold handlers and rows together. What the interpreter can't define by itself comes through [`Platform`].

#![forbid(unsafe_code)]

mod cache;
mod ctx;
mod flags;
mod memory;
mod op;
mod ops;
mod platform;
mod run;
mod softfloat;
mod stack;
mod stop;
mod system;
mod table;
mod width;

pub use platform::{Detached, HostMath, Platform};
pub use run::{Interp, note_fault};
pub use stop::Stop;
pub use system::interrupt::Event;
