//! Other emulated processes, as the host shows them: which processes are, what program each runs, where its memory is.
//!
//! There is no register of them. A process is one of us if its program file is ours, and its guest is found by what its emulator
//! told the host's kernel at the start ([`host_unsafe::describe_process`](crate::host_unsafe::describe_process)): the
//! auxiliary vector names an address in the guest's program, and the mapping there has the program's path.

use crate::elf;
use crate::host_unsafe::{self as host, Arg};
use crate::proc_files;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use syscalls::{Errno, Sysno};
use xlat86_arch::PAGE_SIZE;
use xlat86_host::signals;

/// How long an emulator may take until it has handlers.
const PATIENCE: u32 = 100;

/// Is process or thread `pid` this program, with whatever guest?
fn is_emulator(pid: u32) -> bool {
    let file = |path: &str| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    let theirs = file(&format!("/proc/{pid}/exe"));
    theirs.is_some() && theirs == file("/proc/self/exe")
}

/// A field of /proc/PID/status.
fn status_field(pid: u32, name: &str) -> Result<String, Errno> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| Errno::ESRCH)?;
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.ok_or(Errno::ESRCH)?.trim().to_owned())
}

/// The thread group of thread `tid`.
pub(crate) fn group(tid: u32) -> Result<u32, Errno> {
    status_field(tid, "Tgid")?.parse().map_err(|_| Errno::ESRCH)
}

/// The thread group of a thread that understands a tracer's notes.
pub(crate) fn traceable(tid: u32) -> Result<u32, Errno> {
    let group = group(tid)?;
    if !is_emulator(tid) {
        return Err(Errno::EPERM);
    }
    for _ in 0..PATIENCE {
        let caught = u64::from_str_radix(&status_field(tid, "SigCgt")?, 16).unwrap_or(0);
        if caught & signals::bit(signals::KICK) != 0 {
            return Ok(group);
        }
        // It has just executed itself.
        let pause = crate::abi::HostTimespec { sec: 0, frac: 10_000_000 };
        let _ = host::call(Sysno::nanosleep, &[Arg::input(&pause), Arg::NULL]);
    }
    Err(Errno::EPERM)
}

/// A mapping as the host's map shows it.
#[derive(Clone, Copy)]
struct Mapping<'a> {
    start: u64,
    end: u64,
    perms: &'a str,
    offset: u64,
    /// Device, inode, and name.
    rest: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut f = line.splitn(4, ' ');
        let (start, end) = f.next()?.split_once('-')?;
        let number = |s| u64::from_str_radix(s, 16).ok();
        let perms = f.next()?;
        Some(Mapping { start: number(start)?, end: number(end)?, perms, offset: number(f.next()?)?, rest: f.next()? })
    }

    /// The path of the mapped file.
    fn path(&self) -> Option<&'a str> {
        self.rest.find('/').map(|at| &self.rest[at..])
    }

    /// The mapping's parts, and whether each is executable: on the host guest memory never is, so that the host joins what the
    /// headers of a program or library hold apart.
    fn parts(&self) -> Vec<(Mapping<'a>, bool)> {
        let image = self.path().and_then(|path| fs::File::open(path).ok()).and_then(|file| {
            let head = elf::head(&file).ok()?;
            elf::Image::read(&file, &head).ok()
        });
        let Some(image) = image else { return vec![(*self, false)] };
        let mut parts: Vec<(Mapping<'_>, bool)> = Vec::new();
        for start in (self.start..self.end).step_by(PAGE_SIZE as usize) {
            let offset = self.offset + (start - self.start);
            let (end, x) = (start + u64::from(PAGE_SIZE), image.is_executable(offset));
            match parts.last_mut() {
                Some((last, same)) if *same == x => last.end = end,
                _ => parts.push((Mapping { start, end, offset, ..*self }, x)),
            }
        }
        parts
    }
}

/// The part of an emulated process's memory map that is its guest's, as the host shows it.
fn guest_map(pid: u32) -> Option<String> {
    let map = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let above = |line: &str| Mapping::parse(line).is_none_or(|m| m.end > 1 << 32);
    let len = map.split_inclusive('\n').take_while(|l| !above(l.trim_end())).map(str::len).sum();
    Some(map[..len].to_owned())
}

/// The file that an emulated process's guest runs, as the host names it.
pub(crate) fn program(pid: u32) -> Option<CString> {
    if !is_emulator(pid) {
        return None;
    }
    let auxv = fs::read(format!("/proc/{pid}/auxv")).ok()?;
    let word = |b: &[u8]| b.try_into().map_or(0, u32::from_le_bytes);
    let headers = auxv.chunks_exact(8).find(|p| u64::from(word(&p[..4])) == libc::AT_PHDR).map(|p| word(&p[4..]))?;
    let map = guest_map(pid)?;
    let of_headers = map.lines().filter_map(Mapping::parse).find(|m| (m.start..m.end).contains(&headers.into()))?;
    CString::new(of_headers.path()?).ok()
}

/// The guest's version of a file of /proc/PID, where that differs from the host's. Which pages a program has made executable
/// itself, only its own emulator knows.
pub(crate) fn file(pid: u32, name: &str) -> Option<Vec<u8>> {
    if !matches!(name, "maps" | "stat" | "statm" | "status") || !is_emulator(pid) {
        return None;
    }
    let map = guest_map(pid)?;
    let size = map.lines().filter_map(Mapping::parse).map(|m| m.end - m.start).sum();
    let host = || fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    match name {
        "stat" => proc_files::stat_with(&host()?, size),
        "statm" => proc_files::statm_with(&host()?, size),
        "status" => Some(proc_files::status_with(&host()?, size, &[])),
        _ => {
            let line = |(m, x): (Mapping<'_>, bool)| {
                let x = if x { "x" } else { "-" };
                let (rw, shared) = (&m.perms[..2], &m.perms[3..]);
                format!("{:08x}-{:08x} {rw}{x}{shared} {:08x} {}\n", m.start, m.end, m.offset, m.rest)
            };
            Some(
                map.lines()
                    .filter_map(Mapping::parse)
                    .flat_map(|m| m.parts())
                    .map(line)
                    .collect::<String>()
                    .into_bytes(),
            )
        }
    }
}
