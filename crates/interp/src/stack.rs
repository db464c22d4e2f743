//! The stack. A [`Stack`] is a working copy of ESP: an instruction pushes or pops through it any number of times and
//! commits once nothing can fault any more.

use crate::ctx::Ctx;
use crate::width::Width;
use xlat86_arch::{Fault, Reg, Seg};

/// ESP as an instruction has moved it so far.
#[derive(Clone, Copy)]
pub(crate) struct Stack {
    pub(crate) esp: u32,
}

impl Stack {
    /// Moves the stack pointer by `by` bytes, within the bits that SS.B makes count.
    #[inline(always)]
    pub(crate) fn add(&mut self, ctx: &Ctx<'_>, by: u32) {
        let m = ctx.stack_mask;
        self.esp = self.esp & !m | self.esp.wrapping_add(by) & m;
    }

    /// Pushes `v`.
    #[inline(always)]
    pub(crate) fn push<T: Width>(&mut self, ctx: &mut Ctx<'_>, v: u32) -> Result<(), Fault> {
        self.add(ctx, (T::SIZE as u32).wrapping_neg());
        ctx.write(Seg::Ss, self.esp & ctx.stack_mask, T::low(v))
    }

    /// Pops a value.
    #[inline(always)]
    pub(crate) fn pop<T: Width>(&mut self, ctx: &mut Ctx<'_>) -> Result<u32, Fault> {
        let v: T = ctx.read(Seg::Ss, self.esp & ctx.stack_mask)?;
        self.add(ctx, T::SIZE as u32);
        Ok(v.into())
    }
}

impl Ctx<'_> {
    /// The stack as it stands.
    #[inline(always)]
    pub(crate) fn stack(&self) -> Stack {
        Stack { esp: self.cpu.reg(Reg::Esp) }
    }

    /// Makes `stack` the stack.
    #[inline(always)]
    pub(crate) fn commit(&mut self, stack: Stack) {
        self.cpu.set_reg(Reg::Esp, stack.esp);
    }

    /// Pushes one value.
    #[inline(always)]
    pub(crate) fn push<T: Width>(&mut self, v: u32) -> Result<(), Fault> {
        let mut s = self.stack();
        s.push::<T>(self, v)?;
        self.commit(s);
        Ok(())
    }
}
