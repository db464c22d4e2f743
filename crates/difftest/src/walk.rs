//! Walks through the space of instruction encodings: at random, with the bytes that make a difference more frequent, and by tunnelling.
//!
//! Tunnelling counts up an instruction's last byte; where its length changes, the count goes on at its new end, and a byte that has come
//! round hands over to the one before. So what only pads an instruction is passed quickly, and what shapes it is enumerated.

use crate::length::is_prefix;
use crate::rng::Rng;

/// Bytes of one candidate: longer than any instruction.
pub type Candidate = [u8; 16];

/// An endless sequence of candidates.
pub struct Walk {
    rng: Rng,
    tunnel: Candidate,
    /// The byte being counted.
    digit: usize,
    len: usize,
    /// The latest candidate was the tunnel's.
    tunnelling: bool,
}

const PREFIXES: [u8; 8] = [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x36];

impl Walk {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Walk {
        let mut walk = Walk { rng: Rng::new(seed), tunnel: [0; 16], digit: 0, len: 0, tunnelling: false };
        walk.begin();
        walk
    }

    /// A tunnel's new entrance, behind random prefixes.
    fn begin(&mut self) {
        self.tunnel = [0; 16];
        let n = self.rng.below(4) as usize;
        for b in &mut self.tunnel[..n] {
            *b = self.rng.pick(&PREFIXES);
        }
        self.tunnel[n] = self.rng.next() as u8;
        self.tunnel[n + 1] = self.rng.next() as u8;
        (self.digit, self.len) = (n + 1, 0);
    }

    /// The next candidate. [`Walk::seen`] is to follow.
    pub fn next_bytes(&mut self) -> Candidate {
        self.tunnelling = !self.tunnelling;
        if self.tunnelling {
            return self.tunnel;
        }
        let (mut bytes, rng) = ([0; 16], &mut self.rng);
        let (a, b) = (rng.next(), rng.next());
        bytes[..8].copy_from_slice(&a.to_le_bytes());
        bytes[8..].copy_from_slice(&b.to_le_bytes());
        let mut at = 0;
        while rng.one_in(2) && at < 14 {
            bytes[at] = rng.pick(&PREFIXES);
            at += 1;
        }
        let map: &[u8] = rng.pick(&[&[][..], &[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]]);
        let end = (at + map.len()).min(16);
        bytes[at..end].copy_from_slice(&map[..end - at]);
        bytes
    }

    /// The latest candidate is an instruction of `len` bytes.
    pub fn seen(&mut self, len: usize) {
        if !self.tunnelling {
            return;
        }
        let len = len.min(15);
        if len != self.len {
            (self.len, self.digit) = (len, len.max(1) - 1);
        }
        let opcode = self.tunnel.iter().take_while(|&&b| is_prefix(b)).count();
        loop {
            self.tunnel[self.digit] = self.tunnel[self.digit].wrapping_add(1);
            if self.tunnel[self.digit] != 0 {
                return;
            }
            if self.digit <= opcode {
                return self.begin();
            }
            self.digit -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_counts_the_last_byte() {
        let mut walk = Walk::new(5);
        let mut tails = std::collections::BTreeSet::new();
        let first = walk.next_bytes();
        for _ in 0..600 {
            let bytes = walk.next_bytes();
            walk.seen(6);
            if walk.tunnelling && bytes[..5] == first[..5] {
                tails.insert(bytes[5]);
            }
        }
        assert_eq!(tails.len(), 256);
    }
}
