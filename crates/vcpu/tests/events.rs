//! When a system's CPU attends to what comes up from outside.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use xlat86_arch::{Reg, Seg, SegAttr, Segment, cr0, cr4};
use xlat86_softmmu::PhysMemory;
use xlat86_vcpu::{Config, Engine, Exit, Io, Kicker, Process, Vcpu};

const CODE: u32 = 0x0100_0000;
const DATA: u32 = 0x0100_4000;
const DIRECTORY: u32 = 0x0100_8000;

/// Ports of which each write kicks the CPU.
#[derive(Default)]
struct Ports(Arc<OnceLock<Kicker>>);

impl Io for Ports {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        0
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {
        self.0.get().expect("it runs").kick();
    }
}

/// A system at CPL 0 in flat 32-bit protected mode, paging on, all of memory where it is.
fn system(engine: Engine, code: &[u8]) -> Vcpu {
    let memory = PhysMemory::new(32 << 20).unwrap();
    memory.write(CODE.into(), code).unwrap();
    for i in 0..8u32 {
        memory.write((DIRECTORY + 4 * i).into(), &(i << 22 | 0x83).to_le_bytes()).unwrap();
    }
    let process = Process::system(memory, Config { engine, ..Config::default() }).unwrap();
    let ports = Ports::default();
    let kicker = ports.0.clone();
    let mut cpu = Vcpu::system(&process, Box::new(ports)).unwrap();
    kicker.set(cpu.kicker()).unwrap();
    let s = cpu.state_mut();
    (s.cr0, s.cr3, s.cr4) = (s.cr0 | cr0::PE | cr0::PG, DIRECTORY, cr4::PSE);
    for seg in [Seg::Es, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
        s.seg[seg as usize] = Segment::flat(0x10, SegAttr::DATA32);
    }
    s.seg[Seg::Cs as usize] = Segment::flat(8, SegAttr::CODE32);
    s.eip = CODE;
    cpu
}

#[test]
fn a_repeated_instruction_is_interrupted() {
    for engine in [Engine::Interp, Engine::Dbt, Engine::Lockstep] {
        // rep outsb; hlt
        let mut cpu = system(engine, &[0xf3, 0x6e, 0xf4]);
        cpu.state_mut().set_reg(Reg::Esi, DATA);
        cpu.state_mut().set_reg(Reg::Ecx, 0x8000);
        assert_eq!(cpu.run(), Exit::Interrupted, "{engine:?}");
        let left = cpu.state().reg(Reg::Ecx);
        assert!(0 < left && left < 0x8000, "{engine:?}: {left:#x}");
        assert_eq!((cpu.state().eip, cpu.state().reg(Reg::Esi)), (CODE, DATA + 0x8000 - left), "{engine:?}");
    }
}

/// STI holds interrupts off until the next instruction has completed, also if that one's look-up has to leave first.
#[test]
fn the_shadow_of_sti_survives_a_look_up() {
    // 1: cli; invlpg [DATA]; sti; mov eax,[DATA]; jmp 1b
    let data = DATA.to_le_bytes();
    let code = [&[0xfa, 0x0f, 0x01, 0x3d][..], &data, &[0xfb, 0xa1], &data, &[0xeb, 0xf0]].concat();
    let mut cpu = system(Engine::Dbt, &code);
    let after_sti = CODE + 9;
    let kicker = cpu.kicker();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            kicker.kick();
            std::thread::sleep(Duration::from_micros(20));
        }
    });
    let (started, mut seen, mut early) = (Instant::now(), 0, 0);
    while seen < 20 && started.elapsed() < Duration::from_secs(40) {
        assert_eq!(cpu.run(), Exit::Interrupted);
        if cpu.state().eip == after_sti {
            seen += 1;
            early += u32::from(cpu.interrupt_ready());
        }
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    assert!(seen > 0, "never stopped there: nothing was tested");
    assert_eq!(early, 0, "of {seen}");
}
