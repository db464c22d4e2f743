//! Decoding all of libc's text, block after block: bytes per second.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use xlat86_arch::{CpuModel, Mode};
use xlat86_decoder::{Block, BlockEnd, decode_block_into};

/// Blocks are decoded as they lie; a block that a page's end cuts short is followed by the one that crosses.
fn sweep(text: &[u8], base: u32) -> usize {
    let (mut block, mut pos, mut insns) = (Block::default(), 0, 0);
    while pos < text.len() {
        let eip = base.wrapping_add(pos as u32);
        let page_left = 4096 - (eip as usize & 4095);
        let bytes = &text[pos..text.len().min(pos + page_left + 14)];
        decode_block_into(&mut block, bytes, eip, page_left, Mode::USER32, CpuModel::MAX.features, 64);
        if block.end == BlockEnd::Truncated {
            break;
        }
        insns += black_box(&block).insns.len();
        pos += block.len as usize;
    }
    insns
}

fn decode(c: &mut Criterion) {
    let (text, base) = xlat86_benches::libc_text();
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Bytes(text.len() as u64)).sample_size(20);
    group.bench_function("libc", |b| b.iter(|| sweep(black_box(&text), base)));
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
