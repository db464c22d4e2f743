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

/// Sets the host protection of the guest page at `addr` (page-aligned) in `window`.
///
/// Only ever used to take write permission from a guest page and to give it back, so the page must be mapped; if
/// the guest unmapped it concurrently there is nothing to protect and the failure is of no consequence.
pub fn protect_guest_page(window: Window, addr: u32, read: bool, write: bool) {
    let prot = if read { libc::PROT_READ } else { 0 } | if write { libc::PROT_WRITE } else { 0 };
    // SAFETY: the page belongs to the guest by the window's contract; no Rust reference points into it.
    unsafe {
        libc::mprotect((window.base() + u64::from(addr & !0xfff)) as *mut libc::c_void, 4096, prot);
    }
}
