//! Sockets: message headers, control messages and the multiplexed `socketcall`.

use crate::SysResult;
use crate::abi::{
    Cmsghdr, GuestTime, HostCmsghdr, HostIovec, HostMsghdr, HostTimespec, Msghdr, Timespec32, Timespec64,
};
use crate::host_unsafe::{self as host, Arg};
use crate::sys_fd::read_iovecs;
use crate::table;
use crate::task::Task;
use syscalls::{Errno, Sysno};
use zerocopy::{FromBytes, IntoBytes};

/// What `socketcall` number `i + 1` stands for: the call of that name, and how many words its arguments take.
const CALLS: [(u32, usize); 20] = [
    (359, 3), // socket
    (361, 3), // bind
    (362, 3), // connect
    (363, 2), // listen
    (0, 3),   // accept
    (367, 3), // getsockname
    (368, 3), // getpeername
    (360, 4), // socketpair
    (0, 4),   // send
    (0, 4),   // recv
    (369, 6), // sendto
    (371, 6), // recvfrom
    (373, 2), // shutdown
    (366, 5), // setsockopt
    (365, 5), // getsockopt
    (370, 3), // sendmsg
    (372, 3), // recvmsg
    (364, 4), // accept4
    (337, 5), // recvmmsg
    (345, 4), // sendmmsg
];

pub(crate) fn socketcall(t: &mut Task, a: [u32; 6]) -> SysResult {
    let call = a[0] as usize;
    let &(nr, words) = call.checked_sub(1).and_then(|i| CALLS.get(i)).ok_or(Errno::EINVAL)?;
    let mut args = [0; 6];
    args[..words].copy_from_slice(&t.mem.read_array::<u32>(a[1], words)?);
    match (nr, call) {
        (0, 5) => accept4(t, args),
        // send and recv: the same without an address.
        (0, 9) => run(t, 369, args),
        (0, _) => recvfrom(t, args),
        _ => run(t, nr, args),
    }
}

fn run(t: &mut Task, nr: u32, args: [u32; 6]) -> SysResult {
    table::row(nr).map_or(Err(Errno::ENOSYS.into()), |row| row.run(t, args))
}

/// Calls that fill an address buffer whose length is in guest memory.
fn with_address(t: &mut Task, nr: Sysno, before: &[Arg<'_>], at: u32, len: u32, after: &[Arg<'_>]) -> SysResult {
    if at != 0
        && let Some(room) = t.mem.read_opt::<u32>(len)?
    {
        t.mem.prepare_write(at, room.min(128));
        t.mem.prepare_write(len, 4);
    }
    let mut args = before.to_vec();
    args.extend([Arg::uint(at), Arg::uint(len)]);
    args.extend(after);
    t.host_blocking(nr, &args)
}

pub(crate) fn accept4(t: &mut Task, a: [u32; 6]) -> SysResult {
    with_address(t, Sysno::accept4, &[Arg::int(a[0])], a[1], a[2], &[Arg::uint(a[3])])
}

pub(crate) fn getsockname(t: &mut Task, a: [u32; 6]) -> SysResult {
    with_address(t, Sysno::getsockname, &[Arg::int(a[0])], a[1], a[2], &[])
}

pub(crate) fn getpeername(t: &mut Task, a: [u32; 6]) -> SysResult {
    with_address(t, Sysno::getpeername, &[Arg::int(a[0])], a[1], a[2], &[])
}

pub(crate) fn recvfrom(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.mem.prepare_write(a[1], a[2]);
    let before = [Arg::int(a[0]), Arg::uint(a[1]), Arg::uint(a[2]), Arg::uint(a[3])];
    with_address(t, Sysno::recvfrom, &before, a[4], a[5], &[])
}

// --- options ---

const SOL_SOCKET: u32 = libc::SOL_SOCKET as u32;
/// SO_RCVTIMEO and SO_SNDTIMEO with 32-bit and with 64-bit times. The host's own are the "old" numbers.
const TIMEOUTS: [(u32, u32, bool); 4] = [(20, 20, false), (21, 21, false), (66, 20, true), (67, 21, true)];
/// SO_ATTACH_FILTER and SO_ATTACH_REUSEPORT_CBPF take a length and a pointer.
const FILTERS: [u32; 2] = [26, 51];

fn timeout_option(level: u32, option: u32) -> Option<(u32, bool)> {
    if level != SOL_SOCKET {
        return None;
    }
    TIMEOUTS.iter().find(|o| o.0 == option).map(|o| (o.1, o.2))
}

pub(crate) fn getsockopt(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [fd, level, option, at, len_at, _] = a;
    let len: u32 = t.mem.read(len_at)?;
    let Some((host_option, wide)) = timeout_option(level, option) else {
        t.mem.prepare_write(at, len.min(1 << 20));
        t.mem.prepare_write(len_at, 4);
        return t.host_blocking(
            Sysno::getsockopt,
            &[Arg::int(fd), Arg::int(level), Arg::int(option), Arg::uint(at), Arg::uint(len_at)],
        );
    };
    let mut time = HostTimespec::default();
    let mut size = 16u32;
    host::call(
        Sysno::getsockopt,
        &[Arg::int(fd), Arg::int(level), Arg::int(host_option), Arg::output(&mut time), Arg::output(&mut size)],
    )?;
    let bytes = if wide { time.as_bytes().to_vec() } else { Timespec32::from_host(time).as_bytes().to_vec() };
    let n = bytes.len().min(len as usize);
    t.mem.write_bytes(at, &bytes[..n])?;
    t.mem.write(len_at, &(n as u32))?;
    Ok(0)
}

pub(crate) fn setsockopt(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [fd, level, option, at, len, _] = a;
    let base = [Arg::int(fd), Arg::int(level), Arg::int(option)];
    if let Some((host_option, wide)) = timeout_option(level, option) {
        let time = match wide {
            _ if (len as usize) < if wide { 16 } else { 8 } => return Err(Errno::EINVAL.into()),
            true => t.mem.read::<HostTimespec>(at)?,
            false => t.mem.read::<Timespec32>(at)?.to_host(),
        };
        return t.host_blocking(
            Sysno::setsockopt,
            &[base[0], base[1], Arg::int(host_option), Arg::input(&time), Arg::uint(16)],
        );
    }
    if level == SOL_SOCKET && FILTERS.contains(&option) {
        let [count, program]: [u32; 2] = t.mem.read(at)?;
        let filter = [u64::from(count & 0xffff), program.into()];
        return t.host_blocking(Sysno::setsockopt, &[base[0], base[1], base[2], Arg::input(&filter), Arg::uint(16)]);
    }
    t.host_blocking(Sysno::setsockopt, &[base[0], base[1], base[2], Arg::uint(at), Arg::int(len)])
}

// --- messages ---

const SCM_RIGHTS_ALIGN: usize = 8;

/// A message header on the host's side with the memory it points to.
struct Message {
    header: HostMsghdr,
    iov: Vec<HostIovec>,
    control: Vec<u64>,
}

impl Message {
    /// Reads a guest's header for a call on `fd`. A bad descriptor is noticed before a bad header.
    fn read(t: &Task, fd: u32, at: u32, receives: bool) -> Result<(Msghdr, Message), Errno> {
        Self::read_header(t, at, receives).map_err(|e| is_socket(fd).err().unwrap_or(e))
    }

    fn read_header(t: &Task, at: u32, receives: bool) -> Result<(Msghdr, Message), Errno> {
        let g: Msghdr = t.mem.read(at)?;
        if g.iovlen > 1024 {
            return Err(Errno::EMSGSIZE);
        }
        if (g.namelen as i32) < 0 {
            return Err(Errno::EINVAL);
        }
        let iov = read_iovecs(t, g.iov, g.iovlen, receives)?;
        let control = match (g.control, g.controllen) {
            (0, _) | (_, 0) => Vec::new(),
            // Host control messages are larger: a header of 16 for 12, and data aligned to 8 for 4.
            (_, len) if receives => vec![0; (len.min(1 << 16) as usize * 2 + 64) / 8],
            (control, len) => to_host_control(t, control, len)?,
        };
        if receives {
            t.mem.prepare_write(g.name, g.namelen.min(128));
        }
        let header = HostMsghdr {
            name: g.name.into(),
            namelen: if g.name == 0 { 0 } else { g.namelen },
            iovlen: g.iovlen.into(),
            controllen: 8 * control.len() as u64,
            flags: g.flags,
            ..HostMsghdr::default()
        };
        Ok((g, Message { header, iov, control }))
    }

    /// Points the header at the lists; to be called when they no longer move.
    fn point(&mut self) {
        self.header.iov = Arg::output(self.iov.as_mut_slice()).raw();
        self.header.control = if self.control.is_empty() { 0 } else { Arg::output(self.control.as_mut_slice()).raw() };
    }

    /// Writes back what a receiving call filled in.
    fn write_back(&self, t: &Task, at: u32, g: &Msghdr) -> Result<(), Errno> {
        let mut g = *g;
        let mut flags = self.header.flags;
        let received = &self.control.as_bytes()[..(self.header.controllen as usize).min(8 * self.control.len())];
        let (control, truncated) = to_guest_control(received, g.controllen as usize);
        if truncated {
            flags |= libc::MSG_CTRUNC as u32;
        }
        if g.control != 0 {
            t.mem.write_bytes(g.control, &control)?;
        }
        if g.name != 0 {
            g.namelen = self.header.namelen;
        }
        g.controllen = control.len() as u32;
        g.flags = flags;
        t.mem.write(at, &g)
    }
}

fn is_socket(fd: u32) -> Result<(), Errno> {
    let (mut kind, mut len) = (0u32, 4u32);
    let args = [
        Arg::int(fd),
        Arg::int(SOL_SOCKET),
        Arg::int(libc::SO_TYPE as u32),
        Arg::output(&mut kind),
        Arg::output(&mut len),
    ];
    host::call(Sysno::getsockopt, &args).map(drop)
}

/// Data of a control message whose layout depends on the size of a long: timestamps.
fn is_time(level: u32, typ: u32) -> bool {
    // SO_TIMESTAMP_OLD, SO_TIMESTAMPNS_OLD, SO_TIMESTAMPING_OLD
    level == SOL_SOCKET && matches!(typ, 29 | 35 | 37)
}

fn to_host_control(t: &Task, at: u32, len: u32) -> Result<Vec<u64>, Errno> {
    if len > 1 << 16 {
        return Err(Errno::ENOBUFS);
    }
    let mut raw = vec![0u8; len as usize];
    t.mem.read_bytes(at, &mut raw)?;
    let mut out: Vec<u8> = Vec::new();
    let mut rest = raw.as_slice();
    while let Ok((c, _)) = Cmsghdr::read_from_prefix(rest) {
        let size = c.len as usize;
        if size < size_of::<Cmsghdr>() || size > rest.len() {
            return Err(Errno::EINVAL);
        }
        let data = &rest[size_of::<Cmsghdr>()..size];
        let h = HostCmsghdr { len: (size_of::<HostCmsghdr>() + data.len()) as u64, level: c.level, typ: c.typ };
        out.extend(h.as_bytes());
        out.extend(data);
        out.resize(out.len().next_multiple_of(SCM_RIGHTS_ALIGN), 0);
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(out.chunks_exact(8).map(|c| c.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b))).collect())
}

/// The guest's form of received control messages, and whether something had to be left out.
fn to_guest_control(mut host: &[u8], room: usize) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    while let Ok((h, _)) = HostCmsghdr::read_from_prefix(host) {
        let size = h.len as usize;
        if size < size_of::<HostCmsghdr>() || size > host.len() {
            break;
        }
        let mut data = host[size_of::<HostCmsghdr>()..size].to_vec();
        if is_time(h.level, h.typ) {
            data = data.chunks_exact(8).flat_map(|c| c[..4].to_vec()).collect();
        }
        let len = size_of::<Cmsghdr>() + data.len();
        if out.len() + size_of::<Cmsghdr>() > room {
            return (out, true);
        }
        let fits = len.min(room - out.len());
        out.extend(Cmsghdr { len: fits as u32, level: h.level, typ: h.typ }.as_bytes());
        out.extend(&data[..fits - size_of::<Cmsghdr>()]);
        if fits < len {
            return (out, true);
        }
        out.resize(out.len().next_multiple_of(4).min(room), 0);
        host = host.get(size.next_multiple_of(8)..).unwrap_or(&[]);
    }
    (out, false)
}

pub(crate) fn sendmsg(t: &mut Task, a: [u32; 6]) -> SysResult {
    let (_, mut m) = Message::read(t, a[0], a[1], false)?;
    m.point();
    t.host_blocking(Sysno::sendmsg, &[Arg::int(a[0]), Arg::input(&m.header), Arg::uint(a[2])])
}

pub(crate) fn recvmsg(t: &mut Task, a: [u32; 6]) -> SysResult {
    let (g, mut m) = Message::read(t, a[0], a[1], true)?;
    m.point();
    let r = t.host_blocking(Sysno::recvmsg, &[Arg::int(a[0]), Arg::output(&mut m.header), Arg::uint(a[2])])?;
    m.write_back(t, a[1], &g)?;
    Ok(r)
}

/// `struct mmsghdr`: a message header and the length transferred.
const MMSG: u32 = size_of::<Msghdr>() as u32 + 4;

/// One message after the other: the count so far hides a later error, as in the kernel.
fn each(
    t: &mut Task,
    a: [u32; 6],
    one: fn(&mut Task, [u32; 6]) -> SysResult,
    until: impl Fn(u32) -> bool,
) -> SysResult {
    let mut flags = a[3];
    for i in 0..a[2].min(1024) {
        let at = a[1].wrapping_add(i * MMSG);
        match one(t, [a[0], at, flags, 0, 0, 0]) {
            Ok(n) => t.mem.write(at.wrapping_add(size_of::<Msghdr>() as u32), &n)?,
            Err(e) if i == 0 => return Err(e),
            Err(_) => return Ok(i),
        }
        if flags & MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT as u32;
        }
        if until(i + 1) {
            return Ok(i + 1);
        }
    }
    Ok(a[2].min(1024))
}

const MSG_WAITFORONE: u32 = 0x10000;

pub(crate) fn sendmmsg(t: &mut Task, a: [u32; 6]) -> SysResult {
    each(t, a, sendmsg, |_| false)
}

fn receive_many<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let timeout = crate::sys_signal::read_timeout::<T>(t, a[4])?;
    let now = || host::clock_gettime(libc::CLOCK_MONOTONIC).unwrap_or_default();
    let start = now();
    // The kernel too looks at the clock only between messages.
    let over = |_| {
        timeout.is_some_and(|t| {
            let n = now();
            (n.0 - start.0) * 1_000_000_000 + n.1 - start.1
                >= t.sec.saturating_mul(1_000_000_000).saturating_add(t.frac)
        })
    };
    each(t, a, recvmsg, over)
}

pub(crate) fn recvmmsg(t: &mut Task, a: [u32; 6]) -> SysResult {
    receive_many::<Timespec32>(t, a)
}

pub(crate) fn recvmmsg64(t: &mut Task, a: [u32; 6]) -> SysResult {
    receive_many::<Timespec64>(t, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_descriptors_are_repacked() {
        // SCM_RIGHTS with one descriptor: 20 bytes on the host, padded to 24; 16 in the guest.
        let mut h = HostCmsghdr { len: 20, level: SOL_SOCKET, typ: 1 }.as_bytes().to_vec();
        h.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        let (g, truncated) = to_guest_control(&h, 64);
        assert_eq!(
            g,
            [&16u32.to_le_bytes()[..], &1u32.to_le_bytes(), &1u32.to_le_bytes(), &7u32.to_le_bytes()].concat()
        );
        assert!(!truncated);
        assert!(to_guest_control(&h, 8).1);
        assert_eq!(to_guest_control(&h, 14).0.len(), 14);
    }
}
