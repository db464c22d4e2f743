//! Guest addresses as distinct types, so that a virtual one is never used as a physical one.

use core::fmt;

/// log2 of the guest page size.
pub const PAGE_SHIFT: u32 = 12;
/// Guest page size in bytes.
pub const PAGE_SIZE: u32 = 1 << PAGE_SHIFT;
/// Mask selecting the offset within a page.
pub const PAGE_MASK: u32 = PAGE_SIZE - 1;

/// Guest virtual (linear) address: what segmentation produces and paging consumes. Wraps at 4 GB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Gva(pub u32);

/// Guest physical address. 64 bits wide because PAE reaches beyond 4 GB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Gpa(pub u64);

impl Gva {
    /// The address `offset` bytes further on, wrapping at 4 GB as linear addresses do.
    #[must_use]
    pub const fn wrapping_add(self, offset: u32) -> Self {
        Self(self.0.wrapping_add(offset))
    }

    /// First address of the page holding `self`.
    #[must_use]
    pub const fn page_base(self) -> Self {
        Self(self.0 & !PAGE_MASK)
    }

    /// Virtual page number.
    #[must_use]
    pub const fn page(self) -> u32 {
        self.0 >> PAGE_SHIFT
    }

    /// Offset within the page, in bytes.
    #[must_use]
    pub const fn page_offset(self) -> u32 {
        self.0 & PAGE_MASK
    }
}

impl fmt::Debug for Gva {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gva:{:08x}", self.0)
    }
}

impl fmt::Display for Gva {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gpa:{:09x}", self.0)
    }
}
