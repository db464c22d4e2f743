//! Executable memory for translated code.
//!
//! One mapping, writable and executable at once, so that neither inserting a block nor patching a jump needs a
//! system call. Beside each code byte goes one bit: set where guest state is exact (a guest instruction
//! boundary), so that a signal handler can tell without locks whether translated code may be stopped there.

use memmap2::{MmapMut, MmapOptions};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Most arenas alive at once in a process (a process needs one; its tests several).
const MAX_ARENAS: usize = 64;

/// Ranges that hold translated code, for the signal handlers: start, end, and the address of the boundary bits.
static RANGES: [[AtomicU64; 3]; MAX_ARENAS] = [const { [const { AtomicU64::new(0) }; 3] }; MAX_ARENAS];

/// A range of executable memory.
///
/// Trust: the workspace's translator is the only writer of code, and it writes only code that keeps the rules of
/// docs/translation.md. That is what makes [`crate::VcpuFrame::enter`] sound.
#[derive(Debug)]
pub struct Arena {
    map: MmapMut,
    boundary: MmapMut,
    /// Offset up to which the host has been asked for memory.
    populated: AtomicUsize,
    slot: usize,
}

/// Memory is asked for this much at once: one call costs less than a fault for each page.
const POPULATE: usize = 64 << 10;

/// Size of a host page.
const PAGE: usize = 4096;

impl Arena {
    /// Maps `size` bytes (rounded up to pages). The host may refuse memory that is writable and executable.
    pub fn new(size: usize) -> io::Result<Arena> {
        let map = MmapOptions::new().len(size.next_multiple_of(4096)).map_anon()?;
        let (start, len) = (map.as_ptr() as u64, map.len());
        // SAFETY: our own mapping, of which no reference exists yet.
        let r = unsafe {
            libc::mprotect(start as *mut libc::c_void, len, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)
        };
        if r != 0 {
            return Err(io::Error::last_os_error());
        }
        let boundary = MmapOptions::new().len(len.div_ceil(8)).map_anon()?;
        for (slot, range) in RANGES.iter().enumerate() {
            if range[0].compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                range[2].store(boundary.as_ptr() as u64, Ordering::Release);
                range[1].store(start + len as u64, Ordering::Release);
                return Ok(Arena { map, boundary, populated: AtomicUsize::new(0), slot });
            }
        }
        Err(io::Error::other("too many code arenas in one process"))
    }

    /// Host address of offset 0.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.map.as_ptr() as u64
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.map.len()
    }

    /// Copies `code` to `offset` (a multiple of 8) and sets the boundary bits of exactly the offsets in `boundaries` (relative to `offset`,
    /// ascending) in that range.
    ///
    /// # Panics
    /// If the range isn't within the arena. Nothing may be executing there, and nothing else may write.
    pub fn write(&self, offset: usize, code: &[u8], boundaries: impl Iterator<Item = usize>) {
        assert!(offset.is_multiple_of(8) && offset + code.len() <= self.size(), "code outside the arena");
        self.populate(offset, code.len());
        // SAFETY: in bounds; the arena is shared memory that is only ever accessed through raw pointers and atomics.
        unsafe {
            core::ptr::copy_nonoverlapping(code.as_ptr(), (self.base() as *mut u8).add(offset), code.len());
        }
        // One writer at a time; signal handlers only read.
        let mut boundaries = boundaries.peekable();
        for (i, byte) in self.bits()[offset / 8..(offset + code.len()).div_ceil(8)].iter().enumerate() {
            let mut bits = 0;
            while let Some(b) = boundaries.next_if(|b| b / 8 == i) {
                bits |= 1 << (b % 8);
            }
            byte.store(bits, Ordering::Release);
        }
        debug_assert!(boundaries.next().is_none(), "ascending, and in the code");
    }

    fn bits(&self) -> &[AtomicU8] {
        // SAFETY: the whole mapping, which lives as long as `self`; it is only ever accessed atomically once made.
        unsafe { core::slice::from_raw_parts(self.boundary.as_ptr().cast(), self.boundary.len()) }
    }

    /// Has `offset` and what follows be the bytes `code` of `file`, and their boundary bits its bytes `bits`. They are mapped, privately, so that what
    /// nobody changes is shared with other processes and costs no copy; read where the host doesn't let files be executed.
    ///
    /// Trust: as for [`crate::MappedFile`].
    ///
    /// # Errors
    /// The host refuses memory, or the file is shorter.
    ///
    /// # Panics
    /// If the ranges aren't whole pages, of the arena and of its bits. Nothing may be executing there, and nothing else may write.
    pub fn write_file(&self, offset: usize, file: &File, code: Range<usize>, bits: Range<usize>) -> io::Result<()> {
        assert!(offset.is_multiple_of(8 * PAGE) && offset + code.len() <= self.size(), "code outside the arena");
        assert!(
            bits.len() == (code.len() / 8).next_multiple_of(PAGE) && offset / 8 + bits.len() <= self.boundary.len()
        );
        assert!([code.start, code.end, bits.start].iter().all(|at| at.is_multiple_of(PAGE)), "not whole pages");
        let executable = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let parts = [
            (self.base() as usize + offset, code, executable),
            (self.boundary.as_ptr() as usize + offset / 8, bits, libc::PROT_READ | libc::PROT_WRITE),
        ];
        for (to, from, prot) in parts {
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
            let (to, len, fd, at) = (to as *mut libc::c_void, from.len(), file.as_raw_fd(), from.start as i64);
            // SAFETY: whole pages within our own mappings (asserted), which stay mapped; a file's pages instead of anonymous ones.
            let mapped = len == 0 || unsafe { libc::mmap(to, len, prot, flags, fd, at) } == to;
            if !mapped {
                // SAFETY: as above; nobody else accesses this part (the caller's contract).
                file.read_exact_at(unsafe { core::slice::from_raw_parts_mut(to.cast(), len) }, at as u64)?;
                continue;
            }
            if prot == executable {
                // SAFETY: as above; contents stay as they are. An old kernel refuses, and pages come by faults.
                unsafe { libc::madvise(to, len, libc::MADV_POPULATE_READ) };
            }
        }
        Ok(())
    }

    /// Asks for the memory at `offset` and what will follow, where that is new.
    fn populate(&self, offset: usize, len: usize) {
        let done = self.populated.load(Ordering::Relaxed);
        if !(done..done + POPULATE).contains(&(offset + len)) {
            return;
        }
        let more = POPULATE.min(self.size() - done);
        self.populated.store(done + more, Ordering::Relaxed);
        // SAFETY: within our own mapping; contents stay as they are. An old kernel refuses, and pages come by faults.
        unsafe { libc::madvise((self.base() as usize + done) as *mut libc::c_void, more, libc::MADV_POPULATE_WRITE) };
    }

    /// Atomically replaces the 4 bytes at `offset`, which may be executing. They must not cross an 8-byte boundary: then other
    /// CPUs fetch either the old or the new value (AMD APM vol. 2, 7.6.1; Intel SDM vol. 3A, 9.1.3).
    ///
    /// # Panics
    /// If `offset` is outside the arena or crosses.
    pub fn patch(&self, offset: usize, value: u32) {
        assert!(offset % 8 <= 4 && offset + 4 <= self.size(), "patch site {offset:#x} is not atomic");
        self.replace(offset, u64::from(u32::MAX), u64::from(value));
    }

    /// Atomically replaces the 5 bytes at `offset` by a jump with displacement `displacement`. Under the conditions of [`Arena::patch`].
    ///
    /// # Panics
    /// If `offset` is outside the arena or the bytes cross an 8-byte boundary.
    pub fn patch_jump(&self, offset: usize, displacement: u32) {
        const JMP: u64 = 0xe9;
        assert!(offset % 8 <= 3 && offset + 5 <= self.size(), "patch site {offset:#x} is not atomic");
        self.replace(offset, 0xff_ffff_ffff, JMP | u64::from(displacement) << 8);
    }

    /// Replaces the bits of `mask`, shifted to byte `offset` of its aligned quadword, by those of `value`.
    fn replace(&self, offset: usize, mask: u64, value: u64) {
        let quad = (self.base() as usize + offset) & !7;
        let shift = (offset % 8) * 8;
        // SAFETY: in bounds and aligned; see `write` about sharing.
        let cell = unsafe { &*(quad as *const AtomicU64) };
        let _ = cell
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some((old & !(mask << shift)) | (value << shift)));
    }

    /// Copy of `len` code bytes at `offset`, for listings.
    ///
    /// # Panics
    /// If the range isn't within the arena.
    #[must_use]
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.size());
        // SAFETY: in bounds; bytes being patched concurrently give either value.
        unsafe { core::slice::from_raw_parts((self.base() as *const u8).add(offset), len) }.to_vec()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        RANGES[self.slot][1].store(0, Ordering::Release);
        RANGES[self.slot][0].store(0, Ordering::Release);
    }
}

/// Where in translated code a host address is. Async-signal-safe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CodePlace {
    Outside,
    /// In the middle of the code for a guest instruction.
    Inside,
    /// At a guest instruction boundary.
    Boundary,
}

/// Classifies `rip`. Async-signal-safe.
pub(crate) fn place(rip: u64) -> CodePlace {
    for [start, end, bits] in &RANGES {
        let s = start.load(Ordering::Acquire);
        if rip < s || s == 0 || rip >= end.load(Ordering::Acquire) {
            continue;
        }
        let at = (rip - s) as usize;
        // SAFETY: the bits outlive the registration of their range, and cover it.
        let byte = unsafe { &*(bits.load(Ordering::Acquire) as *const AtomicU8).add(at / 8) };
        let set = byte.load(Ordering::Acquire) >> (at % 8) & 1 == 1;
        return if set { CodePlace::Boundary } else { CodePlace::Inside };
    }
    CodePlace::Outside
}

/// The flat indirect-jump table: for each guest EIP the arena offset of its translation, 0 for none.
///
/// 4 GB entries of 4 bytes in demand-zero memory: 16 GB of address space, one page of memory per KB of guest code that
/// indirect jumps reach. Offset 0 of the arena holds the miss stub, so an empty entry needs no check.
#[derive(Debug)]
pub struct JumpTable {
    map: MmapMut,
}

impl JumpTable {
    /// Reserves the table. Fails under a tight RLIMIT_AS or strict overcommit.
    pub fn new() -> io::Result<JumpTable> {
        let map = MmapOptions::new().len(4 << 32).no_reserve_swap().map_anon()?;
        Ok(JumpTable { map })
    }

    /// Host address of entry 0.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.map.as_ptr() as u64
    }

    fn entry(&self, eip: u32) -> &AtomicU32 {
        // SAFETY: in bounds for every `eip`; only accessed atomically.
        unsafe { &*(self.base() as *const AtomicU32).add(eip as usize) }
    }

    /// Arena offset of the translation of `eip`, 0 for none.
    #[must_use]
    pub fn get(&self, eip: u32) -> u32 {
        self.entry(eip).load(Ordering::Acquire)
    }

    /// Sets the entry of `eip`.
    pub fn set(&self, eip: u32, offset: u32) {
        self.entry(eip).store(offset, Ordering::Release);
    }

    /// Sets those of `entries` (guest EIPs, ascending, and offsets) that are empty. The memory is asked for in runs of pages, which costs
    /// a fraction of a fault for each.
    pub fn fill(&self, entries: &[(u32, u32)]) {
        /// Pages apart at which asking for what lies between costs less than asking twice.
        const NEAR: usize = 2;
        let page = |eip: u32| (self.base() as usize + eip as usize * 4) / PAGE;
        for run in entries.chunk_by(|a, b| page(b.0).saturating_sub(page(a.0)) <= NEAR) {
            let (first, last) = (page(run[0].0), page(run[run.len() - 1].0));
            // An old kernel refuses, and pages come by faults.
            let (at, len) = ((first * PAGE) as *mut libc::c_void, (last + 1).saturating_sub(first) * PAGE);
            // SAFETY: within our own mapping, as every entry is; contents stay as they are.
            unsafe { libc::madvise(at, len, libc::MADV_POPULATE_WRITE) };
            for &(eip, offset) in run {
                // One writer at a time; others only read.
                if self.get(eip) == 0 {
                    self.set(eip, offset);
                }
            }
        }
    }

    /// Clears every entry and gives the memory back.
    pub fn clear(&self) {
        // SAFETY: private anonymous memory of ours; its pages read as zero afterwards.
        unsafe { libc::madvise(self.base() as *mut libc::c_void, self.map.len(), libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filling_a_table_sets_what_is_empty() {
        let table = JumpTable::new().unwrap();
        table.set(0x1001, 7);
        // On one page, on the next but one, far away, and at the very end.
        let entries = [(0, 1), (0x1001, 2), (0x1002, 3), (0x1900, 4), (0x8048_0000, 5), (u32::MAX, 6)];
        table.fill(&entries);
        assert_eq!(entries.map(|e| table.get(e.0)), [1, 7, 3, 4, 5, 6]);
        assert_eq!([1, 0x1000, 0x1003, u32::MAX - 1].map(|eip| table.get(eip)), [0; 4]);
        table.fill(&[]);
    }
}
