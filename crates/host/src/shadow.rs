//! A shadow window: 4 GB of host addresses in which pages of guest RAM appear where the guest's page tables put them.
//!
//! Translated code reaches guest memory through the GS segment, whose base is the window's, with operands that wrap at 4 GB: what isn't
//! mapped faults. A window starts and stays a hole in the address space; only its pages are mappings, which the host limits (65,530
//! in a process), so mapping may fail at any time.

use crate::{Ram, Window};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SPAN: u64 = 1 << 32;
/// Windows lie here, far from where the kernel puts anything by itself.
const FIRST: u64 = 0x1000_0000_0000;
/// From one window to the next: what lies between is never mapped, so that an access at a window's end faults.
const STRIDE: u64 = 2 * SPAN;

/// One bit for each window in use.
static USED: AtomicU64 = AtomicU64::new(0);

/// See the module's documentation.
#[derive(Debug)]
pub struct ShadowWindow {
    base: u64,
    slot: u32,
    ram: Arc<Ram>,
}

impl ShadowWindow {
    /// Most windows in a process.
    pub const MOST: usize = 64;

    /// An empty window on `ram`.
    ///
    /// # Errors
    /// There are too many already, or the address range isn't free.
    pub fn new(ram: Arc<Ram>) -> io::Result<ShadowWindow> {
        let claim = |used: u64| (used != u64::MAX).then(|| used | 1 << used.trailing_ones());
        let used = USED
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, claim)
            .map_err(|_| io::Error::other("too many shadow windows"))?;
        let slot = used.trailing_ones();
        ShadowWindow::at(slot, ram).inspect_err(|_| release(slot))
    }

    /// The window of `slot`, which has been claimed.
    fn at(slot: u32, ram: Arc<Ram>) -> io::Result<ShadowWindow> {
        let base = FIRST + u64::from(slot) * STRIDE;
        // Is it a hole? Asked once; from then on the range is ours by convention: the kernel places mappings elsewhere.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: with MAP_FIXED_NOREPLACE nothing that exists is touched.
        let p = unsafe { libc::mmap(base as *mut libc::c_void, STRIDE as usize, libc::PROT_NONE, flags, -1, 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping just made, wherever it is: kernels before 4.17 take the address for a hint.
        unsafe { libc::munmap(p, STRIDE as usize) };
        if p as u64 != base {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        // Only now: what a window drops is all that is in its range.
        Ok(ShadowWindow { base, slot, ram })
    }

    /// The guest's addresses in it. After the shadow window's end it leads to a hole, or to the next one in its place.
    #[must_use]
    pub fn window(&self) -> Window {
        crate::install_fault_handlers();
        // SAFETY: the range is at a multiple of 4 GB, only shadow windows map there, and nothing but guest RAM.
        unsafe { Window::at(self.base) }
    }

    /// The guest address that host address `addr` is in this window.
    #[must_use]
    pub fn guest(&self, addr: u64) -> Option<u32> {
        u32::try_from(addr.checked_sub(self.base)?).ok()
    }

    /// Maps `len` bytes of RAM at byte `offset` to guest address `gva` (all multiples of the page size), in place of what was there.
    ///
    /// # Errors
    /// The range isn't within RAM and the window, or the host has no mappings left.
    pub fn map(&mut self, gva: u32, offset: u64, len: u32, write: bool) -> io::Result<()> {
        let prot = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        self.map_with(gva, offset, len, prot, libc::MAP_POPULATE)
    }

    /// The same, readable and writable, but the host's page tables are filled in as pages are touched. Nothing at all may be mapped so.
    ///
    /// # Errors
    /// As for [`ShadowWindow::map`].
    pub fn map_lazily(&mut self, gva: u32, offset: u64, len: u32) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.map_with(gva, offset, len, libc::PROT_READ | libc::PROT_WRITE, 0)
    }

    fn map_with(&mut self, gva: u32, offset: u64, len: u32, prot: i32, flags: i32) -> io::Result<()> {
        let inside = u64::from(gva) + u64::from(len) <= SPAN && offset + u64::from(len) <= self.ram.len();
        if !inside || (gva | len | offset as u32) & 0xfff != 0 || len == 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | flags;
        let at = (self.base + u64::from(gva)) as *mut libc::c_void;
        // SAFETY: the range is in this window, where there is nothing but such mappings and no Rust reference points.
        let p =
            unsafe { libc::mmap(at, len as usize, prot, flags, self.ram.file().as_raw_fd(), offset as libc::off_t) };
        if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes write permission from what is mapped in the page of `gva`.
    pub fn protect(&mut self, gva: u32) {
        let at = (self.base + u64::from(gva & !0xfff)) as *mut libc::c_void;
        // SAFETY: as above. It fails where splitting a mapping exceeds the host's limit: then the page is unmapped, which never needs more.
        let failed = unsafe { libc::mprotect(at, 4096, libc::PROT_READ) } != 0;
        if failed {
            self.unmap(gva & !0xfff, 4096);
        }
    }

    /// Unmaps whatever is in the `len` bytes at `gva`.
    pub fn unmap(&mut self, gva: u32, len: u64) {
        self.unmap_range(gva.into(), len.min(SPAN - u64::from(gva)));
    }

    fn unmap_range(&self, start: u64, len: u64) {
        let unmap = |start: u64, len: u64| {
            // SAFETY: as above.
            unsafe { libc::munmap((self.base + start) as *mut libc::c_void, len as usize) == 0 }
        };
        // Cutting a mapping in two may exceed the host's limit; dropping the whole window never does.
        if !unmap(start, len) {
            unmap(0, STRIDE);
        }
    }
}

impl Drop for ShadowWindow {
    fn drop(&mut self) {
        self.unmap_range(0, STRIDE);
        release(self.slot);
    }
}

/// Whoever has claimed `slot` doesn't need it any more.
fn release(slot: u32) {
    USED.fetch_and(!(1 << slot), Ordering::AcqRel);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_appear_where_they_are_mapped() {
        let ram = Arc::new(Ram::new(0x4000).unwrap());
        let mut w = ShadowWindow::new(ram.clone()).unwrap();
        let view = w.window();
        assert!(view.read::<u8>(0x5000).is_err());
        w.map(0x5000, 0x2000, 0x1000, true).unwrap();
        w.map(0xffff_f000, 0x1000, 0x1000, false).unwrap();
        view.write(0x5008, 0x1234u16).unwrap();
        assert_eq!(ram.read::<u16>(0x2008), Some(0x1234));
        assert_eq!(view.read::<u32>(0xffff_fff0).unwrap(), 0);
        assert!(view.write(0xffff_fff0, 0u8).is_err(), "read-only");
        w.protect(0x5000);
        assert!(view.write(0x5000, 0u8).is_err());
        assert!(view.read::<u8>(0x5000).is_ok());
        let fault = view.read::<u32>(0xffff_fffe).unwrap_err().0;
        assert_eq!(w.guest(fault.addr), None, "behind the window");
        w.unmap(0x5000, 0x1000);
        assert!(view.read::<u8>(0x5000).is_err());
        assert!(w.map(0x5000, 0x4000, 0x1000, false).is_err(), "outside RAM");
        assert!(w.map(0xffff_f000, 0, 0x2000, false).is_err(), "outside the window");
        w.map_lazily(0, 0, 0x4000).unwrap();
        view.write(0x1008, 0x5678u16).unwrap();
        assert_eq!(ram.read::<u16>(0x1008), Some(0x5678));
        assert!(w.map_lazily(0, 0x1000, 0x4000).is_err(), "outside RAM");
        w.map_lazily(0, 0x4000, 0).unwrap();
        drop(w);
        assert!(view.read::<u8>(0xffff_f000).is_err() && view.read::<u8>(0).is_err(), "nothing remains");
    }

    #[test]
    fn a_window_that_finds_its_place_taken_leaves_it_alone() {
        let ram = Arc::new(Ram::new(0x4000).unwrap());
        // As if it had been claimed: the last ones are never reached by tests.
        let slot = ShadowWindow::MOST as u32 - 1;
        let at = (FIRST + u64::from(slot) * STRIDE + 0x10_0000) as *mut u8;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: nothing that exists is touched.
        let p = unsafe { libc::mmap(at.cast(), 4096, prot, flags, -1, 0) };
        assert_eq!(p.cast(), at);
        // SAFETY: the page just mapped.
        unsafe { at.write(7) };
        assert!(ShadowWindow::at(slot, ram.clone()).is_err());
        let mut here = 0;
        // SAFETY: an address range, and room for a page's answer.
        let mapped = unsafe { libc::mincore(at.cast(), 4096, &raw mut here) } == 0;
        assert!(mapped, "unmapped by somebody it isn't the business of");
        // SAFETY: the page mapped above, which is still there.
        unsafe {
            assert_eq!(at.read(), 7);
            libc::munmap(at.cast(), 4096);
        }
        assert!(ShadowWindow::at(slot, ram).is_ok(), "free again");
    }
}
