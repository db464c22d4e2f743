//! Runs one guest CPU: engine choice, dispatcher, fault resolution, exits.
//!
//! A [`Process`] is what the CPUs of one guest share: its address space and its translations. A [`Vcpu`] is one CPU, which
//! lives on one host thread. What surrounds them, user mode or a machine, plugs in through the exits and through
//! [`Platform`]; nothing here tests for which of them it is.

#![forbid(unsafe_code)]

mod config;
mod crossing;
mod dbt;
mod delivery;
mod exit;
mod fx;
mod heat;
mod images;
mod lockstep;
mod memo;
mod perf_map;
mod platform;
pub mod probe;
mod process;
mod quick;
mod stats;
mod store;
mod system;
mod system_dbt;
mod trace;
mod vcpu;
mod world;

pub use config::{Config, Engine, MmuMode};
pub use exit::{Error, Exit};
pub use platform::{Io, Ldt, silicon_x87};
pub use process::Process;
pub use stats::Stats;
pub use store::FileId;
pub use system::Kicker;
pub use trace::{Sink, Tracing};
pub use vcpu::Vcpu;
pub use xlat86_arch::CpuModel;
pub use xlat86_host::{CallOut, HostFault};
pub use xlat86_interp::Platform;
pub use xlat86_translator::{AddressForm, CacheStats, Columns, Config as TranslatorConfig};
