//! The guest CPU as data: registers, flags, segments, modes, faults.
//!
//! Nothing here has behaviour beyond reading and packing bits. Everything that *does* something with
//! this state lives in another crate; if a function here needs to know an instruction's meaning, it is
//! in the wrong place.
//!
//! Names and bit positions are those of the Intel SDM (vol. 3A chapters 2, 3 and 6; vol. 1 chapters 8 and 10).

#![forbid(unsafe_code)]

mod addr;
mod cpu;
mod cpuid;
mod fault;
mod features;
mod flags;
mod fx;
mod mode;
mod reg;
mod seg;

pub use addr::{Gpa, Gva, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};
pub use cpu::{CpuState, Msrs, TableReg, cr0, cr4, efer};
pub use cpuid::CpuModel;
pub use fault::{Fault, PfError, Vector};
pub use features::{CpuidBit, Features};
pub use flags::eflags;
pub use fx::{FxState, fcw, fsw, mxcsr};
pub use mode::Mode;
pub use reg::{Reg, Seg};
pub use seg::{SegAttr, Segment};
