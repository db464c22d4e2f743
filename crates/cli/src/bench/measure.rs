//! One run of one program: its time, its output, how it ended.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use wait4::Wait4;

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Exit(i32),
    Signal(i32),
    /// It was still running at the limit, and was killed.
    TimedOut,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) end: End,
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    pub(crate) output: Vec<u8>,
    /// The end of what it wrote to standard error.
    pub(crate) errors: String,
}

impl Run {
    /// In one line, what was wrong with a run that failed.
    pub(crate) fn why(&self) -> String {
        let end = match self.end {
            End::Exit(status) => format!("exit status {status}"),
            End::Signal(signal) => format!("killed by signal {signal}"),
            End::TimedOut => format!("still running after {:.0} s", self.wall.as_secs_f64()),
        };
        match self.errors.lines().next_back() {
            Some(last) => format!("{end}: {last}"),
            None => end,
        }
    }
}

/// Runs `command` with empty input, for at most `limit`.
///
/// # Errors
/// It can't be started.
pub(crate) fn run(command: &mut Command, limit: Duration) -> io::Result<Run> {
    let mut errors = tempfile::tempfile()?;
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone()?).spawn()?;
    let mut stdout = child.stdout.take().expect("a pipe was asked for");
    let handle =
        Pid::from_raw(child.id() as i32).map(|pid| pidfd_open(pid, PidfdFlags::empty())).expect("a child has a pid")?;
    let (done, is_done) = mpsc::channel();
    // Not joined: after a kill, a grandchild may still hold the pipe.
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let read = stdout.read_to_end(&mut output);
        let ended = child.wait4();
        let _ = done.send((start.elapsed(), read.and(ended), output));
    });
    let Ok((wall, ended, output)) = is_done.recv_timeout(limit) else {
        // It may just have ended by itself.
        let _ = pidfd_send_signal(handle, Signal::KILL);
        let wall = start.elapsed();
        return Ok(Run { end: End::TimedOut, cpu: wall, wall, output: Vec::new(), errors: tail(&mut errors)? });
    };
    let ended = ended?;
    let end = match (ended.status.code(), ended.status.signal()) {
        (Some(status), _) => End::Exit(status),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    };
    let cpu = ended.rusage.utime + ended.rusage.stime;
    Ok(Run { end, cpu, wall, output, errors: tail(&mut errors)? })
}

/// The last 16 KiB.
fn tail(file: &mut File) -> io::Result<String> {
    let len = file.seek(io::SeekFrom::End(0))?;
    file.seek(io::SeekFrom::Start(len.saturating_sub(16384)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Tests that execute files they have just written take turns with all that start programs: a child forked by one
    /// thread holds the files that another is writing, and the kernel executes no file that is open for writing.
    pub(crate) fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shell(script: &str) -> Run {
        run(Command::new("sh").args(["-c", script]), Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn output_status_and_time_are_the_programs() {
        let _alone = alone();
        let r = shell("echo out; echo err >&2; exit 3");
        assert_eq!((r.end, r.output.as_slice(), r.errors.as_str()), (End::Exit(3), &b"out\n"[..], "err\n"));
        assert_eq!(r.why(), "exit status 3: err");
        assert!(r.wall >= r.cpu / 8);
        assert_eq!(shell("kill -9 $$").end, End::Signal(9));
    }

    #[test]
    fn a_program_that_goes_on_is_stopped() {
        let _alone = alone();
        let r = run(Command::new("sleep").arg("30"), Duration::from_millis(50)).unwrap();
        assert_eq!(r.end, End::TimedOut);
        assert!(r.wall < Duration::from_secs(10));
        let r = run(Command::new("sh").args(["-c", "exec >&-; sleep 30"]), Duration::from_millis(50)).unwrap();
        assert_eq!(r.end, End::TimedOut);
    }
}
