//! What one CPU remembers of the shared cache, so that leaving translated code and coming back takes no lock.
//!
//! Answers are those the cache gave; they hold until anything is dropped from it ([`crate::Process::generation`]), which nobody does
//! while this CPU is inside.

use xlat86_translator::Exit;

/// See the module's documentation.
pub(crate) struct Memo {
    generation: u64,
    /// Guest EIP and the arena offset of its translation.
    entries: Box<[Option<(u32, u32)>]>,
    /// Host address of a leaving call's return and what leaves there.
    exits: Box<[Option<(u64, Exit)>]>,
}

impl Memo {
    /// Remembers `size` (a power of two) answers of each kind: few places leave often, except in lockstep.
    pub(crate) fn new(size: usize) -> Self {
        Memo { generation: 0, entries: vec![None; size].into(), exits: vec![None; size].into() }
    }

    /// Forgets everything unless `generation` is the one it was learnt in.
    pub(crate) fn see(&mut self, generation: u64) {
        if generation != self.generation {
            self.generation = generation;
            self.entries.fill(None);
            self.exits.fill(None);
        }
    }

    /// Arena offset of the translation of `eip`.
    pub(crate) fn entry(&self, eip: u32) -> Option<u32> {
        self.entries[eip as usize & (self.entries.len() - 1)].filter(|e| e.0 == eip).map(|e| e.1)
    }

    pub(crate) fn learn_entry(&mut self, eip: u32, offset: u32) {
        let slot = eip as usize & (self.entries.len() - 1);
        self.entries[slot] = Some((eip, offset));
    }

    /// What leaves at `site`.
    pub(crate) fn exit(&self, site: u64) -> Option<&Exit> {
        self.exits[site as usize & (self.exits.len() - 1)].as_ref().filter(|e| e.0 == site).map(|e| &e.1)
    }

    pub(crate) fn learn_exit(&mut self, site: u64, exit: Exit) {
        let slot = site as usize & (self.exits.len() - 1);
        self.exits[slot] = Some((site, exit));
    }
}
