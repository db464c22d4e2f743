//! What identifies a piece of code.

use xlat86_arch::Mode;

/// What code is: its guest address, the physical page it was read from, and the mode it was translated for. In a guest without page
/// tables of its own pages are their own physical pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CodeKey(u64);

impl CodeKey {
    /// The code at `eip` on physical page number `page` (20 bits) under `mode`.
    #[must_use]
    pub fn new(eip: u32, page: u32, mode: Mode) -> Self {
        debug_assert!(page < 1 << 20 && mode.0 & (Mode::VM86 | Mode::TRAP) == 0);
        let mode = FOLDED.iter().fold(mode.0, |m, &(from, to)| if m & from != 0 { m & !from | to } else { m });
        CodeKey(u64::from(eip) | u64::from(page) << 32 | u64::from(mode) << 52)
    }

    /// The code at `eip` in a guest without page tables of its own.
    #[must_use]
    pub fn flat(eip: u32, mode: Mode) -> Self {
        Self::new(eip, eip >> 12, mode)
    }

    /// Guest address.
    #[must_use]
    pub const fn eip(self) -> u32 {
        self.0 as u32
    }

    /// Physical page number.
    #[must_use]
    pub const fn page(self) -> u32 {
        (self.0 >> 32) as u32 & 0xf_ffff
    }

    /// Mode.
    #[must_use]
    pub fn mode(self) -> Mode {
        let bits = (self.0 >> 52) as u16;
        Mode(FOLDED.iter().fold(bits, |m, &(from, to)| if m & to != 0 { m & !to | from } else { m }))
    }

    /// The same code, translated with each access checked by itself.
    #[must_use]
    pub(crate) const fn careful(self) -> Self {
        CodeKey(self.0 | (Mode::VM86 as u64) << 52)
    }

    /// The same code, translated in the ordinary way.
    #[must_use]
    pub(crate) const fn careless(self) -> Self {
        CodeKey(self.0 & !((Mode::VM86 as u64) << 52))
    }

    /// The code at `eip`, which is on the same page.
    #[must_use]
    pub(crate) const fn beside(self, eip: u32) -> Self {
        CodeKey(self.0 & !0xffff_ffff | eip as u64)
    }
}

/// A key has room for twelve mode bits. Code is never translated for virtual-8086 mode nor for single steps, so those bits stand for others.
const FOLDED: [(u16, u16); 2] = [(Mode::CAREFUL, Mode::VM86), (Mode::TSC_OFF, Mode::TRAP)];
