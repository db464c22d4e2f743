//! Access to guest memory by linear address.

use crate::{FlatSpace, Watch};
use std::sync::Arc;
use xlat86_arch::{Fault, Gva, PAGE_SIZE, PfError, Vector};
use xlat86_host::{AccessFault, HostFault, Scalar};

/// One guest CPU's view of guest memory.
///
/// Every access either completes or faults without effect. Accesses made through this type by code running at
/// CPL 3 are checked as user accesses; `*_system` are the CPU's own (descriptor tables, TSS), checked as supervisor ones.
pub struct Mmu {
    space: Arc<FlatSpace>,
    last_host_fault: HostFault,
    journal: Option<Vec<Write>>,
}

/// A write that a journal has recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Where.
    pub addr: Gva,
    /// What was there before.
    pub old: Vec<u8>,
    /// What was there after.
    pub new: Vec<u8>,
}

impl Mmu {
    /// The view of a user program: no paging of our own, the host's page tables decide.
    #[must_use]
    pub fn flat(space: Arc<FlatSpace>) -> Self {
        Self { space, last_host_fault: HostFault::default(), journal: None }
    }

    /// The address space behind this view.
    #[must_use]
    pub fn space(&self) -> &Arc<FlatSpace> {
        &self.space
    }

    /// What the host said about the latest fault this view reported (SIGSEGV or SIGBUS, and the `si_code`).
    #[must_use]
    pub fn last_host_fault(&self) -> HostFault {
        self.last_host_fault
    }

    /// Starts recording writes.
    pub fn start_journal(&mut self) {
        self.journal = Some(Vec::new());
    }

    /// Stops recording, takes every recorded write back (the latest first), and gives them in order.
    pub fn undo_journal(&mut self) -> Vec<Write> {
        let writes = self.journal.take().unwrap_or_default();
        for w in writes.iter().rev() {
            // What was written a moment ago can be written again; another thread that unmapped it has undone it too.
            let _ = self.write_bytes(w.addr, &w.old);
        }
        writes
    }

    /// Writes `new` at `addr` through `write`, recording it if there is a journal.
    fn recorded(
        &mut self,
        addr: Gva,
        len: usize,
        write: impl FnOnce(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut old = vec![0; len];
        self.read_bytes(addr, &mut old)?;
        let mut journal = self.journal.take();
        let result = write(self);
        if result.is_ok()
            && let Some(j) = &mut journal
        {
            let mut new = vec![0; len];
            self.read_bytes(addr, &mut new)?;
            j.push(Write { addr, old, new });
        }
        self.journal = journal;
        result
    }

    #[cold]
    fn fault(&mut self, f: AccessFault) -> Fault {
        self.last_host_fault = f.0;
        // The low window's addresses are guest addresses; elsewhere the offset in the window is. A trap other than
        // a page fault comes from a non-canonical address and can't happen inside a window.
        let addr = Gva(f.0.addr.wrapping_sub(self.space.window().base()) as u32);
        if f.0.trapno == 14 { Fault::pf(addr, f.0.error | PfError::U) } else { Fault::with_error(Vector::GP, 0) }
    }

    /// Does an access of `len` bytes at `addr` run past 4 GB, where linear addresses wrap?
    #[inline(always)]
    fn wraps(addr: Gva, len: usize) -> bool {
        addr.0 > u32::MAX - (len as u32 - 1)
    }

    /// Reads a scalar of 1, 2, 4 or 8 bytes.
    #[inline]
    pub fn read<T: Scalar>(&mut self, addr: Gva) -> Result<T, Fault> {
        if Self::wraps(addr, T::SIZE) {
            let mut b = [0; 8];
            self.read_bytes(addr, &mut b[..T::SIZE])?;
            return Ok(T::from_u64(u64::from_le_bytes(b)));
        }
        self.space.window().read(addr.0).map_err(|f| self.fault(f))
    }

    /// Writes a scalar of 1, 2, 4 or 8 bytes.
    #[inline]
    pub fn write<T: Scalar>(&mut self, addr: Gva, v: T) -> Result<(), Fault> {
        if self.journal.is_some() {
            return self.recorded(addr, T::SIZE, |m| m.write(addr, v));
        }
        if Self::wraps(addr, T::SIZE) {
            return self.write_bytes(addr, &v.to_u64().to_le_bytes()[..T::SIZE]);
        }
        self.space.window().write(addr.0, v).map_err(|f| self.fault(f))
    }

    /// Reads 16 bytes.
    pub fn read128(&mut self, addr: Gva) -> Result<u128, Fault> {
        if Self::wraps(addr, 16) {
            let mut b = [0; 16];
            self.read_bytes(addr, &mut b)?;
            return Ok(u128::from_le_bytes(b));
        }
        self.space.window().read128(addr.0).map_err(|f| self.fault(f))
    }

    /// Writes 16 bytes.
    pub fn write128(&mut self, addr: Gva, v: u128) -> Result<(), Fault> {
        if self.journal.is_some() {
            return self.recorded(addr, 16, |m| m.write128(addr, v));
        }
        if Self::wraps(addr, 16) {
            return self.write_bytes(addr, &v.to_le_bytes());
        }
        self.space.window().write128(addr.0, v).map_err(|f| self.fault(f))
    }

    /// Atomically replaces `old` by `new` (the LOCK prefix); gives the previous value, equal to `old` on success.
    pub fn compare_exchange<T: Scalar>(&mut self, addr: Gva, old: T, new: T) -> Result<T, Fault> {
        if self.journal.is_some() {
            let mut now = old;
            self.recorded(addr, T::SIZE, |m| {
                now = m.compare_exchange(addr, old, new)?;
                Ok(())
            })?;
            return Ok(now);
        }
        if Self::wraps(addr, T::SIZE) {
            // No program can tell: the two ends of the address space have no common cache line or page.
            let now: T = self.read(addr)?;
            if now.to_u64() == old.to_u64() {
                self.write(addr, new)?;
            }
            return Ok(now);
        }
        self.space.window().compare_exchange(addr.0, old, new).map_err(|f| self.fault(f))
    }

    /// Reads `to.len()` bytes, wrapping at 4 GB. On a fault `to` holds an unspecified prefix.
    pub fn read_bytes(&mut self, addr: Gva, to: &mut [u8]) -> Result<(), Fault> {
        let room = (u32::MAX - addr.0) as usize + 1;
        let (low, high) = to.split_at_mut(room.min(to.len()));
        let w = self.space.window();
        w.read_bytes(addr.0, low).map_err(|(_, f)| self.fault(f))?;
        w.read_bytes(0, high).map_err(|(_, f)| self.fault(f))
    }

    /// Writes all of `from`, wrapping at 4 GB, or faults having written nothing.
    pub fn write_bytes(&mut self, addr: Gva, from: &[u8]) -> Result<(), Fault> {
        if self.journal.is_some() {
            return self.recorded(addr, from.len(), |m| m.write_bytes(addr, from));
        }
        self.probe_write(addr, from.len() as u32)?;
        let room = (u32::MAX - addr.0) as usize + 1;
        let (low, high) = from.split_at(room.min(from.len()));
        let w = self.space.window();
        w.write_bytes(addr.0, low).map_err(|(_, f)| self.fault(f))?;
        w.write_bytes(0, high).map_err(|(_, f)| self.fault(f))
    }

    /// Faults as a write of `len` bytes at `addr` would, without writing.
    pub fn probe_write(&mut self, addr: Gva, len: u32) -> Result<(), Fault> {
        let w = self.space.window();
        let mut at = addr;
        let last = addr.wrapping_add(len.max(1) - 1);
        loop {
            // An exchange of a byte with itself needs write permission and changes nothing.
            w.compare_exchange(at.0, 0u8, 0u8).map_err(|f| self.fault(f))?;
            if at.page() == last.page() {
                return Ok(());
            }
            at = at.page_base().wrapping_add(PAGE_SIZE);
        }
    }

    /// Reads a scalar as the CPU itself does (descriptor tables, TSS): a supervisor access at any CPL.
    pub fn read_system<T: Scalar>(&mut self, addr: Gva) -> Result<T, Fault> {
        self.read(addr)
    }

    /// Writes a scalar as the CPU itself does (descriptor tables, TSS): a supervisor access at any CPL.
    pub fn write_system<T: Scalar>(&mut self, addr: Gva, v: T) -> Result<(), Fault> {
        self.write(addr, v)
    }

    /// Fetches instruction bytes from `addr` up to the end of its page and, if that page is executable too, up to 14 bytes
    /// of the next: an instruction may cross. The pages' code bits are set *before* the bytes are read.
    /// Gives the number of bytes fetched into `to` (at least 1); `None` where code may change unnoticed, so that nothing may be
    /// kept: see [`Mmu::fetch_once`].
    pub fn fetch(&mut self, addr: Gva, to: &mut [u8; 4096 + 14]) -> Result<Option<usize>, Fault> {
        let in_page = (PAGE_SIZE - addr.page_offset()) as usize;
        match self.space.mark_code(addr) {
            Watch::Kept => {}
            Watch::Volatile => return Ok(None),
            Watch::NotExecutable => {
                let present = if self.space.page(addr).prot().mapped { PfError::P } else { 0 };
                return Err(Fault::pf(addr, PfError::U | PfError::I | present));
            }
        }
        self.read_bytes(addr, &mut to[..in_page])?;
        let next = addr.page_base().wrapping_add(PAGE_SIZE);
        if next.0 != 0
            && self.space.page(next).prot().exec
            && self.read_bytes(next, &mut to[in_page..in_page + 14]).is_ok()
        {
            return Ok(Some(in_page + 14));
        }
        Ok(Some(in_page))
    }

    /// Fetches the bytes of one instruction for a single execution: nothing derived from them is kept, so the pages
    /// are not marked. Gives the number of bytes fetched into `to` (at least 1).
    ///
    /// Read by aligned words, as CPUs fetch: of an aligned store by another thread, all is seen or nothing.
    pub fn fetch_once(&mut self, addr: Gva, to: &mut [u8; 15]) -> Result<usize, Fault> {
        const WORD: u32 = 8;
        let mut n = 0;
        while n < to.len() {
            let at = addr.wrapping_add(n as u32);
            let page = self.space.page(at).prot();
            let present = if page.mapped { PfError::P } else { 0 };
            let denied = Fault::pf(at, PfError::U | PfError::I | present);
            let skip = at.0 % WORD;
            let word = if page.exec { self.read::<u64>(Gva(at.0 - skip)) } else { Err(denied) };
            match word {
                Ok(w) => {
                    let bytes = &w.to_le_bytes()[skip as usize..];
                    let count = bytes.len().min(to.len() - n);
                    to[n..n + count].copy_from_slice(&bytes[..count]);
                    n += count;
                }
                Err(fault) if n == 0 => return Err(Fault { addr: at, ..fault }),
                Err(_) => return Ok(n),
            }
        }
        Ok(n)
    }
}
