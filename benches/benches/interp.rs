//! The interpreter on a branchy integer loop: guest instructions per second.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use xlat86_arch::{CpuModel, CpuState, Gva, Reg, cr4};
use xlat86_host::{TlbMemory, scratch_window};
use xlat86_interp::{Detached, Interp, Stop};
use xlat86_softmmu::{FlatSpace, Mmu, PhysMemory, Prot};

const CODE: u32 = 0x1000_0000;

/// Collatz steps of 27, over and over, each value stored and read back through a called function:
/// a branch that can't be predicted by its last outcome, a call and a return, memory in each turn.
#[rustfmt::skip]
const COLLATZ: &[u8] = &[
    0xb8, 27, 0, 0, 0,                  // start: mov eax, 27
    0xe8, 0x12, 0, 0, 0,                // next: call store
    0xa8, 1,                            // test al, 1
    0x74, 0x09,                         // jz even
    0x8d, 0x44, 0x40, 1,                // lea eax, [eax + eax*2 + 1]
    0x83, 0xf8, 1,                      // cmp eax, 1
    0x75, 0xee,                         // jne next
    0xd1, 0xe8,                         // even: shr eax, 1
    0x83, 0xf8, 1,                      // cmp eax, 1
    // store follows
    0x75, 0x00,
];

fn program() -> Vec<u8> {
    let mut p = COLLATZ.to_vec();
    let fix = p.len();
    // jne next; jmp start; store: mov [esi + 8], eax; mov edx, [esi + 8]; add ebx, edx; ret
    p[fix - 1] = (5i32 - fix as i32) as u8;
    p.extend([0xeb, (0i32 - (fix as i32 + 2)) as u8]);
    let store = p.len();
    p[6] = (store as i32 - 10) as u8;
    p.extend([0x89, 0x46, 8, 0x8b, 0x56, 8, 0x01, 0xd3, 0xc3]);
    p
}

const INSNS: u64 = 1_000_000;

fn bench(c: &mut Criterion, name: &str, mut mmu: Mmu, mut cpu: CpuState) {
    cpu.eip = CODE;
    cpu.set_reg(Reg::Esp, CODE + 0x2000);
    cpu.set_reg(Reg::Esi, CODE + 0x1000);
    let mut interp = Interp::new(CpuModel::MAX);
    let interrupt = AtomicBool::new(false);

    let mut group = c.benchmark_group("interp");
    group.throughput(Throughput::Elements(INSNS)).sample_size(20);
    group.bench_function(name, |b| {
        b.iter(|| assert_eq!(interp.run(&mut cpu, &mut mmu, &mut Detached::system(), &interrupt, INSNS), Stop::Budget));
    });
    group.finish();
}

/// A user program's memory.
fn flat(c: &mut Criterion) {
    let window = scratch_window(&[CODE..CODE + 0x2000]).unwrap();
    let space = Arc::new(FlatSpace::new(window));
    let rw = Prot { mapped: true, read: true, write: true, exec: false, shared: false };
    space.set_prot(Gva(CODE), 0x1000, Prot { exec: true, ..rw });
    space.set_prot(Gva(CODE + 0x1000), 0x1000, rw);
    window.write_bytes(CODE, &program()).unwrap();
    bench(c, "collatz", Mmu::flat(space), CpuState::linux_user());
}

/// A system's memory: user code behind page tables with two levels.
fn paged(c: &mut Criterion) {
    const DIRECTORY: u32 = 0x1000;
    const TABLE: u32 = 0x2000;
    const FRAMES: u32 = 0x3000;
    let memory = PhysMemory::new(1 << 20).unwrap();
    let entry =
        |table: u32, index: u32, to: u32| memory.write((table + 4 * index).into(), &(to | 7).to_le_bytes()).unwrap();
    entry(DIRECTORY, CODE >> 22, TABLE);
    for page in 0..2 {
        entry(TABLE, (CODE >> 12 & 0x3ff) + page, FRAMES + page * 0x1000);
    }
    memory.write(FRAMES.into(), &program()).unwrap();
    let mut cpu = CpuState::linux_user();
    cpu.cr4 &= !cr4::PAE;
    cpu.cr3 = DIRECTORY;
    bench(c, "collatz paged", Mmu::paged(memory, &TlbMemory::new().unwrap(), 36), cpu);
}

fn run(c: &mut Criterion) {
    flat(c);
    paged(c);
}

criterion_group!(benches, run);
criterion_main!(benches);
