//! What a replay changes in memory, so that it can be taken back and compared.
//!
//! Places are those of the memory itself, below any translation: linear addresses of a user program, bytes of RAM of a system. So
//! accessed and dirty bits, which page walks set, are changes like any other.

/// Most bytes in one [`Change`]; a longer one is several.
pub(crate) const MOST: usize = 16;

/// Some bytes that were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Where: a linear address, of a system the offset in RAM.
    pub at: u32,
    len: u8,
    old: [u8; MOST],
    new: [u8; MOST],
}

impl Change {
    /// At most [`MOST`] bytes at `at`, which were `old`.
    pub(crate) fn new(at: u32, old: &[u8]) -> Change {
        let mut change = Change { at, len: old.len() as u8, old: [0; MOST], new: [0; MOST] };
        change.old[..old.len()].copy_from_slice(old);
        change
    }

    /// Number of bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.len.into()
    }

    /// What was there when it was first written.
    #[must_use]
    pub fn old(&self) -> &[u8] {
        &self.old[..self.size()]
    }

    /// What was there at the end, whichever write it came from.
    #[must_use]
    pub fn new_bytes(&self) -> &[u8] {
        &self.new[..self.size()]
    }

    /// The same, to be set.
    pub fn new_bytes_mut(&mut self) -> &mut [u8] {
        &mut self.new[..self.len.into()]
    }
}

/// What is recorded at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Recording {
    #[default]
    Nothing,
    /// Every write, and devices can't be reached.
    Replay,
    /// The same, with what the current window maps as if it were in the TLB.
    WindowedReplay,
    /// What page walks do on behalf of code whose own writes don't come this way.
    Walks,
}

impl Recording {
    pub(crate) fn is_replay(self) -> bool {
        matches!(self, Recording::Replay | Recording::WindowedReplay)
    }
}

/// A recording.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) recording: Recording,
    pub(crate) changes: Vec<Change>,
}
