//! Segment registers with their hidden parts (SDM vol. 3A, 3.4.3 and 3.4.5).

/// Descriptor attributes as they stand in bits 8 to 23 of a descriptor's high word:
/// type (0-3), S (4), DPL (5-6), P (7), limit bits 19:16 (8-11, kept 0 here), AVL (12), D/B (14), G (15).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct SegAttr(pub u16);

impl SegAttr {
    /// Flat read/write data, DPL 0, 32-bit.
    pub const DATA32: SegAttr = SegAttr(0xc093);
    /// Flat execute/read code, DPL 0, 32-bit.
    pub const CODE32: SegAttr = SegAttr(0xc09b);

    /// Descriptor type, 4 bits (SDM vol. 3A, tables 3-1 and 3-2).
    #[must_use]
    pub const fn typ(self) -> u8 {
        (self.0 & 0xf) as u8
    }
    /// True for code and data segments, false for system segments and gates.
    #[must_use]
    pub const fn s(self) -> bool {
        self.0 & 0x10 != 0
    }
    /// Descriptor privilege level, 0 to 3.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        ((self.0 >> 5) & 3) as u8
    }
    /// Segment present.
    #[must_use]
    pub const fn present(self) -> bool {
        self.0 & 0x80 != 0
    }
    /// D/B: default operation size 32 for code, 32-bit stack pointer for stacks, 4 GB upper bound for expand-down.
    #[must_use]
    pub const fn db(self) -> bool {
        self.0 & 0x4000 != 0
    }
    /// Code segment (S = 1 and type bit 3).
    #[must_use]
    pub const fn code(self) -> bool {
        self.s() && self.0 & 8 != 0
    }
    /// Conforming code segment.
    #[must_use]
    pub const fn conforming(self) -> bool {
        self.code() && self.0 & 4 != 0
    }
    /// Expand-down data segment.
    #[must_use]
    pub const fn expand_down(self) -> bool {
        self.s() && self.0 & 0xc == 4
    }
    /// Data segment that may be written.
    #[must_use]
    pub const fn writable(self) -> bool {
        self.s() && self.0 & 0xa == 2
    }
    /// Segment that may be read: any data segment, or code with the R bit.
    #[must_use]
    pub const fn readable(self) -> bool {
        self.s() && (self.0 & 8 == 0 || self.0 & 2 != 0)
    }
    /// The same attributes with another DPL.
    #[must_use]
    pub const fn with_dpl(self, dpl: u8) -> SegAttr {
        SegAttr((self.0 & !0x60) | (((dpl & 3) as u16) << 5))
    }
}

/// A segment register: visible selector and hidden descriptor cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Segment {
    /// Segment base, bytes.
    pub base: u32,
    /// Last valid offset (for expand-down: last *invalid* one), bytes, granularity applied.
    pub limit: u32,
    /// Visible selector.
    pub selector: u16,
    /// Access rights. A segment loaded with a null selector has `present() == false`.
    pub attr: SegAttr,
}

impl Segment {
    /// A flat 4 GB segment.
    #[must_use]
    pub const fn flat(selector: u16, attr: SegAttr) -> Self {
        Segment { base: 0, limit: u32::MAX, selector, attr }
    }

    /// What loading a null selector leaves behind: every use faults.
    #[must_use]
    pub const fn null(selector: u16) -> Self {
        Segment { base: 0, limit: 0, selector, attr: SegAttr(0) }
    }

    /// Real-mode or virtual-8086 segment: base is 16 times the selector, limit 64 KB.
    #[must_use]
    pub const fn real(selector: u16) -> Self {
        Segment { base: (selector as u32) << 4, limit: 0xffff, selector, attr: SegAttr(0x93) }
    }

    /// Decodes the 8-byte descriptor `raw` as loaded through `selector` (SDM vol. 3A, figure 3-8).
    #[must_use]
    pub const fn from_descriptor(selector: u16, raw: u64) -> Self {
        let base = ((raw >> 16) & 0xff_ffff) as u32 | ((raw >> 56) as u32) << 24;
        let limit = (raw & 0xffff) as u32 | ((raw >> 32) as u32 & 0xf_0000);
        let attr = ((raw >> 40) & 0xf0ff) as u16;
        let limit = if attr & 0x8000 != 0 { limit << 12 | 0xfff } else { limit };
        Segment { base, limit, selector, attr: SegAttr(attr) }
    }

    /// Are the `len` (at least 1) bytes at `offset` within the limit? Bytes that wrap at 4 GB never are.
    #[must_use]
    pub const fn contains(&self, offset: u32, len: u32) -> bool {
        let last = offset.wrapping_add(len - 1);
        if self.attr.expand_down() {
            let top = if self.attr.db() { u32::MAX } else { 0xffff };
            offset > self.limit && last <= top && last >= offset
        } else {
            last <= self.limit && last >= offset
        }
    }

    /// Base 0, limit 4 GB, not expand-down, present: an access through it needs no check beyond its type.
    #[must_use]
    pub const fn is_flat(&self) -> bool {
        self.base == 0 && self.limit == u32::MAX && self.attr.present() && !self.attr.expand_down()
    }
}
