//! Waiting for children and tracees: the host's stops of tracees become the guest's, or pass unseen.

use crate::abi::{HostRusage, HostSiginfo, Rusage, Siginfo};
use crate::host_unsafe::Arg;
use crate::task::Task;
use crate::tracee;
use crate::tracer::{GETSIGINFO, SETOPTIONS, SETSIGINFO, host_ptrace, resume};
use crate::{Stop, SysResult};
use syscalls::{Errno, Sysno};
use xlat86_host::signals::KICK;

/// Of a wait status: the process has stopped.
const STOPPED: u32 = 0x7f;

impl Task {
    /// What the guest sees of a stop that the host reports; `None` when it is none of the guest's.
    pub(crate) fn judge(&self, pid: u32, status: u32) -> Option<u32> {
        let (event, sig) = (status >> 16, status >> 8 & 0xff);
        let mut info = HostSiginfo::default();
        match host_ptrace(GETSIGINFO, pid, Arg::NULL, Arg::output(&mut info)) {
            Ok(_) => {}
            // A stop of job control: the guest's own if it isn't a tracee.
            Err(Errno::EINVAL) => {
                resume(pid, 0);
                return None;
            }
            Err(_) => return Some(status),
        }
        let known = self.shared.tracees.lock().contains_key(&pid);
        let host_options = |options: u32| {
            let _ = host_ptrace(SETOPTIONS, pid, Arg::NULL, Arg::uint(tracee::host_options(options)));
        };
        if event == tracee::EVENT_EXEC || event == tracee::EVENT_STOP {
            if event == tracee::EVENT_EXEC {
                self.shared.tracees.lock().remove(&pid);
            }
            resume(pid, 0);
            return None;
        }
        if event != 0 {
            return Some(status);
        }
        match sig as i32 {
            KICK if info.errno == tracee::MAGIC && info.fields[1] != 0 => {
                self.shared.tracees.lock().insert(pid, info.fields[1]);
                let (_, b) = self.tracee(pid).ok()?;
                if b.kind == tracee::STOP {
                    return Some(b.status);
                }
                host_options(b.options);
                let _ = self.change_tracee(pid, |b| b.resume = tracee::RESUME_CONT);
                resume(pid, 0);
            }
            // It can't be caught there: ask for a stop instead.
            libc::SIGSTOP if known => {
                let ask = tracee::question(tracee::ASK_STOP, 0);
                let _ = host_ptrace(SETSIGINFO, pid, Arg::NULL, Arg::input(&ask));
                resume(pid, KICK as u32);
            }
            // A new tracee's own stop comes when it is ready.
            libc::SIGSTOP => resume(pid, 0),
            // The host's stop after execve, before it could be told not to.
            libc::SIGTRAP if !known => {
                host_options(0);
                resume(pid, 0);
            }
            _ => resume(pid, sig),
        }
        None
    }

    /// Death ends being a tracee.
    fn bury(&self, pid: u32) {
        self.shared.tracees.lock().remove(&pid);
    }
}

fn wait(t: &mut Task, pid: u32, status: u32, options: u32, usage: u32) -> SysResult {
    loop {
        let mut h = HostRusage::default();
        let mut word = 0u32;
        let args = [Arg::int(pid), Arg::output(&mut word), Arg::uint(options), Arg::output(&mut h)];
        let r = t.host_blocking(Sysno::wait4, &args)?;
        if r == 0 {
            return Ok(0);
        }
        if word & 0xff == STOPPED {
            match t.judge(r, word) {
                Some(seen) => word = seen,
                None => continue,
            }
        } else {
            t.bury(r);
        }
        t.mem.write_opt(status, &word)?;
        t.mem.write_opt(usage, &Rusage::from(&h))?;
        return Ok(r);
    }
}

pub(crate) fn wait4(t: &mut Task, a: [u32; 6]) -> SysResult {
    wait(t, a[0], a[1], a[2], a[3])
}

pub(crate) fn waitpid(t: &mut Task, a: [u32; 6]) -> SysResult {
    wait(t, a[0], a[1], a[2], 0)
}

pub(crate) fn waitid(t: &mut Task, a: [u32; 6]) -> SysResult {
    let [which, id, to, options, usage_at, _] = a;
    let (g, usage, r) = loop {
        let mut info = HostSiginfo::default();
        let mut usage = HostRusage::default();
        let args = [Arg::int(which), Arg::int(id), Arg::output(&mut info), Arg::uint(options), Arg::output(&mut usage)];
        let r = t.host_blocking(Sysno::waitid, &args);
        if matches!(r, Err(Stop::Errno(_))) && to != 0 {
            // The kernel writes these words then too.
            t.mem.write(to, &[0u32; 6])?;
        }
        let r = r?;
        let mut g = Siginfo::from(&info);
        let [pid, _, status] = [g.fields[0], g.fields[1], g.fields[2]];
        match g.code as i32 {
            libc::CLD_TRAPPED => match t.judge(pid, status << 8 | STOPPED) {
                Some(seen) => g.fields[2] = seen >> 8,
                None => continue,
            },
            libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED if options & libc::WNOWAIT as u32 == 0 => {
                t.bury(pid);
            }
            _ => {}
        }
        break (g, usage, r);
    };
    t.mem.write_opt(usage_at, &Rusage::from(&usage))?;
    if to != 0 {
        // The kernel writes the six words that matter, zero when nothing was waited for.
        t.mem.write(to, &[g.signo, g.errno, g.code, g.fields[0], g.fields[1], g.fields[2]])?;
    }
    Ok(r)
}
