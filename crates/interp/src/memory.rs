//! Memory operands: effective address, segmentation, then the linear address space.
//!
//! Limit and type checks are those of SDM vol. 3A, 5.3 and 5.5; a violation is #SS(0) through SS and #GP(0) otherwise.

use crate::Stop;
use crate::ctx::{Ctx, Exec};
use crate::op::{NO_REG, Op};
use crate::width::Width;
use xlat86_arch::{Fault, Gva, Seg, Vector};
use xlat86_softmmu::Scalar;

/// What an access is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
}

impl Ctx<'_> {
    /// Offset of `op`'s memory operand within its segment.
    #[inline(always)]
    pub(crate) fn address(&self, op: &Op) -> u32 {
        let m = &op.mem;
        let mut at = m.disp;
        if m.base != NO_REG {
            at = at.wrapping_add(self.cpu.gpr[(m.base & 7) as usize]);
        }
        if m.index != NO_REG {
            at = at.wrapping_add(self.cpu.gpr[(m.index & 7) as usize] << (m.scale & 3));
        }
        if m.addr16 { at & 0xffff } else { at }
    }

    /// Linear address of `len` bytes at `offset` in `seg`, having checked that they may be accessed.
    #[inline(always)]
    pub(crate) fn linear(&self, seg: Seg, offset: u32, len: u32, access: Access) -> Result<Gva, Fault> {
        // Even a 4 GB segment ends at 4 GB: what silicon does with an operand that wraps there.
        if self.is_plain(seg, access == Access::Write) && offset <= u32::MAX - (len - 1) {
            return Ok(Gva(offset));
        }
        self.linear_checked(seg, offset, len, access)
    }

    #[cold]
    fn linear_checked(&self, seg: Seg, offset: u32, len: u32, access: Access) -> Result<Gva, Fault> {
        let s = self.cpu.segment(seg);
        let violation = if seg == Seg::Ss { Fault::ss(0) } else { Fault::gp(0) };
        if self.protected() {
            let allowed = match access {
                Access::Read => s.attr.readable(),
                Access::Write => s.attr.writable(),
            };
            if !s.attr.present() || !allowed {
                // A null or unusable segment is #GP(0) even through SS, which can't be loaded with one outside 64-bit mode.
                return Err(Fault::gp(0));
            }
        }
        if !s.contains(offset, len) {
            return Err(violation);
        }
        let at = Gva(s.base.wrapping_add(offset));
        if self.check_alignment && len.is_power_of_two() && len <= 8 && at.0 & (len - 1) != 0 {
            return Err(Fault::with_error(Vector::AC, 0));
        }
        Ok(at)
    }

    /// Reads a scalar at `offset` in `seg`.
    #[inline(always)]
    pub(crate) fn read<T: Scalar>(&mut self, seg: Seg, offset: u32) -> Result<T, Fault> {
        let at = self.linear(seg, offset, T::SIZE as u32, Access::Read)?;
        self.mmu.read(at)
    }

    /// Writes a scalar at `offset` in `seg`.
    #[inline(always)]
    pub(crate) fn write<T: Scalar>(&mut self, seg: Seg, offset: u32, v: T) -> Result<(), Fault> {
        let at = self.linear(seg, offset, T::SIZE as u32, Access::Write)?;
        self.mmu.write(at, v)
    }

    /// Reads `op`'s memory operand.
    #[inline(always)]
    pub(crate) fn load<T: Scalar>(&mut self, op: &Op) -> Result<T, Fault> {
        let at = self.address(op);
        self.read(op.mem.seg, at)
    }

    /// Writes `op`'s memory operand.
    #[inline(always)]
    pub(crate) fn store<T: Scalar>(&mut self, op: &Op, v: T) -> Result<(), Fault> {
        let at = self.address(op);
        self.write(op.mem.seg, at, v)
    }

    /// Reads `op`'s 16-byte memory operand; `aligned`: #GP(0) unless it lies on a 16-byte boundary.
    pub(crate) fn load128(&mut self, op: &Op, aligned: bool) -> Result<u128, Fault> {
        let at = self.linear128(op, Access::Read, aligned)?;
        self.mmu.read128(at)
    }

    /// Writes `op`'s 16-byte memory operand; `aligned` as in [`Ctx::load128`].
    pub(crate) fn store128(&mut self, op: &Op, v: u128, aligned: bool) -> Result<(), Fault> {
        let at = self.linear128(op, Access::Write, aligned)?;
        self.mmu.write128(at, v)
    }

    fn linear128(&mut self, op: &Op, access: Access, aligned: bool) -> Result<Gva, Fault> {
        // Alignment first, as on Zen 4: it is #GP where the limit of SS would be #SS.
        let offset = self.address(op);
        if aligned && self.cpu.segment(op.mem.seg).base.wrapping_add(offset) & 15 != 0 {
            return Err(Fault::gp(0));
        }
        self.linear(op.mem.seg, offset, 16, access)
    }

    /// Linear address of `op`'s 10-byte operand. Zen 4 accesses 8 bytes and then 2: the former's page fault comes before a limit that only the
    /// latter violate.
    pub(crate) fn linear80(&mut self, op: &Op, access: Access) -> Result<Gva, Fault> {
        let offset = self.address(op);
        self.linear(op.mem.seg, offset, 10, access).or_else(|violation| {
            let at = self.linear(op.mem.seg, offset, 8, access)?;
            match access {
                Access::Read => self.mmu.read::<u64>(at).map(drop)?,
                Access::Write => self.mmu.probe_write(at, 8)?,
            }
            Err(violation)
        })
    }

    /// Reads `to.len()` bytes at `offset` in `seg`.
    pub(crate) fn read_bytes(&mut self, seg: Seg, offset: u32, to: &mut [u8]) -> Result<(), Fault> {
        let at = self.linear(seg, offset, to.len() as u32, Access::Read)?;
        self.mmu.read_bytes(at, to)
    }

    /// Writes `from` at `offset` in `seg`: all of it or, on a fault, nothing.
    pub(crate) fn write_bytes(&mut self, seg: Seg, offset: u32, from: &[u8]) -> Result<(), Fault> {
        let at = self.linear(seg, offset, from.len() as u32, Access::Write)?;
        self.mmu.write_bytes(at, from)
    }

    /// Read-modify-write at `offset` in `seg`; see [`Ctx::update`].
    #[inline(always)]
    pub(crate) fn update_at<T: Width>(
        &mut self,
        op: &Op,
        seg: Seg,
        offset: u32,
        f: impl Fn(u32) -> u32,
    ) -> Result<(u32, u32), Stop> {
        let at = self.linear(seg, offset, T::SIZE as u32, Access::Write)?;
        let mut old: T = self.read_to_update(at)?;
        if !op.lock {
            let new = f(old.into()) & T::MASK;
            self.mmu.write(at, T::low(new))?;
            return Ok((old.into(), new));
        }
        loop {
            let new = f(old.into()) & T::MASK;
            let now = self.mmu.compare_exchange(at, old, T::low(new))?;
            if now.to_u64() == old.to_u64() {
                return Ok((old.into(), new));
            }
            old = now;
        }
    }

    /// The instruction's memory operand may be written, or its fault: for instructions that compute a lot first.
    pub(crate) fn probe_write(&mut self, op: &Op, len: u32) -> Exec {
        let at = self.linear(op.mem.seg, self.address(op), len, Access::Write)?;
        Ok(self.mmu.probe_write(at, len)?)
    }

    /// The read of a read-modify-write, which is made with the intent to write: its page fault says so, and where the operand lies on two
    /// pages the first is the first to be asked whether it may be written.
    #[inline(always)]
    pub(crate) fn read_to_update<T: Scalar>(&mut self, at: Gva) -> Result<T, Fault> {
        self.mmu.read_to_update(at).map_err(|fault| self.update_fault(at, T::SIZE as u32, fault))
    }

    #[cold]
    fn update_fault(&mut self, at: Gva, len: u32, fault: Fault) -> Fault {
        self.mmu.probe_write(at, len).err().unwrap_or(fault)
    }
}
