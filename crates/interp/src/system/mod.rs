//! The privileged half: descriptors and segment loads, far transfers through gates, interrupts, tasks, control registers.

pub(crate) mod control;
pub(crate) mod debug;
pub(crate) mod far;
pub(crate) mod frame;
pub(crate) mod interrupt;
pub(crate) mod segment;
mod task;
