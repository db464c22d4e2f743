//! The window of code that runs without paging: linear is physical, so the window is the memory file.
//!
//! It is mapped at once, but for what isn't RAM; the host provides pages as they are touched. Only pages that something is derived
//! from code in are read-only, which is taken back when they are written after that has been dropped.

use crate::PhysMemory;
use std::sync::Arc;
use xlat86_arch::{PAGE_SHIFT, PAGE_SIZE};
use xlat86_host::{ShadowWindow, Window};

/// Most times that it is made: a guest that keeps switching paging on and off looks its pages up.
const MOST: u32 = 64;

/// See the module's documentation.
pub(crate) struct Unpaged {
    memory: Arc<PhysMemory>,
    window: Option<ShadowWindow>,
    made: u32,
}

impl Unpaged {
    pub(crate) fn new(memory: Arc<PhysMemory>) -> Unpaged {
        Unpaged { memory, window: None, made: 0 }
    }

    /// The window, made if need be, and whether it has been made. `None` where there can't be one.
    pub(crate) fn window(&mut self) -> Option<(Window, bool)> {
        if let Some(shadow) = &self.window {
            return Some((shadow.window(), false));
        }
        // With address line 20 masked physical isn't the file's offset.
        if self.made >= MOST || self.memory.a20_mask() != u64::MAX {
            return None;
        }
        self.made += 1;
        let mut shadow = ShadowWindow::new(self.memory.ram().clone()).ok()?;
        for range in self.memory.ram_ranges() {
            shadow.map_lazily(range.start as u32, range.start, (range.end - range.start) as u32).ok()?;
        }
        self.memory.code_pages().for_each(|page| shadow.protect(page << PAGE_SHIFT));
        let window = shadow.window();
        self.window = Some(shadow);
        Some((window, true))
    }

    /// Linear addresses mean something else from now on.
    pub(crate) fn clear(&mut self) {
        self.window = None;
    }

    /// Physical page `page` is code from now on.
    pub(crate) fn protect(&mut self, page: u32) {
        if let Some(shadow) = &mut self.window {
            shadow.protect(page << PAGE_SHIFT);
        }
    }

    /// Answers an access to physical page `page` that has faulted. False where it can't be made: no RAM, or code about to be written.
    pub(crate) fn map(&mut self, page: u32, write: bool) -> bool {
        let at = page << PAGE_SHIFT;
        let ram = self.memory.ram_ranges().iter().any(|r| r.contains(&at.into()));
        let code = self.memory.is_code(page);
        let Some(shadow) = self.window.as_mut().filter(|_| ram && !(write && code)) else { return false };
        shadow.map(at, at.into(), PAGE_SIZE, !code).is_ok()
    }
}
