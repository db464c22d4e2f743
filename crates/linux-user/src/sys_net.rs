//! Sockets: the multiplexed `socketcall`, addresses and options. Messages are in `sys_message.rs`.

use crate::SysResult;
use crate::abi::{GuestTime, HostTimespec, Timespec32};
use crate::host_unsafe::{self as host, Arg};
use crate::table;
use crate::task::Task;
use syscalls::{Errno, Sysno};
use zerocopy::IntoBytes;

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

/// MCAST_JOIN_GROUP to MCAST_MSFILTER, of IPv4 and IPv6: an interface, then socket addresses, which are aligned to 8 on the host.
fn is_group_option(level: u32, option: u32) -> bool {
    matches!(level as i32, libc::IPPROTO_IP | libc::IPPROTO_IPV6) && (42..=48).contains(&option)
}

/// The argument of such an option as the host has it.
fn group_argument(t: &Task, at: u32, len: u32) -> Result<Vec<u8>, Errno> {
    match len {
        0..4 => Err(Errno::EINVAL),
        0x10_0000.. => Err(Errno::ENOBUFS),
        _ => {
            let mut bytes = vec![0u8; len as usize + 4];
            t.mem.read_bytes(at, &mut bytes[4..])?;
            bytes.copy_within(4..8, 0);
            bytes[4..8].fill(0);
            Ok(bytes)
        }
    }
}

fn timeout_option(level: u32, option: u32) -> Option<(u32, bool)> {
    if level != SOL_SOCKET {
        return None;
    }
    TIMEOUTS.iter().find(|o| o.0 == option).map(|o| (o.1, o.2))
}

pub(crate) fn getsockopt(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [fd, level, option, at, len_at, _] = a;
    let len: u32 = t.mem.read(len_at)?;
    if is_group_option(level, option) {
        let mut bytes = group_argument(t, at, len)?;
        let mut size = bytes.len() as u32;
        let args = [Arg::int(fd), Arg::int(level), Arg::int(option)];
        host::call(
            Sysno::getsockopt,
            &[args[0], args[1], args[2], Arg::output(bytes.as_mut_slice()), Arg::output(&mut size)],
        )?;
        let filled = size.clamp(8, len + 4) as usize;
        bytes.copy_within(0..4, 4);
        t.mem.write_bytes(at, &bytes[4..filled])?;
        t.mem.write(len_at, &(filled as u32 - 4))?;
        return Ok(0);
    }
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
    if is_group_option(level, option) {
        let bytes = group_argument(t, at, len)?;
        let (argument, len) = (Arg::input(bytes.as_slice()), Arg::uint(bytes.len() as u32));
        return t.host_blocking(Sysno::setsockopt, &[base[0], base[1], base[2], argument, len]);
    }
    if level == SOL_SOCKET && FILTERS.contains(&option) {
        let [count, program]: [u32; 2] = t.mem.read(at)?;
        let filter = [u64::from(count & 0xffff), program.into()];
        return t.host_blocking(Sysno::setsockopt, &[base[0], base[1], base[2], Arg::input(&filter), Arg::uint(16)]);
    }
    t.host_blocking(Sysno::setsockopt, &[base[0], base[1], base[2], Arg::uint(at), Arg::int(len)])
}
