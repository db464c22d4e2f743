//! What the host's silicon answers for the interpreter.

use xlat86_host::{Transcendental, approximate, transcendental};
use xlat86_interp::{HostMath, Platform};

/// The surroundings of a CPU whose system is elsewhere (a user program): no ports, descriptors from a small table, software interrupts
/// are exits.
pub(crate) struct UserPlatform {
    /// Descriptors of the GDT's user-visible entries.
    pub(crate) gdt: [u64; 16],
    /// The process's local descriptor table.
    pub(crate) ldt: Vec<u64>,
}

impl UserPlatform {
    /// The table a 64-bit Linux kernel gives a 32-bit program: flat code at 0x23 and data at 0x2b.
    pub(crate) fn new() -> Self {
        let mut gdt = [0; 16];
        gdt[4] = 0x00cf_fb00_0000_ffff;
        gdt[5] = 0x00cf_f300_0000_ffff;
        UserPlatform { gdt, ldt: Vec::new() }
    }
}

impl Platform for UserPlatform {
    fn port_in(&mut self, _port: u16, size: u8) -> u32 {
        // Not reached: IOPL is 0 and there is no I/O permission map.
        u32::MAX >> (32 - 8 * u32::from(size))
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32) {}
    fn tsc(&mut self) -> u64 {
        xlat86_host::tsc()
    }
    fn x87(&mut self, op: HostMath, st0: [u8; 10], st1: [u8; 10], fcw: u16) -> ([u8; 10], [u8; 10], u16) {
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
    fn approx(&mut self, rsqrt: bool, x: f32) -> f32 {
        approximate(rsqrt, x)
    }
    fn descriptor(&mut self, selector: u16) -> Option<Option<u64>> {
        let table: &[u64] = if selector & 4 == 0 { &self.gdt } else { &self.ldt };
        Some(table.get(usize::from(selector >> 3)).copied().filter(|d| *d != 0))
    }
    fn delivers_interrupts(&self) -> bool {
        false
    }
}
