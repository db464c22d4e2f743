//! What MMX and SSE instructions share: lanes, operands, exceptions.
//!
//! Values travel as `u128` whatever the register; of an MMX value the upper half is zero going in and ignored coming
//! out. So one row serves the MMX and the SSE form of an instruction; only functions that cross lanes need to know the
//! width.

use crate::Stop;
use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::ops::x87_stack::set_top;
use crate::softfloat::{Env, flag};
use xlat86_arch::{Fault, Vector, cr4};

/// An element type: a two's complement integer, or the bits of a float.
pub(crate) trait Lane: Copy {
    const BITS: usize;
    /// The low bits of `v`.
    fn cut(v: u128) -> Self;
    /// Zero-extended.
    fn bits(self) -> u128;
}

macro_rules! lanes {
    ($($t:ty as $u:ty),*) => {$(
        impl Lane for $t {
            const BITS: usize = <$t>::BITS as usize;
            #[inline(always)]
            fn cut(v: u128) -> Self { v as $t }
            #[inline(always)]
            fn bits(self) -> u128 { (self as $u).into() }
        }
    )*};
}
lanes!(u8 as u8, i8 as u8, u16 as u16, i16 as u16, u32 as u32, i32 as u32, u64 as u64, i64 as u64);

/// Lane `i` of `v`.
#[inline(always)]
pub(crate) fn lane<T: Lane>(v: u128, i: usize) -> T {
    T::cut(v >> (i * T::BITS))
}

/// `n` lanes, lowest first.
#[inline(always)]
pub(crate) fn build<T: Lane>(n: usize, f: impl Fn(usize) -> T) -> u128 {
    (0..n).fold(0, |v, i| v | f(i).bits() << (i * T::BITS))
}

/// `v` with its lane `i` replaced.
#[inline(always)]
pub(crate) fn with_lane<T: Lane>(v: u128, i: usize, x: T) -> u128 {
    let at = i * T::BITS;
    let mask = (u128::MAX >> (128 - T::BITS)) << at;
    v & !mask | x.bits() << at
}

/// Every lane of `a` and `b` through `f`.
#[inline(always)]
pub(crate) fn map2<T: Lane, R: Lane>(a: u128, b: u128, f: impl Fn(T, T) -> R) -> u128 {
    build(128 / T::BITS, |i| f(lane(a, i), lane(b, i)))
}

/// Every lane of `a` through `f`.
#[inline(always)]
pub(crate) fn map1<T: Lane>(a: u128, f: impl Fn(T) -> T) -> u128 {
    build(128 / T::BITS, |i| f(lane(a, i)))
}

/// Width in bytes of vector operand `o`.
pub(crate) fn width_of(o: Operand) -> usize {
    if let Operand::Mm(_) = o { 8 } else { 16 }
}

impl Ctx<'_> {
    /// What an MMX instruction checks first: no x87 exception is pending. Instructions on XMM registers only pass.
    #[inline(always)]
    pub(crate) fn mmx_check(&self, op: &Op) -> Exec {
        match (op.a, op.b) {
            (Operand::Mm(_), _) | (_, Operand::Mm(_)) => self.x87_wait(),
            _ => Ok(()),
        }
    }

    /// The x87 after any MMX instruction but EMMS: TOP is 0 and no register is empty (SDM vol. 1, 9.5.1).
    pub(crate) fn mmx_enter(&mut self) {
        set_top(&mut self.cpu.fx, 0);
        self.cpu.fx.ftw = 0xff;
    }

    /// MMX register `i`: the significand of physical x87 register `i`.
    pub(crate) fn mm(&self, i: u8) -> u64 {
        let fx = &self.cpu.fx;
        let [b @ .., _, _, _, _, _, _, _, _] = fx.st[(i.wrapping_sub(fx.top()) & 7) as usize];
        u64::from_le_bytes(b)
    }

    /// Sets MMX register `i`; sign and exponent of the x87 register become ones.
    pub(crate) fn set_mm(&mut self, i: u8, v: u64) {
        self.mmx_enter();
        let st = &mut self.cpu.fx.st[(i & 7) as usize];
        st[..8].copy_from_slice(&v.to_le_bytes());
        st[8..10].fill(0xff);
    }

    /// The value of register operand `o`, zero-extended.
    #[inline(always)]
    pub(crate) fn vector(&self, o: Operand) -> u128 {
        match o {
            Operand::Xmm(i) => self.cpu.fx.xmm[(i & 7) as usize],
            Operand::Mm(i) => self.mm(i).into(),
            Operand::Gpr(r) => self.cpu.gpr[(r & 7) as usize].into(),
            _ => 0,
        }
    }

    /// The value of operand `o`, of memory as many bytes as the instruction reads; sixteen of them must be aligned.
    #[inline(always)]
    pub(crate) fn source(&mut self, op: &Op, o: Operand) -> Result<u128, Stop> {
        if o != Operand::Mem {
            return Ok(self.vector(o));
        }
        Ok(match op.mem.size {
            16 => self.load128(op, true)?,
            8 => self.load::<u64>(op)?.into(),
            4 => self.load::<u32>(op)?.into(),
            2 => self.load::<u16>(op)?.into(),
            1 => self.load::<u8>(op)?.into(),
            _ => return Err(Stop::Unimplemented(op.code)),
        })
    }

    /// Sets register operand `o` to as much of `v` as it holds.
    #[inline(always)]
    pub(crate) fn set_vector(&mut self, o: Operand, v: u128) {
        match o {
            Operand::Xmm(i) => self.cpu.fx.xmm[(i & 7) as usize] = v,
            Operand::Mm(i) => self.set_mm(i, v as u64),
            Operand::Gpr(r) => self.cpu.gpr[(r & 7) as usize] = v as u32,
            _ => {}
        }
    }

    /// Sets operand `o`; of memory as many bytes as the instruction writes, sixteen of them aligned if `aligned`.
    pub(crate) fn set_destination(&mut self, op: &Op, o: Operand, v: u128, aligned: bool) -> Exec {
        if o != Operand::Mem {
            self.set_vector(o, v);
            return Ok(());
        }
        match op.mem.size {
            16 => self.store128(op, v, aligned)?,
            8 => self.store(op, v as u64)?,
            4 => self.store(op, v as u32)?,
            2 => self.store(op, v as u16)?,
            1 => self.store(op, v as u8)?,
            _ => return Err(Stop::Unimplemented(op.code)),
        }
        Ok(())
    }

    /// The rounding, masks and denormal handling in force.
    pub(crate) fn sse_env(&self) -> Env {
        Env::sse(self.cpu.fx.mxcsr)
    }

    /// Records the exceptions of an SSE instruction, `flags` being those of all lanes; raises #XM when one is unmasked,
    /// or #UD when the operating system hasn't declared that it handles #XM. Exceptions found before computing hide
    /// those of the results (SDM vol. 1, 11.5.3).
    pub(crate) fn sse_raise(&mut self, flags: u16) -> Exec {
        let env = self.sse_env();
        let flags = if env.unmasked(flags & flag::PRE) != 0 { flags & flag::PRE } else { flags & flag::ALL };
        self.cpu.fx.mxcsr |= u32::from(flags);
        if env.unmasked(flags) == 0 {
            return Ok(());
        }
        let vector = if self.cpu.cr4 & cr4::OSXMMEXCPT != 0 { Vector::XM } else { Vector::UD };
        Err(Fault::simple(vector).into())
    }
}

/// Flags gathered over the lanes of one instruction.
#[derive(Default)]
pub(crate) struct Gather(core::cell::Cell<u16>);

impl Gather {
    /// The value of `r`, its flags kept.
    #[inline(always)]
    pub(crate) fn take<T>(&self, r: (T, u16)) -> T {
        self.0.set(self.0.get() | r.1);
        r.0
    }

    pub(crate) fn flags(&self) -> u16 {
        self.0.get()
    }
}
