//! Data breakpoints: their pages aren't entered into TLBs, so that each access comes this way.

use super::Paged;
use xlat86_arch::Gva;

/// A data breakpoint.
#[derive(Clone, Copy)]
pub(super) struct Watchpoint {
    number: u32,
    start: u32,
    len: u32,
    /// Reads hit it too.
    reads: bool,
}

impl Paged {
    /// DR6 bits of the data breakpoints hit since the last call.
    pub(crate) fn take_hits(&mut self) -> u32 {
        core::mem::take(&mut self.hits)
    }

    pub(crate) fn was_hit(&self) -> bool {
        self.hits != 0
    }

    pub(super) fn watched(&self, addr: Gva) -> bool {
        self.watchpoints.iter().any(|w| Gva(w.start).page() == addr.page())
    }

    /// Notes which data breakpoints an access of `len` bytes at `addr` hits.
    pub(super) fn note_hits(&mut self, addr: Gva, len: u32, write: bool) {
        for w in &self.watchpoints {
            let apart = addr.0.wrapping_sub(w.start) >= w.len && w.start.wrapping_sub(addr.0) >= len;
            if !apart && (write || w.reads) {
                self.hits |= 1 << w.number;
            }
        }
    }
}

/// The data breakpoints that DR0 to DR3 and DR7 (`dr[4]`) set (SDM vol. 3B, 18.2.4 and 18.2.5).
pub(super) fn watchpoints(dr: [u32; 5]) -> Vec<Watchpoint> {
    let one = |n: u32| {
        let dr7 = dr[4];
        let (enabled, kind) = (dr7 >> (2 * n) & 3 != 0, dr7 >> (16 + 4 * n) & 3);
        let len = [1, 2, 8, 4][(dr7 >> (18 + 4 * n) & 3) as usize];
        let start = dr[n as usize] & !(len - 1);
        (enabled && kind & 1 != 0).then_some(Watchpoint { number: n, start, len, reads: kind == 3 })
    };
    (0..4).filter_map(one).collect()
}
