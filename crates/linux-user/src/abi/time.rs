//! Time layouts: 32-bit, 64-bit (`_time64` calls) and the host's.

use super::{U64, layout};
use syscalls::Errno;

layout! {
    /// `struct timespec` with 32-bit seconds (also `timeval`: the second word is then microseconds).
    Timespec32 = 8 { sec: u32, frac: u32 }
}

layout! {
    /// The 64-bit `struct timespec` of the `_time64` calls. The upper half of `nsec` is padding there, and ignored.
    Timespec64 = 16 { sec: U64, nsec: u32, pad: u32 }
}

layout! {
    /// The host's `struct timespec`, and also its `timeval`.
    HostTimespec = 16 { sec: i64, frac: i64 }
}

/// A guest's representation of a time or interval.
pub trait GuestTime: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy {
    /// As the host has it.
    fn to_host(self) -> HostTimespec;
    /// From the host. Seconds that don't fit are `EOVERFLOW` only where the kernel says so; they are truncated here.
    fn from_host(h: HostTimespec) -> Self;
}

impl GuestTime for Timespec32 {
    fn to_host(self) -> HostTimespec {
        HostTimespec { sec: (self.sec as i32).into(), frac: (self.frac as i32).into() }
    }
    fn from_host(h: HostTimespec) -> Self {
        Timespec32 { sec: h.sec as u32, frac: h.frac as u32 }
    }
}

impl GuestTime for Timespec64 {
    fn to_host(self) -> HostTimespec {
        HostTimespec { sec: self.sec.get() as i64, frac: self.nsec.into() }
    }
    fn from_host(h: HostTimespec) -> Self {
        Timespec64 { sec: h.sec.into(), nsec: h.frac as u32, pad: ((h.frac as u64) >> 32) as u32 }
    }
}

impl HostTimespec {
    /// As a `timeval` where the kernel refuses seconds that don't fit.
    pub fn to_timeval(self) -> Result<Timespec32, Errno> {
        i32::try_from(self.sec).map_err(|_| Errno::EOVERFLOW)?;
        Ok(Timespec32::from_host(self))
    }
}

layout! {
    /// The host's `struct itimerspec` or `itimerval`.
    HostItimer = 32 { interval: HostTimespec, value: HostTimespec }
}

layout! {
    /// `struct timex` of 32 bits.
    Timex = 128 {
        modes: u32, offset: u32, freq: u32, maxerror: u32, esterror: u32, status: u32, constant: u32, precision: u32,
        tolerance: u32, time: Timespec32, tick: u32, ppsfreq: u32, jitter: u32, shift: u32, stabil: u32, jitcnt: u32,
        calcnt: u32, errcnt: u32, stbcnt: u32, tai: u32, unused: [u32; 11],
    }
}

layout! {
    /// The host's `struct timex`, which is also that of `clock_adjtime64`.
    HostTimex = 208 {
        modes: u32, pad0: u32, offset: i64, freq: i64, maxerror: i64, esterror: i64, status: u32, pad1: u32,
        constant: i64, precision: i64, tolerance: i64, time: HostTimespec, tick: i64, ppsfreq: i64, jitter: i64,
        shift: u32, pad2: u32, stabil: i64, jitcnt: i64, calcnt: i64, errcnt: i64, stbcnt: i64, tai: u32, unused: [u32; 11],
    }
}

impl From<&Timex> for HostTimex {
    fn from(t: &Timex) -> Self {
        let l = |v: u32| i64::from(v as i32);
        HostTimex {
            modes: t.modes,
            offset: l(t.offset),
            freq: l(t.freq),
            maxerror: l(t.maxerror),
            esterror: l(t.esterror),
            status: t.status,
            constant: l(t.constant),
            precision: l(t.precision),
            tolerance: l(t.tolerance),
            time: t.time.to_host(),
            tick: l(t.tick),
            ppsfreq: l(t.ppsfreq),
            jitter: l(t.jitter),
            shift: t.shift,
            stabil: l(t.stabil),
            jitcnt: l(t.jitcnt),
            calcnt: l(t.calcnt),
            errcnt: l(t.errcnt),
            stbcnt: l(t.stbcnt),
            tai: t.tai,
            ..HostTimex::default()
        }
    }
}

impl From<&HostTimex> for Timex {
    fn from(t: &HostTimex) -> Self {
        Timex {
            modes: t.modes,
            offset: t.offset as u32,
            freq: t.freq as u32,
            maxerror: t.maxerror as u32,
            esterror: t.esterror as u32,
            status: t.status,
            constant: t.constant as u32,
            precision: t.precision as u32,
            tolerance: t.tolerance as u32,
            time: Timespec32::from_host(t.time),
            tick: t.tick as u32,
            ppsfreq: t.ppsfreq as u32,
            jitter: t.jitter as u32,
            shift: t.shift,
            stabil: t.stabil as u32,
            jitcnt: t.jitcnt as u32,
            calcnt: t.calcnt as u32,
            errcnt: t.errcnt as u32,
            stbcnt: t.stbcnt as u32,
            tai: t.tai,
            unused: [0; 11],
        }
    }
}
