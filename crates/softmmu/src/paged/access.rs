//! Access through the views: the TLB, or the slow way.

use super::{Paged, View};
use crate::Place;
use crate::walk::Access;
use xlat86_arch::{Fault, Gva, PAGE_SIZE};
use xlat86_host::Scalar;

impl Paged {
    /// The two parts of an access: in the page of its first byte, and in the next one.
    pub(super) fn parts(addr: Gva, len: usize) -> (usize, Gva) {
        let first = (PAGE_SIZE - addr.page_offset()) as usize;
        (first.min(len), addr.page_base().wrapping_add(PAGE_SIZE))
    }

    #[inline(always)]
    pub(crate) fn read<T: Scalar>(&mut self, view: View, addr: Gva) -> Result<T, Fault> {
        match self.views[view as usize].data.read(addr.0) {
            Some(v) => Ok(v),
            None => self.read_slow(view, addr),
        }
    }

    #[cold]
    #[inline(never)]
    fn read_slow<T: Scalar>(&mut self, view: View, addr: Gva) -> Result<T, Fault> {
        if Self::parts(addr, T::SIZE).0 < T::SIZE {
            let mut b = [0; 8];
            self.read_bytes(view, addr, &mut b[..T::SIZE])?;
            return Ok(T::from_u64(u64::from_le_bytes(b)));
        }
        let gpa = self.translate(addr, view, false)?;
        self.note_hits(addr, T::SIZE as u32, false);
        Ok(self.memory.load(gpa))
    }

    #[inline]
    pub(crate) fn read_to_update<T: Scalar>(&mut self, view: View, addr: Gva) -> Result<T, Fault> {
        if !self.views[view as usize].data.hits(addr.0, T::SIZE as u32, true) {
            self.probe_write(view, addr, T::SIZE as u32)?;
        }
        self.read(view, addr)
    }

    #[inline(always)]
    pub(crate) fn write<T: Scalar>(&mut self, view: View, addr: Gva, v: T) -> Result<(), Fault> {
        match self.views[view as usize].data.write(addr.0, v) {
            Some(()) => Ok(()),
            None => self.write_slow(view, addr, v),
        }
    }

    #[cold]
    #[inline(never)]
    fn write_slow<T: Scalar>(&mut self, view: View, addr: Gva, v: T) -> Result<(), Fault> {
        if Self::parts(addr, T::SIZE).0 < T::SIZE {
            return self.write_bytes(view, addr, &v.to_u64().to_le_bytes()[..T::SIZE]);
        }
        let gpa = self.translate(addr, view, true)?;
        self.note_hits(addr, T::SIZE as u32, true);
        self.memory.store(gpa, v);
        Ok(())
    }

    #[inline]
    pub(crate) fn compare_exchange<T: Scalar>(&mut self, view: View, addr: Gva, old: T, new: T) -> Result<T, Fault> {
        if let Some(now) = self.views[view as usize].data.compare_exchange(addr.0, old, new) {
            return Ok(now);
        }
        self.probe_write(view, addr, T::SIZE as u32)?;
        if let Some(now) = self.views[view as usize].data.compare_exchange(addr.0, old, new) {
            return Ok(now);
        }
        // Across pages, on a watched page or on a device: one CPU and a bus that serialises need no more than this.
        let now: T = self.read(view, addr)?;
        self.write(view, addr, if now.to_u64() == old.to_u64() { new } else { now })?;
        Ok(now)
    }

    pub(crate) fn read_bytes(&mut self, view: View, addr: Gva, to: &mut [u8]) -> Result<(), Fault> {
        let (first, next) = Self::parts(addr, to.len());
        let (low, high) = to.split_at_mut(first);
        if high.is_empty() {
            return self.read_in_page(view, addr, low);
        }
        // Both pages are looked at before either is read: reading a device may have an effect.
        self.translate(addr, view, false)?;
        self.translate(next, view, false)?;
        self.read_in_page(view, addr, low)?;
        self.read_bytes(view, next, high)
    }

    fn read_in_page(&mut self, view: View, addr: Gva, to: &mut [u8]) -> Result<(), Fault> {
        if to.is_empty() {
            return Ok(());
        }
        let gpa = self.translate(addr, view, false)?;
        self.note_hits(addr, to.len() as u32, false);
        self.load_bytes(gpa, to);
        Ok(())
    }

    /// Copies from physical memory, within a page.
    pub(super) fn load_bytes(&self, gpa: u64, to: &mut [u8]) {
        if matches!(self.memory.place(gpa), Place::Ram(at) if self.memory.ram().read_bytes(at, to).is_some()) {
            return;
        }
        for (i, b) in to.iter_mut().enumerate() {
            *b = self.memory.load(gpa + i as u64);
        }
    }

    /// Writes all of `from`, which is no longer than a page, or, on a fault, nothing.
    pub(crate) fn write_bytes(&mut self, view: View, addr: Gva, from: &[u8]) -> Result<(), Fault> {
        let (first, next) = Self::parts(addr, from.len());
        let (low, high) = from.split_at(first);
        // Both pages are looked at before either is written, and not again: what is written may be their page tables.
        let at = self.translate(addr, view, true)?;
        let behind = if high.is_empty() { None } else { Some(self.translate(next, view, true)?) };
        self.note_hits(addr, low.len() as u32, true);
        self.store_bytes(at, low);
        if let Some(behind) = behind {
            self.note_hits(next, high.len() as u32, true);
            self.store_bytes(behind, high);
        }
        Ok(())
    }

    /// Copies to physical memory, within a page.
    fn store_bytes(&self, gpa: u64, from: &[u8]) {
        debug_assert!(gpa % u64::from(PAGE_SIZE) + from.len() as u64 <= PAGE_SIZE.into());
        if matches!(self.memory.place(gpa), Place::Ram(at) if self.memory.ram().write_bytes(at, from).is_some()) {
            return;
        }
        for (i, &b) in from.iter().enumerate() {
            self.memory.store(gpa + i as u64, b);
        }
    }

    pub(crate) fn probe_write(&mut self, view: View, addr: Gva, len: u32) -> Result<(), Fault> {
        let last = addr.wrapping_add(len.max(1) - 1);
        let mut at = addr;
        loop {
            if !self.views[view as usize].data.writable(at.0) {
                self.translate(at, view, true)?;
            }
            if at.page() == last.page() {
                return Ok(());
            }
            at = at.page_base().wrapping_add(PAGE_SIZE);
        }
    }

    /// Reads as a debugger would: by the current translation at supervisor level, without setting bits or touching devices.
    /// False when some byte isn't mapped RAM or ROM.
    pub(crate) fn peek_bytes(&self, addr: Gva, to: &mut [u8]) -> bool {
        let (first, next) = Self::parts(addr, to.len());
        let (low, high) = to.split_at_mut(first);
        let Ok(leaf) = self.regs.peek(&self.memory, addr, Access::default()) else { return false };
        let gpa = leaf.gpa + u64::from(addr.page_offset());
        if self.memory.place(gpa) == Place::Device {
            return false;
        }
        self.load_bytes(gpa, low);
        high.is_empty() || self.peek_bytes(next, high)
    }
}
