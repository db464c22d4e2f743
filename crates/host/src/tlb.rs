//! The software TLB: where in host memory the guest's pages are, for one view of one address space.
//!
//! Translated code looks entries up inline, Rust code through [`Tlb`]; both trust what is in them, so only [`Tlb::fill`]
//! writes entries, and it checks that they lead into RAM.
//!
//! There is an entry for each of the guest's pages, in demand-zero memory: no two pages ever compete for one, an index is the page number
//! as it is, and flushing costs what was filled, not what there is. Both views lie in one mapping before the CPU's [`crate::Frame`], where
//! translated code reaches them with the register it has anyway ([`TlbView`]).

use crate::frame::FrameMemory;
use crate::{Ram, Scalar, TlbView, ram};
use std::io;
use std::sync::Arc;

/// The memory of a CPU's frame and both its TLBs.
#[derive(Debug)]
pub struct TlbMemory {
    memory: FrameMemory,
}

impl TlbMemory {
    /// Reserves it.
    ///
    /// # Errors
    /// The host has no 4 GB of address space.
    pub fn new() -> io::Result<Arc<TlbMemory>> {
        Ok(Arc::new(TlbMemory { memory: FrameMemory::new(2 * TlbView::SIZE)? }))
    }

    /// Host address of the room for the frame.
    pub(crate) fn frame(&self) -> u64 {
        self.memory.frame()
    }
}

/// A tag that no page has. Where 0 can't be a page that hits it is as good.
const EMPTY: u32 = u32::MAX;
/// The last page: an access that wraps around ends in page 0.
const LAST: u32 = (TlbView::PAGES - 1) as u32;

/// The page numbers whose bytes may be read and written in the fast way.
#[derive(Clone, Copy)]
#[repr(C)]
struct Tags {
    read: u32,
    write: u32,
}

/// Pages that have been filled.
struct Filled {
    pages: Vec<u32>,
    /// A bit for each page: is it in `pages`?
    listed: Vec<u64>,
}

impl Filled {
    fn new() -> Filled {
        Filled { pages: Vec::new(), listed: vec![0; TlbView::PAGES / 64] }
    }

    fn add(&mut self, page: u32) {
        let (word, bit) = (&mut self.listed[page as usize / 64], 1 << (page % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.pages.push(page);
        }
    }

    fn take(&mut self) -> Vec<u32> {
        let pages = core::mem::take(&mut self.pages);
        pages.iter().for_each(|&page| self.listed[page as usize / 64] = 0);
        pages
    }
}

/// The TLB of one view (user or supervisor) of one CPU.
pub struct Tlb {
    tags: *mut Tags,
    addends: *mut u64,
    /// Pages filled since the last flush: as local ones, and as those that survive a flush of the others. A page may be in both.
    filled: [Filled; 2],
    ram: Arc<Ram>,
    _memory: Arc<TlbMemory>,
}

impl Tlb {
    /// The TLB in `memory` for `view` of `ram`, empty. One `Tlb` is made for each.
    #[must_use]
    pub fn new(ram: Arc<Ram>, memory: Arc<TlbMemory>, view: TlbView) -> Tlb {
        let at = |offset: i32| memory.frame().wrapping_add_signed(offset.into()) as *mut u8;
        let mut tlb = Tlb {
            tags: at(view.read_tags()).cast(),
            addends: at(view.addends()).cast(),
            filled: [Filled::new(), Filled::new()],
            ram,
            _memory: memory,
        };
        tlb.clear(0);
        tlb.clear(LAST);
        tlb
    }

    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the memory is the CPU's, not this value's")]
    fn tags(&self, page: u32) -> &mut Tags {
        debug_assert!(page <= LAST);
        // SAFETY: in bounds for every page number; this CPU's thread is the only one that accesses it, in translated code or here, and no
        // reference outlives a statement.
        unsafe { &mut *self.tags.add(page as usize) }
    }

    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "the memory is the CPU's, not this value's")]
    fn addend(&self, page: u32) -> &mut u64 {
        // SAFETY: as above.
        unsafe { &mut *self.addends.add(page as usize) }
    }

    /// Empties an entry.
    fn clear(&mut self, page: u32) {
        let tag = if page == 0 || page == LAST { EMPTY } else { 0 };
        *self.tags(page) = Tags { read: tag, write: tag };
    }

    /// Host address of the `size` bytes at `gva`, when they are within a page whose `tag` says that it may be accessed.
    #[inline(always)]
    fn hit(&self, gva: u32, size: usize, tag: impl Fn(&Tags) -> u32) -> Option<*mut u8> {
        let page = gva >> 12;
        let fits = (gva & 0xfff) as usize <= 4096 - size;
        (fits && tag(self.tags(page)) == page).then(|| self.addend(page).wrapping_add(gva.into()) as *mut u8)
    }

    /// May `size` bytes at `gva` be accessed in the fast way?
    #[must_use]
    pub fn hits(&self, gva: u32, size: u32, write: bool) -> bool {
        self.hit(gva, size as usize, |t| if write { t.write } else { t.read }).is_some()
    }

    /// Reads a scalar; `None`: go the slow way.
    #[inline(always)]
    #[must_use]
    pub fn read<T: Scalar>(&self, gva: u32) -> Option<T> {
        // SAFETY: entries lead into `ram`, which we keep alive (`fill`), and the access stays in the page.
        self.hit(gva, T::SIZE, |e| e.read).map(|p| unsafe { ram::load(p) })
    }

    /// Writes a scalar; `None`: nothing written, go the slow way.
    #[inline(always)]
    #[must_use]
    pub fn write<T: Scalar>(&self, gva: u32, v: T) -> Option<()> {
        // SAFETY: as above.
        self.hit(gva, T::SIZE, |e| e.write).map(|p| unsafe { ram::store(p, v) })
    }

    /// The byte of RAM that `gva` is at, if `size` bytes there may be read in the fast way.
    #[must_use]
    pub fn place(&self, gva: u32, size: u32) -> Option<u64> {
        self.hit(gva, size as usize, |t| t.read).map(|p| p as u64 - self.ram.base())
    }

    /// Atomic compare-and-exchange; `None`: go the slow way.
    #[inline(always)]
    #[must_use]
    pub fn compare_exchange<T: Scalar>(&self, gva: u32, old: T, new: T) -> Option<T> {
        // SAFETY: as above.
        self.hit(gva, T::SIZE, |e| e.write).map(|p| unsafe { ram::compare_exchange(p, old, new) })
    }

    /// Copies `len` bytes from `from` to `to`, each range within a page, as if byte by byte upwards would give the same: false, with nothing copied, when
    /// the ranges overlap so that it wouldn't, or the TLB doesn't have both pages.
    #[must_use]
    pub fn copy(&self, to: u32, from: u32, len: usize) -> bool {
        let (Some(to), Some(from)) = (self.hit(to, len, |t| t.write), self.hit(from, len, |t| t.read)) else {
            return false;
        };
        if (to as u64).wrapping_sub(from as u64) < len as u64 || (from as u64).wrapping_sub(to as u64) < len as u64 {
            return false;
        }
        // SAFETY: as above, for the whole ranges; they don't overlap.
        unsafe { ram::copy(to, from, len) };
        true
    }

    /// Writes `v` over and over into the `len` bytes (a multiple of its size) at `to`, which are within a page; false, with nothing written,
    /// when the TLB doesn't have it.
    #[must_use]
    pub fn fill_memory<T: Scalar>(&self, to: u32, v: T, len: usize) -> bool {
        // SAFETY: as above.
        self.hit(to, len, |t| t.write).map(|to| unsafe { ram::fill(to, v, len / T::SIZE) }).is_some()
    }

    /// True when the page of `gva` may be written without further ado.
    #[must_use]
    pub fn writable(&self, gva: u32) -> bool {
        self.tags(gva >> 12).write == gva >> 12
    }

    /// The byte of RAM that is at `gva`, when its page may be read without further ado.
    #[must_use]
    pub fn ram_offset(&self, gva: u32) -> Option<u64> {
        self.hit(gva, 1, |t| t.read).map(|p| p as u64 - self.ram.base())
    }

    /// Enters the page of `gva`, found at byte `offset` (a multiple of 4096) of RAM: readable, with `write` writable too.
    /// Offsets outside RAM are not entered.
    pub fn fill(&mut self, gva: u32, offset: u64, write: bool, global: bool) {
        if !offset.is_multiple_of(4096) || offset >= self.ram.len() {
            return;
        }
        let page = gva >> 12;
        self.filled[usize::from(global)].add(page);
        *self.addend(page) = (self.ram.base() + offset).wrapping_sub((gva & !0xfff).into());
        *self.tags(page) = Tags { read: page, write: if write { page } else { EMPTY } };
    }

    /// Makes writes to the page at byte `offset` of RAM go the slow way, wherever the guest sees it.
    pub fn protect(&mut self, offset: u64) {
        let host = self.ram.base() + (offset & !0xfff);
        for &page in self.filled.iter().flat_map(|f| &f.pages) {
            let t = self.tags(page);
            if t.write == page && self.addend(page).wrapping_add(u64::from(page) << 12) == host {
                t.write = EMPTY;
            }
        }
    }

    /// Forgets the page of `gva`.
    pub fn flush_page(&mut self, gva: u32) {
        let page = gva >> 12;
        if self.tags(page).read == page {
            self.clear(page);
        }
    }

    /// Forgets everything; with `keep_global` all but what was entered as global.
    pub fn flush(&mut self, keep_global: bool) {
        let lists = if keep_global { 1 } else { 2 };
        for list in 0..lists {
            let mut pages = self.filled[list].take();
            pages.drain(..).for_each(|page| self.clear(page));
            // Its room serves again.
            self.filled[list].pages = pages;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_protected_and_forgotten() {
        let ram = Arc::new(Ram::new(0x4000).unwrap());
        let memory = TlbMemory::new().unwrap();
        let mut tlb = Tlb::new(ram.clone(), memory, TlbView::User);
        assert_eq!(tlb.read::<u8>(0), None, "empty");
        tlb.fill(0xc000_0000, 0x1000, true, true);
        tlb.fill(0x0000_5000, 0x1000, true, false);
        tlb.fill(0x0000_6000, 0x4000, true, false);
        assert_eq!(tlb.read::<u8>(0x6000), None, "outside RAM");

        tlb.write(0xc000_0010, 0x1234_5678u32).unwrap();
        assert_eq!(tlb.read::<u16>(0x5012), Some(0x1234));
        assert_eq!(ram.read::<u32>(0x1010), Some(0x1234_5678));
        assert_eq!(tlb.read::<u32>(0x5ffd), None, "leaves the page");
        assert_eq!(tlb.read::<u32>(0x5ffc), Some(0));

        tlb.protect(0x1000);
        assert!(tlb.write(0x5000, 0u8).is_none() && tlb.write(0xc000_0000, 0u8).is_none());
        assert!(tlb.read::<u8>(0x5000).is_some());

        tlb.flush(true);
        assert!(tlb.read::<u8>(0xc000_0000).is_some() && tlb.read::<u8>(0x5000).is_none());
        tlb.flush_page(0xc000_0123);
        assert!(tlb.read::<u8>(0xc000_0000).is_none());
        tlb.fill(0xc000_0000, 0, false, false);
        assert!(tlb.read::<u8>(0xc000_0000).is_some() && !tlb.writable(0xc000_0000));
        tlb.flush(false);
        assert!(tlb.read::<u8>(0xc000_0000).is_none() && tlb.filled.iter().all(|f| f.pages.is_empty()));
    }

    #[test]
    fn a_global_page_that_has_become_local_is_forgotten_with_those() {
        let ram = Arc::new(Ram::new(0x4000).unwrap());
        let mut tlb = Tlb::new(ram, TlbMemory::new().unwrap(), TlbView::User);
        tlb.fill(0x5000, 0x1000, true, true);
        tlb.flush_page(0x5000);
        tlb.fill(0x5000, 0x2000, true, false);
        tlb.flush(true);
        assert!(!tlb.hits(0x5000, 1, false), "its entry was a local one");
        for _ in 0..10 {
            tlb.fill(0x5000, 0x1000, true, true);
            tlb.fill(0x5000, 0x1000, true, false);
            tlb.flush(true);
        }
        assert_eq!(tlb.filled.each_ref().map(|f| f.pages.len()), [0, 1], "listed once");
    }

    #[test]
    fn the_first_and_the_last_page_are_nobody_elses() {
        let ram = Arc::new(Ram::new(0x4000).unwrap());
        let mut tlb = Tlb::new(ram, TlbMemory::new().unwrap(), TlbView::Supervisor);
        for gva in [0, 0xffff_f000] {
            assert!(!tlb.hits(gva, 1, false) && !tlb.hits(gva, 1, true));
            tlb.fill(gva, 0x1000, true, false);
            assert!(tlb.hits(gva, 4, true));
            tlb.flush_page(gva);
            assert!(!tlb.hits(gva, 1, false));
            tlb.fill(gva, 0x1000, false, true);
            tlb.flush(true);
            assert!(!tlb.hits(gva, 1, false), "it was a local page, too");
        }
        // What translated code compares at the end of the address space is page 0.
        assert_ne!(tlb.tags(LAST).read, 0);
    }
}
