//! Clocks, timers and file times. Each call exists in a 32-bit and a `_time64` form; both are one generic function.

use crate::abi::{GuestTime, HostItimer, HostTimespec, HostTimex, Timespec32, Timespec64, Timex};
use crate::host_unsafe::{self as host, Arg};
use crate::task::Task;
use crate::{Stop, SysResult};
use syscalls::{Errno, Sysno};

/// Declares the two forms of a call from its generic function.
macro_rules! both {
    ($($generic:ident => $narrow:ident, $wide:ident;)*) => {$(
        pub(crate) fn $narrow(t: &mut Task, a: [u32; 6]) -> SysResult { $generic::<Timespec32>(t, a) }
        pub(crate) fn $wide(t: &mut Task, a: [u32; 6]) -> SysResult { $generic::<Timespec64>(t, a) }
    )*};
}
both! {
    get_clock => clock_gettime, clock_gettime64;
    set_clock => clock_settime, clock_settime64;
    clock_resolution => clock_getres, clock_getres64;
    sleep_on_clock => clock_nanosleep, clock_nanosleep64;
    get_timer => timer_gettime, timer_gettime64;
    set_timer => timer_settime, timer_settime64;
    get_timerfd => timerfd_gettime, timerfd_gettime64;
    set_timerfd => timerfd_settime, timerfd_settime64;
    set_file_times => utimensat, utimensat64;
    round_robin => sched_rr_get_interval, sched_rr_get_interval64;
}

/// What `clock` says. Per-process and per-thread CPU clocks need the host's kernel, as every clock may; its vDSO knows the cheap ones.
pub(crate) fn now(clock: libc::clockid_t) -> Result<HostTimespec, Errno> {
    let (sec, frac) = host::clock_gettime(clock)?;
    Ok(HostTimespec { sec, frac })
}

fn get_clock<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.mem.write(a[1], &T::from_host(now(a[0] as i32)?))?;
    Ok(0)
}

fn set_clock<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let time = t.mem.read::<T>(a[1])?.to_host();
    Ok(host::call(Sysno::clock_settime, &[Arg::int(a[0]), Arg::input(&time)])? as u32)
}

fn clock_resolution<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut h = HostTimespec::default();
    host::call(Sysno::clock_getres, &[Arg::int(a[0]), Arg::output(&mut h)])?;
    t.mem.write_opt(a[1], &T::from_host(h))?;
    Ok(0)
}

/// Sleeps; what remains is reported when a signal ends it early.
fn sleep<T: GuestTime>(t: &mut Task, clock: u32, flags: u32, request: u32, remain: u32) -> SysResult {
    let absolute = flags & libc::TIMER_ABSTIME as u32 != 0;
    let asked = t.mem.read::<T>(request)?.to_host();
    let time = t.goes_on.filter(|_| !absolute).unwrap_or(asked);
    let mut rest = HostTimespec::default();
    let args = [Arg::int(clock), Arg::uint(flags), Arg::input(&time), Arg::output(&mut rest)];
    let r = t.host_blocking(Sysno::clock_nanosleep, &args);
    if t.left.is_some() {
        t.left = Some(rest);
    }
    if r == Err(Stop::Errno(Errno::EINTR)) && !absolute {
        t.mem.write_opt(remain, &T::from_host(rest))?;
    }
    r
}

fn sleep_on_clock<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    sleep::<T>(t, a[0], a[1], a[2], a[3])
}

pub(crate) fn nanosleep(t: &mut Task, a: [u32; 6]) -> SysResult {
    sleep::<Timespec32>(t, libc::CLOCK_MONOTONIC as u32, 0, a[0], a[1])
}

fn round_robin<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut h = HostTimespec::default();
    host::call(Sysno::sched_rr_get_interval, &[Arg::int(a[0]), Arg::output(&mut h)])?;
    t.mem.write(a[1], &T::from_host(h))?;
    Ok(0)
}

// --- interval timers ---

fn read_itimer<T: GuestTime>(t: &Task, at: u32) -> Result<HostItimer, Errno> {
    let [interval, value]: [T; 2] = [t.mem.read(at)?, t.mem.read(at.wrapping_add(size_of::<T>() as u32))?];
    Ok(HostItimer { interval: interval.to_host(), value: value.to_host() })
}

fn write_itimer<T: GuestTime>(t: &Task, at: u32, h: &HostItimer) -> Result<(), Errno> {
    if at != 0 {
        t.mem.write(at, &T::from_host(h.interval))?;
        t.mem.write(at.wrapping_add(size_of::<T>() as u32), &T::from_host(h.value))?;
    }
    Ok(())
}

fn query<T: GuestTime>(t: &mut Task, nr: Sysno, id: u32, to: u32) -> SysResult {
    let mut h = HostItimer::default();
    host::call(nr, &[Arg::int(id), Arg::output(&mut h)])?;
    write_itimer::<T>(t, to, &h)?;
    Ok(0)
}

fn arm<T: GuestTime>(t: &mut Task, nr: Sysno, a: [u32; 6]) -> SysResult {
    let new = read_itimer::<T>(t, a[2])?;
    let mut old = HostItimer::default();
    host::call(nr, &[Arg::int(a[0]), Arg::uint(a[1]), Arg::input(&new), Arg::output(&mut old)])?;
    write_itimer::<T>(t, a[3], &old)?;
    Ok(0)
}

fn get_timer<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    query::<T>(t, Sysno::timer_gettime, a[0], a[1])
}

fn set_timer<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    arm::<T>(t, Sysno::timer_settime, a)
}

fn get_timerfd<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    query::<T>(t, Sysno::timerfd_gettime, a[0], a[1])
}

fn set_timerfd<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    arm::<T>(t, Sysno::timerfd_settime, a)
}

pub(crate) fn getitimer(t: &mut Task, a: [u32; 6]) -> SysResult {
    query::<Timespec32>(t, Sysno::getitimer, a[0], a[1])
}

pub(crate) fn setitimer(t: &mut Task, a: [u32; 6]) -> SysResult {
    let new = if a[1] == 0 { HostItimer::default() } else { read_itimer::<Timespec32>(t, a[1])? };
    let mut old = HostItimer::default();
    host::call(Sysno::setitimer, &[Arg::uint(a[0]), Arg::input(&new), Arg::output(&mut old)])?;
    write_itimer::<Timespec32>(t, a[2], &old)?;
    Ok(0)
}

/// The host's `struct sigevent` from the guest's: value, signal, how, thread.
pub(crate) fn sigevent(t: &Task, at: u32) -> Result<[u32; 16], Errno> {
    let [value, signo, notify, tid]: [u32; 4] = t.mem.read(at)?;
    let mut h = [0u32; 16];
    (h[0], h[2], h[3], h[4]) = (value, signo, notify, tid);
    Ok(h)
}

pub(crate) fn timer_create(t: &mut Task, a: [u32; 6]) -> SysResult {
    let event = if a[1] == 0 { None } else { Some(sigevent(t, a[1])?) };
    let mut id = 0u32;
    let args = [Arg::int(a[0]), event.as_ref().map_or(Arg::NULL, Arg::input), Arg::output(&mut id)];
    host::call(Sysno::timer_create, &args)?;
    if let Err(e) = t.mem.write(a[2], &id) {
        let _ = host::call(Sysno::timer_delete, &[Arg::int(id)]);
        return Err(e.into());
    }
    Ok(0)
}

// --- the time of day ---

/// What time(2) answers: the second that the latest tick of the kernel's clock was in.
pub(crate) fn seconds() -> Result<u32, Errno> {
    Ok(now(libc::CLOCK_REALTIME_COARSE)?.sec as u32)
}

/// The time of day as a `timeval`.
pub(crate) fn time_of_day() -> Result<Timespec32, Errno> {
    let now = now(libc::CLOCK_REALTIME)?;
    Ok(Timespec32 { sec: now.sec as u32, frac: (now.frac / 1000) as u32 })
}

pub(crate) fn time(t: &mut Task, a: [u32; 6]) -> SysResult {
    let now = seconds()?;
    t.mem.write_opt(a[0], &now)?;
    Ok(now)
}

pub(crate) fn stime(t: &mut Task, a: [u32; 6]) -> SysResult {
    let sec: u32 = t.mem.read(a[0])?;
    let h = Timespec32 { sec, frac: 0 }.to_host();
    Ok(host::call(Sysno::clock_settime, &[Arg::int(0), Arg::input(&h)])? as u32)
}

pub(crate) fn gettimeofday(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.mem.write_opt(a[0], &time_of_day()?)?;
    if a[1] != 0 {
        let mut zone = [0u32; 2];
        host::call(Sysno::gettimeofday, &[Arg::NULL, Arg::output(&mut zone)])?;
        t.mem.write(a[1], &zone)?;
    }
    Ok(0)
}

pub(crate) fn settimeofday(t: &mut Task, a: [u32; 6]) -> SysResult {
    let time = t.mem.read_opt::<Timespec32>(a[0])?.map(Timespec32::to_host);
    let zone = t.mem.read_opt::<[u32; 2]>(a[1])?;
    let args = [time.as_ref().map_or(Arg::NULL, Arg::input), zone.as_ref().map_or(Arg::NULL, Arg::input)];
    Ok(host::call(Sysno::settimeofday, &args)? as u32)
}

pub(crate) fn times(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut h = [0i64; 4];
    let ticks = host::call(Sysno::times, &[Arg::output(&mut h)])?;
    t.mem.write_opt(a[0], &h.map(|v| v as u32))?;
    Ok(ticks as u32)
}

pub(crate) fn adjtimex(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut h = HostTimex::from(&t.mem.read::<Timex>(a[0])?);
    let r = host::call(Sysno::adjtimex, &[Arg::output(&mut h)])?;
    t.mem.write(a[0], &Timex::from(&h))?;
    Ok(r as u32)
}

pub(crate) fn clock_adjtime(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut h = HostTimex::from(&t.mem.read::<Timex>(a[1])?);
    let r = host::call(Sysno::clock_adjtime, &[Arg::int(a[0]), Arg::output(&mut h)])?;
    t.mem.write(a[1], &Timex::from(&h))?;
    Ok(r as u32)
}

// --- file times ---

fn touch(t: &mut Task, dir: u32, path: u32, times: Option<[HostTimespec; 2]>, flags: u32) -> SysResult {
    let args = [Arg::int(dir), Arg::uint(path), times.as_ref().map_or(Arg::NULL, Arg::input), Arg::uint(flags)];
    t.host_blocking(Sysno::utimensat, &args)
}

fn set_file_times<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let times = match a[2] {
        0 => None,
        at => {
            Some([t.mem.read::<T>(at)?.to_host(), t.mem.read::<T>(at.wrapping_add(size_of::<T>() as u32))?.to_host()])
        }
    };
    touch(t, a[0], a[1], times, a[3])
}

pub(crate) fn utime(t: &mut Task, a: [u32; 6]) -> SysResult {
    let times = t.mem.read_opt::<[u32; 2]>(a[1])?.map(|w| w.map(|sec| Timespec32 { sec, frac: 0 }.to_host()));
    touch(t, libc::AT_FDCWD as u32, a[0], times, 0)
}

fn touch_micro(t: &mut Task, dir: u32, path: u32, times: u32) -> SysResult {
    let times = match t.mem.read_opt::<[u32; 4]>(times)? {
        None => None,
        Some([s0, u0, s1, u1]) => {
            if u0 >= 1_000_000 || u1 >= 1_000_000 {
                return Err(Errno::EINVAL.into());
            }
            Some([(s0, u0), (s1, u1)].map(|(sec, micro)| Timespec32 { sec, frac: micro * 1000 }.to_host()))
        }
    };
    touch(t, dir, path, times, 0)
}

pub(crate) fn utimes(t: &mut Task, a: [u32; 6]) -> SysResult {
    touch_micro(t, libc::AT_FDCWD as u32, a[0], a[1])
}

pub(crate) fn futimesat(t: &mut Task, a: [u32; 6]) -> SysResult {
    touch_micro(t, a[0], a[1], a[2])
}
