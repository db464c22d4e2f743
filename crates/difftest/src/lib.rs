//! What tests, fuzz targets and benchmarks share: oracles, generators and engine comparisons. Nothing ships with it.

#![forbid(unsafe_code)]

pub mod bulk;
pub mod campaign;
pub mod case;
#[cfg(feature = "second-decoder")]
pub mod decode;
pub mod engine;
pub mod fpu;
pub mod generate;
pub mod native;
pub mod program;
pub mod reference;
pub mod rng;
pub mod state;
pub mod undefined;
