//! Guest memory as the kernel sees it: every access checked, a bad address is `EFAULT`.

use crate::Stop;
use std::ffi::CString;
use std::sync::Arc;
use syscalls::Errno;
use xlat86_arch::Gva;
use xlat86_softmmu::Window;
use xlat86_vcpu::Process;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Longest path the kernel takes, with its terminating zero.
pub(crate) const PATH_MAX: usize = 4096;
/// Longest string among a program's arguments (`MAX_ARG_STRLEN`).
const ARG_MAX: usize = 131_072;

/// Access to one guest's memory. Cheap to clone.
#[derive(Clone)]
pub struct Guest {
    window: Window,
    process: Arc<Process>,
}

/// Does `addr..addr + len` stay below 4 GB?
fn in_range(addr: u32, len: usize) -> Result<(), Errno> {
    if u64::from(addr) + len as u64 > 1 << 32 { Err(Errno::EFAULT) } else { Ok(()) }
}

impl Guest {
    /// The memory of `process`, seen through `window`.
    pub fn new(window: Window, process: Arc<Process>) -> Self {
        Guest { window, process }
    }

    /// The engine's side of this address space.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Announces that the host's kernel will write to `addr..addr + len` (clipped at 4 GB).
    pub fn prepare_write(&self, addr: u32, len: u32) {
        let len = len.min((u32::MAX - addr).saturating_add(1).max(1));
        if addr != 0 && len != 0 {
            self.process.prepare_write(Gva(addr), len);
        }
    }

    /// Is some page of `addr..addr + len` one that the guest may write, but is protected because of its translations?
    pub fn guards_code(&self, addr: u32, len: u32) -> bool {
        let last = addr.saturating_add(len.saturating_sub(1));
        let guarded = |page: u32| {
            let p = self.process.space().page(Gva(page << 12));
            p.is_code() && p.prot().write
        };
        len != 0 && (addr >> 12..=last >> 12).any(guarded)
    }

    /// Fills `to` from guest memory.
    pub fn read_bytes(&self, addr: u32, to: &mut [u8]) -> Result<(), Errno> {
        in_range(addr, to.len())?;
        self.window.read_bytes(addr, to).map_err(|_| Errno::EFAULT)
    }

    /// Writes `from` to guest memory.
    pub fn write_bytes(&self, addr: u32, from: &[u8]) -> Result<(), Errno> {
        in_range(addr, from.len())?;
        if self.window.write_bytes(addr, from).is_err() {
            // Perhaps only because the page holds translated code.
            self.prepare_write(addr, from.len() as u32);
            self.window.write_bytes(addr, from).map_err(|_| Errno::EFAULT)?;
        }
        Ok(())
    }

    /// Reads a value.
    pub fn read<T: FromBytes + IntoBytes>(&self, addr: u32) -> Result<T, Errno> {
        let mut v = T::new_zeroed();
        self.read_bytes(addr, v.as_mut_bytes())?;
        Ok(v)
    }

    /// Writes a value.
    pub fn write<T: IntoBytes + Immutable + ?Sized>(&self, addr: u32, v: &T) -> Result<(), Errno> {
        self.write_bytes(addr, v.as_bytes())
    }

    /// Writes a value unless the guest passed a null pointer.
    pub fn write_opt<T: IntoBytes + Immutable>(&self, addr: u32, v: &T) -> Result<(), Errno> {
        if addr == 0 { Ok(()) } else { self.write(addr, v) }
    }

    /// Reads a value unless the guest passed a null pointer.
    pub fn read_opt<T: FromBytes + IntoBytes>(&self, addr: u32) -> Result<Option<T>, Errno> {
        if addr == 0 { Ok(None) } else { self.read(addr).map(Some) }
    }

    /// Atomically replaces `old` by `new` in the word at `addr`; gives what was there.
    pub fn compare_exchange(&self, addr: u32, old: u32, new: u32) -> Result<u32, Errno> {
        in_range(addr, 4)?;
        self.prepare_write(addr, 4);
        self.window.compare_exchange(addr, old, new).map_err(|_| Errno::EFAULT)
    }

    /// Reads `count` values.
    pub fn read_array<T: FromBytes + IntoBytes + Clone>(&self, addr: u32, count: usize) -> Result<Vec<T>, Errno> {
        in_range(addr, count.saturating_mul(size_of::<T>()))?;
        let mut v = vec![T::new_zeroed(); count];
        self.read_bytes(addr, v.as_mut_slice().as_mut_bytes())?;
        Ok(v)
    }

    /// Reads a zero-terminated string shorter than `max`, else `too_long`.
    pub fn read_str(&self, addr: u32, max: usize, too_long: Errno) -> Result<CString, Errno> {
        let mut s = Vec::new();
        let mut at = addr;
        while s.len() < max {
            // Up to a page end at a time: what follows may be a hole.
            let chunk = (4096 - (at & 4095) as usize).min(max - s.len());
            let start = s.len();
            s.resize(start + chunk, 0);
            self.window.read_bytes(at, &mut s[start..]).map_err(|_| Errno::EFAULT)?;
            if let Some(n) = s[start..].iter().position(|&b| b == 0) {
                s.truncate(start + n);
                return CString::new(s).map_err(|_| Errno::EFAULT);
            }
            at = at.checked_add(chunk as u32).ok_or(Errno::EFAULT)?;
        }
        Err(too_long)
    }

    /// Reads a path name.
    pub fn path(&self, addr: u32) -> Result<CString, Errno> {
        self.read_str(addr, PATH_MAX, Errno::ENAMETOOLONG)
    }

    /// Reads a null-terminated list of string pointers (argv, envp); a null list is empty. They are taken from `room` bytes, as many as a
    /// 64-bit kernel counts for each, beyond which the list is too long.
    pub fn pointers(&self, mut addr: u32, room: &mut usize) -> Result<Vec<u32>, Errno> {
        let mut v = Vec::new();
        while addr != 0 {
            let p: u32 = self.read(addr)?;
            if p == 0 {
                break;
            }
            *room = room.checked_sub(8).ok_or(Errno::E2BIG)?;
            v.push(p);
            addr = addr.checked_add(4).ok_or(Errno::EFAULT)?;
        }
        Ok(v)
    }

    /// Reads the strings at these pointers, which are taken from `room` bytes.
    pub fn strings(&self, pointers: &[u32], room: &mut usize) -> Result<Vec<CString>, Errno> {
        let mut read = |&p: &u32| {
            let s = self.read_str(p, ARG_MAX, Errno::E2BIG)?;
            *room = room.checked_sub(s.as_bytes_with_nul().len()).ok_or(Errno::E2BIG)?;
            Ok(s)
        };
        pointers.iter().map(&mut read).collect()
    }
}

impl From<Errno> for Stop {
    fn from(e: Errno) -> Self {
        Stop::Errno(e)
    }
}
