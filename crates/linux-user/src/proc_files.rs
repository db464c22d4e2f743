//! Files of /proc that must describe the guest, not the emulator: they are answered from a memory file with the
//! guest's contents. What other processes see is the host kernel's own doing: it was told at the start where the guest's
//! arguments and environment are ([`host::describe_process`]).

use crate::host_unsafe::{self as host, Arg};
use crate::peer;
use crate::shared::proc_file;
use crate::signal::{SIG_DFL, SIG_IGN};
use crate::task::Task;
use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::os::unix::ffi::OsStringExt;
use syscalls::{Errno, Sysno};
use xlat86_arch::{Features, Gva, PAGE_SIZE};

/// Puts in the place of `fd`, which has just been opened with `flags`, what the guest is to have of a file of /proc: its own version,
/// and of a process's memory no right to write ([`guard_memory`]). By whatever path it came there, the host names it the same.
pub(crate) fn take_place(t: &Task, fd: u32, flags: u32) -> Result<(), Errno> {
    if flags & libc::O_PATH as u32 != 0 {
        return Ok(());
    }
    let Some(path) = proc_path(fd) else { return Ok(()) };
    let new = if flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32 {
        if memory_of(&path).is_none() {
            return Ok(());
        }
        guard_memory(fd, flags)?
    } else {
        let Some(contents) = guests_own(t, &path)? else { return Ok(()) };
        memory_file(&contents)?
    };
    let cloexec = Arg::uint(flags & libc::O_CLOEXEC as u32);
    let moved = host::call(Sysno::dup3, &[Arg::int(new), Arg::int(fd), cloexec]);
    let _ = host::call(Sysno::close, &[Arg::int(new)]);
    moved.map(drop)
}

/// The path of descriptor `fd` below /proc, as the host gives it.
fn proc_path(fd: u32) -> Option<CString> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let mut fs = crate::abi::HostStatfs::default();
    host::call(Sysno::fstatfs, &[Arg::int(fd), Arg::output(&mut fs)]).ok()?;
    if fs.typ != PROC_SUPER_MAGIC {
        return None;
    }
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    CString::new(link.into_os_string().into_vec()).ok()
}

/// The guest's version of the file at `path`, where that differs from the host's.
fn guests_own(t: &Task, path: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    if path.to_bytes() == b"/proc/cpuinfo" {
        return cpuinfo(t).map(Some);
    }
    let Some((pid, name)) = proc_file(path) else { return Ok(None) };
    // By the number that this /proc shows, which may be of another namespace.
    let own = |pid: u32| std::fs::read_link("/proc/self").is_ok_and(|l| l.as_os_str() == pid.to_string().as_str());
    match pid.filter(|&pid| !own(pid)) {
        None => FILES.iter().find(|f| f.0 == name).map(|(_, file)| file(t)).transpose(),
        Some(pid) => Ok(peer::file(pid, name)),
    }
}

type File = fn(&Task) -> Result<Vec<u8>, Errno>;

/// The files of /proc/self.
const FILES: [(&str, File); 6] = [
    ("maps", maps),
    ("cmdline", |t| Ok(region(t, t.shared.placed.args))),
    ("auxv", |t| Ok(region(t, (t.shared.placed.auxv.0, t.shared.placed.auxv.0 + t.shared.placed.auxv.1)))),
    ("stat", stat),
    ("statm", statm),
    ("status", status),
];

fn host_file(path: &str) -> Result<String, Errno> {
    let bytes = std::fs::read(path).map_err(|e| Errno::new(e.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Bytes that the guest has mapped.
fn size(t: &Task) -> Result<u64, Errno> {
    Ok(map(t)?.iter().map(|l| u64::from(l.end - l.start)).sum())
}

fn stat(t: &Task) -> Result<Vec<u8>, Errno> {
    stat_with(&host_file("/proc/self/stat")?, size(t)?).ok_or(Errno::EIO)
}

/// The host's line with the guest's virtual size (field 23, in bytes).
pub(crate) fn stat_with(line: &str, size: u64) -> Option<Vec<u8>> {
    // The name, field 2, may hold blanks and parentheses.
    let (name, rest) = line.rsplit_once(')')?;
    let mut fields: Vec<String> = rest.split(' ').map(String::from).collect();
    *fields.get_mut(23 - 2)? = size.to_string();
    Some(format!("{name}){}", fields.join(" ")).into_bytes())
}

fn statm(t: &Task) -> Result<Vec<u8>, Errno> {
    statm_with(&host_file("/proc/self/statm")?, size(t)?).ok_or(Errno::EIO)
}

/// The host's line with the guest's virtual size (the first field, in pages).
pub(crate) fn statm_with(line: &str, size: u64) -> Option<Vec<u8>> {
    let (_, rest) = line.split_once(' ')?;
    Some(format!("{} {rest}", size / u64::from(PAGE_SIZE)).into_bytes())
}

/// The host's text with the guest's sizes and signals.
fn status(t: &Task) -> Result<Vec<u8>, Errno> {
    let actions = t.actions().clone();
    let signals = |wanted: fn(u32) -> bool| {
        actions.0.iter().enumerate().filter(|(_, a)| wanted(a.handler)).fold(0u64, |m, (i, _)| m | 1 << i)
    };
    let replaced = [
        ("SigBlk:", format!("{:016x}", t.signals.blocked)),
        ("SigIgn:", format!("{:016x}", signals(|h| h == SIG_IGN))),
        ("SigCgt:", format!("{:016x}", signals(|h| h != SIG_IGN && h != SIG_DFL))),
    ];
    Ok(status_with(&host_file("/proc/self/status")?, size(t)?, &replaced))
}

/// The host's text with the guest's virtual size, and other lines replaced.
pub(crate) fn status_with(text: &str, size: u64, replaced: &[(&str, String)]) -> Vec<u8> {
    let size = format!("{:8} kB", size / 1024);
    let sizes = [("VmPeak:", size.clone()), ("VmSize:", size)];
    let line = |line: &str| match sizes.iter().chain(replaced).find(|(key, _)| line.starts_with(key)) {
        Some((key, value)) => format!("{key}\t{value}\n"),
        None => format!("{line}\n"),
    };
    text.lines().map(line).collect::<String>().into_bytes()
}

/// The host's CPUs, each of the guest's model.
fn cpuinfo(t: &Task) -> Result<Vec<u8>, Errno> {
    let model = t.shared.options.config.model;
    let signature = model.cpuid(1, 0)[0];
    let features = Features::TABLE.iter().filter(|row| model.features.contains(row.0)).map(|row| row.1);
    let brand: Vec<u8> = (0x8000_0002..=0x8000_0004)
        .flat_map(|leaf| model.cpuid(leaf, 0))
        .flat_map(u32::to_le_bytes)
        .take_while(|&b| b != 0)
        .collect();
    let (family, extended) = (signature >> 8 & 15, signature >> 16 & 15);
    let replaced = [
        ("vendor_id", "GenuineIntel".to_string()),
        ("cpu family", family.to_string()),
        ("model\t", (extended << 4 | signature >> 4 & 15).to_string()),
        ("model name", String::from_utf8_lossy(&brand).trim().to_string()),
        ("stepping", (signature & 15).to_string()),
        ("flags", features.collect::<Vec<_>>().join(" ")),
    ];
    let mut out = String::new();
    for line in host_file("/proc/cpuinfo")?.lines() {
        let found = replaced.iter().find(|(key, _)| line.starts_with(key));
        match (found, line.split_once(": ").or(line.split_once(':'))) {
            (Some((_, value)), Some((key, _))) => writeln!(out, "{key}: {value}"),
            // The host CPU's microcode, bugs and sizes say nothing about the guest's.
            (None, Some((key, _))) if HOST_ONLY.contains(&key.trim()) => Ok(()),
            _ => writeln!(out, "{line}"),
        }
        .map_err(|_| Errno::ENOMEM)?;
    }
    Ok(out.into_bytes())
}

/// Lines of /proc/cpuinfo that a guest's CPU doesn't have.
const HOST_ONLY: [&str; 5] = ["microcode", "bugs", "TLB size", "power management", "vmx flags"];

/// The process whose memory the file of /proc at `path` is.
fn memory_of(path: &CStr) -> Option<u32> {
    let mut parts = path.to_str().ok()?.rsplit('/');
    (parts.next() == Some("mem")).then(|| parts.next()?.parse().ok())?
}

/// Marks a descriptor of memory that the guest has opened for writing.
const WRITABLE: u32 = libc::O_APPEND as u32;

/// Opens again, without the right to write, what has just been opened with it and is a process's memory: through it a guest could
/// write to an emulator's memory and behind the back of its own write protection. [`write_memory`] writes.
fn guard_memory(fd: u32, flags: u32) -> Result<u32, Errno> {
    let path = CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| Errno::EIO)?;
    // This path is a link to what is there already.
    let of_the_path = (libc::O_ACCMODE | libc::O_NOFOLLOW | libc::O_CREAT | libc::O_EXCL) as u32;
    let at = Arg::int(libc::AT_FDCWD as u32);
    let read_only = Arg::uint(flags & !of_the_path | WRITABLE);
    host::call(Sysno::openat, &[at, Arg::cstr(&path), read_only, Arg::NULL]).map(|fd| fd as u32)
}

/// Writes guest bytes to a descriptor that the host says can't be written: it can if it is guest memory, at `offset`, or where the
/// descriptor stands. Protection is no obstacle there, as on the host.
pub(crate) fn write_memory(t: &mut Task, fd: u32, from: u32, len: u32, offset: Option<u64>) -> Result<u32, Errno> {
    let Some(pid) = proc_path(fd).and_then(|path| memory_of(&path)) else { return Err(Errno::EBADF) };
    let flags = host::call(Sysno::fcntl, &[Arg::int(fd), Arg::uint(libc::F_GETFL as u32)])?;
    if flags as u32 & WRITABLE == 0 {
        return Err(Errno::EBADF);
    }
    let place = Arg::uint(libc::SEEK_CUR as u32);
    let at = offset.map_or_else(|| host::call(Sysno::lseek, &[Arg::int(fd), Arg::NULL, place]), Ok)?;
    let Ok(start) = u32::try_from(at) else { return Err(Errno::EIO) };
    let len = len.min(0u32.wrapping_sub(start).wrapping_sub(1)).min(1 << 30);
    let mut bytes = vec![0; len as usize];
    t.mem.read_bytes(from, &mut bytes)?;
    let own = pid == std::process::id();
    if !own && !t.is_tracee(pid) {
        // What it has translated would not follow.
        return Err(Errno::EIO);
    }
    let put = || {
        let file = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"))?;
        std::os::unix::fs::FileExt::write_at(&file, &bytes, at)
    };
    let written = if own { t.mem.process().change(&[(Gva(start), len)], put) } else { put() };
    let written = written.map_err(|e| Errno::new(e.raw_os_error().unwrap_or(libc::EIO)))? as u32;
    if !own {
        t.note_poke(pid, start, written)?;
    }
    if offset.is_none() {
        host::call(Sysno::lseek, &[Arg::int(fd), Arg::uint(written), place])?;
    }
    Ok(written)
}

fn region(t: &Task, (from, to): (u32, u32)) -> Vec<u8> {
    let mut b = vec![0; (to - from) as usize];
    let _ = t.mem.read_bytes(from, &mut b);
    b
}

fn memory_file(contents: &[u8]) -> Result<u32, Errno> {
    let fd = host::call(Sysno::memfd_create, &[Arg::cstr(c"proc"), Arg::uint(libc::MFD_CLOEXEC)])?;
    let mut done = 0;
    while done < contents.len() {
        let args = [
            Arg::int(fd as u32),
            Arg::input(&contents[done..]),
            Arg::wide((contents.len() - done) as u64),
            Arg::wide(done as u64),
        ];
        done += host::call(Sysno::pwrite64, &args)? as usize;
    }
    Ok(fd as u32)
}

fn maps(t: &Task) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    map(t)?.iter().for_each(|l| l.print(&mut text));
    Ok(text.into_bytes())
}

/// The host's map below 4 GB, with the guest's execute permission and names, and neighbours that differ only by write
/// protection for translated code joined again.
pub(crate) fn map(t: &Task) -> Result<Vec<Line>, Errno> {
    let host = host_file("/proc/self/maps")?;
    let mut out: Vec<Line> = Vec::new();
    for line in host.lines().filter_map(Line::parse) {
        for part in line.split_by_guest(t) {
            match out.last_mut() {
                Some(last) if last.continues(&part) => last.end = part.end,
                _ => out.push(part),
            }
        }
    }
    Ok(out)
}

/// A mapping of the guest, as /proc/self/maps shows it.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub(crate) struct Line {
    pub start: u32,
    pub end: u32,
    pub perms: [u8; 4],
    pub offset: u64,
    device: String,
    pub inode: u64,
    pub name: String,
}

impl Line {
    fn parse(line: &str) -> Option<Line> {
        let mut f = line.splitn(6, ' ');
        let (start, end) = f.next()?.split_once('-')?;
        let start = u32::from_str_radix(start, 16).ok()?;
        let end = u32::from_str_radix(end, 16).ok()?;
        let perms = f.next()?.as_bytes().try_into().ok()?;
        let offset = u64::from_str_radix(f.next()?, 16).ok()?;
        let device = f.next()?.to_string();
        let inode = f.next()?.parse().ok()?;
        let name = f.next().unwrap_or("").trim_start().to_string();
        Some(Line { start, end, perms, offset, device, inode, name })
    }

    fn split_by_guest(&self, t: &Task) -> Vec<Line> {
        let mut parts: Vec<Line> = Vec::new();
        let named = t.mm.named_ranges();
        let mut at = self.start;
        while at < self.end {
            let p = t.mm.space().page(Gva(at)).prot();
            let mut perms = self.perms;
            if p.mapped {
                perms[1] = if p.write { b'w' } else { b'-' };
                perms[2] = if p.exec { b'x' } else { b'-' };
            }
            let name =
                named.iter().find(|(r, _)| r.contains(&at) && self.inode == 0).map_or(self.name.as_str(), |(_, n)| n);
            let offset = if self.inode == 0 { 0 } else { self.offset + u64::from(at - self.start) };
            let end = at + PAGE_SIZE;
            match parts.last_mut() {
                Some(l) if l.perms == perms && l.name == name => l.end = end,
                _ => parts.push(Line { start: at, end, perms, offset, name: name.to_string(), ..self.clone() }),
            }
            at = end;
        }
        parts
    }

    fn continues(&self, next: &Line) -> bool {
        self.end == next.start
            && self.perms == next.perms
            && self.inode == next.inode
            && self.device == next.device
            && self.name == next.name
            && (self.inode == 0 || self.offset + u64::from(self.end - self.start) == next.offset)
    }

    fn print(&self, s: &mut String) {
        let perms = std::str::from_utf8(&self.perms).unwrap_or("----");
        let mut line =
            format!("{:08x}-{:08x} {perms} {:08x} {} {} ", self.start, self.end, self.offset, self.device, self.inode);
        if !self.name.is_empty() {
            line = format!("{line:<73}{}", self.name);
        }
        let _ = writeln!(s, "{line}");
    }
}
