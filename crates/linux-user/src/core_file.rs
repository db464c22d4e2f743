//! Core files: what is left of a guest that dies of a signal like SIGSEGV, as an i386 kernel writes it.
//!
//! The host's kernel would write its idea of the process, a 64-bit emulator. So the guest's core is written here, where RLIMIT_CORE
//! and /proc/sys/kernel/core_pattern ask for one; a pattern that pipes to a program gets nothing. That the process's
//! parent hears of it (WCOREDUMP) is up to the host's kernel ([`host::die_by_signal`]). The only
//! registers in it are those of the thread that died.

use crate::abi::Siginfo;
use crate::host_unsafe::{self as host, Arg};
use crate::proc_files::{self, Line};
use crate::task::Task;
use crate::tracee;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use syscalls::{Errno, Sysno};
use xlat86_arch::PAGE_SIZE;
use zerocopy::IntoBytes;

/// Does a signal's default action write a core?
pub(crate) fn writes(sig: i32) -> bool {
    matches!(
        sig,
        libc::SIGQUIT
            | libc::SIGILL
            | libc::SIGTRAP
            | libc::SIGABRT
            | libc::SIGBUS
            | libc::SIGFPE
            | libc::SIGSEGV
            | libc::SIGXCPU
            | libc::SIGXFSZ
            | libc::SIGSYS
    )
}

/// Bytes that a core of this process may have; `None` if there is to be none.
fn limit() -> Option<u64> {
    let mut l = crate::abi::HostRlimit::default();
    let args = [Arg::NULL, Arg::uint(libc::RLIMIT_CORE), Arg::NULL, Arg::output(&mut l)];
    host::call(Sysno::prlimit64, &args).ok()?;
    // The kernel writes none that couldn't have a page.
    (l.cur >= u64::from(PAGE_SIZE)).then_some(l.cur)
}

/// Where a core goes, by /proc/sys/kernel/core_pattern; `None`: to a program.
fn place(t: &Task, sig: i32, limit: u64) -> Option<String> {
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let pattern = setting("core_pattern");
    let pattern = pattern.trim_end();
    if pattern.starts_with(['|', '@']) {
        return None;
    }
    let pid = std::process::id();
    let comm = fs::read_to_string("/proc/self/comm").unwrap_or_default();
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // A name may not lead elsewhere.
    let flat = |s: &str| s.trim_end().replace('/', "!");
    let id = |nr| host::call(nr, &[]).unwrap_or_default().to_string();
    let mut name = String::new();
    let mut has_pid = false;
    let mut letters = pattern.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            name.push(c);
            continue;
        }
        name += &match letters.next() {
            None => break,
            Some('%') => "%".to_owned(),
            Some('p' | 'P') => {
                has_pid = true;
                pid.to_string()
            }
            Some('i' | 'I') => id(Sysno::gettid),
            Some('u') => id(Sysno::getuid),
            Some('g') => id(Sysno::getgid),
            Some('s') => sig.to_string(),
            Some('t') => host::clock_gettime(libc::CLOCK_REALTIME).map_or(0, |t| t.0).to_string(),
            Some('h') => flat(&host_name),
            Some('e' | 'f') => flat(&comm),
            Some('E') => flat(&t.shared.name()),
            Some('c') => limit.to_string(),
            Some('d') => "1".to_owned(),
            Some(_) => continue,
        };
    }
    if !has_pid && setting("core_uses_pid").trim() == "1" {
        name += &format!(".{pid}");
    }
    (!name.is_empty()).then_some(name)
}

/// A file of the dying process's own, emptied; not somebody else's under that name.
fn create(path: &str) -> Option<File> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let file = File::options().read(true).write(true).create(true).mode(0o600).custom_flags(flags).open(path).ok()?;
    let meta = file.metadata().ok()?;
    let own = host::call(Sysno::geteuid, &[]) == Ok(meta.uid().into());
    if !meta.is_file() || meta.nlink() > 1 || !own {
        return None;
    }
    file.set_len(0).ok()?;
    Some(file)
}

/// An ELF note.
fn note(out: &mut Vec<u8>, name: &[u8], kind: u32, body: &[u8]) {
    for word in [name.len() as u32, body.len() as u32, kind] {
        out.extend(word.to_le_bytes());
    }
    for part in [name, body] {
        out.extend(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// What goes into the notes besides registers, as `struct elf_prstatus` and `elf_prpsinfo` begin.
struct Ids {
    pid: u32,
    family: [u32; 3],
}

impl Ids {
    fn own() -> Ids {
        let id = |nr, of: u32| host::call(nr, &[Arg::uint(of)]).unwrap_or_default() as u32;
        Ids { pid: id(Sysno::gettid, 0), family: [id(Sysno::getppid, 0), id(Sysno::getpgid, 0), id(Sysno::getsid, 0)] }
    }

    fn words(&self) -> impl Iterator<Item = u32> {
        [self.pid].into_iter().chain(self.family)
    }
}

fn words(out: &mut Vec<u8>, words: impl IntoIterator<Item = u32>) {
    words.into_iter().for_each(|w| out.extend(w.to_le_bytes()));
}

fn prstatus(t: &Task, b: &tracee::Block, sig: i32, info: &Siginfo, ids: &Ids) -> Vec<u8> {
    let mut out = Vec::new();
    words(&mut out, [sig as u32, info.code, info.errno, sig as u32, 0, t.signals.blocked as u32]);
    words(&mut out, ids.words());
    // Times used so far: user, system, and of children.
    let mut usage = [0i64; 4];
    let _ = host::call(Sysno::times, &[Arg::output(&mut usage)]);
    for ticks in usage {
        const HZ: i64 = 100;
        words(&mut out, [(ticks / HZ) as u32, (ticks % HZ * (1_000_000 / HZ)) as u32]);
    }
    words(&mut out, b.regs);
    words(&mut out, [1]);
    out
}

fn prpsinfo(t: &Task, ids: &Ids) -> Vec<u8> {
    let id = |nr| host::call(nr, &[]).unwrap_or_default() as u32;
    let mut out = vec![0, b'R', 0, 0];
    words(&mut out, [0, id(Sysno::getuid) & 0xffff | id(Sysno::getgid) << 16]);
    words(&mut out, ids.words());
    let mut text = |bytes: &[u8], room: usize| {
        let n = bytes.len().min(room - 1);
        out.extend(&bytes[..n]);
        out.resize(out.len() + room - n, 0);
    };
    text(fs::read_to_string("/proc/self/comm").unwrap_or_default().trim_end().as_bytes(), 16);
    let (from, to) = t.shared.placed.args;
    let mut args = vec![0; (to - from).min(80) as usize];
    let _ = t.mem.read_bytes(from, &mut args);
    args.iter_mut().filter(|b| **b == 0).for_each(|b| *b = b' ');
    text(&args, 80);
    out
}

/// The mapped files: count, page size; for each its place and offset in pages; then the names.
fn file_note(map: &[Line]) -> Vec<u8> {
    let files: Vec<&Line> = map.iter().filter(|l| l.inode != 0).collect();
    let mut out = Vec::new();
    words(&mut out, [files.len() as u32, PAGE_SIZE]);
    for l in &files {
        words(&mut out, [l.start, l.end, (l.offset / u64::from(PAGE_SIZE)) as u32]);
    }
    for l in &files {
        out.extend(l.name.as_bytes());
        out.push(0);
    }
    out
}

fn notes(t: &mut Task, sig: i32, info: &Siginfo, map: &[Line]) -> Vec<u8> {
    const NT_PRSTATUS: u32 = 1;
    const NT_PRFPREG: u32 = 2;
    const NT_PRPSINFO: u32 = 3;
    const NT_AUXV: u32 = 6;
    const NT_SIGINFO: u32 = 0x5349_4749;
    const NT_FILE: u32 = 0x4649_4c45;
    const NT_PRXFPREG: u32 = 0x46e6_2b7f;
    const NT_386_TLS: u32 = 0x200;
    /// Bytes of `struct user_i387_struct`.
    const FSAVE: usize = 108;
    let (core, linux) = (b"CORE\0".as_slice(), b"LINUX\0".as_slice());
    let mut b = tracee::empty();
    t.fill(&mut b, tracee::NO_CALL);
    let ids = Ids::own();
    let (at, size) = t.shared.placed.auxv;
    let mut auxv = vec![0; size as usize];
    let _ = t.mem.read_bytes(at, &mut auxv);
    let mut tls = Vec::new();
    for (i, &d) in (u32::from(crate::task::TLS_FIRST)..).zip(&b.tls) {
        tls.extend(crate::abi::UserDesc::from_descriptor(i, d).as_bytes());
    }
    let mut out = Vec::new();
    note(&mut out, core, NT_PRSTATUS, &prstatus(t, &b, sig, info, &ids));
    note(&mut out, core, NT_PRPSINFO, &prpsinfo(t, &ids));
    note(&mut out, core, NT_SIGINFO, info.as_bytes());
    note(&mut out, core, NT_AUXV, &auxv);
    note(&mut out, core, NT_FILE, &file_note(map));
    note(&mut out, core, NT_PRFPREG, &b.head.as_bytes()[..FSAVE]);
    note(&mut out, linux, NT_PRXFPREG, &b.image);
    note(&mut out, linux, NT_386_TLS, &tls);
    out
}

/// Which pages of the process hold something of its own, by /proc/self/pagemap.
struct Pages(Option<File>);

impl Pages {
    fn state(&self, addr: u32) -> u64 {
        let mut entry = [0; 8];
        let at = u64::from(addr / PAGE_SIZE) * 8;
        match &self.0 {
            Some(f) if f.read_exact_at(&mut entry, at).is_ok() => u64::from_le_bytes(entry),
            // Not known: as if it did.
            _ => 1 << 63,
        }
    }

    /// Present, or swapped out.
    fn filled(&self, addr: u32) -> bool {
        self.state(addr) >> 62 != 0
    }

    /// A page that was copied from its file when it was written.
    fn copied(&self, addr: u32) -> bool {
        let state = self.state(addr);
        state >> 62 != 0 && state >> 61 & 1 == 0
    }
}

/// How many bytes of a mapping a core holds, by the kernel's default filter: all that was written, all that no file has, and the first
/// page of programs and libraries.
fn dumped(t: &Task, l: &Line, pages: &Pages) -> u32 {
    let mut magic = [0; 4];
    let mut all = (l.start..l.end).step_by(PAGE_SIZE as usize);
    match l.perms {
        [b'-', b'-', b'-', _] => 0,
        [.., b's'] if l.inode != 0 && !l.name.ends_with(" (deleted)") => 0,
        _ if l.inode == 0 || l.perms[3] == b's' => l.end - l.start,
        _ if all.any(|page| pages.copied(page)) => l.end - l.start,
        _ if l.offset == 0 && t.mem.read_bytes(l.start, &mut magic).is_ok() && &magic == b"\x7fELF" => PAGE_SIZE,
        _ => 0,
    }
}

/// The file's header and the program headers: notes, then memory.
fn headers(map: &[(Line, u32)], notes: usize) -> Vec<u8> {
    const EHDR: u32 = 52;
    const PHDR: u32 = 32;
    const PT_LOAD: u32 = 1;
    const PT_NOTE: u32 = 4;
    let count = map.len() as u32 + 1;
    let mut out = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // ET_CORE, EM_386; version, entry, program headers, sections, flags.
    words(&mut out, [4 | 3 << 16, 1, 0, EHDR, 0, 0, EHDR | PHDR << 16, count.min(0xffff), 0]);
    let at = EHDR + count * PHDR;
    words(&mut out, [PT_NOTE, at, 0, 0, notes as u32, 0, 0, 4]);
    let mut at = (at + notes as u32).next_multiple_of(PAGE_SIZE);
    for (l, size) in map {
        let bit = |i: usize, value: u32| if l.perms[i] == b'-' { 0 } else { value };
        let flags = bit(0, 4) | bit(1, 2) | bit(2, 1);
        words(&mut out, [PT_LOAD, at, l.start, 0, *size, l.end - l.start, flags, PAGE_SIZE]);
        at = at.wrapping_add(*size);
    }
    out
}

/// Writes a core for a process that dies of `sig`. Gives whether one was to be written, by a name in the current directory.
pub(crate) fn write(t: &mut Task, sig: i32, info: &Siginfo) -> bool {
    const PR_GET_DUMPABLE: u64 = libc::PR_GET_DUMPABLE as u64;
    let Some(limit) = limit().filter(|_| host::call(Sysno::prctl, &[Arg::wide(PR_GET_DUMPABLE)]) == Ok(1)) else {
        return false;
    };
    let Some(path) = place(t, sig, limit) else { return false };
    let Some(file) = create(&path) else { return false };
    let _ = fill(t, sig, info, &file, limit);
    !path.starts_with('/')
}

fn fill(t: &mut Task, sig: i32, info: &Siginfo, file: &File, limit: u64) -> Result<(), std::io::Error> {
    let map = proc_files::map(t).map_err(|e: Errno| std::io::Error::from_raw_os_error(e.into_raw()))?;
    let notes = notes(t, sig, info, &map);
    let pages = Pages(File::open("/proc/self/pagemap").ok());
    let map: Vec<(Line, u32)> = map.into_iter().map(|l| (l.clone(), dumped(t, &l, &pages))).collect();
    let mut head = headers(&map, notes.len());
    head.extend(notes);
    head.truncate(limit as usize);
    file.write_all_at(&head, 0)?;
    let mut at = (head.len() as u64).next_multiple_of(PAGE_SIZE.into());
    let mut page = [0; PAGE_SIZE as usize];
    for (l, size) in &map {
        for addr in (l.start..l.start + size).step_by(PAGE_SIZE as usize) {
            if at + u64::from(PAGE_SIZE) > limit {
                return Ok(());
            }
            // What was never touched stays a hole in the file.
            if (l.inode != 0 || pages.filled(addr)) && t.mem.read_bytes(addr, &mut page).is_ok() {
                file.write_all_at(&page, at)?;
            }
            at += u64::from(PAGE_SIZE);
        }
    }
    file.set_len(at)
}
