//! The guest's memory map: where a 32-bit Linux process gets what it maps, and carrying that out on the host.
//!
//! A guest address is a host address below 4 GB. Placement follows the kernel's rules for a 32-bit process on a 64-bit
//! host, so addresses are those a native process would see (without randomisation). The host's kernel holds the truth about mappings;
//! [`FlatSpace`] holds what the guest asked for per page; [`RangeSet`] knows where room is. All three change together under one lock.
//!
//! Guest memory is never executable on the host, and nothing is reserved: a hole in the guest is a hole in the host, so
//! faults there need no interpretation.

use crate::host_unsafe as host;
use crate::ranges::RangeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use syscalls::Errno;
use xlat86_arch::{Gva, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE};
use xlat86_softmmu::{FlatSpace, Prot};
use xlat86_vcpu::{FileId, Process};

/// First address a 32-bit process on a 64-bit kernel can't have (`IA32_PAGE_OFFSET`).
pub(crate) const TASK_SIZE: u32 = 0xffff_e000;
/// Where position-independent programs with an interpreter are loaded (`ELF_ET_DYN_BASE` seen by a 32-bit process).
pub(crate) const ET_DYN_BASE: u32 = 0x5655_5000;
/// Bottom-up search begins here when top-down found nothing (`TASK_UNMAPPED_BASE`).
const UNMAPPED_BASE: u32 = (TASK_SIZE / 3 + PAGE_MASK) & !PAGE_MASK;
/// Lowest address handed out without MAP_FIXED.
const MIN_ADDR: u32 = 0x1_0000;
/// Distance kept below a growing mapping (`stack_guard_gap`).
const GUARD_GAP: u32 = 256 << PAGE_SHIFT;

const PROT_READ: u32 = libc::PROT_READ as u32;
const PROT_WRITE: u32 = libc::PROT_WRITE as u32;
const PROT_EXEC: u32 = libc::PROT_EXEC as u32;
const PROT_GROWSDOWN: u32 = 0x0100_0000;
const PROT_GROWSUP: u32 = 0x0200_0000;
const MAP_FIXED: u32 = libc::MAP_FIXED as u32;
const MAP_ANONYMOUS: u32 = libc::MAP_ANONYMOUS as u32;
const MAP_GROWSDOWN: u32 = libc::MAP_GROWSDOWN as u32;
const MREMAP_MAYMOVE: u32 = 1;
const MREMAP_FIXED: u32 = 2;
const MREMAP_DONTUNMAP: u32 = 4;

/// A guest address space.
pub struct Mm {
    process: Arc<Process>,
    space: Arc<FlatSpace>,
    map: Mutex<Map>,
}

/// What is protected by the lock.
#[derive(Clone)]
pub struct Map {
    used: RangeSet,
    /// Starts of System V segments, with their sizes in pages.
    shm: Vec<(u32, u32)>,
    /// Highest address for placement, exclusive.
    mmap_base: u32,
    start_brk: u32,
    brk: u32,
    /// The initial stack, for naming it: bottom at start, and its end.
    stack: Range<u32>,
    /// The vDSO image.
    vdso: Range<u32>,
    /// What setrlimit allows: RLIMIT_AS and RLIMIT_DATA (of which only the heap is counted), soft and hard.
    limits: [[u64; 2]; 2],
    /// READ_IMPLIES_EXEC: every readable mapping is executable.
    read_implies_exec: bool,
}

impl Map {
    /// Does the limit on the address space allow `len` more bytes?
    fn may_grow(&self, len: u32) -> bool {
        self.limits[0][0] == u64::MAX || self.used.len() * u64::from(PAGE_SIZE) + u64::from(len) <= self.limits[0][0]
    }
}

/// A mapping request, with lengths already in bytes as the guest gave them.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Hint or, with MAP_FIXED, the address.
    pub addr: u32,
    /// Bytes.
    pub len: u32,
    /// PROT_* of the guest.
    pub prot: u32,
    /// MAP_* of the guest.
    pub flags: u32,
    /// File, or -1.
    pub fd: i32,
    /// Offset in the file, bytes.
    pub offset: u64,
}

fn pages(addr: u32, len: u32) -> Range<u32> {
    addr >> PAGE_SHIFT..((u64::from(addr) + u64::from(len)) >> PAGE_SHIFT) as u32
}

/// `len` rounded up to pages; an empty or too large one is an error.
fn page_len(len: u32) -> Option<u32> {
    match len.checked_add(PAGE_MASK) {
        Some(l) if l >= PAGE_SIZE => Some(l & !PAGE_MASK),
        _ => None,
    }
}

impl Mm {
    /// An empty address space over `space`.
    pub fn new(process: Arc<Process>, space: Arc<FlatSpace>) -> Self {
        let map = Map {
            used: RangeSet::default(),
            shm: Vec::new(),
            mmap_base: mmap_base(stack_limit()),
            start_brk: 0,
            brk: 0,
            stack: 0..0,
            vdso: 0..0,
            limits: [[u64::MAX; 2]; 2],
            read_implies_exec: false,
        };
        Mm { process, space, map: Mutex::new(map) }
    }

    /// The page table with the guest's protections.
    pub fn space(&self) -> &FlatSpace {
        &self.space
    }

    /// The soft and hard limits on memory, RLIMIT_AS (0) or RLIMIT_DATA (1), which is this address space's business: the
    /// host's would bind the emulator too. Sets it to `new` if given; gives what it was.
    pub fn limit(&self, which: usize, new: Option<[u64; 2]>) -> [u64; 2] {
        let limit = &mut self.lock().limits[which];
        std::mem::replace(limit, new.unwrap_or(*limit))
    }

    /// Takes the lock. Held across fork, so that the child finds the map consistent.
    pub fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sets where the heap begins.
    pub fn set_brk(&self, brk: u32) {
        let mut m = self.lock();
        (m.start_brk, m.brk) = (brk, brk);
    }

    /// Is every readable mapping executable?
    pub fn read_implies_exec(&self) -> bool {
        self.lock().read_implies_exec
    }

    /// Makes all readable mappings executable from now on (`READ_IMPLIES_EXEC`).
    pub fn set_read_implies_exec(&self, on: bool) {
        self.lock().read_implies_exec = on;
    }

    /// Names the vDSO's pages.
    pub fn set_vdso(&self, r: Range<u32>) {
        self.lock().vdso = r;
    }

    /// Ranges with a name in /proc/self/maps: heap, stack, vDSO.
    pub fn named_ranges(&self) -> [(Range<u32>, &'static str); 3] {
        let m = self.lock();
        let heap = m.start_brk..(m.brk.saturating_add(PAGE_MASK)) & !PAGE_MASK;
        [(heap, "[heap]"), (m.stack.clone(), "[stack]"), (m.vdso.clone(), "[vdso]")]
    }

    /// Records what the guest asked for, after the host did it.
    fn note(&self, m: &Map, addr: u32, len: u32, prot: u32, shared: bool) {
        // x86 can't withhold reading from a writable or executable page.
        let read = prot & (PROT_READ | PROT_WRITE | PROT_EXEC) != 0;
        let exec = prot & PROT_EXEC != 0 || m.read_implies_exec && prot & PROT_READ != 0;
        let p = Prot { mapped: true, read, write: prot & PROT_WRITE != 0, exec, shared };
        self.space.set_prot(Gva(addr), len, p);
    }

    /// Maps as mmap2 does; gives the address.
    pub fn map(&self, r: Request) -> Result<u32, Errno> {
        let mut m = self.lock();
        self.map_locked(&mut m, r)
    }

    fn map_locked(&self, m: &mut Map, r: Request) -> Result<u32, Errno> {
        if r.len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = page_len(r.len).filter(|&l| l <= TASK_SIZE).ok_or(Errno::ENOMEM)?;
        let noreplace = r.flags & host::MAP_FIXED_NOREPLACE != 0;
        if !m.may_grow(len) {
            return Err(Errno::ENOMEM);
        }
        if r.flags & MAP_FIXED != 0 || noreplace {
            if r.addr & PAGE_MASK != 0 {
                return Err(Errno::EINVAL);
            }
            if r.addr > TASK_SIZE - len {
                return Err(Errno::ENOMEM);
            }
            if noreplace && !m.used.is_free(pages(r.addr, len)) {
                return Err(Errno::EEXIST);
            }
            return self.place(m, r, r.addr, len);
        }
        // Something of the host's own below 4 GB (or a stack grown on demand) shows as EEXIST: note it and look further.
        loop {
            let addr = find(m, r.addr, len).ok_or(Errno::ENOMEM)?;
            let fixed = Request { flags: r.flags | host::MAP_FIXED_NOREPLACE, ..r };
            match self.place(m, fixed, addr, len) {
                Err(Errno::EEXIST) => m.used.insert(pages(addr, len)),
                other => return other,
            }
        }
    }

    /// Maps at exactly `addr`.
    fn place(&self, m: &mut Map, r: Request, addr: u32, len: u32) -> Result<u32, Errno> {
        self.process.change(&[(Gva(addr), len)], || self.replace(m, r, addr, len))
    }

    /// Maps at exactly `addr`, where nothing is derived from what was there.
    fn replace(&self, m: &mut Map, r: Request, addr: u32, len: u32) -> Result<u32, Errno> {
        let flags = if r.flags & host::MAP_FIXED_NOREPLACE == 0 { r.flags | MAP_FIXED } else { r.flags & !MAP_FIXED };
        let fd = if r.flags & MAP_ANONYMOUS != 0 { -1 } else { r.fd };
        host::map(addr, len, r.prot, flags & !(libc::MAP_32BIT as u32), fd, r.offset)?;
        if r.prot & PROT_EXEC != 0 && fd >= 0 && noexec(fd) {
            // The host never sees PROT_EXEC, so it can't object to a file system that forbids it.
            host::unmap(addr, len)?;
            self.forget(m, addr, len);
            return Err(Errno::EPERM);
        }
        let shared = r.flags & libc::MAP_TYPE as u32 != libc::MAP_PRIVATE as u32;
        self.note(m, addr, len, r.prot, shared);
        if fd >= 0 && !shared && r.prot & (PROT_EXEC | PROT_WRITE) == PROT_EXEC {
            self.process.note_file(Gva(addr), len, || file_id(fd), r.offset);
        }
        let guard = if r.flags & MAP_GROWSDOWN != 0 { GUARD_GAP.min(addr) } else { 0 };
        m.used.insert(pages(addr - guard, len + guard));
        Ok(addr)
    }

    fn forget(&self, m: &mut Map, addr: u32, len: u32) {
        self.space.set_prot(Gva(addr), len, Prot::default());
        m.used.remove(pages(addr, len));
    }

    /// Unmaps as munmap does.
    pub fn unmap(&self, addr: u32, len: u32) -> Result<(), Errno> {
        let mut m = self.lock();
        let len = page_len(len).ok_or(Errno::EINVAL)?;
        if addr & PAGE_MASK != 0 || len > TASK_SIZE || addr > TASK_SIZE - len {
            return Err(Errno::EINVAL);
        }
        self.take_away(&mut m, addr, len)
    }

    /// Unmaps pages.
    fn take_away(&self, m: &mut Map, addr: u32, len: u32) -> Result<(), Errno> {
        self.process.change(&[(Gva(addr), len)], || {
            host::unmap(addr, len)?;
            self.forget(m, addr, len);
            Ok(())
        })
    }

    /// Changes protection as mprotect does.
    pub fn protect(&self, addr: u32, len: u32, prot: u32) -> Result<(), Errno> {
        let m = self.lock();
        if addr & PAGE_MASK != 0 {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let len = page_len(len).filter(|&l| u64::from(addr) + u64::from(l) <= 1 << 32).ok_or(Errno::ENOMEM)?;
        self.process.change(&[(Gva(addr), len)], || self.reprotect(&m, addr, len, prot))
    }

    /// Changes protection of pages from which nothing is derived.
    fn reprotect(&self, m: &Map, addr: u32, len: u32, prot: u32) -> Result<(), Errno> {
        let done = host::protect(addr, len, prot);
        let prot = prot & !(PROT_GROWSDOWN | PROT_GROWSUP);
        // On ENOMEM the pages before the first hole have been changed.
        let until = match done {
            Ok(()) => addr + (len - PAGE_SIZE),
            Err(Errno::ENOMEM) => match m.used.within(pages(addr, len)).first() {
                Some(r) if r.start == addr >> PAGE_SHIFT => (r.end - 1) << PAGE_SHIFT,
                _ => return done,
            },
            Err(_) => return done,
        };
        let mut at = addr;
        loop {
            let old = self.space.page(Gva(at)).prot();
            if old.mapped {
                self.note(m, at, PAGE_SIZE, prot, old.shared);
            }
            if at == until {
                return done;
            }
            at += PAGE_SIZE;
        }
    }

    /// Resizes or moves as mremap does.
    pub fn remap(&self, old: u32, old_len: u32, new_len: u32, flags: u32, new: u32) -> Result<u32, Errno> {
        let mut m = self.lock();
        let known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
        if old & PAGE_MASK != 0 || flags & !known != 0 || flags & MREMAP_FIXED != 0 && flags & MREMAP_MAYMOVE == 0 {
            return Err(Errno::EINVAL);
        }
        let new_len = page_len(new_len).filter(|&l| l <= TASK_SIZE).ok_or(Errno::EINVAL)?;
        let old_len = if old_len == 0 { 0 } else { page_len(old_len).ok_or(Errno::EINVAL)? };
        if old_len > TASK_SIZE || old > TASK_SIZE - old_len {
            return Err(Errno::EINVAL);
        }
        let prot = self.space.page(Gva(old)).prot();
        if !prot.mapped {
            return Err(Errno::EFAULT);
        }
        let must_move = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) != 0 || old_len == 0;
        if !must_move && new_len <= old_len {
            if new_len < old_len {
                self.take_away(&mut m, old + new_len, old_len - new_len)?;
            }
            return Ok(old);
        }
        if !must_move && old_len <= TASK_SIZE - old && new_len <= TASK_SIZE - old {
            let tail = pages(old + old_len, new_len - old_len);
            if m.used.is_free(tail) && host::remap(old, old_len, new_len, 0, 0).is_ok() {
                self.space.set_prot(Gva(old + old_len), new_len - old_len, prot);
                m.used.insert(pages(old, new_len));
                return Ok(old);
            }
        }
        if flags & MREMAP_MAYMOVE == 0 {
            return Err(if must_move { Errno::EINVAL } else { Errno::ENOMEM });
        }
        // Only these two kinds look at the address; the last takes it for a hint.
        if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) != 0 {
            let overlap = u64::from(new) < u64::from(old) + u64::from(old_len)
                && u64::from(old) < u64::from(new) + u64::from(new_len);
            if new & PAGE_MASK != 0 || new_len > TASK_SIZE || new > TASK_SIZE - new_len || overlap {
                return Err(Errno::EINVAL);
            }
        }
        let target = match flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) {
            0 => find(&m, 0, new_len).ok_or(Errno::ENOMEM)?,
            MREMAP_DONTUNMAP => find(&m, new, new_len).ok_or(Errno::ENOMEM)?,
            _ => new,
        };
        // Without old pages (`old_len` is 0) a shared mapping is doubled, and nothing changes at the old place.
        let ranges = [(Gva(target), new_len), (Gva(old), old_len)];
        let changed = &ranges[..1 + usize::from(old_len != 0)];
        self.process.change(changed, || {
            host::remap(old, old_len, new_len, flags | MREMAP_FIXED | MREMAP_MAYMOVE, target)?;
            // Protections travel page by page: the range may not be uniform.
            for i in 0..(new_len.min(old_len) >> PAGE_SHIFT) {
                let p = self.space.page(Gva(old + (i << PAGE_SHIFT))).prot();
                self.space.set_prot(Gva(target + (i << PAGE_SHIFT)), PAGE_SIZE, p);
            }
            if new_len > old_len {
                self.space.set_prot(Gva(target + old_len), new_len - old_len, prot);
            }
            if flags & MREMAP_DONTUNMAP == 0 && old_len != 0 {
                self.forget(&mut m, old, old_len);
            }
            m.used.insert(pages(target, new_len));
            Ok(target)
        })
    }

    /// Gives advice as madvise does.
    pub fn advise(&self, addr: u32, len: u32, advice: u32) -> Result<(), Errno> {
        let _m = self.lock();
        // Some advice replaces contents.
        let pages = (addr & PAGE_MASK == 0 && len != 0 && u64::from(addr) + u64::from(len) <= 1 << 32)
            .then(|| (Gva(addr), page_len(len).unwrap_or(len)));
        self.process.change(pages.as_slice(), || host::advise(addr, len, advice))
    }

    /// Moves the end of the heap as brk does; gives the end, unchanged when it can't be moved.
    pub fn brk(&self, to: u32) -> u32 {
        let mut m = self.lock();
        let align = |a: u32| a.checked_add(PAGE_MASK).map(|a| a & !PAGE_MASK);
        let (Some(old_end), Some(new_end)) = (align(m.brk), align(to)) else { return m.brk };
        if to < m.start_brk || new_end > TASK_SIZE {
            return m.brk;
        }
        let heap = u64::from(new_end - m.start_brk.min(new_end));
        if new_end > old_end {
            if !m.may_grow(new_end - old_end) || heap > m.limits[1][0] {
                return m.brk;
            }
            let room = new_end.saturating_add(GUARD_GAP).min(TASK_SIZE);
            if !m.used.is_free(pages(old_end, new_end - old_end)) || !stack_gap_free(&m, new_end, room) {
                return m.brk;
            }
            let r = Request {
                addr: old_end,
                len: new_end - old_end,
                prot: PROT_READ | PROT_WRITE,
                flags: libc::MAP_PRIVATE as u32 | MAP_ANONYMOUS | host::MAP_FIXED_NOREPLACE,
                fd: -1,
                offset: 0,
            };
            if self.place(&mut m, r, old_end, new_end - old_end).is_err() {
                return m.brk;
            }
        } else if new_end < old_end && self.take_away(&mut m, new_end, old_end - new_end).is_err() {
            return m.brk;
        }
        m.brk = to;
        to
    }

    /// Maps the initial stack: its top `initial` bytes, growing down on demand up to the stack limit as the host's kernel does it.
    pub fn map_stack(&self, initial: u32, executable: bool) -> Result<u32, Errno> {
        let mut m = self.lock();
        let bottom = TASK_SIZE - initial;
        let prot = PROT_READ | PROT_WRITE | if executable { PROT_EXEC } else { 0 };
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN | libc::MAP_STACK) as u32;
        let r =
            Request { addr: bottom, len: initial, prot, flags: flags | host::MAP_FIXED_NOREPLACE, fd: -1, offset: 0 };
        self.place(&mut m, r, bottom, initial)?;
        // The pages it may grow into get their protection now, and stay out of the search for room.
        let reach = stack_limit().clamp(u64::from(initial), u64::from(TASK_SIZE - m.mmap_base)) as u32 & !PAGE_MASK;
        self.note(&m, TASK_SIZE - reach, reach, prot, false);
        let reserved = pages(TASK_SIZE - reach, reach);
        m.used.insert(reserved);
        m.stack = TASK_SIZE - reach..TASK_SIZE;
        Ok(bottom)
    }

    /// Attaches a System V segment of `len` bytes, at `addr` or where there is room.
    pub fn shm_attach(&self, id: u32, addr: u32, len: u32, flags: u32) -> Result<u32, Errno> {
        const SHM_RDONLY: u32 = 0o10000;
        const SHM_RND: u32 = 0o20000;
        const SHM_REMAP: u32 = 0o40000;
        const SHM_EXEC: u32 = 0o100_000;
        let mut m = self.lock();
        let len = page_len(len).ok_or(Errno::EINVAL)?;
        let at = if addr == 0 {
            find(&m, 0, len).ok_or(Errno::ENOMEM)?
        } else {
            let at = if flags & SHM_RND != 0 { addr & !PAGE_MASK } else { addr };
            if at & PAGE_MASK != 0 || flags & SHM_REMAP == 0 && !m.used.is_free(pages(at, len)) {
                return Err(Errno::EINVAL);
            }
            if TASK_SIZE.checked_sub(len).is_none_or(|highest| at > highest) {
                return Err(Errno::ENOMEM);
            }
            at
        };
        let prot = PROT_READ
            | if flags & SHM_RDONLY == 0 { PROT_WRITE } else { 0 }
            | if flags & SHM_EXEC != 0 { PROT_EXEC } else { 0 };
        self.process.change(&[(Gva(at), len)], || {
            host::shm_attach(id, at, flags & !SHM_RND)?;
            self.note(&m, at, len, prot, true);
            Ok::<(), Errno>(())
        })?;
        m.used.insert(pages(at, len));
        m.shm.push((at, len));
        Ok(at)
    }

    /// Detaches the System V segment at `addr`.
    pub fn shm_detach(&self, addr: u32) -> Result<(), Errno> {
        let mut m = self.lock();
        let Some(i) = m.shm.iter().position(|s| s.0 == addr) else { return Err(Errno::EINVAL) };
        let (_, len) = m.shm[i];
        self.process.change(&[(Gva(addr), len)], || {
            host::shm_detach(addr)?;
            m.shm.swap_remove(i);
            self.forget(&mut m, addr, len);
            Ok(())
        })
    }
}

/// Where a mapping of `len` bytes goes: at the hint if there is room, else as high as possible, else as low as possible.
fn find(m: &Map, hint: u32, len: u32) -> Option<u32> {
    let n = len >> PAGE_SHIFT;
    let hint = hint & !PAGE_MASK;
    let highest = TASK_SIZE.checked_sub(len)?;
    if hint >= MIN_ADDR && hint <= highest && m.used.is_free(pages(hint, len)) {
        return Some(hint);
    }
    let page = |a: u32| a >> PAGE_SHIFT;
    let down = m.used.gap_top_down(n, page(MIN_ADDR)..page(m.mmap_base));
    down.or_else(|| m.used.gap_bottom_up(n, page(UNMAPPED_BASE)..page(TASK_SIZE))).map(|p| p << PAGE_SHIFT)
}

/// Is the distance that brk keeps to a stack above it free? Only a stack counts; ordinary mappings may touch the heap.
fn stack_gap_free(m: &Map, from: u32, to: u32) -> bool {
    m.stack.is_empty() || to <= m.stack.start || from >= m.stack.end
}

/// The stack limit in bytes; "unlimited" is `u64::MAX`.
fn stack_limit() -> u64 {
    let mut l = crate::abi::HostRlimit::default();
    let args = [host::Arg::NULL, host::Arg::uint(libc::RLIMIT_STACK), host::Arg::NULL, host::Arg::output(&mut l)];
    match host::call(syscalls::Sysno::prlimit64, &args) {
        Ok(_) => l.cur,
        Err(_) => 8 << 20,
    }
}

/// The kernel's rule: room for the stack and its guard below the top, at least 128 MB and at most 5/6 of the space.
fn mmap_base(stack: u64) -> u32 {
    let gap = stack.saturating_add(u64::from(GUARD_GAP)).clamp(128 << 20, u64::from(TASK_SIZE) / 6 * 5) as u32;
    (TASK_SIZE - gap).next_multiple_of(PAGE_SIZE)
}

/// Which file `fd` is.
fn file_id(fd: i32) -> Option<FileId> {
    let mut s = crate::abi::HostStat::default();
    host::call(syscalls::Sysno::fstat, &[host::Arg::int(fd as u32), host::Arg::output(&mut s)]).ok()?;
    let times = [s.mtime, s.ctime].map(|[seconds, nanoseconds]| (seconds, nanoseconds));
    (s.mode & libc::S_IFMT == libc::S_IFREG).then_some(FileId { dev: s.dev, ino: s.ino, size: s.size as u64, times })
}

/// Is `fd` on a file system mounted noexec?
fn noexec(fd: i32) -> bool {
    let mut s = crate::abi::HostStatfs::default();
    host::call(syscalls::Sysno::fstatfs, &[host::Arg::int(fd as u32), host::Arg::output(&mut s)]).is_ok()
        && s.flags as u64 & libc::ST_NOEXEC != 0
}
