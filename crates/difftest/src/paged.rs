//! Programs behind page tables: a machine just large enough to run one at CPL 0 or 3 on any engine, with a system's CPU.
//!
//! The program's pages lie scattered in physical memory. Above them a kernel of three instructions: every vector's handler halts, which
//! ends the program and shows the vector by its address, but that of INT 80H, which returns.

use crate::engine::{Finish, Program};
use std::sync::Arc;
use std::time::Duration;
use xlat86_arch::{CpuState, Gva, Reg, Seg, SegAttr, Segment, TableReg, cr0, cr4};
use xlat86_softmmu::PhysMemory;
use xlat86_vcpu::{Config, Engine, Exit, Io, Process, Stats, TranslatorConfig, Vcpu};

/// All RAM below the VGA window.
const RAM: u64 = 0xa_0000;
/// Linear addresses of the kernel's pages: descriptor tables, handlers, stack. The physical pages are numbered alike from 1 on.
const KERNEL: u32 = 0xc000_0000;
const TABLES: u32 = KERNEL;
const HANDLERS: u32 = KERNEL + 0x1000;
const STACK: u32 = KERNEL + 0x2000;
const KERNEL_PAGES: u32 = 3;
/// Physical addresses of the page directory and of the page tables behind it.
const DIRECTORY: u32 = 0x1_0000;
const FIRST_TABLE: u32 = 0x1_1000;
/// The first physical page of programs.
const PROGRAM: u32 = 0x20;

/// Selectors.
const CODE0: u16 = 8;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1b;
const DATA3: u16 = 0x23;
const TASK: u16 = 0x28;
const FS: u16 = 0x33;
const GS: u16 = 0x3b;

/// The vector whose handler returns.
const SYSCALL: u32 = 0x80;

/// No devices; a clock that stands still, so that engines can be compared.
struct NoDevices;

impl Io for NoDevices {
    fn port_in(&mut self, _port: u16, size: u8) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(size))
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32) {}
    fn tsc(&mut self) -> u64 {
        0x1234_5678_9abc
    }
    fn is_host_clock(&self) -> bool {
        false
    }
}

/// See the module's documentation.
pub struct Machine {
    memory: Arc<PhysMemory>,
    cpu: Vcpu,
    runs: u32,
}

fn descriptor(s: &Segment) -> u64 {
    let (limit, attr) = (u64::from(s.limit >> 12), u64::from(s.attr.0));
    let base = u64::from(s.base);
    limit & 0xffff | (base & 0xff_ffff) << 16 | attr << 40 | (limit >> 16) << 48 | (base >> 24) << 56
}

impl Machine {
    /// A machine with `engine`.
    ///
    /// # Panics
    /// The host refuses memory.
    #[must_use]
    pub fn new(engine: Engine, translator: TranslatorConfig) -> Machine {
        let memory = PhysMemory::new(1 << 20).expect("memory");
        let process =
            Process::system(memory.clone(), Config { engine, translator, ..Config::default() }).expect("a cache");
        Machine { memory, cpu: Vcpu::system(&process, Box::new(NoDevices)).expect("a CPU"), runs: 0 }
    }

    /// What running has cost so far.
    #[must_use]
    pub fn stats(&mut self) -> Stats {
        self.cpu.publish_stats();
        self.cpu.process().stats()
    }

    /// Runs `p` at privilege level `cpl` (0 or 3) until an exception other than INT 80H halts it; `None` if that takes longer than a second.
    pub fn run(&mut self, p: &Program, cpl: u8) -> Option<Finish> {
        let (ram, pages) = layout(p, cpl);
        self.memory.write(0, &ram).expect("below the VGA window");
        *self.cpu.fx_mut() = p.cpu.fx;
        // A change of CR4 flushes what the last program has left in the TLBs.
        self.runs += 1;
        let pse = if self.runs.is_multiple_of(2) { cr4::PSE } else { 0 };
        let start = state(p, cpl);
        *self.cpu.state_mut() = CpuState { cr4: start.cr4 | pse, ..start };
        let kicker = self.cpu.kicker();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if wait.recv_timeout(Duration::from_secs(1)).is_err() {
                kicker.kick();
            }
        });
        let exit = self.cpu.run();
        let _ = done.send(());
        watchdog.join().expect("it only waits");
        if exit == Exit::Interrupted {
            return None;
        }
        // A kick that came too late isn't for the next program.
        self.cpu.fx();
        let mut now = vec![0; RAM as usize];
        self.memory.read(0, &mut now).expect("below the VGA window");
        let page = |&p: &u32| now[p as usize * 4096..][..4096].to_vec();
        Some(Finish { exit, cpu: self.cpu.state().clone(), memory: pages.iter().map(page).collect() })
    }
}

/// The state in which `p` starts at `cpl`.
fn state(p: &Program, cpl: u8) -> CpuState {
    let mut s = p.cpu.clone();
    let flat = |selector, attr: SegAttr| Segment::flat(selector, attr.with_dpl(cpl));
    let (code, data) = if cpl == 3 { (CODE3, DATA3) } else { (CODE0, DATA0) };
    s.seg[Seg::Cs as usize] = flat(code, SegAttr::CODE32);
    for seg in [Seg::Es, Seg::Ss, Seg::Ds] {
        s.seg[seg as usize] = flat(data, SegAttr::DATA32);
    }
    s.seg[Seg::Fs as usize].selector = FS;
    s.seg[Seg::Gs as usize].selector = GS;
    (s.gdtr, s.idtr) = (TableReg { base: TABLES, limit: 0x7f }, TableReg { base: TABLES + 0x100, limit: 0x7ff });
    s.tr = Segment { base: TABLES + 0x80, limit: 0x67, selector: TASK, attr: SegAttr(0x8b) };
    s.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::ET | cr0::NE | cr0::MP;
    s.cr4 = cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    (s.cr3, s.cpl, s.msr.efer, s.msr.apic_base) = (DIRECTORY, cpl, 0, 0);
    s
}

/// RAM for `p`, and the physical pages to look at afterwards.
fn layout(p: &Program, cpl: u8) -> (Vec<u8>, Vec<u32>) {
    let mut ram = vec![0; RAM as usize];
    let put32 = |ram: &mut [u8], at: u32, v: u32| ram[at as usize..at as usize + 4].copy_from_slice(&v.to_le_bytes());
    let put64 = |ram: &mut [u8], at: u32, v: u64| ram[at as usize..at as usize + 8].copy_from_slice(&v.to_le_bytes());
    let mut table = FIRST_TABLE;
    let mut map = |ram: &mut Vec<u8>, linear: u32, physical: u32, flags: u32| {
        let directory_entry = DIRECTORY + 4 * (linear >> 22);
        let mut e = u32::from_le_bytes(ram[directory_entry as usize..][..4].try_into().expect("4 bytes"));
        if e == 0 {
            e = table | 7;
            put32(ram, directory_entry, e);
            table += 0x1000;
        }
        put32(ram, (e & !0xfff) + 4 * (linear >> 12 & 0x3ff), physical << 12 | flags);
    };
    for n in 0..KERNEL_PAGES {
        // Global, supervisor, writable.
        map(&mut ram, KERNEL + 0x1000 * n, 1 + n, 0x103);
    }
    let mut pages = vec![3];
    for (at, bytes) in &p.memory {
        for (n, chunk) in bytes.chunks(4096).enumerate() {
            // Downwards, with gaps: neighbours in linear memory aren't any in physical memory.
            let physical = PROGRAM + 64 - 3 * (pages.len() as u32 - 1);
            map(&mut ram, at + 0x1000 * n as u32, physical, 7);
            ram[physical as usize * 4096..][..chunk.len()].copy_from_slice(chunk);
            pages.push(physical);
        }
    }
    // Descriptors, where the page of the tables is.
    let s = state(p, cpl);
    let dpl3 = |a: SegAttr| a.with_dpl(3);
    let user = |seg: Seg| Segment { attr: dpl3(SegAttr::DATA32), ..*s.segment(seg) };
    let segments = [
        (CODE0, Segment::flat(0, SegAttr::CODE32)),
        (DATA0, Segment::flat(0, SegAttr::DATA32)),
        (CODE3, Segment::flat(0, dpl3(SegAttr::CODE32))),
        (DATA3, Segment::flat(0, dpl3(SegAttr::DATA32))),
        (FS, user(Seg::Fs)),
        (GS, user(Seg::Gs)),
    ];
    let tables = 0x1000;
    for (selector, segment) in segments {
        put64(&mut ram, tables + u32::from(selector & !7), descriptor(&segment));
    }
    // The TSS: the stack of CPL 0.
    put32(&mut ram, tables + 0x84, STACK + 0x1000);
    put32(&mut ram, tables + 0x88, DATA0.into());
    for vector in 0..256 {
        let handler = HANDLERS + 8 * vector;
        let gate = u64::from(handler & 0xffff) | u64::from(CODE0) << 16 | 0xee00 << 32 | u64::from(handler >> 16) << 48;
        put64(&mut ram, tables + 0x100 + 8 * vector, gate);
        // HLT, or IRET.
        ram[(0x2000 + 8 * vector) as usize] = if vector == SYSCALL { 0xcf } else { 0xf4 };
    }
    (ram, pages)
}

/// The vector whose handler has halted the machine.
#[must_use]
pub fn vector(f: &Finish) -> Option<u32> {
    let at = Gva(f.cpu.eip.wrapping_sub(HANDLERS));
    (f.exit == Exit::Halt && at.0 < 0x800).then_some(at.0 / 8)
}

/// Bytes that exceptions have left on the kernel's stack, from what ESP says.
#[must_use]
pub fn frame(f: &Finish) -> Vec<u32> {
    let from = (f.cpu.reg(Reg::Esp).wrapping_sub(STACK) as usize).min(4096);
    f.memory[0][from..].chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("4 bytes"))).collect()
}
