//! Access to a user program's memory: the host's page tables are the guest's.

use crate::journal::{Change, Journal, MOST};
use crate::{FlatSpace, Watch};
use std::sync::Arc;
use xlat86_arch::{Fault, Gva, PAGE_SIZE, PfError, Vector};
use xlat86_host::{AccessFault, HostFault, Scalar};

/// One guest thread's view of a [`FlatSpace`].
pub(crate) struct UserView {
    pub(crate) space: Arc<FlatSpace>,
    pub(crate) last_host_fault: HostFault,
    pub(crate) journal: Journal,
}

impl UserView {
    pub(crate) fn new(space: Arc<FlatSpace>) -> Self {
        Self { space, last_host_fault: HostFault::default(), journal: Journal::default() }
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

    #[inline]
    pub(crate) fn read<T: Scalar>(&mut self, addr: Gva) -> Result<T, Fault> {
        if Self::wraps(addr, T::SIZE) {
            let mut b = [0; 8];
            self.read_bytes(addr, &mut b[..T::SIZE])?;
            return Ok(T::from_u64(u64::from_le_bytes(b)));
        }
        self.space.window().read(addr.0).map_err(|f| self.fault(f))
    }

    #[inline]
    pub(crate) fn write<T: Scalar>(&mut self, addr: Gva, v: T) -> Result<(), Fault> {
        if Self::wraps(addr, T::SIZE) {
            return self.write_bytes(addr, &v.to_u64().to_le_bytes()[..T::SIZE]);
        }
        self.space.window().write(addr.0, v).map_err(|f| self.fault(f))
    }

    pub(crate) fn read128(&mut self, addr: Gva) -> Result<u128, Fault> {
        if Self::wraps(addr, 16) {
            let mut b = [0; 16];
            self.read_bytes(addr, &mut b)?;
            return Ok(u128::from_le_bytes(b));
        }
        self.space.window().read128(addr.0).map_err(|f| self.fault(f))
    }

    pub(crate) fn write128(&mut self, addr: Gva, v: u128) -> Result<(), Fault> {
        if Self::wraps(addr, 16) {
            return self.write_bytes(addr, &v.to_le_bytes());
        }
        self.space.window().write128(addr.0, v).map_err(|f| self.fault(f))
    }

    pub(crate) fn compare_exchange<T: Scalar>(&mut self, addr: Gva, old: T, new: T) -> Result<T, Fault> {
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

    pub(crate) fn read_bytes(&mut self, addr: Gva, to: &mut [u8]) -> Result<(), Fault> {
        let room = (u32::MAX - addr.0) as usize + 1;
        let (low, high) = to.split_at_mut(room.min(to.len()));
        let w = self.space.window();
        w.read_bytes(addr.0, low).map_err(|(_, f)| self.fault(f))?;
        w.read_bytes(0, high).map_err(|(_, f)| self.fault(f))
    }

    pub(crate) fn write_bytes(&mut self, addr: Gva, from: &[u8]) -> Result<(), Fault> {
        self.probe_write(addr, from.len() as u32)?;
        let room = (u32::MAX - addr.0) as usize + 1;
        let (low, high) = from.split_at(room.min(from.len()));
        let w = self.space.window();
        w.write_bytes(addr.0, low).map_err(|(_, f)| self.fault(f))?;
        w.write_bytes(0, high).map_err(|(_, f)| self.fault(f))
    }

    pub(crate) fn probe_write(&mut self, addr: Gva, len: u32) -> Result<(), Fault> {
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

    /// Reads `to.len()` bytes: as a scalar where that is the size of one, which is quicker.
    pub(crate) fn copy_out(&mut self, at: Gva, to: &mut [u8]) -> Result<(), Fault> {
        match to.len() {
            1 => to[0] = self.read(at)?,
            2 => to.copy_from_slice(&self.read::<u16>(at)?.to_le_bytes()),
            4 => to.copy_from_slice(&self.read::<u32>(at)?.to_le_bytes()),
            8 => to.copy_from_slice(&self.read::<u64>(at)?.to_le_bytes()),
            _ => self.read_bytes(at, to)?,
        }
        Ok(())
    }

    /// Writes `from` in the same way.
    pub(crate) fn copy_in(&mut self, at: Gva, from: &[u8]) -> Result<(), Fault> {
        match *from {
            [b] => self.write(at, b),
            [a, b] => self.write(at, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write(at, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => self.write(at, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => self.write_bytes(at, from),
        }
    }

    /// Records what a write of `len` bytes at `addr` is about to overwrite. First its fault, if it has one: reading makes a page present.
    pub(crate) fn record(&mut self, addr: Gva, len: usize) -> Result<(), Fault> {
        self.probe_write(addr, len as u32)?;
        for from in (0..len).step_by(MOST) {
            let at = addr.wrapping_add(from as u32);
            let mut old = [0; MOST];
            let old = &mut old[..MOST.min(len - from)];
            self.copy_out(at, old)?;
            self.journal.changes.push(Change::new(at.0, old));
        }
        Ok(())
    }

    /// The fault of fetching at `addr` where the guest may not execute.
    fn denied(&self, addr: Gva) -> Fault {
        let present = if self.space.page(addr).prot().mapped { PfError::P } else { 0 };
        Fault::pf(addr, PfError::U | PfError::I | present)
    }

    pub(crate) fn fetch(&mut self, addr: Gva, to: &mut [u8]) -> Result<Option<usize>, Fault> {
        match self.space.mark_code(addr) {
            Watch::Kept => {}
            Watch::Volatile => return Ok(None),
            Watch::NotExecutable => return Err(self.denied(addr)),
        }
        let n = ((PAGE_SIZE - addr.page_offset()) as usize).min(to.len());
        self.read_bytes(addr, &mut to[..n])?;
        Ok(Some(n))
    }

    /// Read by aligned words, as CPUs fetch: of an aligned store by another thread, all is seen or nothing.
    pub(crate) fn fetch_once(&mut self, addr: Gva, to: &mut [u8]) -> Result<usize, Fault> {
        const WORD: u32 = 8;
        let mut n = 0;
        while n < to.len() {
            let at = addr.wrapping_add(n as u32);
            let skip = at.0 % WORD;
            let exec = self.space.page(at).prot().exec;
            let word = if exec { self.read::<u64>(Gva(at.0 - skip)) } else { Err(self.denied(at)) };
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
