//! The unsafe fence: guest windows, executable memory, host signals, entering and leaving translated code.
//!
//! Everything in the workspace that dereferences a raw guest address, runs generated code or touches a signal
//! context is in this crate, behind interfaces whose constructors carry the contract. It knows host addresses
//! and host registers; it doesn't know what a guest instruction is.

mod access;
mod arena;
mod clock;
mod compat;
mod crossing;
mod enter;
pub mod fpu;
mod frame;
mod gs;
mod mapped;
mod memory;
mod ram;
mod scratch;
mod shadow;
pub mod signals;
mod slot;
pub mod syscall;
mod tlb;
mod trap;
mod window;
mod x87;

pub use access::AccessFault;
pub use arena::{Arena, JumpTable};
pub use clock::tsc;
pub use compat::{Compat, CompatState};
pub use crossing::{Crossing, Load, RETURN_KEEPS, WorldRegs, gather};
pub use enter::VcpuFrame;
pub use frame::{CallOut, Frame, Left, PROBE, Returns, TlbView};
pub use gs::set_gs_base;
pub use mapped::MappedFile;
pub use memory::{protect_guest_pages, zeroed_atomics};
pub use ram::Ram;
pub use scratch::{scratch_low, scratch_window, unmap_scratch_low};
pub use shadow::ShadowWindow;
pub use slot::{HostFault, RawSiginfo, last as last_fault, with_pending};
pub use tlb::{Tlb, TlbMemory};
pub use trap::install_fault_handlers;
pub use window::{Scalar, Window};
pub use x87::{Transcendental, X87Result, approximate, transcendental};
