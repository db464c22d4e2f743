//! A stack frame that a transfer of control builds or takes apart, on the current stack or on another one: nothing of
//! the CPU's state changes until the transfer is certain.

use crate::ctx::Ctx;
use crate::width::Width;
use xlat86_arch::{Fault, Gva, Reg, Seg, Segment};

/// A stack being pushed to or popped from.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) ss: Segment,
    pub(crate) esp: u32,
    /// Error code of the #SS that a limit violation raises: 0, or the selector of a stack being switched to.
    error: u32,
    /// It is another level's stack, and the CPU accesses it with supervisor rights.
    inner: bool,
}

impl Frame {
    /// The current stack.
    pub(crate) fn current(ctx: &Ctx<'_>) -> Frame {
        Frame { ss: *ctx.cpu.segment(Seg::Ss), esp: ctx.cpu.reg(Reg::Esp), error: 0, inner: false }
    }

    /// Another level's stack.
    pub(crate) fn new(ss: Segment, esp: u32, error: u32) -> Frame {
        Frame { ss, esp, error, inner: true }
    }

    fn mask(&self) -> u32 {
        if self.ss.attr.db() { u32::MAX } else { 0xffff }
    }

    /// Moves the stack pointer by `by`.
    pub(crate) fn add(&mut self, by: u32) {
        let m = self.mask();
        self.esp = self.esp & !m | self.esp.wrapping_add(by) & m;
    }

    fn linear(&self, len: u32) -> Result<Gva, Fault> {
        let at = self.esp & self.mask();
        if self.ss.contains(at, len) { Ok(Gva(self.ss.base.wrapping_add(at))) } else { Err(Fault::ss(self.error)) }
    }

    /// Pushes `v`.
    pub(crate) fn push<T: Width>(&mut self, ctx: &mut Ctx<'_>, v: u32) -> Result<(), Fault> {
        self.add((T::SIZE as u32).wrapping_neg());
        let at = self.linear(T::SIZE as u32)?;
        if self.inner { ctx.mmu.write_system(at, T::low(v)) } else { ctx.mmu.write(at, T::low(v)) }
    }

    /// Pushes `v` as 32 bits (`wide`) or 16.
    pub(crate) fn push_sized(&mut self, ctx: &mut Ctx<'_>, wide: bool, v: u32) -> Result<(), Fault> {
        if wide { self.push::<u32>(ctx, v) } else { self.push::<u16>(ctx, v) }
    }

    /// Pops a value.
    pub(crate) fn pop<T: Width>(&mut self, ctx: &mut Ctx<'_>) -> Result<u32, Fault> {
        let at = self.linear(T::SIZE as u32)?;
        let v: T = ctx.mmu.read(at)?;
        self.add(T::SIZE as u32);
        Ok(v.into())
    }

    /// Makes this the CPU's stack.
    pub(crate) fn install(self, ctx: &mut Ctx<'_>) {
        ctx.cpu.seg[Seg::Ss as usize] = self.ss;
        let m = self.mask();
        let esp = ctx.cpu.reg(Reg::Esp) & !m | self.esp & m;
        ctx.cpu.set_reg(Reg::Esp, esp);
    }
}
