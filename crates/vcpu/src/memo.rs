//! What one CPU remembers of the shared cache, so that leaving translated code and coming back takes no lock.
//!
//! Answers are those the cache gave; they hold until anything is dropped from it ([`crate::Process::generation`]), which nobody does
//! while this CPU is inside.

use xlat86_translator::Exit;

/// Answers of each kind: few places leave often.
const SIZE: usize = 64;

/// See the module's documentation.
pub(crate) struct Memo {
    generation: u64,
    /// Guest EIP and the arena offset of its translation.
    entries: [Option<(u32, u32)>; SIZE],
    /// Host address of a leaving call's return and what leaves there.
    exits: [Option<(u64, Exit)>; SIZE],
}

impl Memo {
    pub(crate) fn new() -> Self {
        Memo { generation: 0, entries: [None; SIZE], exits: [None; SIZE] }
    }

    /// Forgets everything unless `generation` is the one it was learnt in.
    pub(crate) fn see(&mut self, generation: u64) {
        if generation != self.generation {
            *self = Memo { generation, ..Memo::new() };
        }
    }

    /// Arena offset of the translation of `eip`.
    pub(crate) fn entry(&self, eip: u32) -> Option<u32> {
        self.entries[eip as usize % SIZE].filter(|e| e.0 == eip).map(|e| e.1)
    }

    pub(crate) fn learn_entry(&mut self, eip: u32, offset: u32) {
        self.entries[eip as usize % SIZE] = Some((eip, offset));
    }

    /// What leaves at `site`.
    pub(crate) fn exit(&self, site: u64) -> Option<&Exit> {
        self.exits[site as usize % SIZE].as_ref().filter(|e| e.0 == site).map(|e| &e.1)
    }

    pub(crate) fn learn_exit(&mut self, site: u64, exit: Exit) {
        self.exits[site as usize % SIZE] = Some((site, exit));
    }
}
