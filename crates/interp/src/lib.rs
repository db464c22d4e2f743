//! The reference meaning of every instruction.
//!
//! Written to be obviously right first: operations are generic over width, flags are computed eagerly, an
//! instruction either completes or changes nothing. The one optimisation is that decoded blocks are kept.
//!
//! What the interpreter can't define by itself comes through [`Platform`].

#![forbid(unsafe_code)]

mod platform;
mod softfloat;
mod stop;

pub use platform::{HostMath, Platform};
pub use stop::Stop;
