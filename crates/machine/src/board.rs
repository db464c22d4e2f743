//! Wires that are not interrupt lines: the A20 gate, and what switches the machine off or resets it.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use xlat86_softmmu::PhysMemory;

/// How the guest's run ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset, or its CPU shut down.
    Reset,
    /// The guest wrote to the debug-exit port: the status to exit with.
    Status(u8),
    /// The user asked for it.
    Quit,
}

/// Where devices say that the run is to end. The first to say so counts.
#[derive(Default)]
pub struct Power(Mutex<Option<End>>);

impl Power {
    /// Ends the run.
    pub fn end(&self, how: End) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(how);
    }

    /// The end, if somebody asked for it.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who can open the A20 gate: it is open while any of them holds it open.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum A20Source {
    /// Output port of the keyboard controller.
    Keyboard = 1,
    /// System control port A.
    PortA = 2,
}

/// Address line 20. Open at first: a kernel that is loaded directly expects it so, and firmware opens it first of all.
pub struct A20 {
    memory: Arc<PhysMemory>,
    open: AtomicU8,
}

impl A20 {
    /// The gate in front of `memory`.
    #[must_use]
    pub fn new(memory: Arc<PhysMemory>) -> Arc<A20> {
        memory.set_a20(true);
        Arc::new(A20 { memory, open: AtomicU8::new(A20Source::PortA as u8) })
    }

    /// `source` opens the gate, or no longer holds it open.
    pub fn set(&self, source: A20Source, open: bool) {
        let bit = source as u8;
        let before = if open { self.open.fetch_or(bit, Relaxed) } else { self.open.fetch_and(!bit, Relaxed) };
        let after = if open { before | bit } else { before & !bit };
        if (before != 0) != (after != 0) {
            self.memory.set_a20(after != 0);
        }
    }

    /// True while `source` holds the gate open.
    #[must_use]
    pub fn held_by(&self, source: A20Source) -> bool {
        self.open.load(Relaxed) & source as u8 != 0
    }
}
