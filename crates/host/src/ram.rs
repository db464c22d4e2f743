//! Guest RAM: one memory file, mapped once, whole.
//!
//! The file's offset is the guest-physical address. Devices on other threads, shadow windows and other mappings of the
//! file see the same bytes, so no Rust reference ever points into RAM: every access is a single host instruction or a
//! copy by raw pointers.

use crate::Scalar;
use core::arch::asm;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// The RAM of one guest machine. Accesses outside it are refused, never undefined.
#[derive(Debug)]
pub struct Ram {
    file: File,
    base: *mut u8,
    len: u64,
}

// SAFETY: accesses go through raw pointers and single instructions; the mapping lives as long as the value.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// `len` bytes (rounded up to pages) of zeroed memory, which the host provides as it is touched.
    ///
    /// # Errors
    /// The host refuses the file or the address space.
    pub fn new(len: u64) -> io::Result<Ram> {
        let len = len.next_multiple_of(4096).max(4096);
        // SAFETY: a valid C string; the flag keeps the descriptor from programs the emulator starts.
        let fd = unsafe { libc::memfd_create(c"guest-ram".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and has no other owner.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(len)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let p = unsafe { libc::mmap(core::ptr::null_mut(), len as usize, prot, flags, file.as_raw_fd(), 0) };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Ram { file, base: p.cast(), len })
    }

    /// Size in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The memory file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Host address of the first byte.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base as u64
    }

    /// The address of the `size` bytes at `at`, if they are inside.
    #[inline(always)]
    fn ptr(&self, at: u64, size: usize) -> Option<*mut u8> {
        let inside = at.checked_add(size as u64).is_some_and(|end| end <= self.len);
        // SAFETY: inside the mapping.
        inside.then(|| unsafe { self.base.add(at as usize) })
    }

    /// Reads a scalar at byte `at`.
    #[inline(always)]
    #[must_use]
    pub fn read<T: Scalar>(&self, at: u64) -> Option<T> {
        // SAFETY: checked by `ptr`.
        self.ptr(at, T::SIZE).map(|p| unsafe { load(p) })
    }

    /// Writes a scalar at byte `at`.
    #[inline(always)]
    #[must_use]
    pub fn write<T: Scalar>(&self, at: u64, v: T) -> Option<()> {
        // SAFETY: checked by `ptr`.
        self.ptr(at, T::SIZE).map(|p| unsafe { store(p, v) })
    }

    /// Atomically replaces `old` by `new` at byte `at`; gives what was there before.
    #[inline]
    #[must_use]
    pub fn compare_exchange<T: Scalar>(&self, at: u64, old: T, new: T) -> Option<T> {
        // SAFETY: checked by `ptr`.
        self.ptr(at, T::SIZE).map(|p| unsafe { compare_exchange(p, old, new) })
    }

    /// Copies from RAM, starting at byte `at`.
    #[must_use]
    pub fn read_bytes(&self, at: u64, to: &mut [u8]) -> Option<()> {
        let from = self.ptr(at, to.len())?;
        // SAFETY: checked by `ptr`; `to` is ours and, being a Rust slice, not inside RAM.
        unsafe { copy(to.as_mut_ptr(), from, to.len()) };
        Some(())
    }

    /// Copies into RAM, starting at byte `at`.
    #[must_use]
    pub fn write_bytes(&self, at: u64, from: &[u8]) -> Option<()> {
        let to = self.ptr(at, from.len())?;
        // SAFETY: as above.
        unsafe { copy(to, from.as_ptr(), from.len()) };
        Some(())
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: our mapping; whoever derives addresses from it (`crate::Tlb`) keeps the value alive.
        unsafe { libc::munmap(self.base.cast(), self.len as usize) };
    }
}

/// One host load. In assembly: other threads may write there, and the guest's accesses needn't be aligned.
///
/// # Safety
/// `p` points to `T::SIZE` readable bytes.
#[inline(always)]
pub(crate) unsafe fn load<T: Scalar>(p: *const u8) -> T {
    let v: u64;
    // SAFETY: the caller's contract.
    unsafe {
        match T::SIZE {
            1 => {
                asm!("movzx {0:e}, byte ptr [{1}]", out(reg) v, in(reg) p, options(nostack, preserves_flags, readonly))
            }
            2 => {
                asm!("movzx {0:e}, word ptr [{1}]", out(reg) v, in(reg) p, options(nostack, preserves_flags, readonly))
            }
            4 => asm!("mov {0:e}, [{1}]", out(reg) v, in(reg) p, options(nostack, preserves_flags, readonly)),
            _ => asm!("mov {0}, [{1}]", out(reg) v, in(reg) p, options(nostack, preserves_flags, readonly)),
        }
    }
    T::from_u64(v)
}

/// One host store.
///
/// # Safety
/// `p` points to `T::SIZE` writable bytes that no Rust reference covers.
#[inline(always)]
pub(crate) unsafe fn store<T: Scalar>(p: *mut u8, v: T) {
    let v = v.to_u64();
    // SAFETY: the caller's contract.
    unsafe {
        match T::SIZE {
            1 => asm!("mov [{1}], {0}", in(reg_byte) v as u8, in(reg) p, options(nostack, preserves_flags)),
            2 => asm!("mov [{1}], {0:x}", in(reg) v, in(reg) p, options(nostack, preserves_flags)),
            4 => asm!("mov [{1}], {0:e}", in(reg) v, in(reg) p, options(nostack, preserves_flags)),
            _ => asm!("mov [{1}], {0}", in(reg) v, in(reg) p, options(nostack, preserves_flags)),
        }
    }
}

/// LOCK CMPXCHG, at any alignment.
///
/// # Safety
/// As for [`store`].
#[inline(always)]
pub(crate) unsafe fn compare_exchange<T: Scalar>(p: *mut u8, old: T, new: T) -> T {
    let (mut a, new) = (old.to_u64(), new.to_u64());
    // SAFETY: the caller's contract.
    unsafe {
        match T::SIZE {
            1 => asm!("lock cmpxchg [{0}], {1}", in(reg) p, in(reg_byte) new as u8, inout("rax") a, options(nostack)),
            2 => asm!("lock cmpxchg [{0}], {1:x}", in(reg) p, in(reg) new, inout("rax") a, options(nostack)),
            4 => asm!("lock cmpxchg [{0}], {1:e}", in(reg) p, in(reg) new, inout("rax") a, options(nostack)),
            _ => asm!("lock cmpxchg [{0}], {1}", in(reg) p, in(reg) new, inout("rax") a, options(nostack)),
        }
    }
    T::from_u64(a)
}

/// A copy where one side may be written by other threads meanwhile.
///
/// # Safety
/// Both sides are valid for `len` bytes and don't overlap.
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's contract; the direction flag is clear in Rust code.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
}

/// Stores `v` `count` times in a row.
///
/// # Safety
/// As for [`store`], for all of them.
pub(crate) unsafe fn fill<T: Scalar>(to: *mut u8, v: T, count: usize) {
    let v = v.to_u64();
    // SAFETY: the caller's contract; the direction flag is clear in Rust code.
    unsafe {
        match T::SIZE {
            1 => {
                asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("rax") v, options(nostack, preserves_flags))
            }
            2 => {
                asm!("rep stosw", inout("rcx") count => _, inout("rdi") to => _, in("rax") v, options(nostack, preserves_flags))
            }
            4 => {
                asm!("rep stosd", inout("rcx") count => _, inout("rdi") to => _, in("rax") v, options(nostack, preserves_flags))
            }
            _ => {
                asm!("rep stosq", inout("rcx") count => _, inout("rdi") to => _, in("rax") v, options(nostack, preserves_flags))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_and_bytes_are_the_same_memory() {
        let ram = Ram::new(8192).unwrap();
        ram.write(4093, 0x1234_5678_9abc_def0u64).unwrap();
        let mut bytes = [0; 8];
        ram.read_bytes(4093, &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 0x1234_5678_9abc_def0);
        assert_eq!(ram.read::<u16>(4095), Some(0x9abc));
        assert_eq!(ram.compare_exchange(4093, 0xf0u8, 1), Some(0xf0));
        assert_eq!(ram.read::<u8>(4093), Some(1));
        assert_eq!(ram.compare_exchange(4094, 0u16, 7), Some(0xbcde));
        assert_eq!(ram.read::<u16>(4094), Some(0xbcde));
    }

    #[test]
    fn nothing_outside_is_reached() {
        let ram = Ram::new(4096).unwrap();
        assert!(ram.read::<u32>(4093).is_none() && ram.write(4096, 0u8).is_none());
        assert!(ram.read_bytes(u64::MAX, &mut [0; 4]).is_none() && ram.write_bytes(4095, &[0; 2]).is_none());
    }
}
