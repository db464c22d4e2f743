//! Translating all of libc's text, unit after unit: guest instructions per second. Prints the code expansion first.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use xlat86_arch::{CpuModel, Mode};
use xlat86_translator::{Config, Source, Unit, translate};

/// A program's text.
struct Text<'a>(&'a [u8], u32);

impl Source for Text<'_> {
    fn peek(&mut self, eip: u32, to: &mut [u8]) -> usize {
        let at = eip.wrapping_sub(self.1) as usize;
        let in_page = 4096 - (eip as usize & 4095);
        let Some(rest) = self.0.get(at..) else { return 0 };
        let n = rest.len().min(to.len()).min(in_page);
        to[..n].copy_from_slice(&rest[..n]);
        n
    }
    fn depend(&mut self, _eip: u32) {}
    fn known(&self, _eip: u32) -> bool {
        false
    }
    fn is_volatile(&self, _eip: u32) -> bool {
        false
    }
}

/// Gives guest instructions, guest bytes and host bytes.
fn sweep(text: &[u8], base: u32, mut each: impl FnMut(&Unit)) -> (u64, u64, u64) {
    let config = Config::default();
    let mut source = Text(text, base);
    let (mut eip, mut sum) = (base, (0, 0, 0));
    while (eip.wrapping_sub(base) as usize) < text.len() {
        match translate(eip, Mode::USER32, CpuModel::MAX.features, &config, &mut source) {
            Some(u) => {
                each(&u);
                sum.0 += u64::from(u.insns);
                sum.1 += u64::from(u.len);
                sum.2 += u.code.len() as u64;
                eip = eip.wrapping_add(u.len);
                u.recycle();
            }
            None => break,
        }
    }
    sum
}

fn bench(c: &mut Criterion) {
    let (text, base) = xlat86_benches::libc_text();
    let (insns, guest, host) = sweep(&text, base, |_| {});
    println!("code expansion: {:.2} host bytes per guest byte", host as f64 / guest as f64);
    let mut group = c.benchmark_group("translate");
    group.throughput(Throughput::Elements(insns)).sample_size(20);
    group.bench_function("libc", |b| b.iter(|| sweep(&text, base, |u| _ = black_box(u))));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
