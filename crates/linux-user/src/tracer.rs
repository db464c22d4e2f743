//! The tracing side of ptrace: what the guest asks of its tracees, other emulated processes (see `tracee.rs`).
//!
//! On the host every tracee but a child that asked for it is seized, and a note asks its emulator to show itself, be it for
//! PTRACE_ATTACH or PTRACE_SEIZE. Processes that aren't emulated can't be traced.

use crate::abi::{HostSiginfo, Siginfo, UserDesc};
use crate::host_unsafe::{self as host, Arg};
use crate::peer;
use crate::task::{TLS_FIRST, Task};
use crate::tracee::{self, Block};
use crate::{Stop, SysResult};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use syscalls::{Errno, Sysno};
use xlat86_host::signals::KICK;
use zerocopy::{FromBytes, IntoBytes};

/// Where each tracee's block is.
#[derive(Default)]
pub struct Tracees(Mutex<HashMap<u32, u64>>);

impl Tracees {
    /// Takes the lock. Held across fork; who holds it waits for nothing else.
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<u32, u64>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// In a new process, which traces nobody.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }
}

const TRACEME: u32 = 0;
const CONT: u32 = 7;
const ATTACH: u32 = 16;
const DETACH: u32 = 17;
pub(crate) const SETOPTIONS: u32 = 0x4200;
const GETEVENTMSG: u32 = 0x4201;
pub(crate) const GETSIGINFO: u32 = 0x4202;
pub(crate) const SETSIGINFO: u32 = 0x4203;
const SEIZE: u32 = 0x4206;
const INTERRUPT: u32 = 0x4207;
const LISTEN: u32 = 0x4208;
const GET_SYSCALL_INFO: u32 = 0x420e;
/// Of the options: those that the kernel has since 3.8.
const OPTIONS: u32 = 0x7f | 1 << 20;

pub(crate) fn host_ptrace(request: u32, pid: u32, addr: Arg<'_>, data: Arg<'_>) -> Result<u64, Errno> {
    host::call(Sysno::ptrace, &[Arg::uint(request), Arg::int(pid), addr, data])
}

pub(crate) fn resume(pid: u32, sig: u32) {
    // It may have been killed meanwhile: then wait says so.
    let _ = host_ptrace(CONT, pid, Arg::NULL, Arg::uint(sig));
}

impl Task {
    pub(crate) fn tracee(&self, pid: u32) -> Result<(u64, Block), Errno> {
        let at = *self.shared.tracees.lock().get(&pid).ok_or(Errno::ESRCH)?;
        let mut b = tracee::empty();
        host::peer_read(pid, at, b.as_mut_bytes())?;
        Ok((at, b))
    }

    pub(crate) fn change_tracee(&self, pid: u32, change: impl FnOnce(&mut Block)) -> Result<(), Errno> {
        let (at, mut b) = self.tracee(pid)?;
        change(&mut b);
        host::peer_write(pid, at, b.as_bytes())
    }

    fn go_on(&self, pid: u32, how: u32, sig: u32) -> SysResult {
        if sig > 64 {
            return Err(Errno::EIO.into());
        }
        self.change_tracee(pid, |b| (b.resume, b.inject) = (how, sig))?;
        let request = if how == tracee::RESUME_DETACH { DETACH } else { CONT };
        host_ptrace(request, pid, Arg::NULL, Arg::NULL)?;
        if how == tracee::RESUME_DETACH {
            self.shared.tracees.lock().remove(&pid);
        }
        Ok(0)
    }

    /// PTRACE_ATTACH, or PTRACE_SEIZE with `options`.
    fn attach(&mut self, pid: u32, seize: Option<u32>) -> SysResult {
        if seize.is_some_and(|options| options & !OPTIONS != 0) {
            return Err(Errno::EIO.into());
        }
        let group = peer::traceable(pid)?;
        let options = tracee::host_options(seize.unwrap_or(0));
        host_ptrace(SEIZE, pid, Arg::NULL, Arg::uint(options))?;
        send(group, pid, &tracee::attachment(seize))?;
        if seize.is_some() {
            // Other requests may follow at once; after PTRACE_ATTACH they wait for the stop.
            self.await_hello(pid);
        }
        Ok(0)
    }

    /// Waits until a thread has shown itself, or is dead, or a signal comes.
    fn await_hello(&self, pid: u32) {
        const P_PID: u32 = 1;
        let look = (libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::WNOWAIT) as u32;
        while !self.shared.tracees.lock().contains_key(&pid) {
            let mut info = HostSiginfo::default();
            let args = [Arg::uint(P_PID), Arg::int(pid), Arg::output(&mut info), Arg::uint(look), Arg::NULL];
            let stopped = host::call(Sysno::waitid, &args).is_ok() && info.code == libc::CLD_TRAPPED as u32;
            if !stopped {
                return;
            }
            let mut word = 0u32;
            let options = (libc::__WALL | libc::WNOHANG) as u32;
            let args = [Arg::int(pid), Arg::output(&mut word), Arg::uint(options), Arg::NULL];
            if host::call(Sysno::wait4, &args) == Ok(pid.into()) && word & 0xff == 0x7f {
                self.judge(pid, word);
            }
        }
    }

    fn interrupt(&self, pid: u32) -> SysResult {
        let (_, b) = self.tracee(pid)?;
        if b.options & tracee::SEIZED == 0 {
            return Err(Errno::EIO.into());
        }
        send(peer::group(pid)?, pid, &tracee::interruption())?;
        Ok(0)
    }

    fn listen(&self, pid: u32) -> SysResult {
        let (_, b) = self.tracee(pid)?;
        if b.options & tracee::SEIZED == 0 || b.status >> 16 != tracee::EVENT_STOP {
            return Err(Errno::EIO.into());
        }
        self.go_on(pid, tracee::RESUME_LISTEN, 0)
    }

    fn peek(&self, pid: u32, addr: u32) -> Result<u32, Errno> {
        let mut word = 0u32;
        host::peer_read(pid, addr.into(), word.as_mut_bytes()).map_err(|_| Errno::EIO)?;
        Ok(word)
    }

    fn poke(&self, pid: u32, addr: u32, value: u32) -> Result<(), Errno> {
        const PEEKDATA: u32 = 2;
        const POKEDATA: u32 = 5;
        self.tracee(pid)?;
        // The host writes 8 bytes, also where the guest may not; an aligned 8 never cross a page.
        for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
            let at = addr.wrapping_add(i as u32);
            let mut word = 0u64;
            host_ptrace(PEEKDATA, pid, Arg::uint(at & !7), Arg::output(&mut word)).map_err(|_| Errno::EIO)?;
            word.as_mut_bytes()[(at & 7) as usize] = byte;
            host_ptrace(POKEDATA, pid, Arg::uint(at & !7), Arg::wide(word)).map_err(|_| Errno::EIO)?;
        }
        self.note_poke(pid, addr, 4)
    }

    /// Tells a tracee that `len` bytes of its memory have changed.
    pub(crate) fn note_poke(&self, pid: u32, addr: u32, len: u32) -> Result<(), Errno> {
        let last = addr.saturating_add(len.saturating_sub(1));
        self.change_tracee(pid, |b| b.poked = [b.poked[0].min(addr), b.poked[1].max(last)])
    }

    /// Is `pid` a stopped tracee of this process?
    pub(crate) fn is_tracee(&self, pid: u32) -> bool {
        self.tracee(pid).is_ok()
    }
}

/// Offsets in i386's `struct user`.
const USER_REGS: u32 = 17 * 4;
const USER_DEBUG: std::ops::Range<u32> = 252..284;

fn peek_user(b: &Block, offset: u32) -> Result<u32, Errno> {
    match offset {
        _ if !offset.is_multiple_of(4) || offset >= USER_DEBUG.end => Err(Errno::EIO),
        0..USER_REGS => Ok(b.regs[offset as usize / 4]),
        _ if USER_DEBUG.contains(&offset) => Ok(b.debug[(offset - USER_DEBUG.start) as usize / 4]),
        _ => Ok(0),
    }
}

fn poke_user(b: &mut Block, offset: u32, value: u32) -> Result<(), Errno> {
    match offset {
        _ if !offset.is_multiple_of(4) || offset >= USER_DEBUG.end => return Err(Errno::EIO),
        0..USER_REGS => {
            b.regs[offset as usize / 4] = value;
            b.changed |= tracee::REGS;
        }
        _ if USER_DEBUG.contains(&offset) => {
            let i = (offset - USER_DEBUG.start) as usize / 4;
            // Reads are not seen, and there are no I/O ports: only execution and writes can be watched.
            let watches_more = |n: u32| value >> (2 * n) & 3 != 0 && value >> (16 + 4 * n) & 2 != 0;
            if i == 4 || i == 5 || i == 7 && (0..4).any(watches_more) {
                return Err(Errno::EINVAL);
            }
            b.debug[i] = value;
        }
        _ => {}
    }
    Ok(())
}

/// Bytes of `struct user_i387_struct`: an FNSAVE image.
const FSAVE: usize = 108;

/// A register set by its ELF note type.
fn regset(b: &mut Block, kind: u32) -> Result<(&mut [u8], u32), Errno> {
    const NT_PRSTATUS: u32 = 1;
    const NT_PRFPREG: u32 = 2;
    const NT_PRXFPREG: u32 = 0x46e6_2b7f;
    Ok(match kind {
        NT_PRSTATUS => (b.regs.as_mut_bytes(), tracee::REGS),
        NT_PRFPREG => (&mut b.head.as_mut_bytes()[..FSAVE], tracee::HEAD),
        NT_PRXFPREG => (&mut b.image, tracee::IMAGE),
        _ => return Err(Errno::EINVAL),
    })
}

fn get_regset(t: &Task, pid: u32, kind: u32, to: u32, len: Option<u32>) -> Result<u32, Errno> {
    let (_, mut b) = t.tracee(pid)?;
    let (bytes, _) = regset(&mut b, kind)?;
    let n = len.map_or(bytes.len(), |l| bytes.len().min(l as usize));
    t.mem.write_bytes(to, &bytes[..n])?;
    Ok(n as u32)
}

fn set_regset(t: &Task, pid: u32, kind: u32, from: u32, len: Option<u32>) -> Result<u32, Errno> {
    let (_, mut b) = t.tracee(pid)?;
    let (bytes, changed) = regset(&mut b, kind)?;
    let n = len.map_or(bytes.len(), |l| bytes.len().min(l as usize));
    t.mem.read_bytes(from, &mut bytes[..n])?;
    b.changed |= changed;
    t.change_tracee(pid, |old| *old = b)?;
    Ok(n as u32)
}

/// `struct ptrace_syscall_info`: how many bytes it has, and as many of them as fit are written.
fn syscall_info(t: &Task, pid: u32, size: u32, to: u32) -> SysResult {
    const AUDIT_ARCH_I386: u32 = 0x4000_0003;
    const RESULT: usize = 6;
    const ORIG_EAX: usize = 11;
    const EIP: usize = 12;
    const ESP: usize = 15;
    let (_, b) = t.tracee(pid)?;
    let mut info = Vec::new();
    for word in [b.phase, AUDIT_ARCH_I386, b.regs[EIP], 0, b.regs[ESP], 0] {
        info.extend(word.to_le_bytes());
    }
    match b.phase {
        // EBX, ECX, EDX, ESI, EDI, EBP are the first six registers.
        tracee::ENTRY => {
            for word in [b.regs[ORIG_EAX]].iter().chain(&b.regs[..6]) {
                info.extend(u64::from(*word).to_le_bytes());
            }
        }
        tracee::LEAVE => {
            let result = b.regs[RESULT] as i32;
            info.extend(i64::from(result).to_le_bytes());
            info.push((-4095..0).contains(&result).into());
        }
        _ => {}
    }
    t.mem.write_bytes(to, &info[..info.len().min(size as usize)])?;
    Ok(info.len() as u32)
}

/// Sends a thread a note.
fn send(group: u32, tid: u32, note: &HostSiginfo) -> Result<u64, Errno> {
    let args = [Arg::int(group), Arg::int(tid), Arg::int(KICK as u32), Arg::input(note)];
    host::call(Sysno::rt_tgsigqueueinfo, &args)
}

pub(crate) fn ptrace(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [request, pid, addr, data, ..] = a;
    if request == TRACEME {
        if t.traced() || t.trace_on_exec {
            return Err(Errno::EPERM.into());
        }
        if t.in_vfork {
            // Its parent can't answer a stop before it has executed something.
            t.trace_on_exec = true;
            return Ok(0);
        }
        host_ptrace(TRACEME, 0, Arg::NULL, Arg::NULL)?;
        t.start_tracing(0, true);
        return Ok(0);
    }
    const PRSTATUS: u32 = 1;
    const PRFPREG: u32 = 2;
    const PRXFPREG: u32 = 0x46e6_2b7f;
    let done = |r: Result<u32, Errno>| r.map(|_| 0).map_err(Stop::from);
    match request {
        1 | 2 => {
            t.tracee(pid)?;
            let word = t.peek(pid, addr)?;
            t.mem.write(data, &word)?;
            Ok(0)
        }
        3 => {
            let word = peek_user(&t.tracee(pid)?.1, addr)?;
            t.mem.write(data, &word)?;
            Ok(0)
        }
        4 | 5 => done(t.poke(pid, addr, data).map(|()| 0)),
        6 => {
            let mut r = Ok(());
            t.change_tracee(pid, |b| r = poke_user(b, addr, data))?;
            done(r.map(|()| 0))
        }
        CONT => t.go_on(pid, tracee::RESUME_CONT, data),
        8 => {
            t.tracee(pid)?;
            Ok(host::call(Sysno::kill, &[Arg::int(pid), Arg::uint(libc::SIGKILL as u32)])? as u32)
        }
        9 => t.go_on(pid, tracee::RESUME_STEP, data),
        DETACH => t.go_on(pid, tracee::RESUME_DETACH, data),
        24 => t.go_on(pid, tracee::RESUME_SYSCALL, data),
        12 => done(get_regset(t, pid, PRSTATUS, data, None)),
        13 => done(set_regset(t, pid, PRSTATUS, data, None)),
        14 => done(get_regset(t, pid, PRFPREG, data, None)),
        15 => done(set_regset(t, pid, PRFPREG, data, None)),
        18 => done(get_regset(t, pid, PRXFPREG, data, None)),
        19 => done(set_regset(t, pid, PRXFPREG, data, None)),
        25 => {
            let first = u32::from(TLS_FIRST);
            if !(first..first + 3).contains(&addr) {
                return Err(Errno::EINVAL.into());
            }
            let tls = t.tracee(pid)?.1.tls;
            t.mem.write(data, &UserDesc::from_descriptor(addr, tls[(addr - first) as usize]))?;
            Ok(0)
        }
        0x4204 | 0x4205 => {
            let [base, len]: [u32; 2] = t.mem.read(data)?;
            let f = if request == 0x4204 { get_regset } else { set_regset };
            let n = f(t, pid, addr, base, Some(len))?;
            t.mem.write(data.wrapping_add(4), &n)?;
            Ok(0)
        }
        SETOPTIONS => {
            if data & !OPTIONS != 0 {
                return Err(Errno::EINVAL.into());
            }
            host_ptrace(SETOPTIONS, pid, Arg::NULL, Arg::uint(tracee::host_options(data)))?;
            done(t.change_tracee(pid, |b| b.options = b.options & tracee::SEIZED | data).map(|()| 0))
        }
        GETEVENTMSG => {
            let mut message = 0u64;
            let (_, b) = t.tracee(pid)?;
            if b.status >> 16 == tracee::EVENT_EXEC {
                // The host's event is past; only the thread that executed is left.
                message = pid.into();
            } else {
                host_ptrace(GETEVENTMSG, pid, Arg::NULL, Arg::output(&mut message))?;
            }
            t.mem.write(data, &(message as u32))?;
            Ok(0)
        }
        GETSIGINFO => {
            let info = t.tracee(pid)?.1.info;
            t.mem.write_bytes(data, info.as_bytes())?;
            Ok(0)
        }
        SETSIGINFO => {
            let info: Siginfo = t.mem.read(data)?;
            t.change_tracee(pid, |b| {
                b.info = <[u32; 32]>::read_from_bytes(info.as_bytes()).unwrap_or(b.info);
            })?;
            Ok(0)
        }
        ATTACH => t.attach(pid, None),
        SEIZE if addr != 0 => Err(Errno::EIO.into()),
        SEIZE => t.attach(pid, Some(data)),
        INTERRUPT => t.interrupt(pid),
        LISTEN => t.listen(pid),
        GET_SYSCALL_INFO => syscall_info(t, pid, addr, data),
        _ => Err(Errno::EIO.into()),
    }
}
