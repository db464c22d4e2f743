//! Runs one guest CPU: engine choice, dispatcher, fault resolution, exits.
//!
//! User mode and system mode plug into the same [`Vcpu`]; it holds no test for which of them it is in.

#![forbid(unsafe_code)]

mod config;
mod exit;

pub use config::{Config, Engine};
pub use exit::{Error, Exit};
