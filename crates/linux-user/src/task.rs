//! A guest thread: its CPU, its share of the process, and the loop that answers system calls.

use crate::abi::HostTimespec;
use crate::guest::Guest;
use crate::host_unsafe::{self as host, Arg};
use crate::mm::Mm;
use crate::seccomp::Seccomp;
use crate::shared::Shared;
use crate::signal::{Actions, ThreadSignals};
use crate::table::{self, Kind};
use crate::tracee::Block;
use crate::{Stop, SysResult};
use std::ffi::CString;
use std::sync::{Arc, Mutex};
use syscalls::{Errno, Sysno};
use xlat86_arch::{Fault, Reg, Seg, SegAttr, Segment, Vector};
use xlat86_host::signals;
use xlat86_vcpu::{Exit, Vcpu};

/// First of the three GDT entries for thread-local storage on a 64-bit kernel.
pub(crate) const TLS_FIRST: u16 = 12;
/// What a tracer sees as the result of a call that will be restarted.
const ERESTARTSYS: u32 = -512i32 as u32;
/// How often memory that a call writes is prepared again because other threads translate code there.
const PREPARATIONS: u32 = 64;
/// Calls that go on after a stop or a signal that comes to nothing, but end for a handler even with SA_RESTART. On the host
/// a tracer's notes, and all signals of a tracee, come through a handler: the guest is not to notice.
const GO_ON: [Sysno; 6] =
    [Sysno::clock_nanosleep, Sysno::ppoll, Sysno::pselect6, Sysno::pause, Sysno::rt_sigsuspend, Sysno::futex];
/// INT 80h: `cd 80`.
pub(crate) const INT80_LEN: u32 = 2;

/// A guest thread, owned by the host thread that runs it.
pub struct Task {
    /// Its CPU.
    pub vcpu: Vcpu,
    /// Guest memory.
    pub mem: Guest,
    /// The memory map.
    pub mm: Arc<Mm>,
    /// What all processes started from this program share.
    pub shared: Arc<Shared>,
    /// Signal actions; threads share them.
    pub sighand: Arc<Mutex<Actions>>,
    /// Mask, alternate stack.
    pub signals: ThreadSignals,
    /// The TLS descriptors, GDT entries 12 to 14.
    pub tls: [u64; 3],
    /// Cleared, and its waiters woken, when the thread ends (CLONE_CHILD_CLEARTID).
    pub clear_tid: u32,
    /// False for threads that the guest started.
    pub is_main: bool,
    /// The filters that its system calls pass.
    pub seccomp: Arc<Seccomp>,
    /// What the tracer sees; `None` when there is none.
    pub trace: Option<Box<Block>>,
    /// PTRACE_TRACEME was asked for where it can be had only with the next execve.
    pub trace_on_exec: bool,
    /// The last call was stopped in the middle and goes on, with so much of its time left, unless a handler comes first.
    pub left: Option<HostTimespec>,
    /// The same during the call that goes on.
    pub goes_on: Option<HostTimespec>,
    /// Between vfork and execve, with the parent's memory.
    pub in_vfork: bool,
    /// Set when the thread is to end.
    pub ended: Option<i32>,
}

impl Task {
    /// Runs the guest until this thread ends; gives its status.
    pub fn run(&mut self) -> i32 {
        loop {
            if self.stepping() {
                let before = self.watched();
                if let Some(exit) = self.vcpu.single_step() {
                    self.follow(exit);
                }
                if self.ended.is_none() {
                    self.after_step(before);
                }
            } else {
                let exit = self.vcpu.run();
                self.follow(exit);
            }
            if crate::signal::waiting() || self.signals.is_due() {
                self.deliver_pending();
            }
            self.signals.during = None;
            if let Some(status) = self.ended {
                return status;
            }
        }
    }

    fn follow(&mut self, exit: Exit) {
        match exit {
            Exit::SoftInt(0x80) => self.system_call(),
            Exit::SoftInt(n) => self.soft_int(n),
            Exit::Fault(f) => self.deliver_fault(&f),
            Exit::Interrupted => {}
            // CPL 3 can't halt; the instruction faults before.
            Exit::Halt | Exit::InterruptWindow | Exit::Shutdown => self.deliver_fault(&Fault::gp(0)),
            Exit::Unimplemented(what) => self.unimplemented(&what),
            Exit::Diverged(report) => self.diverged(&report),
        }
    }

    fn soft_int(&mut self, n: u8) {
        match n {
            3 => self.deliver_fault(&Fault::simple(Vector::BP)),
            4 => self.deliver_fault(&Fault::simple(Vector::OF)),
            n => {
                // The gate's privilege forbids it: #GP at the instruction, with the gate's number (SDM vol. 3A, 6.13).
                self.vcpu.state_mut().eip = self.vcpu.state().eip.wrapping_sub(INT80_LEN);
                self.deliver_fault(&Fault::gp(u32::from(n) << 3 | 2));
            }
        }
    }

    fn unimplemented(&mut self, what: &str) {
        eprintln!(
            "xlat86: {}: at {:#x}: instruction not implemented: {what}",
            self.shared.name(),
            self.vcpu.state().eip
        );
        self.deliver_fault(&Fault::ud());
    }

    /// Lockstep found the engines to disagree: a bug of the emulator, and nothing to go on with.
    fn diverged(&mut self, report: &impl std::fmt::Display) -> ! {
        eprintln!("xlat86: {}: {report}", self.shared.name());
        self.shared.at_exit("stopped: the engines disagree", &mut self.vcpu);
        host::exit_group(crate::EXIT_BUG)
    }

    fn system_call(&mut self) {
        let mut nr = self.vcpu.state().reg(Reg::Eax);
        self.goes_on = self.left.take();
        let asked = nr;
        if self.traced() {
            nr = self.trace_entry(nr);
        }
        let s = self.vcpu.state();
        let args = [Reg::Ebx, Reg::Ecx, Reg::Edx, Reg::Esi, Reg::Edi, Reg::Ebp].map(|r| s.reg(r));
        let row = table::row(nr);
        let traced = self.shared.trace.as_ref().map(|_| crate::trace::begin(self, nr, row, args));
        let result = match (self.filter_call(nr, args), row) {
            (Some(filtered), _) => filtered,
            (None, Some(row)) => row.run(self, args),
            (None, None) => Err(Stop::Errno(Errno::ENOSYS)),
        };
        if let Some(call) = traced {
            call.end(self, &result);
        }
        let s = self.vcpu.state_mut();
        match result {
            Ok(v) => s.set_reg(Reg::Eax, v),
            Err(Stop::Errno(e)) => s.set_reg(Reg::Eax, (-e.into_raw()) as u32),
            Err(Stop::Restart) if self.trace.is_some() => s.set_reg(Reg::Eax, ERESTARTSYS),
            Err(Stop::Restart) | Err(Stop::KeepRegisters) => {}
        }
        if self.traced() && self.ended.is_none() {
            self.trace_call(nr);
        }
        if result == Err(Stop::Restart) {
            // The instruction is executed again once the signal has been dealt with.
            let s = self.vcpu.state_mut();
            s.set_reg(Reg::Eax, asked);
            s.eip = s.eip.wrapping_sub(INT80_LEN);
        }
    }

    /// Makes a host call that may block, for the guest.
    pub fn host_blocking(&mut self, nr: Sysno, args: &[Arg<'_>]) -> SysResult {
        match host::interruptible(nr, args) {
            Ok(Ok(v)) => Ok(v as u32),
            Ok(Err(Errno::EINTR)) if GO_ON.contains(&nr) && self.may_go_on() => {
                self.left = Some(HostTimespec::default());
                Err(Stop::Restart)
            }
            Ok(Err(Errno::EINTR)) if self.interrupted_by_blocked() => Err(Stop::Restart),
            Ok(Err(e)) => Err(Stop::Errno(e)),
            Err(_) => Err(Stop::Restart),
        }
    }

    /// Has a call been interrupted by something that may come to nothing?
    fn may_go_on(&self) -> bool {
        self.traced() || signals::next_pending() == Some(signals::KICK) || self.interrupted_by_blocked()
    }

    /// Hands a call to the host as its row says.
    pub fn pass(&mut self, nr: Sysno, kinds: &[Kind], regs: [u32; 6]) -> SysResult {
        let mut paths: [Option<CString>; 6] = Default::default();
        let mut written: [(u32, u32); 6] = [(0, 0); 6];
        let mut reg = 0;
        for (i, kind) in kinds.iter().enumerate() {
            let v = regs[reg];
            let count = regs.get(reg + 1).copied().unwrap_or(0);
            match *kind {
                Kind::Look | Kind::LookL => paths[i] = self.lookup(v, *kind == Kind::Look)?,
                Kind::OutBuf => written[i] = (v, count),
                Kind::Out(size) => written[i] = (v, size),
                Kind::OutN(size) => written[i] = (v, size.saturating_mul(count)),
                _ => {}
            }
            reg += if *kind == Kind::Off { 2 } else { 1 };
        }
        let mut args = [Arg::NULL; 6];
        reg = 0;
        for (i, kind) in kinds.iter().enumerate() {
            let v = regs[reg];
            args[i] = match *kind {
                Kind::I | Kind::Fd | Kind::At | Kind::Sig => Arg::int(v),
                Kind::Off => Arg::wide(u64::from(v) | u64::from(regs[reg + 1]) << 32),
                Kind::Look | Kind::LookL => paths[i].as_deref().map_or(Arg::uint(v), Arg::cstr),
                _ => Arg::uint(v),
            };
            reg += if *kind == Kind::Off { 2 } else { 1 };
        }
        for _ in 0..PREPARATIONS {
            for (at, len) in written {
                self.mem.prepare_write(at, len);
            }
            let r = self.host_blocking(nr, &args[..kinds.len()]);
            // Another thread may have translated code from there meanwhile, and so protected it again.
            if r != Err(Stop::Errno(Errno::EFAULT)) || !written.iter().any(|&(at, len)| self.mem.guards_code(at, len)) {
                return r;
            }
        }
        Err(Errno::EFAULT.into())
    }

    /// Where a path argument leads when it isn't simply what the guest wrote: into the sysroot, or to a file of
    /// /proc/self that must describe the guest. `None`: use the guest's own string.
    pub fn lookup(&self, addr: u32, follow: bool) -> Result<Option<CString>, Errno> {
        let mut first = [0u8; 1];
        if self.mem.read_bytes(addr, &mut first).is_err() || first[0] != b'/' {
            return Ok(None);
        }
        let path = self.mem.path(addr)?;
        Ok(self.shared.lookup(&path, follow))
    }

    /// Sets TLS descriptor `entry` (12 to 14), and reloads the segment registers that use it.
    pub fn set_tls(&mut self, entry: u16, descriptor: u64) {
        self.tls[usize::from(entry - TLS_FIRST)] = descriptor;
        self.vcpu.set_descriptor(entry, descriptor);
        for seg in [Seg::Ds, Seg::Es, Seg::Fs, Seg::Gs] {
            let selector = self.vcpu.state().segment(seg).selector;
            if selector == entry << 3 | 3 {
                self.load_segment(seg, selector);
            }
        }
    }

    /// Loads a segment register as the kernel does on its way to user mode: a bad selector becomes null.
    pub fn load_segment(&mut self, seg: Seg, selector: u16) {
        let present = |d: u64| d >> 47 & 1 != 0;
        let loaded = match selector >> 3 {
            i if selector & 4 != 0 => match self.vcpu.ldt().get(usize::from(i)) {
                Some(d) if present(d) => Segment::from_descriptor(selector, d),
                _ => Segment::null(0),
            },
            0 => Segment::null(selector),
            4 => Segment::flat(selector, SegAttr::CODE32.with_dpl(3)),
            5 => Segment::flat(selector, SegAttr::DATA32.with_dpl(3)),
            i @ 12..=14 if present(self.tls[usize::from(i - TLS_FIRST)]) => {
                Segment::from_descriptor(selector, self.tls[usize::from(i - TLS_FIRST)])
            }
            _ => Segment::null(0),
        };
        self.vcpu.state_mut().seg[seg as usize] = loaded;
    }
}
