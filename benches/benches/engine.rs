//! What the engine's paths cost around and between translations: entering and leaving, dispatching, calling out, chained jumps, indirect jumps, calls and
//! returns, instructions left to the interpreter, faults. Each sample runs a small guest loop to its end; throughput is
//! in turns of the loop, so that a figure is the time of one.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::sync::Arc;
use xlat86_arch::{Gva, Reg, Vector};
use xlat86_softmmu::{FlatSpace, Prot};
use xlat86_vcpu::{Config, Exit, Process, Vcpu};

const CODE: u32 = 0x0100_0000;
const DATA: u32 = 0x0200_0000;
const STACK_TOP: u32 = DATA + 0x8000;
/// Turns in one sample; the guest counts them down in ECX.
const TURNS: u32 = 10_000;

/// A CPU at the beginning of `code`.
fn guest(code: &[u8], change: fn(&mut Config)) -> Vcpu {
    let window = xlat86_host::scratch_low(&[CODE..CODE + 0x4000, DATA..DATA + 0x10000]).expect("the low 4 GB are free");
    let space = Arc::new(FlatSpace::new(window));
    let rw = Prot { mapped: true, read: true, write: true, ..Prot::default() };
    space.set_prot(Gva(CODE), 0x4000, Prot { exec: true, ..rw });
    space.set_prot(Gva(DATA), 0x10000, rw);
    window.write_bytes(CODE, code).expect("the code fits");
    let mut config = Config::default();
    change(&mut config);
    let process = Process::new(space, config).expect("the host lets us translate");
    process.call_out_at(Gva(CODE), 0x4000);
    Vcpu::new(&process).expect("the host lets us run")
}

/// `dec ecx; jnz CODE; int 0x80` behind `body`, which stands at [`CODE`].
fn turns(body: &[u8]) -> Vec<u8> {
    let mut code = body.to_vec();
    code.extend([0x49, 0x0f, 0x85]);
    let back = -(code.len() as i32 + 4);
    code.extend(back.to_le_bytes());
    code.extend([0xcd, 0x80]);
    code
}

/// Runs to the system call at the end.
fn run(cpu: &mut Vcpu) {
    let state = cpu.state_mut();
    state.eip = CODE;
    state.set_reg(Reg::Ecx, TURNS);
    state.set_reg(Reg::Esp, STACK_TOP);
    assert_eq!(cpu.run(), Exit::SoftInt(0x80));
}

fn by_default(_: &mut Config) {}

/// Jumps from one translation to another go through the dispatcher.
fn unchained(config: &mut Config) {
    config.translator.chaining = false;
}

/// System calls with an odd EAX are done without leaving.
fn calling_out(config: &mut Config) {
    config.call_out = Some(|gpr, _| gpr[Reg::Eax as usize] & 1 != 0);
}

/// Name, settings, and the body of a loop.
type Loop = (&'static str, fn(&mut Config), &'static [u8]);

const LOOPS: &[Loop] = &[
    // add eax, ecx
    ("loop in one translation", by_default, &[0x01, 0xc8]),
    // jmp 1f; nops; 1: jmp 2f; nops; 2:, three translations that jump to each other
    ("chained loop of three", by_default, &[0xeb, 2, 0x90, 0x90, 0xeb, 2, 0x90, 0x90]),
    // the same
    ("dispatched loop of three", unchained, &[0xeb, 2, 0x90, 0x90, 0xeb, 2, 0x90, 0x90]),
    // call f; jmp 1f; f: ret; 1:
    ("call and return", by_default, &[0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3]),
    // mov eax, offset 1f; jmp eax; nop; 1:
    ("indirect jump", by_default, &[0xb8, 8, 0, 0, 1, 0xff, 0xe0, 0x90]),
    // xor eax, eax; lsl edx, eax: sensitive, and left to the interpreter
    ("leave, interpret, re-enter", by_default, &[0x31, 0xc0, 0x0f, 0x03, 0xd0]),
    // mov eax, 1; int 0x80; mov al, 0
    ("call out", calling_out, &[0xb8, 1, 0, 0, 0, 0xcd, 0x80, 0xb0, 0]),
];

fn loops(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(u64::from(TURNS)));
    for (name, change, body) in LOOPS {
        let mut cpu = guest(&turns(body), *change);
        run(&mut cpu);
        group.bench_function(*name, |b| b.iter(|| run(&mut cpu)));
    }
    group.finish();
}

fn exits(c: &mut Criterion) {
    let mut group = c.benchmark_group("exit");
    group.throughput(Throughput::Elements(1));
    // int 0x80, at once: dispatch, enter, leave.
    let mut cpu = guest(&[0xcd, 0x80], by_default);
    group.bench_function("system call", |b| {
        b.iter(|| {
            cpu.state_mut().eip = CODE;
            assert_eq!(cpu.run(), Exit::SoftInt(0x80));
        });
    });
    // mov eax, [0]: the host's signal, the search for the guest instruction, the interpreter's verdict.
    let mut cpu = guest(&[0xa1, 0, 0, 0, 0], by_default);
    group.bench_function("fault", |b| {
        b.iter(|| {
            cpu.state_mut().eip = CODE;
            assert!(matches!(cpu.run(), Exit::Fault(f) if f.vector == Vector::PF));
        });
    });
    // mov byte [1f + 1], cl; 1: mov al, imm8; int 0x80: the page is unprotected, its translations dropped and made anew.
    let mut code = vec![0x88, 0x0d, 0, 0, 0, 0, 0xb0, 1, 0xcd, 0x80];
    code[2..6].copy_from_slice(&(CODE + 7).to_le_bytes());
    let mut cpu = guest(&code, by_default);
    group.bench_function("code changed", |b| {
        b.iter(|| {
            cpu.state_mut().eip = CODE;
            assert_eq!(cpu.run(), Exit::SoftInt(0x80));
        });
    });
    group.finish();
}

criterion_group!(benches, loops, exits);
criterion_main!(benches);
