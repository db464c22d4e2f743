//! Host memory services that need raw calls.

use crate::Window;
use std::sync::atomic::AtomicU8;

/// A table of `len` zeroed bytes in demand-zero memory: untouched parts cost nothing.
#[must_use]
pub fn zeroed_atomics(len: usize) -> Box<[AtomicU8]> {
    let v: Box<[u8]> = vec![0u8; len].into_boxed_slice();
    // SAFETY: `AtomicU8` has the size, alignment and validity of `u8` (documented), and we own the box.
    unsafe { Box::from_raw(Box::into_raw(v) as *mut [AtomicU8]) }
}

/// Sets the host protection of the `len` bytes of guest pages at `addr` (both multiples of the page size) in `window`. False when the host refuses: the
/// guest has unmapped something there meanwhile, or a mapping would be cut in two when there are too many already (vm.max_map_count).
///
/// Only ever used to take write permission from guest pages and to give it back.
#[must_use]
pub fn protect_guest_pages(window: Window, addr: u32, len: u32, read: bool, write: bool) -> bool {
    let prot = if read { libc::PROT_READ } else { 0 } | if write { libc::PROT_WRITE } else { 0 };
    let len = u64::from(len).min((1 << 32) - u64::from(addr));
    // SAFETY: the pages belong to the guest by the window's contract; no Rust reference points into them.
    unsafe { libc::mprotect((window.base() + u64::from(addr & !0xfff)) as *mut libc::c_void, len as usize, prot) == 0 }
}
