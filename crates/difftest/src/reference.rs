//! The interpreter as an executor of single instructions.

use crate::state::{AT, CODE, DATA, DATA_LEN, End, Executor, Outcome, Regs};
use std::io;
use std::sync::Arc;
use xlat86_arch::{CpuModel, CpuState, Gva, Vector, eflags};
use xlat86_host::{Window, scratch_window};
use xlat86_interp::{HostMath, Interp, Platform, Stop};
use xlat86_softmmu::{FlatSpace, Mmu, Prot};

/// A CPU in a Linux user program's state, with nothing attached.
pub struct Bare;

impl Platform for Bare {
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn tsc(&mut self) -> u64 {
        0
    }
    fn x87(&mut self, _: HostMath, a: [u8; 10], b: [u8; 10], _: u16) -> ([u8; 10], [u8; 10], u16) {
        (a, b, 0)
    }
    fn approx(&mut self, _: bool, x: f32) -> f32 {
        x
    }
    fn delivers_interrupts(&self) -> bool {
        false
    }
}

/// As [`Bare`], but interrupts go through the vector table, and ports give what open ones do.
pub(crate) struct Real;

impl Platform for Real {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        Bare.port_in(port, size)
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn tsc(&mut self) -> u64 {
        0
    }
    fn x87(&mut self, op: HostMath, a: [u8; 10], b: [u8; 10], fcw: u16) -> ([u8; 10], [u8; 10], u16) {
        Bare.x87(op, a, b, fcw)
    }
    fn approx(&mut self, rsqrt: bool, x: f32) -> f32 {
        Bare.approx(rsqrt, x)
    }
}

/// Executes on the interpreter.
pub struct Reference {
    interp: Interp,
    window: Window,
    mmu: Mmu,
}

impl Reference {
    /// # Errors
    /// The host has no room for a guest window.
    pub fn new() -> io::Result<Reference> {
        let window = scratch_window(&[CODE..CODE + 0x1000, DATA..DATA + DATA_LEN])?;
        let space = Arc::new(FlatSpace::new(window));
        let rwx = Prot { mapped: true, read: true, write: true, exec: true, shared: false };
        space.set_prot(Gva(CODE), 0x1000, rwx);
        space.set_prot(Gva(DATA), DATA_LEN, rwx);
        Ok(Reference { interp: Interp::new(CpuModel::MAX), window, mmu: Mmu::flat(space) })
    }
}

impl Executor for Reference {
    fn execute(&mut self, bytes: &[u8], regs: &Regs, data: &[u8]) -> Outcome {
        let put = |at, bytes: &[u8]| self.window.write_bytes(at, bytes).expect("the scratch pages are mapped");
        put(CODE, &[0xcc; 0x1000]);
        put(AT, bytes);
        put(DATA, data);
        let mut cpu = CpuState::linux_user();
        cpu.gpr = regs.gpr;
        cpu.eip = AT;
        cpu.eflags = regs.eflags | eflags::IF;
        cpu.fx = regs.fx;
        let end = match self.interp.step(&mut cpu, &mut self.mmu, &mut Bare) {
            Stop::Budget => End::Done,
            Stop::Fault(f) => End::Fault { vector: f.vector, error: f.error.unwrap_or(0), addr: f.addr.0 },
            Stop::SoftInt(v) => End::Fault { vector: Vector(v), error: 0, addr: 0 },
            other => panic!("{other:?} for {bytes:02x?}"),
        };
        let mut data = vec![0; data.len()];
        self.window.read_bytes(DATA, &mut data).expect("the scratch pages are mapped");
        let flags = cpu.eflags & (eflags::LIVE | eflags::AC | eflags::ID) | eflags::FIXED_1;
        Outcome { end, regs: Regs { gpr: cpu.gpr, eip: cpu.eip, eflags: flags, fx: cpu.fx }, data }
    }
}
