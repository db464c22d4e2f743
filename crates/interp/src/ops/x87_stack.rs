//! The x87 register stack, its exceptions, and what every x87 instruction records about itself.
//!
//! An exception that is unmasked is not delivered by the instruction that causes it: it sets ES, and the next waiting
//! instruction raises #MF (SDM vol. 1, 8.7). Handlers therefore run in this order: [`Ctx::x87_wait`], memory access
//! (which may fault), [`Ctx::x87_record`], and then the effect, which can't fail any more.

use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::softfloat::{Env, F80, Float, Format, Num, flag};
use xlat86_arch::{Fault, FxState, Vector, fcw, fsw};

/// Stack underflow: an operand register was empty.
pub(crate) const UNDERFLOW: u16 = flag::IE | fsw::SF;
/// Stack overflow: the register to push into was in use.
pub(crate) const OVERFLOW: u16 = flag::IE | fsw::SF | fsw::C1;

/// The four condition bits.
pub(crate) const CONDITION: u16 = fsw::C0 | fsw::C1 | fsw::C2 | fsw::C3;

/// Makes physical register `top` ST(0).
pub(crate) fn set_top(fx: &mut FxState, top: u8) {
    let top = top & 7;
    let by = top.wrapping_sub(fx.top()) & 7;
    fx.st.rotate_left(by.into());
    fx.fsw = fx.fsw & !fsw::TOP | u16::from(top) << fsw::TOP_SHIFT;
}

/// Sets ES and B when an unmasked exception flag is set, and clears them otherwise.
pub(crate) fn update_summary(fx: &mut FxState) {
    let pending = fx.fsw & !fx.fcw & flag::ALL != 0;
    fx.fsw = fx.fsw & !(fsw::ES | fsw::B) | if pending { fsw::ES | fsw::B } else { 0 };
}

/// FNINIT (SDM vol. 1, 8.1.4): the registers keep their contents but are empty.
pub(crate) fn initialise(fx: &mut FxState) {
    set_top(fx, 0);
    *fx = FxState { fcw: fcw::INIT, fsw: 0, ftw: 0, fop: 0, fip: 0, fcs: 0, fdp: 0, fds: 0, ..*fx };
}

impl Ctx<'_> {
    /// What a waiting x87 instruction checks first: #MF when an unmasked exception is pending.
    #[inline]
    pub(crate) fn x87_wait(&self) -> Exec {
        match self.cpu.fx.fsw & fsw::ES {
            0 => Ok(()),
            _ => Err(Fault::simple(Vector::MF).into()),
        }
    }

    /// Records opcode, instruction pointer and operand pointer (SDM vol. 1, 8.1.8 and 8.1.9); an instruction without a
    /// memory operand leaves the latter.
    #[inline]
    pub(crate) fn x87_record(&mut self, op: &Op) {
        let memory = (op.a == Operand::Mem || op.b == Operand::Mem)
            .then(|| (self.address(op), self.cpu.segment(op.mem.seg).selector));
        let cs = self.cpu.segment(xlat86_arch::Seg::Cs).selector;
        let fx = &mut self.cpu.fx;
        (fx.fop, fx.fip, fx.fcs) = (op.imm2, op.eip, cs);
        if let Some(at) = memory {
            (fx.fdp, fx.fds) = at;
        }
    }

    /// The rounding and masks in force.
    pub(crate) fn x87_env(&self) -> Env {
        Env::x87(self.cpu.fx.fcw)
    }

    /// The precision in force.
    pub(crate) fn x87_precision(&self) -> Format {
        Format::x87(self.cpu.fx.fcw)
    }

    /// Contents of ST(i), whether empty or not.
    pub(crate) fn st(&self, i: u8) -> F80 {
        let [b @ .., _, _, _, _, _, _] = self.cpu.fx.st[(i & 7) as usize];
        F80::from_bytes(b)
    }

    /// ST(i), unpacked.
    pub(crate) fn st_num(&self, i: u8) -> Num {
        self.st(i).unpack()
    }

    /// Sets ST(i), which is then in use.
    pub(crate) fn set_st(&mut self, i: u8, v: F80) {
        let fx = &mut self.cpu.fx;
        fx.ftw |= 1 << (fx.top().wrapping_add(i) & 7);
        fx.st[(i & 7) as usize][..10].copy_from_slice(&v.to_bytes());
    }

    /// Is ST(i) empty?
    pub(crate) fn st_empty(&self, i: u8) -> bool {
        let fx = &self.cpu.fx;
        fx.ftw >> (fx.top().wrapping_add(i) & 7) & 1 == 0
    }

    /// Marks ST(i) empty.
    pub(crate) fn st_free(&mut self, i: u8) {
        let fx = &mut self.cpu.fx;
        fx.ftw &= !(1 << (fx.top().wrapping_add(i) & 7));
    }

    /// Frees ST(0) and moves the top of stack on, `n` times.
    pub(crate) fn st_pop(&mut self, n: u8) {
        for _ in 0..n {
            self.st_free(0);
            let top = self.cpu.fx.top();
            set_top(&mut self.cpu.fx, top.wrapping_add(1));
        }
    }

    /// Makes room for a new ST(0) and sets it.
    pub(crate) fn st_push(&mut self, v: F80) {
        let top = self.cpu.fx.top();
        set_top(&mut self.cpu.fx, top.wrapping_sub(1));
        self.set_st(0, v);
    }

    /// Adds exception flags to the status word, sets C1 as they say, and gives those that are unmasked.
    pub(crate) fn x87_raise(&mut self, flags: u16) -> u16 {
        let fx = &mut self.cpu.fx;
        fx.fsw = fx.fsw & !fsw::C1 | flags & (flag::ALL | fsw::SF | fsw::C1);
        update_summary(fx);
        flags & flag::ALL & !fx.fcw
    }

    /// Replaces the condition bits.
    pub(crate) fn x87_condition(&mut self, bits: u16) {
        self.cpu.fx.fsw = self.cpu.fx.fsw & !CONDITION | bits;
    }

    /// Delivers `value` to ST(dst), then pops: unless an exception found before computing is unmasked.
    pub(crate) fn x87_deliver(&mut self, dst: u8, value: &Num, flags: u16, pops: u8) {
        if self.x87_raise(flags) & flag::PRE == 0 {
            self.set_st(dst, F80::pack(value));
            self.st_pop(pops);
        }
    }

    /// Pushes `value`, also when a denormal operand's exception is unmasked. A full stack matters only when the value
    /// is there.
    pub(crate) fn x87_deliver_push(&mut self, value: F80, flags: u16) {
        let overflow = flags & fsw::SF == 0 && !self.st_empty(7);
        let (value, flags) = if overflow { (F80::pack(&Num::INDEFINITE), OVERFLOW) } else { (value, flags) };
        if self.x87_raise(flags) & flag::IE == 0 {
            self.st_push(value);
        }
    }
}
