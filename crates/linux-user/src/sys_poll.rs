//! Waiting on descriptors, with the atomic mask change of the `p` forms and the remaining time written back.

use crate::abi::{GuestTime, HostTimespec, Timespec32, Timespec64, U64};
use crate::host_unsafe::{self as host, Arg};
use crate::sys_signal::read_timeout;
use crate::task::Task;
use crate::{Stop, SysResult};
use syscalls::{Errno, Sysno};

const SIGSET: u32 = 8;
/// FD_SETSIZE: what the C library's sets hold.
const SET_SIZE: u32 = 1024;

/// How many descriptors the process's table has room for: a select on more looks at these, and at no more of its sets.
fn table_size() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|l| l.strip_prefix("FDSize:"));
    size.and_then(|n| n.trim().parse().ok()).unwrap_or(SET_SIZE)
}

/// When a wait with a timeout ends, in the monotonic clock.
pub(crate) struct Deadline(Option<(i64, i64)>);

impl Deadline {
    /// `timeout` from now; or what was left of it when the call was stopped, which becomes the timeout.
    pub(crate) fn after(task: &mut Task, timeout: &mut Option<HostTimespec>) -> Result<Self, Errno> {
        let Some(t) = timeout else { return Ok(Deadline(None)) };
        if let Some(left) = task.goes_on {
            *t = left;
        }
        if t.sec < 0 || !(0..1_000_000_000).contains(&t.frac) {
            return Err(Errno::EINVAL);
        }
        let (sec, nsec) = host::clock_gettime(libc::CLOCK_MONOTONIC)?;
        let nsec = nsec + t.frac;
        Ok(Deadline(Some((sec.saturating_add(t.sec) + nsec / 1_000_000_000, nsec % 1_000_000_000))))
    }

    /// What is left, not below zero.
    pub(crate) fn left(&self) -> Option<HostTimespec> {
        let (sec, nsec) = self.0?;
        let (now_sec, now_nsec) = host::clock_gettime(libc::CLOCK_MONOTONIC).ok()?;
        let left = (sec - now_sec, nsec - now_nsec);
        let (sec, frac) = if left.1 < 0 { (left.0 - 1, left.1 + 1_000_000_000) } else { left };
        Some(if sec < 0 { HostTimespec::default() } else { HostTimespec { sec, frac } })
    }
}

impl Task {
    /// A call with a timeout is over: if it is to go on after a stop, then for what is left.
    pub(crate) fn keep_left(&mut self, deadline: &Deadline) {
        if self.left.is_some() {
            self.left = deadline.left().or(self.left);
        }
    }
}

/// A signal mask argument: pointer and size.
fn read_mask(t: &mut Task, at: u32, size: u32) -> Result<Option<u64>, Errno> {
    if at == 0 {
        return Ok(None);
    }
    if size != SIGSET {
        return Err(Errno::EINVAL);
    }
    let mask = t.mem.read::<U64>(at)?.get();
    t.begin_with_mask(mask).map(Some)
}

/// select in all its forms: descriptor sets are little-endian bit strings, the same on both but for rounding to words.
fn wait_select(t: &mut Task, n: u32, sets: [u32; 3], timeout: Option<HostTimespec>, mask: Option<u64>) -> SysResult {
    if (n as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    // Asking costs more than the call, and so much of a set is always there.
    let n = if n > SET_SIZE { n.min(table_size()) } else { n };
    let bytes = (n.div_ceil(32) * 4) as usize;
    let mut bits: [Option<Vec<u64>>; 3] = [None, None, None];
    for (b, at) in bits.iter_mut().zip(sets) {
        if at != 0 {
            let mut raw = vec![0u8; bytes.next_multiple_of(8)];
            t.mem.read_bytes(at, &mut raw[..bytes])?;
            *b = Some(raw.chunks_exact(8).map(|c| c.iter().rev().fold(0, |v, &x| v << 8 | u64::from(x))).collect());
        }
    }
    let [r, w, e] = &mut bits;
    // The sixth argument is a pointer to the mask's address and size.
    let mask_arg = mask.map(|m| [Box::new(m)]);
    let packed = mask_arg.as_ref().map(|m| [Arg::input(&*m[0]).raw(), SIGSET.into()]);
    let set = |b: &mut Option<Vec<u64>>| match b {
        Some(v) => Arg::output(v.as_mut_slice()).raw(),
        None => 0,
    };
    let pointers = [set(r), set(w), set(e)];
    let args = [
        Arg::int(n),
        Arg::wide(pointers[0]),
        Arg::wide(pointers[1]),
        Arg::wide(pointers[2]),
        timeout.as_ref().map_or(Arg::NULL, Arg::input),
        packed.as_ref().map_or(Arg::NULL, Arg::input),
    ];
    let ready = t.host_blocking(Sysno::pselect6, &args)?;
    for (b, at) in bits.iter().zip(sets) {
        if let Some(words) = b {
            let raw: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            t.mem.write_bytes(at, &raw[..bytes])?;
        }
    }
    Ok(ready)
}

pub(crate) fn select(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut timeout = match t.mem.read_opt::<Timespec32>(a[4])? {
        None => None,
        Some(tv) => {
            // Microseconds above a million carry over; negative ones are an error.
            let (sec, micro) = (i64::from(tv.sec as i32), i64::from(tv.frac as i32));
            if sec < 0 || micro < 0 {
                return Err(Errno::EINVAL.into());
            }
            Some(HostTimespec { sec: sec + micro / 1_000_000, frac: micro % 1_000_000 * 1000 })
        }
    };
    let deadline = Deadline::after(t, &mut timeout)?;
    let r = wait_select(t, a[0], [a[1], a[2], a[3]], timeout, None);
    t.keep_left(&deadline);
    if let Some(left) = deadline.left()
        && r != Err(Stop::Restart)
    {
        let _ = t.mem.write(a[4], &Timespec32 { sec: left.sec as u32, frac: (left.frac / 1000) as u32 });
    }
    r
}

pub(crate) fn old_select(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [n, r, w, e, timeout]: [u32; 5] = t.mem.read(a[0])?;
    select(t, [n, r, w, e, timeout, 0])
}

fn pselect<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mask = match t.mem.read_opt::<[u32; 2]>(a[5])? {
        Some([at, size]) => read_mask(t, at, size)?,
        None => None,
    };
    let mut timeout = read_timeout::<T>(t, a[4])?;
    let deadline = Deadline::after(t, &mut timeout)?;
    let r = wait_select(t, a[0], [a[1], a[2], a[3]], timeout, mask);
    write_left::<T>(t, a[4], &deadline, &r);
    r
}

fn write_left<T: GuestTime>(t: &mut Task, at: u32, deadline: &Deadline, r: &SysResult) {
    t.keep_left(deadline);
    // Best effort, as in the kernel: the memory may be read-only.
    if let Some(left) = deadline.left()
        && *r != Err(Stop::Restart)
    {
        let _ = t.mem.write(at, &T::from_host(left));
    }
}

pub(crate) fn pselect6(t: &mut Task, a: [u32; 6]) -> SysResult {
    pselect::<Timespec32>(t, a)
}

pub(crate) fn pselect6_64(t: &mut Task, a: [u32; 6]) -> SysResult {
    pselect::<Timespec64>(t, a)
}

fn wait_poll<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mask = read_mask(t, a[3], a[4])?;
    let mut timeout = read_timeout::<T>(t, a[2])?;
    let deadline = Deadline::after(t, &mut timeout)?;
    let r = poll_for(t, a, timeout, mask);
    write_left::<T>(t, a[2], &deadline, &r);
    r
}

/// ppoll, with a timeout in milliseconds that isn't written back.
pub(crate) fn poll(t: &mut Task, a: [u32; 6]) -> SysResult {
    let ms = i64::from(a[2] as i32);
    let mut timeout = (ms >= 0).then(|| HostTimespec { sec: ms / 1000, frac: ms % 1000 * 1_000_000 });
    let deadline = Deadline::after(t, &mut timeout)?;
    let r = poll_for(t, a, timeout, None);
    t.keep_left(&deadline);
    r
}

fn poll_for(t: &mut Task, a: [u32; 6], timeout: Option<HostTimespec>, mask: Option<u64>) -> SysResult {
    t.mem.prepare_write(a[0], a[1].saturating_mul(8));
    let args = [
        Arg::uint(a[0]),
        Arg::uint(a[1]),
        timeout.as_ref().map_or(Arg::NULL, Arg::input),
        mask.as_ref().map_or(Arg::NULL, Arg::input),
        Arg::uint(SIGSET),
    ];
    t.host_blocking(Sysno::ppoll, &args)
}

pub(crate) fn ppoll(t: &mut Task, a: [u32; 6]) -> SysResult {
    wait_poll::<Timespec32>(t, a)
}

pub(crate) fn ppoll64(t: &mut Task, a: [u32; 6]) -> SysResult {
    wait_poll::<Timespec64>(t, a)
}

fn prepare_events(t: &Task, a: [u32; 6]) {
    t.mem.prepare_write(a[1], a[2].saturating_mul(12));
}

pub(crate) fn epoll_pwait(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mask = read_mask(t, a[4], a[5])?;
    prepare_events(t, a);
    let mask = mask.as_ref().map_or(Arg::NULL, Arg::input);
    let args = [Arg::int(a[0]), Arg::uint(a[1]), Arg::int(a[2]), Arg::int(a[3]), mask, Arg::uint(SIGSET)];
    t.host_blocking(Sysno::epoll_pwait, &args)
}

pub(crate) fn epoll_pwait2(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mask = read_mask(t, a[4], a[5])?;
    let timeout = read_timeout::<Timespec64>(t, a[3])?;
    prepare_events(t, a);
    let timeout = timeout.as_ref().map_or(Arg::NULL, Arg::input);
    let mask = mask.as_ref().map_or(Arg::NULL, Arg::input);
    let args = [Arg::int(a[0]), Arg::uint(a[1]), Arg::int(a[2]), timeout, mask, Arg::uint(SIGSET)];
    t.host_blocking(Sysno::epoll_pwait2, &args)
}
