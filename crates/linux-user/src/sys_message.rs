//! Messages: headers, control messages, and the calls that send and receive them.

use crate::SysResult;
use crate::abi::{Cmsghdr, GuestTime, HostCmsghdr, HostIovec, HostMsghdr, Msghdr, Timespec32, Timespec64};
use crate::host_unsafe::{self as host, Arg};
use crate::sys_fd::read_iovecs;
use crate::task::Task;
use syscalls::{Errno, Sysno};
use zerocopy::{FromBytes, IntoBytes};

const SOL_SOCKET: u32 = libc::SOL_SOCKET as u32;

const SCM_RIGHTS: u32 = libc::SCM_RIGHTS as u32;
/// Of a host's control message.
const HOST_ALIGN: usize = 8;

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
        let Received { control, truncated, cut } = to_guest_control(received, g.controllen as usize);
        if truncated {
            flags |= libc::MSG_CTRUNC as u32;
        }
        // Nobody will hear of these.
        for fd in cut {
            let _ = host::call(Sysno::close, &[Arg::int(fd)]);
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

/// Data of a control message that are new descriptors of the receiver's.
fn has_descriptors(level: u32, typ: u32) -> bool {
    const SCM_PIDFD: u32 = 4;
    level == SOL_SOCKET && matches!(typ, SCM_RIGHTS | SCM_PIDFD)
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
        out.resize(out.len().next_multiple_of(HOST_ALIGN), 0);
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(out.chunks_exact(8).map(|c| c.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b))).collect())
}

/// Received control messages in the guest's form.
#[derive(Default)]
struct Received {
    control: Vec<u8>,
    /// Something had to be left out.
    truncated: bool,
    /// Descriptors that were: the kernel makes none that there is no room to tell of.
    cut: Vec<u32>,
}

/// What of received control messages has room in the guest's buffer.
fn to_guest_control(mut host: &[u8], room: usize) -> Received {
    const HEADER: usize = size_of::<Cmsghdr>();
    let mut r = Received::default();
    while let Ok((h, _)) = HostCmsghdr::read_from_prefix(host) {
        let size = h.len as usize;
        if size < size_of::<HostCmsghdr>() || size > host.len() {
            break;
        }
        let mut data = host[size_of::<HostCmsghdr>()..size].to_vec();
        if is_time(h.level, h.typ) {
            data = data.chunks_exact(8).flat_map(|c| c[..4].to_vec()).collect();
        }
        let mut fits = room.saturating_sub(r.control.len() + HEADER).min(data.len());
        let mut has_header = r.control.len() + HEADER <= room;
        r.truncated |= !has_header || fits < data.len();
        if has_descriptors(h.level, h.typ) {
            // Whole ones, or the message isn't there at all.
            fits &= !3;
            has_header &= fits != 0;
            let missing = data[fits..].chunks_exact(4);
            r.cut.extend(missing.map(|fd| u32::from_le_bytes([fd[0], fd[1], fd[2], fd[3]])));
        }
        if has_header {
            r.control.extend(Cmsghdr { len: (HEADER + fits) as u32, level: h.level, typ: h.typ }.as_bytes());
            r.control.extend(&data[..fits]);
            r.control.resize(r.control.len().next_multiple_of(4).min(room), 0);
        }
        host = host.get(size.next_multiple_of(8)..).unwrap_or(&[]);
    }
    r
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

    /// SCM_RIGHTS with these descriptors, as the host has it.
    fn rights(fds: &[u32]) -> Vec<u8> {
        let len = size_of::<HostCmsghdr>() + 4 * fds.len();
        let mut h = HostCmsghdr { len: len as u64, level: SOL_SOCKET, typ: SCM_RIGHTS }.as_bytes().to_vec();
        h.extend(fds.as_bytes());
        h.resize(len.next_multiple_of(8), 0);
        h
    }

    #[test]
    fn received_descriptors_are_repacked() {
        // 20 bytes on the host, padded to 24; 16 in the guest.
        let r = to_guest_control(&rights(&[7]), 64);
        assert_eq!(r.control, [16u32, SOL_SOCKET, SCM_RIGHTS, 7].as_bytes());
        assert!(!r.truncated && r.cut.is_empty());
    }

    #[test]
    fn descriptors_without_room_are_cut_off() {
        let two = [rights(&[7, 8, 9]), rights(&[10])].concat();
        // Room, what is delivered, what is cut off.
        let cases: [(usize, &[u32], &[u32]); 5] = [
            (8, &[], &[7, 8, 9, 10]),
            (15, &[], &[7, 8, 9, 10]),
            (22, &[20, SOL_SOCKET, SCM_RIGHTS, 7, 8], &[9, 10]),
            (24, &[24, SOL_SOCKET, SCM_RIGHTS, 7, 8, 9], &[10]),
            (40, &[24, SOL_SOCKET, SCM_RIGHTS, 7, 8, 9, 16, SOL_SOCKET, SCM_RIGHTS, 10], &[]),
        ];
        for (room, delivered, cut) in cases {
            let r = to_guest_control(&two, room);
            assert_eq!(
                (r.control.as_slice(), r.truncated, r.cut.as_slice()),
                (delivered.as_bytes(), room < 40, cut),
                "room {room}"
            );
        }
    }

    #[test]
    fn other_messages_are_cut_anywhere() {
        let mut h = HostCmsghdr { len: 28, level: SOL_SOCKET, typ: 2 }.as_bytes().to_vec();
        h.extend([1; 16]);
        let r = to_guest_control(&h, 14);
        assert_eq!((r.control.len(), r.control[0], r.truncated), (14, 14, true));
        assert!(r.cut.is_empty());
    }
}
