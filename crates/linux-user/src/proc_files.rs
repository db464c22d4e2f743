//! Files of /proc/self that must describe the guest, not the emulator: maps, cmdline and auxv are answered from a
//! memory file with the guest's contents.

use crate::host_unsafe::{self as host, Arg};
use crate::shared::Shared;
use crate::task::Task;
use std::fmt::Write;
use syscalls::{Errno, Sysno};
use xlat86_arch::{Gva, PAGE_SIZE};

/// Opens the guest's version of a file of /proc/self, if `path` names one.
pub(crate) fn open(t: &Task, path: u32, flags: u32) -> Result<Option<u32>, Errno> {
    let mut start = [0u8; 6];
    if t.mem.read_bytes(path, &mut start).is_err() || &start != b"/proc/" {
        return Ok(None);
    }
    let path = t.mem.path(path)?;
    let is = |name| Shared::is_proc_self(&path, name);
    let contents = if is("maps") {
        maps(t)?.into_bytes()
    } else if is("cmdline") {
        region(t, t.shared.placed.args)
    } else if is("auxv") {
        let (at, len) = t.shared.placed.auxv;
        region(t, (at, at + len))
    } else {
        return Ok(None);
    };
    memory_file(&contents, flags).map(Some)
}

fn region(t: &Task, (from, to): (u32, u32)) -> Vec<u8> {
    let mut b = vec![0; (to - from) as usize];
    let _ = t.mem.read_bytes(from, &mut b);
    b
}

fn memory_file(contents: &[u8], flags: u32) -> Result<u32, Errno> {
    let cloexec = if flags & libc::O_CLOEXEC as u32 != 0 { libc::MFD_CLOEXEC } else { 0 };
    let fd = host::call(Sysno::memfd_create, &[Arg::cstr(c"proc"), Arg::uint(cloexec)])?;
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

/// The host's map below 4 GB, with the guest's execute permission and names, and neighbours that differ only by write
/// protection for translated code joined again.
fn maps(t: &Task) -> Result<String, Errno> {
    let host =
        std::fs::read_to_string("/proc/self/maps").map_err(|e| Errno::new(e.raw_os_error().unwrap_or(libc::EIO)))?;
    let mut out: Vec<Line> = Vec::new();
    for line in host.lines().filter_map(Line::parse) {
        for part in line.split_by_guest(t) {
            match out.last_mut() {
                Some(last) if last.continues(&part) => last.end = part.end,
                _ => out.push(part),
            }
        }
    }
    Ok(out.iter().fold(String::new(), |mut s, l| {
        l.print(&mut s);
        s
    }))
}

#[derive(Clone, Debug)]
struct Line {
    start: u32,
    end: u32,
    perms: [u8; 4],
    offset: u64,
    device: String,
    inode: u64,
    name: String,
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
