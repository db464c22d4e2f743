//! A system's time stamp counter: what makes a kernel trust it.

use std::sync::Arc;
use xlat86_arch::{CpuModel, Reg};
use xlat86_softmmu::PhysMemory;
use xlat86_vcpu::{Config, Engine, Exit, Io, Process, Vcpu};

const HZ: u64 = 2_600_000_000;

struct Ports;

impl Io for Ports {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        0
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn tsc_hz(&self) -> Option<u64> {
        Some(HZ)
    }
}

/// Runs `code` from the reset vector up to HLT.
fn run(code: &[u8], model: &'static CpuModel) -> Vcpu {
    let mut rom = vec![0xf4; 0x1000];
    rom[..code.len()].copy_from_slice(code);
    // jmp to the start of the image
    rom[0xff0..0xff3].copy_from_slice(&[0xe9, 0x0d, 0xf0]);
    let memory = PhysMemory::new(1 << 20).unwrap();
    memory.map_rom((1 << 32) - rom.len() as u64, rom);
    let config = Config { engine: Engine::Interp, model, ..Config::default() };
    let process: Arc<Process> = Process::system(memory, config).unwrap();
    let mut cpu = Vcpu::system(&process, Box::new(Ports)).unwrap();
    assert_eq!(cpu.run(), Exit::Halt, "{:x?}", cpu.state());
    cpu
}

/// EAX, EBX, ECX, EDX of CPUID.
fn cpuid(leaf: u32, model: &'static CpuModel) -> [u32; 4] {
    // mov eax, leaf; xor ecx, ecx; cpuid
    let code = [&[0x66, 0xb8][..], &leaf.to_le_bytes(), &[0x66, 0x31, 0xc9, 0x0f, 0xa2]].concat();
    let cpu = run(&code, model);
    [Reg::Eax, Reg::Ebx, Reg::Ecx, Reg::Edx].map(|r| cpu.state().reg(r))
}

#[test]
fn the_counter_has_a_known_rate_and_is_invariant() {
    let [a, b, c, _] = cpuid(0x15, CpuModel::MAX);
    assert_eq!(u64::from(c) * u64::from(b) / u64::from(a), HZ);
    assert_eq!(cpuid(7, CpuModel::MAX)[1] & 2, 2, "TSC_ADJUST");
    assert_eq!(cpuid(0x8000_0007, CpuModel::MAX)[3] & 0x100, 0x100, "invariant");
    let old = CpuModel::by_name("pentium").unwrap();
    assert_ne!(cpuid(0, old)[0], 0x15);
}

#[test]
fn the_counter_can_be_adjusted() {
    // mov ecx, 0x3b; rdmsr; mov esi, eax; mov edx, 0x7fff; mov eax, 5; wrmsr; rdmsr; mov edi, edx; mov ebp, eax; rdtsc
    let code = [
        0x66, 0xb9, 0x3b, 0, 0, 0, 0x0f, 0x32, 0x66, 0x89, 0xc6, 0x66, 0xba, 0xff, 0x7f, 0, 0, 0x66, 0xb8, 5, 0, 0, 0,
        0x0f, 0x30, 0x0f, 0x32, 0x66, 0x89, 0xd7, 0x66, 0x89, 0xc5, 0x0f, 0x31,
    ];
    let cpu = run(&code, CpuModel::MAX);
    let reg = |r| cpu.state().reg(r);
    assert_eq!((reg(Reg::Esi), reg(Reg::Edi), reg(Reg::Ebp)), (0, 0x7fff, 5));
    assert!((0x7fff..0xffff).contains(&reg(Reg::Edx)), "{:x}", reg(Reg::Edx));
}
