//! The software TLB: where in host memory the guest's pages are, for one view of one address space.
//!
//! Translated code looks entries up inline, Rust code through [`Tlb`]; both trust what is in them, so only [`Tlb::fill`]
//! writes entries, and it checks that they lead into RAM. Direct-mapped by page number.

use crate::{Ram, Scalar, ram};
use std::sync::Arc;

/// Entries of a TLB: a power of two.
pub const TLB_ENTRIES: usize = 4096;

/// A page number part that no page has: whatever is compared with it goes the slow way.
const NEVER: u32 = 1;

/// One entry: what translated code compares and adds. Its index is `(gva >> 12) & (TLB_ENTRIES - 1)`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct TlbEntry {
    /// Page base (`gva & !0xfff`) that may be read, or a value with low bits set when reads must go the slow way.
    pub read: u32,
    /// The same for writing.
    pub write: u32,
    /// Host address minus guest address of the page's bytes.
    pub addend: u64,
}

const EMPTY: TlbEntry = TlbEntry { read: NEVER, write: NEVER, addend: 0 };

/// The TLB of one view (user or supervisor) of one CPU.
pub struct Tlb {
    entries: Box<[TlbEntry; TLB_ENTRIES]>,
    /// Entries that survive a flush of the others.
    global: Box<[bool; TLB_ENTRIES]>,
    /// Indices filled since they were last empty: flushing costs what was used, not what there is.
    filled: Vec<u16>,
    ram: Arc<Ram>,
}

fn index(gva: u32) -> usize {
    (gva >> 12) as usize & (TLB_ENTRIES - 1)
}

impl Tlb {
    /// An empty TLB for pages of `ram`.
    #[must_use]
    pub fn new(ram: Arc<Ram>) -> Tlb {
        let entries = vec![EMPTY; TLB_ENTRIES].into_boxed_slice().try_into().expect("the size is the array's");
        let global = vec![false; TLB_ENTRIES].into_boxed_slice().try_into().expect("the size is the array's");
        Tlb { entries, global, filled: Vec::with_capacity(TLB_ENTRIES), ram }
    }

    /// Host address of the first entry; it never changes.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Host address of the `size` bytes at `gva`, when they are within a page that the entry's `tag` says may be accessed.
    #[inline(always)]
    fn hit(&self, gva: u32, size: usize, tag: impl Fn(&TlbEntry) -> u32) -> Option<*mut u8> {
        let e = &self.entries[(gva >> 12) as usize & (TLB_ENTRIES - 1)];
        let fits = (gva & 0xfff) as usize <= 4096 - size;
        (fits && tag(e) == gva & !0xfff).then(|| e.addend.wrapping_add(gva.into()) as *mut u8)
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

    /// Atomic compare-and-exchange; `None`: go the slow way.
    #[inline(always)]
    #[must_use]
    pub fn compare_exchange<T: Scalar>(&self, gva: u32, old: T, new: T) -> Option<T> {
        // SAFETY: as above.
        self.hit(gva, T::SIZE, |e| e.write).map(|p| unsafe { ram::compare_exchange(p, old, new) })
    }

    /// True when the page of `gva` may be written without further ado.
    #[must_use]
    pub fn writable(&self, gva: u32) -> bool {
        self.entries[index(gva)].write == gva & !0xfff
    }

    /// Enters the page of `gva`, found at byte `offset` (a multiple of 4096) of RAM: readable, with `write` writable too.
    /// Offsets outside RAM are not entered.
    pub fn fill(&mut self, gva: u32, offset: u64, write: bool, global: bool) {
        if !offset.is_multiple_of(4096) || offset >= self.ram.len() {
            return;
        }
        let (page, i) = (gva & !0xfff, index(gva));
        if self.entries[i].read == NEVER {
            self.filled.push(i as u16);
        }
        let addend = (self.ram.base() + offset).wrapping_sub(page.into());
        self.entries[i] = TlbEntry { read: page, write: if write { page } else { NEVER }, addend };
        self.global[i] = global;
    }

    /// Makes writes to the page at byte `offset` of RAM go the slow way, wherever the guest sees it.
    pub fn protect(&mut self, offset: u64) {
        let host = self.ram.base() + (offset & !0xfff);
        for &i in &self.filled {
            let e = &mut self.entries[usize::from(i)];
            if e.addend.wrapping_add(e.read.into()) == host {
                e.write = NEVER;
            }
        }
    }

    /// Forgets the page of `gva`.
    pub fn flush_page(&mut self, gva: u32) {
        let e = &mut self.entries[index(gva)];
        if e.read == gva & !0xfff {
            // Still in `filled`: as an entry that nothing hits. Its tag stays non-empty so that it isn't listed twice.
            *e = TlbEntry { read: NEVER | 2, write: NEVER, addend: 0 };
        }
    }

    /// Forgets everything; with `keep_global` all but what was entered as global.
    pub fn flush(&mut self, keep_global: bool) {
        let (entries, global) = (&mut self.entries, &self.global);
        self.filled.retain(|&i| {
            let i = usize::from(i);
            let keep = keep_global && global[i] && entries[i].read & 0xfff == 0;
            if !keep {
                entries[i] = EMPTY;
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_protected_and_forgotten() {
        let ram = Arc::new(Ram::new(0x4000).unwrap());
        let mut tlb = Tlb::new(ram.clone());
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
        assert!(tlb.read::<u8>(0xc000_0000).is_none() && tlb.filled.is_empty());
    }
}
