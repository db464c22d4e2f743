//! Times the decoder on given text, so that a benchmark can say what a part of the engine costs without knowing it.

use std::time::{Duration, Instant};
use xlat86_arch::{CpuModel, Mode};
use xlat86_decoder::{Block, BlockEnd, decode_block_into};

/// What decoding took.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    /// Guest bytes decoded.
    pub bytes: usize,
    /// Guest instructions in them.
    pub insns: usize,
    /// How long it took.
    pub time: Duration,
}

/// Decodes `text`, which stands at `base`, block after block as it lies.
#[must_use]
pub fn decode(text: &[u8], base: u32) -> Decoded {
    let start = Instant::now();
    let (mut block, mut pos, mut insns) = (Block::default(), 0, 0);
    while pos < text.len() {
        let eip = base.wrapping_add(pos as u32);
        let page_left = 4096 - (eip as usize & 4095);
        let bytes = &text[pos..text.len().min(pos + page_left + 14)];
        decode_block_into(&mut block, bytes, eip, page_left, Mode::USER32, CpuModel::MAX.features, 64);
        if block.end == BlockEnd::Truncated {
            break;
        }
        insns += block.insns.len();
        pos += block.len as usize;
    }
    Decoded { bytes: pos, insns, time: start.elapsed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_text_is_decoded() {
        // nop; ret; an instruction that the text's end cuts short
        let d = decode(&[0x90, 0xc3, 0xb8, 1], 0x1ffe);
        assert_eq!((d.bytes, d.insns), (2, 2));
        assert_eq!(decode(&[], 0).insns, 0);
    }
}
