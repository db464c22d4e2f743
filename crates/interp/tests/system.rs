//! The privileged half: descriptors, gates, returns, tasks, real mode.

use std::sync::Arc;
use xlat86_arch::{CpuModel, CpuState, Fault, Gva, Reg, Seg, SegAttr, Segment, TableReg, Vector, cr0, eflags};
use xlat86_host::scratch_window;
use xlat86_interp::{Detached, Event, Interp, Stop};
use xlat86_softmmu::{FlatSpace, Mmu, Prot};

/// Selectors of the table that [`Machine::new`] builds.
const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1b;
const DATA3: u16 = 0x23;
const TSS: u16 = 0x28;
const GATE3: u16 = 0x33;
const TSS2: u16 = 0x38;
const SMALL: u16 = 0x40;

const GDT: u32 = 0x1000;
const IDT: u32 = 0x2000;
const TSS_AT: u32 = 0x3000;
const TSS2_AT: u32 = 0x3800;
const USER: u32 = 0x4000;
const KERNEL: u32 = 0x5000;
const USER_STACK: u32 = 0x7000;
const KERNEL_STACK: u32 = 0x8000;

fn descriptor(base: u32, limit: u32, attr: u16) -> u64 {
    let (base, limit, attr) = (u64::from(base), u64::from(limit), u64::from(attr));
    (limit & 0xffff) | ((base & 0xff_ffff) << 16) | (attr << 40) | ((limit >> 16 & 0xf) << 48) | ((base >> 24) << 56)
}

fn gate(selector: u16, offset: u32, attr: u16, count: u16) -> u64 {
    let high = u64::from(offset >> 16) << 48 | u64::from(attr) << 40 | u64::from(count) << 32;
    high | u64::from(selector) << 16 | u64::from(offset & 0xffff)
}

struct Machine {
    interp: Interp,
    cpu: CpuState,
    mmu: Mmu,
}

impl Machine {
    /// Protected mode at CPL 3, with a GDT, an IDT of kernel gates and a TSS in memory.
    fn new() -> Machine {
        let window = scratch_window(&[0..0x10000]).unwrap();
        let space = Arc::new(FlatSpace::new(window));
        space.set_prot(Gva(0), 0x10000, Prot { mapped: true, read: true, write: true, exec: true, shared: false });
        let mut mmu = Mmu::flat(space);
        let gdt = [
            0,
            descriptor(0, 0xf_ffff, 0xc09a),
            descriptor(0, 0xf_ffff, 0xc092),
            descriptor(0, 0xf_ffff, 0xc0fa),
            descriptor(0, 0xf_ffff, 0xc0f2),
            descriptor(TSS_AT, 0x67, 0x89),
            gate(CODE0, KERNEL + 0x100, 0xec, 2),
            descriptor(TSS2_AT, 0x67, 0xe9),
            descriptor(0x6000, 0xf, 0x40f2),
        ];
        for (i, d) in gdt.iter().enumerate() {
            mmu.write(Gva(GDT + 8 * i as u32), *d).unwrap();
        }
        for v in 0..=0x80 {
            let dpl = if v == 0x80 { 0xee } else { 0x8e };
            mmu.write(Gva(IDT + 8 * v), gate(CODE0, KERNEL + v, dpl, 0)).unwrap();
        }
        mmu.write(Gva(TSS_AT + 4), KERNEL_STACK).unwrap();
        mmu.write(Gva(TSS_AT + 8), u32::from(DATA0)).unwrap();
        mmu.write(Gva(TSS_AT + 0x66), 0x68u16).unwrap();
        let mut cpu = CpuState::linux_user();
        cpu.cr0 = cr0::PE | cr0::ET;
        cpu.gdtr = TableReg { base: GDT, limit: 8 * gdt.len() as u16 - 1 };
        cpu.idtr = TableReg { base: IDT, limit: 0x81 * 8 - 1 };
        cpu.tr = Segment { base: TSS_AT, limit: 0x67, selector: TSS, attr: SegAttr(0x8b) };
        let code = Segment::flat(CODE3, SegAttr::CODE32.with_dpl(3));
        let data = Segment::flat(DATA3, SegAttr::DATA32.with_dpl(3));
        cpu.seg = [data, code, data, data, Segment::null(0), Segment::null(0)];
        cpu.eip = USER;
        cpu.set_reg(Reg::Esp, USER_STACK);
        Machine { interp: Interp::new(CpuModel::MAX), cpu, mmu }
    }

    fn put(&mut self, at: u32, code: &[u8]) {
        self.mmu.write_bytes(Gva(at), code).unwrap();
    }

    fn step(&mut self) -> Stop {
        self.interp.step(&mut self.cpu, &mut self.mmu, &mut Detached::system())
    }

    fn deliver(&mut self, event: Event) -> Stop {
        self.interp.deliver(&mut self.cpu, &mut self.mmu, &mut Detached::system(), event)
    }

    fn word(&mut self, at: u32) -> u32 {
        self.mmu.read(Gva(at)).unwrap()
    }

    /// CPL, CS, EIP, SS, ESP.
    fn place(&self) -> (u8, u16, u32, u16, u32) {
        let c = &self.cpu;
        (c.cpl, c.segment(Seg::Cs).selector, c.eip, c.segment(Seg::Ss).selector, c.reg(Reg::Esp))
    }
}

#[test]
fn an_interrupt_enters_ring_0_and_iret_leaves_it() {
    let mut m = Machine::new();
    m.put(USER, &[0xcd, 0x80]);
    m.put(KERNEL + 0x80, &[0xcf]);
    let before = m.place();
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!(m.place(), (0, CODE0, KERNEL + 0x80, DATA0, KERNEL_STACK - 20));
    assert_eq!(m.cpu.eflags & eflags::IF, 0);
    let frame = [0, 4, 8, 12, 16].map(|i| m.word(KERNEL_STACK - 20 + i));
    assert_eq!(frame, [USER + 2, CODE3.into(), eflags::IF | 2, USER_STACK, DATA3.into()]);
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!(m.place(), (before.0, before.1, USER + 2, before.3, before.4));
    assert_eq!(m.cpu.eflags, eflags::IF | 2);
}

#[test]
fn a_software_interrupt_needs_the_gates_privilege() {
    let mut m = Machine::new();
    m.put(USER, &[0xcd, 0x21]);
    let before = m.cpu.clone();
    assert_eq!(m.step(), Stop::Fault(Fault::gp(0x21 * 8 + 2)));
    assert_eq!(m.cpu, before);
}

#[test]
fn an_exception_pushes_its_error_code_and_rf() {
    let mut m = Machine::new();
    assert_eq!(m.deliver(Event::Fault(Fault::gp(0x18))), Stop::Budget);
    assert_eq!(m.place(), (0, CODE0, KERNEL + 13, DATA0, KERNEL_STACK - 24));
    assert_eq!((m.word(KERNEL_STACK - 24), m.word(KERNEL_STACK - 20)), (0x18, USER));
    assert_eq!(m.word(KERNEL_STACK - 12), eflags::IF | eflags::RF | 2);
    // add esp,4; iret: RF comes back and holds for one instruction.
    m.put(KERNEL + 13, &[0x83, 0xc4, 4, 0xcf]);
    m.put(USER, &[0x90]);
    assert_eq!((m.step(), m.step()), (Stop::Budget, Stop::Budget));
    assert_eq!(m.cpu.eflags, eflags::IF | eflags::RF | 2);
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!(m.cpu.eflags, eflags::IF | 2);
    // Beyond the IDT: #GP that names the entry, with EXT; with nothing changed.
    let mut m = Machine::new();
    m.cpu.idtr.limit = 7;
    let before = m.cpu.clone();
    assert_eq!(m.deliver(Event::External(Vector(3))), Stop::Fault(Fault::gp(3 * 8 + 3)));
    assert_eq!(m.cpu, before);
    // A bad kernel stack is #TS.
    let mut m = Machine::new();
    m.mmu.write(Gva(TSS_AT + 8), u32::from(CODE0)).unwrap();
    let ts = Fault::with_error(Vector::TS, u32::from(CODE0) + 1);
    assert_eq!(m.deliver(Event::Fault(Fault::ud())), Stop::Fault(ts));
}

#[test]
fn a_call_gate_copies_parameters_and_a_far_return_drops_them() {
    let mut m = Machine::new();
    // push 1; push 2; call GATE3:0; the kernel side: ret far 8
    let [low, high] = GATE3.to_le_bytes();
    m.put(USER, &[0x6a, 1, 0x6a, 2, 0x9a, 0, 0, 0, 0, low, high]);
    m.put(KERNEL + 0x100, &[0xca, 8, 0]);
    for _ in 0..3 {
        assert_eq!(m.step(), Stop::Budget);
    }
    assert_eq!(m.place(), (0, CODE0, KERNEL + 0x100, DATA0, KERNEL_STACK - 24));
    let frame = [0, 4, 8, 12, 16, 20].map(|i| m.word(KERNEL_STACK - 24 + i));
    assert_eq!(frame, [USER + 11, CODE3.into(), 2, 1, USER_STACK - 8, DATA3.into()]);
    // The return makes data segments null that ring 3 may not use.
    m.cpu.seg[Seg::Es as usize] = Segment::flat(DATA0, SegAttr::DATA32);
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!(m.place(), (3, CODE3, USER + 11, DATA3, USER_STACK));
    assert!(!m.cpu.segment(Seg::Es).attr.present());
    assert!(m.cpu.segment(Seg::Ds).attr.present());
}

#[test]
fn segment_limits_and_privilege_are_checked() {
    let mut m = Machine::new();
    // mov ds,ax; mov eax,[0dh]: 4 bytes up to 10h, limit 0fh; then [0ch], which fits
    m.put(USER, &[0x8e, 0xd8, 0xa1, 0x0d, 0, 0, 0]);
    m.cpu.set_reg(Reg::Eax, DATA0.into());
    assert_eq!(m.step(), Stop::Fault(Fault::gp(DATA0.into())));
    m.cpu.set_reg(Reg::Eax, u32::from(SMALL) | 3);
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!(m.cpu.segment(Seg::Ds).base, 0x6000);
    // The descriptor is marked accessed.
    assert_eq!(m.mmu.read::<u8>(Gva(GDT + 0x45)).unwrap(), 0xf3);
    assert_eq!(m.step(), Stop::Fault(Fault::gp(0)));
    m.put(USER + 2, &[0xa1, 0x0c]);
    m.mmu.write(Gva(0x600c), 0x1234_5678u32).unwrap();
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!(m.cpu.reg(Reg::Eax), 0x1234_5678);
}

#[test]
fn privileged_instructions_fault_in_ring_3() {
    for code in [&[0xf4][..], &[0xfa], &[0x0f, 0x20, 0xc0], &[0x0f, 0x30], &[0x0f, 0x06], &[0xe4, 0x10], &[0x0f, 0x09]]
    {
        let mut m = Machine::new();
        m.put(USER, code);
        assert_eq!(m.step(), Stop::Fault(Fault::gp(0)), "{code:02x?}");
    }
}

#[test]
fn the_io_map_opens_single_ports() {
    // in al,40h: port 40H is bit 0 of the map's byte 8; in eax,dx needs four bits, and a byte after them.
    let mut m = Machine::new();
    m.cpu.tr.limit = 0x68 + 9;
    m.put(TSS_AT + 0x68, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff]);
    m.put(USER, &[0xe4, 0x40, 0xe5, 0x40]);
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!(m.cpu.reg(Reg::Eax), 0xff);
    assert_eq!(m.step(), Stop::Fault(Fault::gp(0)));
    m.cpu.tr.limit -= 1;
    m.cpu.eip = USER;
    assert_eq!(m.step(), Stop::Fault(Fault::gp(0)));
}

#[test]
fn tasks_switch_and_return() {
    let mut m = Machine::new();
    for (at, v) in [
        (32, USER + 0x100),
        (36, 2),
        (40, 0xaaaa),
        (56, USER_STACK - 0x100),
        (72, DATA3.into()),
        (76, CODE3.into()),
        (80, DATA3.into()),
        (84, DATA3.into()),
    ] {
        m.mmu.write(Gva(TSS2_AT + at), v).unwrap();
    }
    // call TSS2:0; in the other task: iret
    let [low, high] = TSS2.to_le_bytes();
    m.put(USER, &[0x9a, 0, 0, 0, 0, low, high]);
    m.put(USER + 0x100, &[0xcf]);
    m.cpu.set_reg(Reg::Eax, 0xbbbb);
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!(m.place(), (3, CODE3, USER + 0x100, DATA3, USER_STACK - 0x100));
    assert_eq!((m.cpu.reg(Reg::Eax), m.cpu.tr.selector), (0xaaaa, TSS2));
    assert!(m.cpu.eflags & eflags::NT != 0 && m.cpu.cr0 & cr0::TS != 0);
    assert_eq!(m.word(TSS2_AT), TSS.into());
    m.mmu.write(Gva(GDT + u32::from(TSS) + 5), 0x8bu8).unwrap();
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!((m.cpu.reg(Reg::Eax), m.cpu.tr.selector, m.cpu.eip), (0xbbbb, TSS, USER + 7));
    assert_eq!(m.mmu.read::<u8>(Gva(GDT + u32::from(TSS2) + 5)).unwrap(), 0xe9);
}

#[test]
fn virtual_8086_mode_is_entered_by_iret_and_left_by_an_interrupt() {
    let mut m = Machine::new();
    m.put(KERNEL, &[0xcf]);
    m.cpu.cpl = 0;
    m.cpu.seg[Seg::Cs as usize] = Segment::flat(CODE0, SegAttr::CODE32);
    m.cpu.seg[Seg::Ss as usize] = Segment::flat(DATA0, SegAttr::DATA32);
    m.cpu.eip = KERNEL;
    m.cpu.set_reg(Reg::Esp, KERNEL_STACK - 36);
    let flags = eflags::VM | eflags::IF | 2;
    for (i, v) in [0x10, 0x400, flags, 0xfffe, 0x200, 0x111, 0x222, 0x333, 0x444].into_iter().enumerate() {
        m.mmu.write(Gva(KERNEL_STACK - 36 + 4 * i as u32), v).unwrap();
    }
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!(m.place(), (3, 0x400, 0x10, 0x200, 0xfffe));
    assert_eq!((m.cpu.segment(Seg::Cs).base, m.cpu.segment(Seg::Gs).selector), (0x4000, 0x444));
    // With IOPL 0, INT n faults; the fault leaves for ring 0 with the data segments on its stack.
    m.put(0x4010, &[0xcd, 0x80]);
    let Stop::Fault(f) = m.step() else { panic!("INT n in virtual-8086 mode with IOPL 0") };
    assert_eq!(f, Fault::gp(0));
    assert_eq!(m.deliver(Event::Fault(f)), Stop::Budget);
    assert_eq!(m.place(), (0, CODE0, KERNEL + 13, DATA0, KERNEL_STACK - 40));
    let frame: Vec<u32> = (0..10).map(|i| m.word(KERNEL_STACK - 40 + 4 * i)).collect();
    assert_eq!(frame, [0, 0x10, 0x400, flags | eflags::RF, 0xfffe, 0x200, 0x111, 0x222, 0x333, 0x444]);
    assert!(!m.cpu.segment(Seg::Ds).attr.present());
}

#[test]
fn real_mode_enters_protected_mode_by_hand() {
    let mut m = Machine::new();
    m.cpu = CpuState::reset();
    m.cpu.seg[Seg::Cs as usize] = Segment::real(0x400);
    m.cpu.eip = 0;
    m.cpu.gdtr = TableReg { base: GDT, limit: 0x47 };
    // mov eax,cr0; or al,1; mov cr0,eax; jmp dword CODE0:KERNEL
    let [low, high] = CODE0.to_le_bytes();
    let mut code = vec![0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, 0x66, 0xea];
    code.extend(KERNEL.to_le_bytes());
    code.extend([low, high]);
    m.put(0x4000, &code);
    for _ in 0..4 {
        assert_eq!(m.step(), Stop::Budget);
    }
    assert_eq!((m.cpu.cpl, m.cpu.segment(Seg::Cs).selector, m.cpu.eip), (0, CODE0, KERNEL));
    assert!(m.cpu.segment(Seg::Cs).attr.db());
}

#[test]
fn real_mode_interrupts_use_the_vector_table() {
    let mut m = Machine::new();
    m.cpu = CpuState::reset();
    m.cpu.seg[Seg::Cs as usize] = Segment::real(0x400);
    m.cpu.idtr = TableReg { base: 0, limit: 0x3ff };
    (m.cpu.eip, m.cpu.eflags) = (0, 2 | eflags::IF);
    m.cpu.set_reg(Reg::Esp, 0x9000);
    m.mmu.write(Gva(0x21 * 4), 0x0500_0123u32).unwrap();
    m.put(0x4000, &[0xcd, 0x21]);
    m.put(0x5123, &[0xcf]);
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!((m.cpu.segment(Seg::Cs).base, m.cpu.eip, m.cpu.reg(Reg::Esp)), (0x5000, 0x123, 0x8ffa));
    assert_eq!(m.step(), Stop::Budget);
    assert_eq!((m.cpu.segment(Seg::Cs).selector, m.cpu.eip, m.cpu.reg(Reg::Esp)), (0x400, 2, 0x9000));
    assert_eq!(m.cpu.eflags, 2 | eflags::IF);
}
