//! System V semaphores, shared memory and messages, alone and through `ipc`; POSIX message queues.

use crate::SysResult;
use crate::abi::{Ds, GuestTime, HostShmidDs, HostTimespec, MsqidDs, SemidDs, ShmidDs, Timespec32, Timespec64};
use crate::host_unsafe::{self as host, Arg};
use crate::sys_signal::read_timeout;
use crate::sys_time::sigevent;
use crate::task::Task;
use syscalls::{Errno, Sysno};

const IPC_64: u32 = 0x100;
const IPC_SET: u32 = 1;
const IPC_STAT: u32 = 2;
const IPC_INFO: u32 = 3;

/// IPC_STAT, IPC_SET and their kin on a structure with two layouts.
fn control<D: Ds>(t: &mut Task, nr: Sysno, before: &[Arg<'_>], cmd: u32, at: u32) -> SysResult {
    let mut args = before.to_vec();
    args.push(Arg::uint(cmd));
    if cmd == IPC_SET {
        let h = t.mem.read::<D>(at)?.to_host();
        args.push(Arg::input(&h));
        return t.host_blocking(nr, &args);
    }
    let mut h = D::Host::default();
    args.push(Arg::output(&mut h));
    let r = t.host_blocking(nr, &args)?;
    t.mem.write(at, &D::from_host(&h))?;
    Ok(r)
}

/// The multiplexed call: number and version in the first argument.
pub(crate) fn ipc(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [call, first, second, third, ptr, fifth] = a;
    let old_layout = |cmd: u32| cmd & IPC_64 == 0 && matches!(cmd, IPC_SET | IPC_STAT);
    match (call & 0xffff, call >> 16) {
        (1, _) => semtimedop::<Timespec32>(t, [first, ptr, second, 0, 0, 0]),
        (2, _) => t.host_blocking(Sysno::semget, &[Arg::uint(first), Arg::int(second), Arg::uint(third)]),
        (3, _) if old_layout(third) => Err(Errno::EINVAL.into()),
        (3, _) => {
            let value = t.mem.read(ptr)?;
            semctl(t, [first, second, third, value, 0, 0])
        }
        (4, _) => semtimedop::<Timespec32>(t, [first, ptr, second, fifth, 0, 0]),
        (11, _) => msgsnd(t, [first, ptr, second, third, 0, 0]),
        (12, 0) => {
            let [buf, typ]: [u32; 2] = t.mem.read(ptr)?;
            msgrcv(t, [first, buf, second, typ, third, 0])
        }
        (12, _) => msgrcv(t, [first, ptr, second, fifth, third, 0]),
        (13, _) => t.host_blocking(Sysno::msgget, &[Arg::uint(first), Arg::uint(second)]),
        (14, _) if old_layout(second) => Err(Errno::EINVAL.into()),
        (14, _) => msgctl(t, [first, second, ptr, 0, 0, 0]),
        (21, 1) => Err(Errno::EINVAL.into()),
        (21, _) => {
            let at = shmat(t, [first, ptr, second, 0, 0, 0])?;
            t.mem.write(third, &at)?;
            Ok(0)
        }
        (22, _) => shmdt(t, [ptr, 0, 0, 0, 0, 0]),
        (23, _) => t.host_blocking(Sysno::shmget, &[Arg::uint(first), Arg::uint(second), Arg::uint(third)]),
        (24, _) if old_layout(second) => Err(Errno::EINVAL.into()),
        (24, _) => shmctl(t, [first, second, ptr, 0, 0, 0]),
        _ => Err(Errno::ENOSYS.into()),
    }
}

// --- semaphores ---

fn semtimedop<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    // struct sembuf is three shorts on both.
    let timeout = read_timeout::<T>(t, a[3])?;
    let timeout = timeout.as_ref().map_or(Arg::NULL, Arg::input);
    t.host_blocking(Sysno::semtimedop, &[Arg::int(a[0]), Arg::uint(a[1]), Arg::uint(a[2]), timeout])
}

pub(crate) fn semtimedop64(t: &mut Task, a: [u32; 6]) -> SysResult {
    semtimedop::<Timespec64>(t, a)
}

pub(crate) fn semctl(t: &mut Task, a: [u32; 6]) -> SysResult {
    const GETALL: u32 = 13;
    const SEM_STAT: u32 = 18;
    const SEM_INFO: u32 = 19;
    const SEM_STAT_ANY: u32 = 20;
    let [id, number, cmd, arg, ..] = a;
    let cmd = cmd & !IPC_64;
    let before = [Arg::int(id), Arg::int(number)];
    match cmd {
        IPC_SET | IPC_STAT | SEM_STAT | SEM_STAT_ANY => control::<SemidDs>(t, Sysno::semctl, &before, cmd, arg),
        // struct seminfo is ten ints on both.
        IPC_INFO | SEM_INFO => t.mem_out(Sysno::semctl, &before, cmd, arg, 40),
        GETALL => t.mem_out(Sysno::semctl, &before, cmd, arg, 2 * 65536),
        _ => t.mem_out(Sysno::semctl, &before, cmd, arg, 0),
    }
}

impl Task {
    /// A control call whose memory argument has the same layout on both.
    fn mem_out(&mut self, nr: Sysno, before: &[Arg<'_>], cmd: u32, at: u32, size: u32) -> SysResult {
        self.mem.prepare_write(at, size);
        let mut args = before.to_vec();
        args.extend([Arg::uint(cmd), Arg::uint(at)]);
        self.host_blocking(nr, &args)
    }
}

// --- shared memory ---

pub(crate) fn shmctl(t: &mut Task, a: [u32; 6]) -> SysResult {
    const SHM_STAT: u32 = 13;
    const SHM_INFO: u32 = 14;
    const SHM_STAT_ANY: u32 = 15;
    let cmd = a[1] & !IPC_64;
    let before = [Arg::int(a[0])];
    match cmd {
        IPC_SET | IPC_STAT | SHM_STAT | SHM_STAT_ANY => control::<ShmidDs>(t, Sysno::shmctl, &before, cmd, a[2]),
        IPC_INFO => {
            // struct shminfo64: five longs and four unused.
            let mut h = [0u64; 9];
            let r = t.host_blocking(Sysno::shmctl, &[before[0], Arg::uint(cmd), Arg::output(&mut h)])?;
            t.mem.write(a[2], &h.map(|v| u32::try_from(v).unwrap_or(i32::MAX as u32)))?;
            Ok(r)
        }
        SHM_INFO => {
            // struct shm_info: an int (padded on the host) and five longs.
            let mut h = [0u64; 6];
            let r = t.host_blocking(Sysno::shmctl, &[before[0], Arg::uint(cmd), Arg::output(&mut h)])?;
            t.mem.write(a[2], &h.map(|v| v as u32))?;
            Ok(r)
        }
        _ => t.mem_out(Sysno::shmctl, &before, cmd, a[2], 0),
    }
}

pub(crate) fn shmat(t: &mut Task, a: [u32; 6]) -> SysResult {
    let mut h = HostShmidDs::default();
    host::call(Sysno::shmctl, &[Arg::int(a[0]), Arg::uint(IPC_STAT), Arg::output(&mut h)])?;
    let len = u32::try_from(h.segsz).map_err(|_| Errno::ENOMEM)?;
    Ok(t.mm.shm_attach(a[0], a[1], len, a[2])?)
}

pub(crate) fn shmdt(t: &mut Task, a: [u32; 6]) -> SysResult {
    t.mm.shm_detach(a[0])?;
    Ok(0)
}

// --- messages ---

/// The kernel's limit on one message is a sysctl; more than this can't be sent from 32 bits in practice.
const MSG_MAX: u32 = 16 << 20;

/// A message on the host: a type of 8 bytes, then the text.
pub(crate) fn msgsnd(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [id, at, size, flags, ..] = a;
    if size > MSG_MAX {
        return Err(Errno::EINVAL.into());
    }
    let typ: u32 = t.mem.read(at)?;
    let mut buf = vec![0u8; 8 + size as usize];
    buf[..8].copy_from_slice(&i64::from(typ as i32).to_le_bytes());
    t.mem.read_bytes(at.wrapping_add(4), &mut buf[8..])?;
    t.host_blocking(Sysno::msgsnd, &[Arg::int(id), Arg::input(buf.as_slice()), Arg::uint(size), Arg::uint(flags)])
}

pub(crate) fn msgrcv(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [id, at, size, typ, flags, _] = a;
    if size as i32 > MSG_MAX as i32 || (size as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut buf = vec![0u8; 8 + size as usize];
    let args = [Arg::int(id), Arg::output(buf.as_mut_slice()), Arg::uint(size), Arg::int(typ), Arg::uint(flags)];
    let n = t.host_blocking(Sysno::msgrcv, &args)?;
    t.mem.write_bytes(at, &buf[..4])?;
    t.mem.write_bytes(at.wrapping_add(4), &buf[8..8 + n as usize])?;
    Ok(n)
}

pub(crate) fn msgctl(t: &mut Task, a: [u32; 6]) -> SysResult {
    const MSG_STAT: u32 = 11;
    const MSG_INFO: u32 = 12;
    const MSG_STAT_ANY: u32 = 13;
    let cmd = a[1] & !IPC_64;
    let before = [Arg::int(a[0])];
    match cmd {
        IPC_SET | IPC_STAT | MSG_STAT | MSG_STAT_ANY => control::<MsqidDs>(t, Sysno::msgctl, &before, cmd, a[2]),
        // struct msginfo: seven ints and a short, padded, on both.
        IPC_INFO | MSG_INFO => t.mem_out(Sysno::msgctl, &before, cmd, a[2], 32),
        _ => t.mem_out(Sysno::msgctl, &before, cmd, a[2], 0),
    }
}

// --- POSIX message queues ---

/// `struct mq_attr`: eight longs.
fn read_attr(t: &Task, at: u32) -> Result<Option<[i64; 8]>, Errno> {
    Ok(t.mem.read_opt::<[u32; 8]>(at)?.map(|a| a.map(|v| i64::from(v as i32))))
}

pub(crate) fn mq_open(t: &mut Task, a: [u32; 6]) -> SysResult {
    let attr = if a[1] & libc::O_CREAT as u32 != 0 { read_attr(t, a[3])? } else { None };
    let attr = attr.as_ref().map_or(Arg::NULL, Arg::input);
    t.host_blocking(Sysno::mq_open, &[Arg::uint(a[0]), Arg::uint(a[1]), Arg::uint(a[2]), attr])
}

pub(crate) fn mq_getsetattr(t: &mut Task, a: [u32; 6]) -> SysResult {
    let new = read_attr(t, a[1])?;
    let mut old = [0i64; 8];
    let args = [Arg::int(a[0]), new.as_ref().map_or(Arg::NULL, Arg::input), Arg::output(&mut old)];
    let r = t.host_blocking(Sysno::mq_getsetattr, &args)?;
    t.mem.write_opt(a[2], &old.map(|v| v as u32))?;
    Ok(r)
}

pub(crate) fn mq_notify(t: &mut Task, a: [u32; 6]) -> SysResult {
    let event = if a[1] == 0 { None } else { Some(sigevent(t, a[1])?) };
    t.host_blocking(Sysno::mq_notify, &[Arg::int(a[0]), event.as_ref().map_or(Arg::NULL, Arg::input)])
}

fn queue_transfer(t: &mut Task, nr: Sysno, a: [u32; 6], timeout: Option<HostTimespec>) -> SysResult {
    let timeout = timeout.as_ref().map_or(Arg::NULL, Arg::input);
    t.host_blocking(nr, &[Arg::int(a[0]), Arg::uint(a[1]), Arg::uint(a[2]), Arg::uint(a[3]), timeout])
}

fn timedsend<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let timeout = read_timeout::<T>(t, a[4])?;
    queue_transfer(t, Sysno::mq_timedsend, a, timeout)
}

fn timedreceive<T: GuestTime>(t: &mut Task, a: [u32; 6]) -> SysResult {
    let timeout = read_timeout::<T>(t, a[4])?;
    t.mem.prepare_write(a[1], a[2]);
    t.mem.prepare_write(a[3], 4);
    queue_transfer(t, Sysno::mq_timedreceive, a, timeout)
}

pub(crate) fn mq_timedsend(t: &mut Task, a: [u32; 6]) -> SysResult {
    timedsend::<Timespec32>(t, a)
}

pub(crate) fn mq_timedsend64(t: &mut Task, a: [u32; 6]) -> SysResult {
    timedsend::<Timespec64>(t, a)
}

pub(crate) fn mq_timedreceive(t: &mut Task, a: [u32; 6]) -> SysResult {
    timedreceive::<Timespec32>(t, a)
}

pub(crate) fn mq_timedreceive64(t: &mut Task, a: [u32; 6]) -> SysResult {
    timedreceive::<Timespec64>(t, a)
}
