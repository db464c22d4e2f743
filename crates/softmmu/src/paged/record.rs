//! Recording for lockstep: what writes and page walks are about to overwrite, and what a replay has entered into the TLBs.

use super::{Paged, View};
use crate::Place;
use crate::journal::{Change, MOST};
use crate::walk::Access;
use xlat86_arch::{Fault, Gva};

impl Paged {
    /// Records the paging-structure entries in which the walk for `access` is about to set bits.
    #[cold]
    pub(super) fn record_walk(&mut self, addr: Gva, access: Access) {
        let Ok(leaf) = self.regs.peek(&self.memory, addr, Access { write: false, ..access }) else { return };
        if !self.regs.on() || leaf.accessed && (leaf.dirty || !access.write) {
            return;
        }
        for at in leaf.entries(&self.regs, addr) {
            let mut old = [0; 8];
            let old = if self.regs.pae() { &mut old[..] } else { &mut old[..4] };
            if let Place::Ram(at) = self.memory.place(at)
                && self.memory.ram().read_bytes(at, old).is_some()
            {
                self.journal.changes.push(Change::new(at as u32, old));
            }
        }
    }

    /// Records what a write of `len` bytes at `addr` is about to overwrite, or gives its fault.
    pub(crate) fn record(&mut self, view: View, addr: Gva, len: usize) -> Result<(), Fault> {
        let data = &self.views[view as usize].data;
        // What the write itself will find, nearly always: a page that may be written.
        let at = if len <= MOST && data.writable(addr.0) { data.place(addr.0, len as u32) } else { None };
        let mut old = [0; MOST];
        if let Some(at) = at
            && self.memory.ram().read_bytes(at, &mut old[..len]).is_some()
        {
            self.journal.changes.push(Change::new(at as u32, &old[..len]));
            return Ok(());
        }
        self.probe_write(view, addr, len as u32)?;
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done as u32);
            let n = MOST.min(Self::parts(at, len - done).0);
            done += n;
            let mut old = [0; MOST];
            if let Some(at) = self.ram_at(view, at)
                && self.memory.ram().read_bytes(at, &mut old[..n]).is_some()
            {
                self.journal.changes.push(Change::new(at as u32, &old[..n]));
            }
        }
        Ok(())
    }

    /// The byte of RAM at `addr`, if it is RAM.
    fn ram_at(&self, view: View, addr: Gva) -> Option<u64> {
        if let Some(at) = self.views[view as usize].data.ram_offset(addr.0) {
            return Some(at);
        }
        let leaf = self.regs.peek(&self.memory, addr, Access { user: view == View::User, ..Access::default() }).ok()?;
        match self.memory.place(leaf.gpa + u64::from(addr.page_offset())) {
            Place::Ram(at) => Some(at),
            Place::Rom | Place::Device => None,
        }
    }

    /// Drops what a replay has entered into the TLBs.
    pub(crate) fn forget_filled(&mut self) {
        for (view, addr) in self.filled.drain(..) {
            self.views[view as usize].data.flush_page(addr.0);
        }
    }

    pub(crate) fn take_barred(&mut self) -> bool {
        core::mem::take(&mut self.barred)
    }
}
