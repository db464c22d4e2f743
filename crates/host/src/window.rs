//! A guest window: 4 GB of host addresses in which guest memory appears.
//!
//! In user mode the window is the host's own low 4 GB (base 0), so a guest address *is* a host address; elsewhere it
//! is a range at a 4 GB-aligned base. A window maps nothing by itself: whoever manages the guest's address space
//! maps into it, and an access to a hole comes back as an [`AccessFault`].

use crate::access::{self, AccessFault};

/// An integer that guest memory can be read and written as in one access.
pub trait Scalar: Copy + Send + 'static {
    /// Size in bytes: 1, 2, 4 or 8.
    const SIZE: usize;
    /// Truncates.
    fn from_u64(v: u64) -> Self;
    /// Zero-extends.
    fn to_u64(self) -> u64;
}

macro_rules! scalar {
    ($($t:ty),*) => {$(
        impl Scalar for $t {
            const SIZE: usize = size_of::<$t>();
            #[inline(always)]
            fn from_u64(v: u64) -> Self { v as $t }
            #[inline(always)]
            fn to_u64(self) -> u64 { self.into() }
        }
    )*};
}
scalar!(u8, u16, u32, u64);

/// A range of host addresses that belongs to the guest. Cheap to copy; copies name the same memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    base: u64,
}

impl Window {
    /// The host's low 4 GB.
    ///
    /// # Safety
    /// No memory of the emulator itself is, or ever will be, below 4 GB, and only guest memory is mapped there.
    /// [`crate::install_fault_handlers`] has been called.
    #[must_use]
    pub const unsafe fn low() -> Self {
        Self { base: 0 }
    }

    /// The 4 GB at `base`.
    ///
    /// # Safety
    /// As for [`Window::low`], for the range `base..base + 4 GB + 64 KB`; `base` is a multiple of 4 GB.
    #[must_use]
    pub const unsafe fn at(base: u64) -> Self {
        Self { base }
    }

    /// First host address of the window.
    #[must_use]
    pub const fn base(self) -> u64 {
        self.base
    }

    #[inline(always)]
    fn ptr(self, addr: u32) -> *mut u8 {
        (self.base + u64::from(addr)) as *mut u8
    }

    /// Reads a scalar at guest address `addr`. An access that straddles 4 GB reaches past the window and is the
    /// caller's to split.
    #[inline]
    pub fn read<T: Scalar>(self, addr: u32) -> Result<T, AccessFault> {
        // SAFETY: within the window by construction (the constructor's contract).
        unsafe { access::load(self.ptr(addr), T::SIZE) }.map(T::from_u64)
    }

    /// Writes a scalar; on a fault nothing has been written.
    #[inline]
    pub fn write<T: Scalar>(self, addr: u32, v: T) -> Result<(), AccessFault> {
        // SAFETY: as in `read`.
        unsafe { access::store(self.ptr(addr), T::SIZE, v.to_u64()) }
    }

    /// Reads 16 bytes; not atomic.
    pub fn read128(self, addr: u32) -> Result<u128, AccessFault> {
        // SAFETY: as in `read`.
        unsafe { access::load128(self.ptr(addr)) }
    }

    /// Writes 16 bytes; not atomic.
    pub fn write128(self, addr: u32, v: u128) -> Result<(), AccessFault> {
        // SAFETY: as in `read`.
        unsafe { access::store128(self.ptr(addr), v) }
    }

    /// Atomic compare-and-exchange; gives the previous value.
    pub fn compare_exchange<T: Scalar>(self, addr: u32, old: T, new: T) -> Result<T, AccessFault> {
        // SAFETY: as in `read`.
        unsafe { access::compare_exchange(self.ptr(addr), T::SIZE, old.to_u64(), new.to_u64()) }.map(T::from_u64)
    }

    /// Copies guest memory out to `to`. On a fault, the number of bytes that did get copied comes with it.
    pub fn read_bytes(self, addr: u32, to: &mut [u8]) -> Result<(), (usize, AccessFault)> {
        // SAFETY: as in `read`; `to` is valid for its length.
        unsafe { access::copy(to.as_mut_ptr(), self.ptr(addr), to.len()) }
    }

    /// Copies `from` into guest memory. On a fault, the number of bytes that did get copied comes with it.
    pub fn write_bytes(self, addr: u32, from: &[u8]) -> Result<(), (usize, AccessFault)> {
        // SAFETY: as in `read`; `from` is valid for its length.
        unsafe { access::copy(self.ptr(addr), from.as_ptr(), from.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u32 = 0x7000_0000;

    fn window_with_page() -> Window {
        crate::install_fault_handlers();
        // SAFETY: a fixed low mapping that nothing else in the test process uses.
        unsafe {
            let p = libc::mmap(
                AT as usize as *mut _,
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            );
            assert_eq!(p as usize, AT as usize);
            Window::low()
        }
    }

    #[test]
    fn access_works_and_faults_are_reported() {
        let w = window_with_page();
        w.write(AT + 8, 0x1234_5678u32).unwrap();
        assert_eq!(w.read::<u16>(AT + 10).unwrap(), 0x1234);
        assert_eq!(w.compare_exchange(AT + 8, 0x1234_5678u32, 7).unwrap(), 0x1234_5678);
        assert_eq!(w.read::<u64>(AT + 8).unwrap(), 7);

        // A page-crossing store into a hole faults at the hole and writes nothing.
        let f = w.write(AT + 4094, 0xffff_ffffu32).unwrap_err().0;
        assert_eq!((f.addr, f.trapno, f.error & 7), (u64::from(AT) + 4096, 14, 6));
        assert_eq!(w.read::<u16>(AT + 4094).unwrap(), 0);

        // A copy reports how far it came.
        let mut buf = [0u8; 64];
        let (done, f) = w.read_bytes(AT + 4096 - 10, &mut buf).unwrap_err();
        assert_eq!((done, f.0.addr), (10, u64::from(AT) + 4096));
    }
}
