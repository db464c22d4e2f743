//! What tests, fuzz targets and benchmarks share: oracles, generators and engine comparisons. Nothing ships with it.

#![forbid(unsafe_code)]

pub mod decode;
pub mod fpu;
pub mod rng;
