//! System mode: a PC around one guest CPU.
//!
//! [`Machine`] makes a [`pc::Pc`] and a CPU from [`Options`], loads what is to be booted, and runs both on the caller's thread: guest
//! code until something comes up, then devices, then guest code again. Other threads (a terminal, the control socket, the
//! alarm) only leave something and ring the [`Doorbell`].
//!
//! A device is one file in [`dev`] or [`virtio`] and one registration, in [`pc`].

#![forbid(unsafe_code)]

mod acpi;
pub mod board;
mod boot;
pub mod clock;
pub mod console;
mod control;
mod debug;
pub mod dev;
mod doorbell;
pub mod irq;
mod machine;
mod msr;
pub mod pc;
pub mod pci;
mod tsc;
pub mod virtio;

pub use board::End;
pub use boot::{Boot, BootError};
pub use clock::TimeSource;
pub use console::Sink;
pub use control::{About, Answer, Control, Request};
pub use doorbell::Doorbell;
pub use machine::{Error, MOST_DISKS, Machine, Options, Terminal};
pub use virtio::{Disk, DiskError, Mode};

/// Tells the user something that the guest can't say.
pub type Report = std::sync::Arc<dyn Fn(&str) + Send + Sync>;
