//! The guest's vDSO reads its clocks without leaving translated code.
//!
//! Its functions make system calls (`vdso/vdso.S`); the translator has those call out to here. What the host's vDSO can answer is answered: to the guest no system
//! call has happened, as natively, so neither its seccomp filters nor its tracers are asked. Everything else, a bad address included, is left to
//! be the system call that it says it is.

use crate::abi::{GuestTime, Timespec32, Timespec64};
use crate::host_unsafe as host;
use crate::sys_time;
use xlat86_arch::Reg;
use xlat86_softmmu::Window;
use zerocopy::{Immutable, IntoBytes};

/// The clocks that the host's vDSO reads without a system call; the others count CPU time, or wake suspended machines.
const CHEAP: [libc::clockid_t; 7] = [
    libc::CLOCK_REALTIME,
    libc::CLOCK_MONOTONIC,
    libc::CLOCK_MONOTONIC_RAW,
    libc::CLOCK_REALTIME_COARSE,
    libc::CLOCK_MONOTONIC_COARSE,
    libc::CLOCK_BOOTTIME,
    libc::CLOCK_TAI,
];

/// Numbers of the system calls in i386's table.
mod number {
    pub(super) const TIME: u32 = 13;
    pub(super) const GETTIMEOFDAY: u32 = 78;
    pub(super) const CLOCK_GETTIME: u32 = 265;
    pub(super) const GETCPU: u32 = 318;
    pub(super) const CLOCK_GETTIME64: u32 = 403;
}

/// Does what the system call with registers `gpr` does, if that is cheap and goes well.
pub(crate) fn call_out(gpr: &mut [u32; 8], memory: Window) -> bool {
    let reg = |r: Reg| gpr[r as usize];
    let (ebx, ecx) = (reg(Reg::Ebx), reg(Reg::Ecx));
    let to = Out(memory);
    let result = match reg(Reg::Eax) {
        number::CLOCK_GETTIME => to.clock::<Timespec32>(ebx, ecx),
        number::CLOCK_GETTIME64 => to.clock::<Timespec64>(ebx, ecx),
        // The time zone is nobody's business any more.
        number::GETTIMEOFDAY if ecx == 0 => sys_time::time_of_day().ok().and_then(|t| to.write_opt(ebx, &t)),
        number::TIME => sys_time::seconds().ok().and_then(|t| to.write_opt(ebx, &t).map(|_| t)),
        // The node is asked for by few.
        number::GETCPU if ecx == 0 => host::cpu().and_then(|cpu| to.write_opt(ebx, &cpu)),
        _ => None,
    };
    match result {
        Some(value) => {
            gpr[Reg::Eax as usize] = value;
            true
        }
        None => false,
    }
}

/// Guest memory to be written to, all or nothing that matters: who fails is done again as a system call.
struct Out(Window);

impl Out {
    fn clock<T: GuestTime>(&self, clock: u32, at: u32) -> Option<u32> {
        if !CHEAP.contains(&(clock as libc::clockid_t)) {
            return None;
        }
        let now = sys_time::now(clock as libc::clockid_t).ok()?;
        self.write(at, &T::from_host(now))
    }

    /// Zero, what these calls return.
    fn write<T: IntoBytes + Immutable>(&self, at: u32, value: &T) -> Option<u32> {
        let bytes = value.as_bytes();
        // What would go past 4 GB is EFAULT.
        at.checked_add(bytes.len() as u32)?;
        self.0.write_bytes(at, bytes).ok().map(|()| 0)
    }

    fn write_opt<T: IntoBytes + Immutable>(&self, at: u32, value: &T) -> Option<u32> {
        if at == 0 { Some(0) } else { self.write(at, value) }
    }
}
