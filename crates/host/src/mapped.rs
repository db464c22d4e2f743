//! Files as bytes, read where they lie in the host's cache.

use memmap2::{Mmap, MmapOptions};
use std::fs::File;
use std::io;

/// The contents of a file that nobody changes in place.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps the whole of `file` for reading.
    ///
    /// Trust: `file` is replaced as a whole or not at all. Whoever shortens it while it is mapped kills this process (SIGBUS), and whoever
    /// writes to it changes the bytes; so it must be one that only its owner can write to, who could do either anyway.
    pub fn new(file: &File) -> io::Result<MappedFile> {
        // SAFETY: the trust stated above; the bytes are only read, and any value of them is valid.
        unsafe { MmapOptions::new().populate().map(file) }.map(MappedFile)
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
