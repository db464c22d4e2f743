//! Lockstep finds translations that are wrong: here made so on purpose.

use crate::{Config, Engine, Exit, Io, Process, Vcpu};
use std::sync::Arc;
use xlat86_arch::{Gva, Mode, Reg, Seg, SegAttr, Segment, cr0, cr4, eflags};
use xlat86_softmmu::{FlatSpace, PhysMemory, Prot};
use xlat86_translator::CodeKey;

const CODE: u32 = 0x0100_0000;
const DATA: u32 = 0x0100_4000;

/// mov eax,1; mov [DATA],eax; add dword [DATA],2; jmp 1f; 1: jmp CODE
fn guest() -> Vec<u8> {
    let mut code = vec![0xb8, 1, 0, 0, 0, 0xa3];
    code.extend(DATA.to_le_bytes());
    code.extend([0x83, 0x05]);
    code.extend(DATA.to_le_bytes());
    code.extend([2, 0xeb, 0, 0xeb, 0xeb]);
    code
}

struct NoPorts;

impl Io for NoPorts {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        0
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
}

fn config() -> Config {
    Config { engine: Engine::Lockstep, ..Config::default() }
}

/// A system at CPL 0 in flat 32-bit protected mode, paging off.
fn system() -> Vcpu {
    system_with(&guest())
}

fn system_with(code: &[u8]) -> Vcpu {
    let memory = PhysMemory::new(32 << 20).unwrap();
    memory.write(CODE.into(), code).unwrap();
    let process = Process::system(memory, config()).unwrap();
    let mut cpu = Vcpu::system(&process, Box::new(NoPorts)).unwrap();
    let s = cpu.state_mut();
    s.cr0 |= cr0::PE;
    for seg in [Seg::Es, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
        s.seg[seg as usize] = Segment::flat(0x10, SegAttr::DATA32);
    }
    s.seg[Seg::Cs as usize] = Segment::flat(8, SegAttr::CODE32);
    s.eip = CODE;
    cpu
}

/// A program.
fn program() -> Vcpu {
    let window = xlat86_host::scratch_low(&[CODE..CODE + 0x8000]).unwrap();
    let space = Arc::new(FlatSpace::new(window));
    let prot = Prot { mapped: true, read: true, write: true, ..Prot::default() };
    space.set_prot(Gva(CODE), 0x1000, Prot { exec: true, ..prot });
    space.set_prot(Gva(DATA), 0x1000, prot);
    window.write_bytes(CODE, &guest()).unwrap();
    let process = Process::new(space, config()).unwrap();
    let mut cpu = Vcpu::new(&process).unwrap();
    cpu.state_mut().eip = CODE;
    cpu
}

/// One block; the guest has no end.
fn block(cpu: &mut Vcpu) -> Option<Exit> {
    if cpu.system.is_none() {
        return cpu.lockstep_block();
    }
    let mode = cpu.translatable_mode().unwrap();
    let offset = cpu.system_code(mode, None).unwrap();
    cpu.lockstep_system(mode, offset, None).err().map(Exit::Diverged)
}

fn key(cpu: &mut Vcpu) -> CodeKey {
    match cpu.system.is_some() {
        true => CodeKey::new(CODE, CODE >> 12, cpu.translatable_mode().unwrap()),
        false => CodeKey::flat(CODE, Mode::USER32),
    }
}

/// Replaces the little-endian `old` in the first block's host code by `new`.
fn patch(cpu: &mut Vcpu, old: &[u8], new: [u8; 4]) {
    let key = key(cpu);
    let mut cache = cpu.process.cache();
    let offset = cache.lookup(key).unwrap();
    let code = cache.block_at(key, offset).unwrap().code;
    drop(cache);
    let arena = cpu.arena.clone().unwrap();
    let bytes = arena.read(code.start as usize, code.len());
    let at = bytes.windows(old.len()).position(|w| w == old).unwrap() + code.start as usize;
    // Byte by byte: nobody is executing it.
    for (i, b) in new.into_iter().take(old.len()).enumerate() {
        let cell = (at + i) & !3;
        let mut word: [u8; 4] = arena.read(cell, 4).try_into().unwrap();
        word[(at + i) % 4] = b;
        arena.patch(cell, u32::from_le_bytes(word));
    }
}

fn both(test: impl Fn(&mut Vcpu)) {
    test(&mut system());
    let mut cpu = program();
    test(&mut cpu);
}

fn diverges(cpu: &mut Vcpu, what: &[&str]) {
    let Some(Exit::Diverged(text)) = block(cpu) else { panic!("not found: {what:?}") };
    for w in what {
        assert!(text.contains(w), "{w} isn't in\n{text}");
    }
}

/// One test, since the low 4 GB are the process's only ones.
#[test]
fn wrong_translations_are_found() {
    // Nothing wrong: three runs are compared, in which nine instructions are executed.
    both(|cpu| {
        for eip in [CODE + 19, CODE, CODE + 19] {
            assert_eq!(block(cpu), None);
            assert_eq!(cpu.state.eip, eip);
        }
        assert_eq!((cpu.stats.lockstep_blocks, cpu.stats.lockstep_insns), (3, 9));
    });
    // mov eax,1 becomes mov eax,5: a register and a byte of memory.
    both(|cpu| {
        assert_eq!((block(cpu), block(cpu)), (None, None));
        patch(cpu, &[0xb8, 1, 0, 0, 0], [0xb8, 5, 0, 0]);
        diverges(
            cpu,
            &["eax      interpreter 1, translated 5", "interpreter 03000000, translated 07000000", "mov $1,%eax"],
        );
    });
}

#[test]
fn flags_and_system_state_count() {
    let mut cpu = system();
    assert_eq!(block(&mut cpu), None);
    let mut changed = cpu.state.clone();
    changed.idtr.limit ^= 1;
    assert!(!super::same(&cpu.state, &changed, false));
    changed = cpu.state.clone();
    changed.eflags ^= eflags::IF;
    assert!(!super::same(&cpu.state, &changed, false));
    changed = cpu.state.clone();
    changed.seg[Seg::Gs as usize].limit ^= 1;
    assert!(!super::same(&cpu.state, &changed, false));
    changed = cpu.state.clone();
    changed.fx.st[0][9] ^= 1;
    assert!(super::same(&cpu.state, &changed, false) && !super::same(&cpu.state, &changed, true));
    assert_eq!(cpu.state.reg(Reg::Eax), 1);
}

/// A read-modify-write is one access: where only reading is permitted it faults without setting bit A, on both engines.
#[test]
fn a_forbidden_update_leaves_no_trace() {
    const DIRECTORY: u64 = 0x2000;
    const READ_ONLY: u32 = 0x0140_0000;
    // add dword [READ_ONLY],1
    let code = [&[0x83, 0x05][..], &READ_ONLY.to_le_bytes(), &[1]].concat();
    let mut cpu = system_with(&code);
    let memory = cpu.process.physical().unwrap().clone();
    let entry = |page: u32| DIRECTORY + u64::from(page >> 22) * 4;
    // Large pages: the code's with P, RW, A, D; the other one's with P.
    memory.write(entry(CODE), &(CODE | 0xe3).to_le_bytes()).unwrap();
    memory.write(entry(READ_ONLY), &(READ_ONLY | 0x81).to_le_bytes()).unwrap();
    cpu.state.cr3 = DIRECTORY as u32;
    cpu.state.cr4 |= cr4::PSE;
    cpu.state.cr0 |= cr0::PG | cr0::WP;
    assert_eq!(block(&mut cpu), None);
    assert_eq!((cpu.state.eip, cpu.stats.lockstep_blocks), (CODE, 1));
    let mut now = [0; 4];
    memory.read(entry(READ_ONLY), &mut now).unwrap();
    assert_eq!(u32::from_le_bytes(now), READ_ONLY | 0x81);
}

/// Runs until EIP is `eip`.
fn until(cpu: &mut Vcpu, eip: u32) {
    for _ in 0..32 {
        assert_eq!(block(cpu), None);
        if cpu.state.eip == eip {
            return;
        }
    }
    panic!("got to {:x} instead of {eip:x}", cpu.state.eip);
}

/// What only whole units have is executed, and compared: a return to its landing, a function executed in place, instructions behind a jump that isn't
/// taken.
#[test]
fn whole_units_are_followed() {
    #[rustfmt::skip]
    let code = [
        0xe8, 0x16, 0, 0, 0,                // call f (+1b)
        0x85, 0xdb,                         // test ebx, ebx
        0x74, 0x02,                         // jz +2: ebx is never 0
        0xb1, 7,                            // mov cl, 7
        0xe8, 0x0e, 0, 0, 0,                // call thunk (+1e)
        0x42,                               // inc edx
        0xeb, 0xed,                         // jmp start
        0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
        0x43, 0xc3, 0x90,                   // f: inc ebx; ret
        0x8b, 0x04, 0x24, 0xc3,             // thunk: mov eax, [esp]; ret
    ];
    let mut cpu = system_with(&code);
    cpu.state.set_reg(Reg::Esp, DATA);
    cpu.state.set_reg(Reg::Ebx, 1);
    until(&mut cpu, CODE + 0x1b);
    let blocks = cpu.stats.lockstep_blocks;
    until(&mut cpu, CODE);
    assert_eq!(cpu.stats.lockstep_blocks - blocks, 1, "from the function through the landing to the jump back");
    assert_eq!((cpu.state.reg(Reg::Ecx), cpu.state.reg(Reg::Eax)), (7, CODE + 0x10));
    assert_eq!(cpu.stats.lockstep_insns, 1 + 2 + 2 + 2 + 2 + 2);
    // A return elsewhere.
    until(&mut cpu, CODE + 0x1b);
    let esp = cpu.state.reg(Reg::Esp);
    cpu.process.physical().unwrap().write(esp.into(), &CODE.to_le_bytes()).unwrap();
    until(&mut cpu, CODE);
    assert_eq!(cpu.state.reg(Reg::Esp), DATA);
    // What is wrong behind the landing is found.
    until(&mut cpu, CODE + 0x1b);
    patch(&mut cpu, &[0xb1, 7], [0xb1, 9, 0, 0]);
    diverges(&mut cpu, &["ecx      interpreter 7, translated 9"]);
}

/// Flags that the manual leaves undefined don't get from one instruction to another in a run of code: the host's are its own.
#[test]
fn undefined_flags_stay_where_they_are() {
    // shl ecx, 5; pushf; pop edx; jmp back
    let mut cpu = system_with(&[0xc1, 0xe1, 5, 0x9c, 0x5a, 0xeb, 0xf9]);
    cpu.state.set_reg(Reg::Esp, DATA);
    for eip in [CODE + 3, CODE, CODE + 3, CODE] {
        assert_eq!(block(&mut cpu), None);
        assert_eq!(cpu.state.eip, eip);
    }
    assert_eq!(cpu.stats.lockstep_insns, 2 * 4);
}
