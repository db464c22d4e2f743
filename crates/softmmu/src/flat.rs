//! A user program's address space: one window, and one byte of knowledge for each of its pages.
//!
//! The host kernel holds the mappings; this table holds what the kernel can't tell cheaply and without a system
//! call: what the *guest* asked for (its execute permission never reaches the host, where guest memory is
//! never executable) and which pages hold translated code. A writable page with translated code is write-protected on the host, so the first write to it faults;
//! [`FlatSpace::resolve_write`] tells that fault from the guest's own.
//!
//! Shared by all threads of a guest process. Reading the table is lock-free; changing it is the business of whoever holds
//! the owner's memory-map lock, except for the code bit, which has its own rule (see [`FlatSpace::mark_code`]).

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard};
use xlat86_arch::{Gva, PAGE_SIZE};
use xlat86_host::{Window, protect_guest_pages};

/// Guest page permissions and kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Prot {
    /// Mapped at all. A mapped page with no permission differs from a hole in `si_code`.
    pub mapped: bool,
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
    /// Executable by the guest.
    pub exec: bool,
    /// Shared mapping: it may change through another mapping, so write protection doesn't detect every change.
    pub shared: bool,
}

/// One page's byte in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct PageState(u8);

impl PageState {
    const READ: u8 = 1;
    const WRITE: u8 = 2;
    const EXEC: u8 = 4;
    const MAPPED: u8 = 8;
    const SHARED: u8 = 16;
    /// Holds translated code; when WRITE is set too, the host page is write-protected.
    const CODE: u8 = 32;
    /// Its code keeps changing: it isn't protected, and what is derived from it has to be compared before each use.
    const HOT: u8 = 64;

    fn pack(p: Prot) -> u8 {
        let bit = |c: bool, b: u8| if c { b } else { 0 };
        bit(p.mapped, Self::MAPPED)
            | bit(p.read, Self::READ)
            | bit(p.write, Self::WRITE)
            | bit(p.exec, Self::EXEC)
            | bit(p.shared, Self::SHARED)
    }

    /// What the guest asked for.
    #[must_use]
    pub fn prot(self) -> Prot {
        let has = |b: u8| self.0 & b != 0;
        Prot {
            mapped: has(Self::MAPPED),
            read: has(Self::READ),
            write: has(Self::WRITE),
            exec: has(Self::EXEC),
            shared: has(Self::SHARED),
        }
    }

    /// True when translations made from this page exist.
    #[must_use]
    pub fn is_code(self) -> bool {
        self.0 & Self::CODE != 0
    }
}

/// The answer to "may what is derived from this page's code be kept?".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watch {
    /// The guest may not execute there.
    NotExecutable,
    /// Yes: every change of the page will be noticed.
    Kept,
    /// Not as it is: it may change unnoticed, so each execution has to look at the code afresh.
    Volatile,
}

/// The answer to "may this write proceed?".
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CodeWrite {
    /// The page was protected because it holds translated code. It has been made writable and its code bit
    /// cleared, and so may have been its neighbours': the caller must drop the translations of these pages (by number), then retry the write.
    Dropped(Range<u32>),
    /// Another thread got there first, or the protection was stale: just retry.
    Retry,
    /// The guest itself may not write here: its fault.
    NotOurs,
}

/// The guest's 4 GB in user mode.
pub struct FlatSpace {
    window: Window,
    pages: Box<[AtomicU8]>,
    /// Held while the code bit and the host protection are changed together.
    code_lock: Mutex<()>,
}

impl FlatSpace {
    /// An empty space over `window`. The table is 1 MB of demand-zero memory.
    #[must_use]
    pub fn new(window: Window) -> Self {
        let pages = xlat86_host::zeroed_atomics(1 << 20);
        Self { window, pages, code_lock: Mutex::new(()) }
    }

    /// The window this space stands on.
    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    /// State of the page holding `addr`.
    #[must_use]
    pub fn page(&self, addr: Gva) -> PageState {
        PageState(self.pages[addr.page() as usize].load(Ordering::Acquire))
    }

    /// Records that the pages of `start..start + len` (bytes, page-aligned) now have protection `prot` on host
    /// and guest. Their code bits are cleared: translations must have been dropped before the mapping changed.
    pub fn set_prot(&self, start: Gva, len: u32, prot: Prot) {
        let first = start.page() as usize;
        let count = (len as usize).div_ceil(PAGE_SIZE as usize);
        for p in &self.pages[first..(first + count).min(1 << 20)] {
            p.store(PageState::pack(prot), Ordering::Release);
        }
    }

    /// Notes that code is about to be translated from the page holding `addr`, write-protecting it on the host if the guest may write it.
    /// To be called *before* the bytes are read, so that a write racing with the translation is seen.
    pub fn mark_code(&self, addr: Gva) -> Watch {
        let cell = &self.pages[addr.page() as usize];
        if PageState(cell.load(Ordering::Acquire)).is_code() {
            return Watch::Kept;
        }
        let _guard = self.lock_code();
        let s = cell.load(Ordering::Acquire);
        if s & PageState::EXEC == 0 {
            return Watch::NotExecutable;
        }
        if s & (PageState::SHARED | PageState::HOT) != 0 {
            return Watch::Volatile;
        }
        // Protected first: whoever sees the bit may rely on the protection.
        if s & PageState::WRITE != 0 && !self.protect(addr.page()..addr.page() + 1, s, false) {
            // Writes can't be noticed.
            cell.store(s | PageState::HOT, Ordering::Release);
            return Watch::Volatile;
        }
        cell.store(s | PageState::CODE, Ordering::Release);
        Watch::Kept
    }

    /// Keeps code bits and host protections as they are until the guard is dropped: a fork in between finds them consistent.
    pub fn lock_code(&self) -> MutexGuard<'_, ()> {
        self.code_lock.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// May the code on the page holding `addr` change without [`FlatSpace::resolve_write`] being called?
    #[must_use]
    pub fn is_volatile(&self, addr: Gva) -> bool {
        self.page(addr).0 & (PageState::SHARED | PageState::HOT) != 0
    }

    /// Stops watching the page holding `addr`, which [`FlatSpace::resolve_write`] has just made writable: its code keeps changing.
    pub fn heat(&self, addr: Gva) {
        let _guard = self.lock_code();
        self.pages[addr.page() as usize].fetch_or(PageState::HOT, Ordering::AcqRel);
    }

    /// Watches the page holding `addr` again. What was derived from it must have been dropped.
    pub fn cool(&self, addr: Gva) {
        let _guard = self.lock_code();
        self.pages[addr.page() as usize].fetch_and(!PageState::HOT, Ordering::AcqRel);
    }

    /// Called when a write to the page holding `addr` faulted, or before something else (a system call) writes there.
    pub fn resolve_write(&self, addr: Gva) -> CodeWrite {
        let cell = &self.pages[addr.page() as usize];
        let _guard = self.lock_code();
        let s = cell.load(Ordering::Acquire);
        if s & PageState::WRITE == 0 {
            return CodeWrite::NotOurs;
        }
        if s & PageState::CODE == 0 {
            return CodeWrite::Retry;
        }
        let page = addr.page();
        let mut pages = page..page + 1;
        if !self.unprotect(pages.clone(), s) {
            // The host has no mappings left to cut this page out. All that is protected around it needs none.
            let alike = |p: &u32| self.pages[*p as usize].load(Ordering::Acquire) == s;
            pages.start = (0..page).rev().take_while(alike).last().unwrap_or(page);
            pages.end = (page + 1..1 << 20).take_while(alike).last().unwrap_or(page) + 1;
            if !self.unprotect(pages.clone(), s) {
                // Unmapped meanwhile. Trying the write again would be for ever.
                return CodeWrite::NotOurs;
            }
        }
        CodeWrite::Dropped(pages)
    }

    /// Makes `pages`, whose state is `state`, writable on the host and no code. False, with nothing changed, when the host refuses.
    fn unprotect(&self, pages: Range<u32>, state: u8) -> bool {
        let cells = &self.pages[pages.start as usize..pages.end as usize];
        // Whoever sees the bit may rely on the protection.
        cells.iter().for_each(|c| c.store(state & !PageState::CODE, Ordering::Release));
        let done = self.protect(pages, state, true);
        if !done {
            cells.iter().for_each(|c| c.store(state, Ordering::Release));
        }
        done
    }

    /// Sets the host protection of `pages`, whose state is `state`. False when the host refuses.
    fn protect(&self, pages: Range<u32>, state: u8, write: bool) -> bool {
        let (start, len) = (pages.start * PAGE_SIZE, (pages.end - pages.start) * PAGE_SIZE);
        protect_guest_pages(self.window, start, len, state & PageState::READ != 0, write)
    }
}
