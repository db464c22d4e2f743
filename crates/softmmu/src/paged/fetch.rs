//! Fetching: which physical page instructions come from, and its being marked as code before it is read.

use super::{CODE_ENTRIES, CodeEntry, Paged, View};
use crate::Place;
use crate::walk::Access;
use xlat86_arch::{Fault, Gva, PAGE_SHIFT};

impl Paged {
    /// Physical page that instructions at `addr` are fetched from.
    #[inline(always)]
    pub(crate) fn code_page(&mut self, addr: Gva) -> Result<u32, Fault> {
        let e = self.views[self.view as usize].code[addr.page() as usize % CODE_ENTRIES];
        if e.page == addr.page() { Ok(e.physical) } else { self.find_code(addr) }
    }

    #[cold]
    fn find_code(&mut self, addr: Gva) -> Result<u32, Fault> {
        let leaf = self.walk(addr, Access { write: false, user: self.view == View::User, fetch: true })?;
        let physical = (leaf.gpa >> PAGE_SHIFT) as u32;
        self.views[self.view as usize].code[addr.page() as usize % CODE_ENTRIES] =
            CodeEntry { page: addr.page(), physical };
        Ok(physical)
    }

    /// The physical page that instructions on linear page `page` would be fetched from in the current view, and whether it is mapped as
    /// global. Nothing changes.
    pub(crate) fn peek_code(&self, page: u32) -> Option<(u32, bool)> {
        let access = Access { write: false, user: self.view == View::User, fetch: true };
        let leaf = self.regs.peek(&self.memory, Gva(page << PAGE_SHIFT), access).ok()?;
        Some(((leaf.gpa >> PAGE_SHIFT) as u32, leaf.global))
    }

    /// See [`crate::Mmu::has_run`].
    pub(crate) fn has_run(&self, page: u32) -> bool {
        let access = Access { write: false, user: self.view == View::User, fetch: true };
        let leaf = self.regs.peek(&self.memory, Gva(page << PAGE_SHIFT), access);
        leaf.is_ok_and(|l| l.accessed && self.memory.is_code((l.gpa >> PAGE_SHIFT) as u32))
    }

    /// Notes that something will be derived from code in physical page `page`. False where it may change unnoticed.
    pub(crate) fn mark_code(&mut self, page: u32) -> bool {
        match self.memory.place(u64::from(page) << PAGE_SHIFT) {
            Place::Ram(at) => {
                if self.memory.mark_code(page) {
                    self.shadow.protect(page);
                    for v in &mut self.views {
                        v.data.protect(at);
                    }
                }
                true
            }
            Place::Rom => true,
            Place::Device => false,
        }
    }

    /// Fetches up to the end of the page of `addr`, which is marked before it is read. `None`: nothing may be kept.
    pub(crate) fn fetch(&mut self, addr: Gva, to: &mut [u8]) -> Result<Option<usize>, Fault> {
        let page = self.code_page(addr)?;
        if !self.mark_code(page) {
            return Ok(None);
        }
        let n = Self::parts(addr, to.len()).0;
        self.load_bytes(physical(page, addr), &mut to[..n]);
        Ok(Some(n))
    }

    /// Fetches up to the end of the page of `addr` without marking it.
    pub(crate) fn fetch_once(&mut self, addr: Gva, to: &mut [u8]) -> Result<usize, Fault> {
        let n = Self::parts(addr, to.len()).0;
        let page = self.code_page(addr)?;
        self.load_bytes(physical(page, addr), &mut to[..n]);
        Ok(n)
    }
}

fn physical(page: u32, addr: Gva) -> u64 {
    u64::from(page) << PAGE_SHIFT | u64::from(addr.page_offset())
}
