//! Guest windows for tests and benchmarks, with no guest address space to manage.

use crate::Window;
use std::io;
use std::ops::Range;

const GUARD: usize = 1 << 16;
const SPAN: usize = 1 << 32;

/// A window somewhere in the host's address space in which exactly `ranges` (guest addresses, page-aligned) are mapped,
/// readable and writable. It lives as long as the process: copies of a [`Window`] can't be revoked.
///
/// # Errors
/// The host has no room for the reservation, or refuses memory for a range.
pub fn scratch_window(ranges: &[Range<u32>]) -> io::Result<Window> {
    crate::install_fault_handlers();
    let map = |at: usize, len: usize, prot: i32, flags: i32| {
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a mapping at an address of the kernel's choice, or (MAP_FIXED) inside the reservation made below.
        let p = unsafe { libc::mmap(at as *mut libc::c_void, len, prot, flags, -1, 0) };
        if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(p as usize) }
    };
    let start = map(0, 2 * SPAN + GUARD, libc::PROT_NONE, 0)?;
    let base = start.next_multiple_of(SPAN);
    for r in ranges {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        map(base + r.start as usize, (r.end - r.start) as usize, prot, libc::MAP_FIXED)?;
    }
    // SAFETY: the reservation covers `base..base + SPAN + GUARD`, is never unmapped, and nothing of ours is in it.
    Ok(unsafe { Window::at(base as u64) })
}

/// The host's low 4 GB with exactly `ranges` (guest addresses, page-aligned) mapped in them, readable and writable. Ranges that were
/// mapped before are replaced.
///
/// # Errors
/// The host refuses memory for a range.
pub fn scratch_low(ranges: &[Range<u32>]) -> io::Result<Window> {
    crate::install_fault_handlers();
    for r in ranges {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        let len = (r.end - r.start) as usize;
        // SAFETY: the low 4 GB hold nothing but guest memory (a position-independent program, its heap and stacks are
        // far above).
        let p = unsafe {
            libc::mmap(r.start as usize as *mut libc::c_void, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: as above.
    Ok(unsafe { Window::low() })
}

/// Unmaps `ranges`, which [`scratch_low`] has mapped: a window over them finds nothing there any more.
pub fn unmap_scratch_low(ranges: &[Range<u32>]) {
    for r in ranges {
        // SAFETY: as above.
        unsafe { libc::munmap(r.start as usize as *mut libc::c_void, (r.end - r.start) as usize) };
    }
}
