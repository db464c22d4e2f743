//! Small guest programs on both engines.

use std::sync::{Arc, Mutex, MutexGuard};
use xlat86_arch::{Gva, Reg, Vector, eflags};
use xlat86_host::signals;
use xlat86_softmmu::{FlatSpace, Prot};
use xlat86_vcpu::{Config, Engine, Exit, Process, Vcpu};

const CODE: u32 = 0x0100_0000;
const DATA: u32 = 0x0200_0000;
const STACK_TOP: u32 = DATA + 0x8000;

/// The low 4 GB are the process's only ones: one test at a time.
static LOW: Mutex<()> = Mutex::new(());

fn guest(engine: Engine, code: &[u8]) -> (Vcpu, MutexGuard<'static, ()>) {
    guest_with(Config { engine, ..Config::default() }, code)
}

fn guest_with(config: Config, code: &[u8]) -> (Vcpu, MutexGuard<'static, ()>) {
    let guard = LOW.lock().unwrap_or_else(|e| e.into_inner());
    let window = xlat86_host::scratch_low(&[CODE..CODE + 0x4000, DATA..DATA + 0x10000]).unwrap();
    let space = Arc::new(FlatSpace::new(window));
    let rw = Prot { mapped: true, read: true, write: true, ..Prot::default() };
    space.set_prot(Gva(CODE), 0x4000, Prot { exec: true, ..rw });
    space.set_prot(Gva(DATA), 0x10000, rw);
    window.write_bytes(CODE, code).unwrap();
    let process = Process::new(space, config).unwrap();
    let mut cpu = Vcpu::new(&process).unwrap();
    cpu.state_mut().eip = CODE;
    cpu.state_mut().set_reg(Reg::Esp, STACK_TOP);
    (cpu, guard)
}

fn both(code: &[u8], check: impl Fn(&mut Vcpu)) {
    for engine in [Engine::Interp, Engine::Dbt, Engine::Lockstep] {
        let (mut cpu, _guard) = guest(engine, code);
        check(&mut cpu);
    }
}

#[test]
fn a_loop_counts_and_exits() {
    // xor eax,eax; mov ecx,1000000; 1: add eax,ecx; dec ecx; jnz 1b; int 0x80
    let code = [0x31, 0xc0, 0xb9, 0x40, 0x42, 0x0f, 0, 0x01, 0xc8, 0x49, 0x75, 0xfb, 0xcd, 0x80];
    both(&code, |cpu| {
        assert_eq!(cpu.run(), Exit::SoftInt(0x80));
        assert_eq!(cpu.state().reg(Reg::Eax), (1..=1_000_000u32).fold(0, u32::wrapping_add));
        assert_eq!(cpu.state().eip, CODE + code.len() as u32);
        assert_eq!(cpu.state().eflags & eflags::STATUS, eflags::ZF | eflags::PF);
    });
}

#[test]
fn calls_and_returns_nest_deeper_than_the_return_stack() {
    // Recursion: f(n) = n == 0 ? 0 : f(n - 1) + 1, 5000 deep on an 32 KB guest stack.
    // mov ecx,5000; xor eax,eax; call f; int 0x80; f: jecxz 1f; dec ecx; call f; inc eax; 1: ret
    let code = [
        0xb9, 0x88, 0x13, 0, 0, 0x31, 0xc0, 0xe8, 2, 0, 0, 0, 0xcd, 0x80, 0xe3, 7, 0x49, 0xe8, 0xf8, 0xff, 0xff, 0xff,
        0x40, 0xc3,
    ];
    both(&code, |cpu| {
        assert_eq!(cpu.run(), Exit::SoftInt(0x80));
        assert_eq!(cpu.state().reg(Reg::Eax), 5000);
        assert_eq!(cpu.state().reg(Reg::Esp), STACK_TOP);
    });
}

#[test]
fn a_return_elsewhere_is_followed() {
    // call f; int3; f: mov eax,[esp]; add eax,1; mov [esp],eax; ret (to int 0x80 after the int3)
    let code = [0xe8, 3, 0, 0, 0, 0xcc, 0xcd, 0x80, 0x8b, 0x04, 0x24, 0x83, 0xc0, 1, 0x89, 0x04, 0x24, 0xc3];
    both(&code, |cpu| assert_eq!(cpu.run(), Exit::SoftInt(0x80)));
}

#[test]
fn a_fault_is_precise() {
    // mov eax,5; push dword [0]: the load faults with EAX set and ESP unchanged
    let code = [0xb8, 5, 0, 0, 0, 0xff, 0x35, 0, 0, 0, 0];
    both(&code, |cpu| {
        let Exit::Fault(f) = cpu.run() else { panic!() };
        assert_eq!((f.vector, f.addr, f.error), (Vector::PF, Gva(0), Some(4)));
        assert_eq!((cpu.state().eip, cpu.state().reg(Reg::Esp)), (CODE + 5, STACK_TOP));
        assert_eq!(cpu.last_host_fault().signal, 11);
    });
}

#[test]
fn code_may_change_its_next_instruction() {
    // mov byte [1f+1], 7; 1: mov al, 1 (becomes mov al, 7); int 0x80
    let mut code = vec![0xc6, 0x05, 0, 0, 0, 0, 7, 0xb0, 1, 0xcd, 0x80];
    code[2..6].copy_from_slice(&(CODE + 8).to_le_bytes());
    both(&code, |cpu| {
        assert_eq!(cpu.run(), Exit::SoftInt(0x80));
        assert_eq!(cpu.state().reg(Reg::Eax) & 0xff, 7);
    });
}

#[test]
fn indirect_jumps_find_their_target_again() {
    // mov ecx,1000; 1: mov eax,offset 2f; jmp eax; nop; 2: loop 1b; int 0x80
    let mut code = vec![0xb9, 0xe8, 3, 0, 0, 0xb8, 0, 0, 0, 0, 0xff, 0xe0, 0x90, 0xe2, 0xf6, 0xcd, 0x80];
    code[6..10].copy_from_slice(&(CODE + 13).to_le_bytes());
    both(&code, |cpu| {
        assert_eq!(cpu.run(), Exit::SoftInt(0x80));
        assert_eq!(cpu.state().reg(Reg::Ecx), 0);
        assert!(cpu.stats().leave_miss <= 1 || cpu.stats().lockstep_blocks > 0);
    });
}

#[test]
fn code_translated_before_obeys_tf_and_ac() {
    // pushf; or dword [esp],FLAG; popf; mov eax,[esp+1]; int 0x80: the instruction after POPF is translated already
    let code =
        |flag: [u8; 4]| [&[0x9c, 0x81, 0x0c, 0x24][..], &flag, &[0x9d, 0x8b, 0x44, 0x24, 1, 0xcd, 0x80]].concat();
    both(&code([0, 1, 0, 0]), |cpu| {
        let Exit::Fault(f) = cpu.run() else { panic!("TF traps") };
        assert_eq!((f.vector, cpu.state().eip), (Vector::DB, CODE + 13));
    });
    both(&code([0, 0, 4, 0]), |cpu| {
        let Exit::Fault(f) = cpu.run() else { panic!("AC faults") };
        assert_eq!((f.vector, cpu.state().eip), (Vector::AC, CODE + 9));
    });
}

/// Instructions that are left to the interpreter are kept by it, until they change.
#[test]
fn a_kept_instruction_is_dropped_when_it_changes() {
    // mov eax,0x23; mov ecx,2; 1: lsl ebx,eax (becomes lsl edx,eax); mov byte [1b + 2],0xd0; loop 1b; int 0x80
    let mut code = vec![0xb8, 0x23, 0, 0, 0, 0xb9, 2, 0, 0, 0, 0x0f, 0x03, 0xd8, 0xc6, 0x05];
    code.extend((CODE + 12).to_le_bytes());
    code.extend([0xd0, 0xe2, 0xf4, 0xcd, 0x80]);
    both(&code, |cpu| {
        assert_eq!(cpu.run(), Exit::SoftInt(0x80));
        assert_eq!((cpu.state().reg(Reg::Ebx), cpu.state().reg(Reg::Edx)), (u32::MAX, u32::MAX));
    });
}

/// What is kept is watched where it is, not where it would be in a segment without a base.
#[test]
fn an_instruction_in_a_segment_with_a_base_is_dropped_when_it_changes() {
    // The same, 2000h further on.
    let mut code = vec![0xb8, 0x23, 0, 0, 0, 0xb9, 2, 0, 0, 0, 0x0f, 0x03, 0xd8, 0xc6, 0x05];
    code.extend((CODE + 0x2000 + 12).to_le_bytes());
    code.extend([0xd0, 0xe2, 0xf4, 0xcd, 0x80]);
    both(&[0xcd, 0x80], |cpu| {
        assert_eq!(cpu.run(), Exit::SoftInt(0x80), "there is code on the first page");
        cpu.process().space().window().write_bytes(CODE + 0x2000, &code).unwrap();
        let state = cpu.state_mut();
        state.eip = CODE;
        state.seg[1].base = 0x2000;
        assert_eq!(cpu.run(), Exit::SoftInt(0x80));
        assert_eq!((cpu.state().reg(Reg::Ebx), cpu.state().reg(Reg::Edx)), (u32::MAX, u32::MAX));
    });
}

/// A code segment can be read through DS, not written.
#[test]
fn a_code_segment_as_ds_cannot_be_written() {
    // push cs; pop ds; mov eax,[DATA]; mov [DATA],eax; int 0x80
    let data = DATA.to_le_bytes();
    let code = [&[0x0e, 0x1f, 0xa1][..], &data, &[0xa3], &data, &[0xcd, 0x80]].concat();
    both(&code, |cpu| {
        let exit = cpu.run();
        assert!(matches!(exit, Exit::Fault(f) if f.vector == Vector::GP && f.error == Some(0)), "{exit:?}");
        assert_eq!(cpu.state().eip, CODE + 7);
    });
}

/// No instruction takes so long that whatever waits can't be attended to.
#[test]
fn a_repeated_instruction_is_interrupted_on_the_interpreter() {
    // rep lodsb
    both(&[0xf3, 0xac], |cpu| {
        cpu.state_mut().set_reg(Reg::Esi, DATA);
        cpu.state_mut().set_reg(Reg::Ecx, 0x8000);
        signals::kick_self();
        assert_eq!(cpu.single_step(), Some(Exit::Interrupted));
        let left = cpu.state().reg(Reg::Ecx);
        assert!(0 < left && left < 0x8000, "{left:#x}");
        assert_eq!((cpu.state().eip, cpu.state().reg(Reg::Esi)), (CODE, DATA + 0x8000 - left));
        signals::attended();
        assert_eq!(cpu.single_step(), None);
        assert_eq!((cpu.state().eip, cpu.state().reg(Reg::Ecx)), (CODE + 2, 0));
    });
}

/// More code than the cache holds, again and again: lockstep doesn't take one block's exit for that of another that was in its place.
#[test]
fn lockstep_survives_eviction() {
    // mov ecx,3; 1: pushf; pop eax; inc eax (up to three times); jmp 2f; 2: (and so on); dec ecx; jnz 1b; int 0x80
    let mut code = vec![0xb9, 3, 0, 0, 0];
    for i in 0..2800u32 {
        code.extend([0x9c, 0x58]);
        // So that exits are everywhere.
        code.resize(code.len() + (i.wrapping_mul(0x9e37_79b9) >> 30) as usize, 0x40);
        code.extend([0xeb, 0]);
    }
    code.extend([0x49, 0x0f, 0x85]);
    code.extend((5 - (code.len() as i32 + 4)).to_le_bytes());
    code.extend([0xcd, 0x80]);
    let mut config = Config { engine: Engine::Lockstep, ..Config::default() };
    config.translator.cache_size = 128 << 10;
    let (mut cpu, _guard) = guest_with(config, &code);
    assert_eq!(cpu.run(), Exit::SoftInt(0x80));
    assert_eq!(cpu.state().reg(Reg::Ecx), 0);
    assert!(cpu.process().stats().cache.evictions > 0);
}

/// The guest's MXCSR_MASK is FFFFh, whatever the host's.
#[test]
fn reserved_bits_of_mxcsr_fault() {
    // mov esp,DATA; ldmxcsr [esp]; ldmxcsr [esp+4]; int 0x80
    let code = [&[0xbc][..], &DATA.to_le_bytes(), &[0x0f, 0xae, 0x14, 0x24, 0x0f, 0xae, 0x54, 0x24, 4, 0xcd, 0x80]];
    for bit in [16, 17, 31] {
        both(&code.concat(), |cpu| {
            let window = cpu.process().space().window();
            window.write(DATA, 0xffbfu32).unwrap();
            window.write(DATA + 4, 0x1f80u32 | 1 << bit).unwrap();
            cpu.state_mut().set_reg(Reg::Ecx, 0x1234_5678);
            let exit = cpu.run();
            assert!(matches!(exit, Exit::Fault(f) if f.vector == Vector::GP && f.error == Some(0)), "{exit:?}");
            assert_eq!((cpu.state().eip, cpu.state().reg(Reg::Ecx)), (CODE + 9, 0x1234_5678));
            assert_eq!(cpu.fx().mxcsr, 0xffbf);
            window.write(DATA + 4, 0x1f80u32).unwrap();
            assert_eq!(cpu.run(), Exit::SoftInt(0x80));
            assert_eq!((cpu.fx().mxcsr, cpu.state().reg(Reg::Ecx)), (0x1f80, 0x1234_5678));
        });
    }
}

/// Code on a page that keeps changing checks itself; a thunk that it calls isn't folded, since the call may overwrite it.
#[test]
fn a_call_that_overwrites_its_thunk_is_exact_on_a_hot_page() {
    // mov ecx,9; 1: mov esp,thunk+5; mov dword [thunk],0xc324048b; call thunk: pushes over the thunk's second byte
    // thunk: mov eax,[esp]; ret -- becomes mov esp,[ebx+..] with the pushed address, which faults.
    let thunk = CODE + 0x40;
    let mut code = vec![0xb9, 9, 0, 0, 0];
    // 1: mov byte [2f + 1], cl; 2: mov al, imm8; loop 1b: heats the page.
    code.extend([0x88, 0x0d]);
    code.extend((CODE + 12).to_le_bytes());
    code.extend([0xb0, 0, 0xe2, 0xf6]);
    code.extend([0xbc]);
    code.extend((thunk + 5).to_le_bytes());
    code.push(0xe8);
    code.extend((0x40 - (code.len() as u32 + 4)).to_le_bytes());
    code.extend([0xcd, 0x80]);
    code.resize(0x40, 0x90);
    code.extend([0x8b, 0x04, 0x24, 0xc3]);
    for engine in [Engine::Interp, Engine::Dbt] {
        let (mut cpu, _guard) = guest(engine, &code);
        let exit = cpu.run();
        assert!(matches!(exit, Exit::Fault(_)), "{engine:?}: {exit:?}");
        assert_eq!((cpu.state().eip, cpu.state().reg(Reg::Esp)), (thunk, thunk + 1), "{engine:?}");
    }
}

/// In the middle of a block, an access through a segment with a limit: translated code leaves there to the interpreter.
#[test]
fn a_limited_segment_is_no_difference() {
    // mov byte [DATA+100h],0aah; push 7; movzx eax,byte fs:[100h]; push eax; pop edx; int 0x80
    let code = [0xc6, 0x05, 0, 1, 0, 2, 0xaa, 0x6a, 7, 0x64, 0x0f, 0xb6, 0x05, 0, 1, 0, 0, 0x50, 0x5a, 0xcd, 0x80];
    both(&code, |cpu| {
        let data = cpu.state().seg[3];
        cpu.state_mut().seg[4] = xlat86_arch::Segment { base: DATA, limit: 0xfff, ..data };
        assert_eq!(cpu.run(), Exit::SoftInt(0x80));
        let state = cpu.state();
        assert_eq!((state.reg(Reg::Edx), state.reg(Reg::Esp)), (0xaa, STACK_TOP - 4));
    });
}

/// Null FS and GS fault wherever the access goes; as soon as there is a segment it doesn't.
#[test]
fn a_null_segment_faults_at_every_offset() {
    for offset in [0u32, 0x100, 0xfff, 0x1000, DATA, DATA + 0x1000, u32::MAX - 3] {
        // mov ecx,7; mov eax,gs:[offset]; int 0x80
        let code = [&[0xb9, 7, 0, 0, 0, 0x65, 0x8b, 0x05][..], &offset.to_le_bytes(), &[0xcd, 0x80]].concat();
        both(&code, |cpu| {
            let exit = cpu.run();
            assert!(
                matches!(exit, Exit::Fault(f) if f.vector == Vector::GP && f.error == Some(0)),
                "{offset:#x}: {exit:?}"
            );
            assert_eq!((cpu.state().eip, cpu.state().reg(Reg::Ecx)), (CODE + 5, 7));
            let data = cpu.state().seg[3];
            cpu.state_mut().seg[5] = xlat86_arch::Segment { base: DATA.wrapping_sub(offset), ..data };
            assert_eq!(cpu.run(), Exit::SoftInt(0x80), "{offset:#x}");
        });
    }
}

/// What a call out answers stays inside; what it refuses is an exit; and what comes up meanwhile stops the guest right behind it.
#[test]
fn system_calls_call_out() {
    // int 0x80; inc ecx; int 0x80
    let code = [0xcd, 0x80, 0x41, 0xcd, 0x80];
    let config = Config {
        call_out: Some(|gpr, memory| {
            let Some(less) = gpr[0].checked_sub(1) else { return false };
            if less == 5 {
                xlat86_host::signals::kick_self();
            }
            gpr[0] = less;
            memory.write(DATA, less).is_ok()
        }),
        ..Config::default()
    };
    for (eax, exit, eip, ecx) in [
        (0, Exit::SoftInt(0x80), 2, 7),
        (1, Exit::SoftInt(0x80), 5, 8),
        (6, Exit::Interrupted, 2, 7),
        (7, Exit::Interrupted, 5, 8),
    ] {
        let (mut cpu, _guard) = guest_with(config.clone(), &code);
        cpu.process().call_out_at(Gva(CODE), 0x1000);
        cpu.state_mut().set_reg(Reg::Eax, eax);
        cpu.state_mut().set_reg(Reg::Ecx, 7);
        let seen = cpu.run();
        xlat86_host::signals::attended();
        let state = cpu.state();
        assert_eq!((&seen, state.eip - CODE, state.reg(Reg::Ecx)), (&exit, eip, ecx), "{eax}");
        let left = if exit == Exit::Interrupted { 5 } else { 0 };
        let written = cpu.process().space().window().read::<u32>(DATA).unwrap();
        assert_eq!((cpu.state().reg(Reg::Eax), written), (left, left), "{eax}");
    }
    // Once anything about the pages has changed, system calls there are exits.
    let (mut cpu, _guard) = guest_with(config, &code);
    cpu.process().call_out_at(Gva(CODE), 0x1000);
    cpu.process().change(&[(Gva(CODE), 0x1000)], || ());
    cpu.state_mut().set_reg(Reg::Eax, 1);
    assert_eq!((cpu.run(), cpu.state().eip), (Exit::SoftInt(0x80), CODE + 2));
}
