//! What the host's silicon answers for the interpreter.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xlat86_host::{Transcendental, approximate, transcendental};
use xlat86_interp::{HostMath, Platform};

/// A local descriptor table. Threads of one process have the same.
#[derive(Clone, Debug, Default)]
pub struct Ldt(Arc<Mutex<Vec<u64>>>);

impl Ldt {
    /// Entry `index`, if the table is that long.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<u64> {
        self.lock().get(index).copied()
    }

    /// Sets entry `index`; 0 empties it. Segment registers loaded before keep their hidden parts.
    pub fn set(&self, index: usize, raw: u64) {
        let mut table = self.lock();
        if table.len() <= index {
            table.resize(index + 1, 0);
        }
        table[index] = raw;
    }

    /// All of it.
    #[must_use]
    pub fn entries(&self) -> Vec<u64> {
        self.lock().clone()
    }

    /// Takes the lock, which a fork has to hold; running code takes it too, so only while the world is stopped.
    pub fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a system's CPU is plugged into.
pub trait Io {
    /// Reads `size` (1, 2 or 4) bytes from I/O port `port`.
    fn port_in(&mut self, port: u16, size: u8) -> u32;
    /// Writes the low `size` (1, 2 or 4) bytes of `value` to I/O port `port`.
    fn port_out(&mut self, port: u16, size: u8, value: u32);
    /// Where the guest is in its course: so many instructions ([`crate::Vcpu::retired`]) came before the one that comes here next.
    fn retired(&mut self, insns: u64) {
        let _ = insns;
    }
    /// The time stamp counter.
    fn tsc(&mut self) -> u64 {
        xlat86_host::tsc()
    }
    /// Rate of the time stamp counter, if the guest is to be told.
    fn tsc_hz(&self) -> Option<u64> {
        None
    }
    /// Is [`Io::tsc`] the host's counter as it is, and IA32_TSC_AUX 0? Then reading them need not come here.
    fn is_host_clock(&self) -> bool {
        true
    }
    /// Reads a model-specific register that the CPU itself doesn't have; `None`: there is none, #GP(0).
    fn read_msr(&mut self, msr: u32) -> Option<u64> {
        let _ = msr;
        None
    }
    /// Writes a model-specific register that the CPU itself doesn't have; `None`: #GP(0).
    fn write_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        let _ = (msr, value);
        None
    }
}

/// A CPU's surroundings: of a system, its I/O; of a user program, whose system is elsewhere, no ports, descriptors from a small table, and
/// software interrupts are exits.
pub(crate) struct Surroundings {
    /// `None`: a user program's.
    pub(crate) io: Option<Box<dyn Io>>,
    /// Descriptors of the GDT's user-visible entries.
    pub(crate) gdt: [u64; 16],
    /// The process's local descriptor table.
    pub(crate) ldt: Ldt,
}

impl Surroundings {
    /// Of a CPU that carries a system.
    pub(crate) fn system(io: Box<dyn Io>) -> Self {
        Surroundings { io: Some(io), gdt: [0; 16], ldt: Ldt::default() }
    }

    /// Of a user program, with the table a 64-bit Linux kernel gives a 32-bit program: flat code at 0x23 and data at 0x2b.
    pub(crate) fn user() -> Self {
        let mut gdt = [0; 16];
        gdt[4] = 0x00cf_fb00_0000_ffff;
        gdt[5] = 0x00cf_f300_0000_ffff;
        Surroundings { io: None, gdt, ldt: Ldt::default() }
    }
}

impl Platform for Surroundings {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        match &mut self.io {
            Some(io) => io.port_in(port, size),
            // Not reached: a user program's IOPL is 0 and there is no I/O permission map.
            None => u32::MAX >> (32 - 8 * u32::from(size)),
        }
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        if let Some(io) = &mut self.io {
            io.port_out(port, size, value);
        }
    }
    fn retired(&mut self, insns: u64) {
        if let Some(io) = &mut self.io {
            io.retired(insns);
        }
    }
    fn tsc(&mut self) -> u64 {
        self.io.as_mut().map_or_else(xlat86_host::tsc, |io| io.tsc())
    }
    fn tsc_hz(&self) -> Option<u64> {
        self.io.as_ref()?.tsc_hz()
    }
    fn read_msr(&mut self, msr: u32) -> Option<u64> {
        self.io.as_mut()?.read_msr(msr)
    }
    fn write_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        self.io.as_mut()?.write_msr(msr, value)
    }
    fn x87(&mut self, op: HostMath, st0: [u8; 10], st1: [u8; 10], fcw: u16) -> ([u8; 10], [u8; 10], u16) {
        silicon_x87(op, st0, st1, fcw)
    }
    fn approx(&mut self, rsqrt: bool, x: f32) -> f32 {
        approximate(rsqrt, x)
    }
    fn descriptor(&mut self, selector: u16) -> Option<Option<u64>> {
        if self.io.is_some() {
            return None;
        }
        if selector & 4 != 0 {
            return Some(self.ldt.get(usize::from(selector >> 3)).filter(|d| *d != 0));
        }
        let table: &[u64] = &self.gdt;
        Some(table.get(usize::from(selector >> 3)).copied().filter(|d| *d != 0))
    }
    fn delivers_interrupts(&self) -> bool {
        self.io.is_some()
    }
}

/// [`Platform::x87`] as the host's own x87 answers it.
#[must_use]
pub fn silicon_x87(op: HostMath, st0: [u8; 10], st1: [u8; 10], fcw: u16) -> ([u8; 10], [u8; 10], u16) {
    let op = match op {
        HostMath::F2xm1 => Transcendental::F2xm1,
        HostMath::Fyl2x => Transcendental::Fyl2x,
        HostMath::Fyl2xp1 => Transcendental::Fyl2xp1,
        HostMath::Fptan => Transcendental::Fptan,
        HostMath::Fpatan => Transcendental::Fpatan,
        HostMath::Fsin => Transcendental::Fsin,
        HostMath::Fcos => Transcendental::Fcos,
        HostMath::Fsincos => Transcendental::Fsincos,
    };
    let r = transcendental(op, st0, st1, fcw);
    let second = if matches!(op, Transcendental::Fptan | Transcendental::Fsincos) { r.pushed } else { r.old[1] };
    (r.old[0], second, r.fsw)
}
