//! x87 arithmetic, comparison and transcendental instructions (SDM vol. 1, 8.3.5 to 8.3.8).

use super::x87_load::Load;
use super::x87_stack::{OVERFLOW, UNDERFLOW};
use crate::HostMath;
use crate::ctx::{Ctx, Exec};
use crate::op::{Op, Operand};
use crate::softfloat::{
    self, Class, Env, F80, Float, Format, Num, Op2, Quotient, binary, compare, flag, remainder, round_to_integral,
};
use crate::table::shapes;
use core::cmp::Ordering;
use xlat86_arch::{eflags, fsw};

use super::x87_load as load;

shapes!(ARITH {
    Fadd => arith_reg(Op2::Add, 0);
    Fsub => arith_reg(Op2::Sub, 0);
    Fsubr => arith_reg(Op2::SubR, 0);
    Fmul => arith_reg(Op2::Mul, 0);
    Fdiv => arith_reg(Op2::Div, 0);
    Fdivr => arith_reg(Op2::DivR, 0);
    Faddp => arith_reg(Op2::Add, 1);
    Fsubp => arith_reg(Op2::Sub, 1);
    Fsubrp => arith_reg(Op2::SubR, 1);
    Fmulp => arith_reg(Op2::Mul, 1);
    Fdivp => arith_reg(Op2::Div, 1);
    Fdivrp => arith_reg(Op2::DivR, 1);

    Fsqrt => unary(softfloat::sqrt);
    Frndint => unary(|env, _, a| frndint(env, a));
    Fscale => fscale();
    Fprem => fprem(false);
    Fprem1 => fprem(true);
    Fxtract => fxtract();
    Fchs => sign(|s| !s);
    Fabs => sign(|_| false);

    Fcom => fcom_reg(true, 0);
    Fcomp => fcom_reg(true, 1);
    Fucom => fcom_reg(false, 0);
    Fucomp => fcom_reg(false, 1);
    Fcompp => fcom_pair(true);
    Fucompp => fcom_pair(false);
    Ftst => ftst();
    Fcomi => fcomi(true, 0);
    Fcomip => fcomi(true, 1);
    Fucomi => fcomi(false, 0);
    Fucomip => fcomi(false, 1);
    Fxam => fxam();

    F2xm1 => transcendental(HostMath::F2xm1);
    Fyl2x => transcendental(HostMath::Fyl2x);
    Fyl2xp1 => transcendental(HostMath::Fyl2xp1);
    Fpatan => transcendental(HostMath::Fpatan);
    Fsin => transcendental(HostMath::Fsin);
    Fcos => transcendental(HostMath::Fcos);
    Fptan => transcendental(HostMath::Fptan);
    Fsincos => transcendental(HostMath::Fsincos);
} codes {
    Fadd_m32fp => arith_mem(Op2::Add, load::m32);
    Fsub_m32fp => arith_mem(Op2::Sub, load::m32);
    Fsubr_m32fp => arith_mem(Op2::SubR, load::m32);
    Fmul_m32fp => arith_mem(Op2::Mul, load::m32);
    Fdiv_m32fp => arith_mem(Op2::Div, load::m32);
    Fdivr_m32fp => arith_mem(Op2::DivR, load::m32);
    Fadd_m64fp => arith_mem(Op2::Add, load::m64);
    Fsub_m64fp => arith_mem(Op2::Sub, load::m64);
    Fsubr_m64fp => arith_mem(Op2::SubR, load::m64);
    Fmul_m64fp => arith_mem(Op2::Mul, load::m64);
    Fdiv_m64fp => arith_mem(Op2::Div, load::m64);
    Fdivr_m64fp => arith_mem(Op2::DivR, load::m64);
    Fiadd_m16int => arith_mem(Op2::Add, load::i16);
    Fisub_m16int => arith_mem(Op2::Sub, load::i16);
    Fisubr_m16int => arith_mem(Op2::SubR, load::i16);
    Fimul_m16int => arith_mem(Op2::Mul, load::i16);
    Fidiv_m16int => arith_mem(Op2::Div, load::i16);
    Fidivr_m16int => arith_mem(Op2::DivR, load::i16);
    Fiadd_m32int => arith_mem(Op2::Add, load::i32);
    Fisub_m32int => arith_mem(Op2::Sub, load::i32);
    Fisubr_m32int => arith_mem(Op2::SubR, load::i32);
    Fimul_m32int => arith_mem(Op2::Mul, load::i32);
    Fidiv_m32int => arith_mem(Op2::Div, load::i32);
    Fidivr_m32int => arith_mem(Op2::DivR, load::i32);
    Fcom_m32fp => fcom_mem(load::m32, 0);
    Fcomp_m32fp => fcom_mem(load::m32, 1);
    Fcom_m64fp => fcom_mem(load::m64, 0);
    Fcomp_m64fp => fcom_mem(load::m64, 1);
    Ficom_m16int => fcom_mem(load::i16, 0);
    Ficomp_m16int => fcom_mem(load::i16, 1);
    Ficom_m32int => fcom_mem(load::i32, 0);
    Ficomp_m32int => fcom_mem(load::i32, 1);
});

/// The number of x87 register operand `o`; ST(0) for an implied one.
pub(crate) fn st_number(o: Operand) -> u8 {
    if let Operand::St(i) = o { i } else { 0 }
}

impl Ctx<'_> {
    /// Computes `f` unless one of the registers `operands` is empty, and delivers the result to ST(dst).
    fn x87_compute(&mut self, operands: &[u8], dst: u8, pops: u8, f: impl FnOnce(&Env, Format, &Self) -> (Num, u16)) {
        let (value, flags) = match operands.iter().any(|&i| self.st_empty(i)) {
            true => (Num::INDEFINITE, UNDERFLOW),
            false => f(&self.x87_env(), self.x87_precision(), self),
        };
        self.x87_deliver(dst, &value, flags, pops);
    }
}

fn arith_reg(ctx: &mut Ctx<'_>, op: &Op, how: Op2, pops: u8) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let (d, s) = (st_number(op.a), st_number(op.b));
    ctx.x87_compute(&[d, s], d, pops, |env, f, ctx| binary(how, env, f, &ctx.st_num(d), &ctx.st_num(s)));
    Ok(())
}

fn arith_mem(ctx: &mut Ctx<'_>, op: &Op, how: Op2, load: Load) -> Exec {
    ctx.x87_wait()?;
    let b = load(ctx, op)?;
    ctx.x87_record(op);
    ctx.x87_compute(&[0], 0, 0, |env, f, ctx| binary(how, env, f, &ctx.st_num(0), &b));
    Ok(())
}

fn unary(ctx: &mut Ctx<'_>, op: &Op, how: fn(&Env, Format, &Num) -> (Num, u16)) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    ctx.x87_compute(&[0], 0, 0, |env, f, ctx| how(env, f, &ctx.st_num(0)));
    Ok(())
}

fn frndint(env: &Env, a: &Num) -> (Num, u16) {
    match a.denormal {
        true if env.unmasked(flag::DE) != 0 => (*a, flag::DE),
        denormal => {
            let (n, flags) = round_to_integral(env, a);
            (n, flags | if denormal { flag::DE } else { 0 })
        }
    }
}

fn fscale(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    ctx.x87_compute(&[0, 1], 0, 0, |env, _, ctx| softfloat::scale(env, Format::F80, &ctx.st_num(0), &ctx.st_num(1)));
    Ok(())
}

/// FPREM and FPREM1: the quotient's low bits go to C1, C3 and C0, incompleteness to C2.
fn fprem(ctx: &mut Ctx<'_>, op: &Op, nearest: bool) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let mut outcome = Quotient::Missing;
    ctx.x87_compute(&[0, 1], 0, 0, |env, _, ctx| {
        let (value, quotient, flags) = remainder(env, nearest, &ctx.st_num(0), &ctx.st_num(1));
        outcome = quotient;
        (value, flags)
    });
    let bit = |q: u8, i: u8, c| if q >> i & 1 == 1 { c } else { 0 };
    ctx.x87_condition(match outcome {
        Quotient::Complete(q) => bit(q, 0, fsw::C1) | bit(q, 1, fsw::C3) | bit(q, 2, fsw::C0),
        Quotient::Partial => fsw::C2,
        Quotient::Missing => ctx.cpu.fx.fsw & (fsw::C0 | fsw::C3),
    });
    Ok(())
}

fn fxtract(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let (exponent, significand, flags) = match (ctx.st_empty(0), ctx.st_empty(7)) {
        (true, _) => (Num::INDEFINITE, Num::INDEFINITE, UNDERFLOW),
        (_, false) => (Num::INDEFINITE, Num::INDEFINITE, OVERFLOW),
        _ => softfloat::extract(&ctx.x87_env(), &ctx.st_num(0)),
    };
    if ctx.x87_raise(flags) & flag::PRE == 0 {
        ctx.set_st(0, F80::pack(&exponent));
        ctx.st_push(F80::pack(&significand));
    }
    Ok(())
}

/// FCHS and FABS change the sign of anything, NaNs and unsupported encodings included.
fn sign(ctx: &mut Ctx<'_>, op: &Op, f: fn(bool) -> bool) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let a = ctx.st(0);
    if ctx.st_empty(0) {
        ctx.x87_deliver(0, &Num::INDEFINITE, UNDERFLOW, 0);
    } else {
        ctx.x87_raise(0);
        ctx.set_st(0, F80 { se: a.se & 0x7fff | u16::from(f(a.se >> 15 == 1)) << 15, ..a });
    }
    Ok(())
}

/// C3, C2, C0 of a comparison (SDM vol. 1, table 8-6).
fn condition_of(order: Option<Ordering>) -> u16 {
    match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => fsw::C0,
        Some(Ordering::Equal) => fsw::C3,
        None => fsw::C0 | fsw::C2 | fsw::C3,
    }
}

impl Ctx<'_> {
    /// Compares ST(0) with `b` (`None`: an empty register). Gives the order and the flags.
    fn x87_compare(&self, b: Option<Num>, signal_quiet: bool) -> (Option<Ordering>, u16) {
        match b {
            Some(b) if !self.st_empty(0) => compare(&self.x87_env(), &self.st_num(0), &b, signal_quiet),
            _ => (None, UNDERFLOW),
        }
    }

    fn fcom(&mut self, b: Option<Num>, signal_quiet: bool, pops: u8) {
        let (order, flags) = self.x87_compare(b, signal_quiet);
        self.x87_condition(condition_of(order));
        if self.x87_raise(flags) & flag::PRE == 0 {
            self.st_pop(pops);
        }
    }

    /// ST(i), or `None` when empty.
    fn st_operand(&self, i: u8) -> Option<Num> {
        (!self.st_empty(i)).then(|| self.st_num(i))
    }
}

fn fcom_reg(ctx: &mut Ctx<'_>, op: &Op, signal_quiet: bool, pops: u8) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let b = ctx.st_operand(st_number(op.b));
    ctx.fcom(b, signal_quiet, pops);
    Ok(())
}

fn fcom_pair(ctx: &mut Ctx<'_>, op: &Op, signal_quiet: bool) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let b = ctx.st_operand(1);
    ctx.fcom(b, signal_quiet, 2);
    Ok(())
}

fn fcom_mem(ctx: &mut Ctx<'_>, op: &Op, load: Load, pops: u8) -> Exec {
    ctx.x87_wait()?;
    let b = load(ctx, op)?;
    ctx.x87_record(op);
    ctx.fcom(Some(b), true, pops);
    Ok(())
}

fn ftst(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    ctx.fcom(Some(Num::zero(false)), true, 0);
    Ok(())
}

fn fcomi(ctx: &mut Ctx<'_>, op: &Op, signal_quiet: bool, pops: u8) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let b = ctx.st_operand(st_number(op.b));
    let (order, flags) = ctx.x87_compare(b, signal_quiet);
    // Without a stack fault C1 stays as it was.
    let c1 = ctx.cpu.fx.fsw & fsw::C1;
    let unmasked = ctx.x87_raise(if flags & fsw::SF == 0 { flags | c1 } else { flags });
    ctx.set_status(order_flags(order));
    if unmasked & flag::PRE == 0 {
        ctx.st_pop(pops);
    }
    Ok(())
}

/// ZF, PF, CF of a comparison that reports in EFLAGS.
pub(crate) fn order_flags(order: Option<Ordering>) -> u32 {
    match order {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => eflags::CF,
        Some(Ordering::Equal) => eflags::ZF,
        None => eflags::ZF | eflags::PF | eflags::CF,
    }
}

/// FXAM: the class of ST(0) in C3, C2, C0 and its sign in C1 (SDM vol. 2A, table 3-33).
fn fxam(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let n = ctx.st_num(0);
    let class = match n.class {
        _ if ctx.st_empty(0) => fsw::C3 | fsw::C0,
        Class::Unsupported => 0,
        Class::QNan | Class::SNan => fsw::C0,
        Class::Infinity => fsw::C2 | fsw::C0,
        Class::Zero => fsw::C3,
        Class::Finite if n.denormal => fsw::C3 | fsw::C2,
        Class::Finite => fsw::C2,
    };
    ctx.x87_condition(class | if n.sign { fsw::C1 } else { 0 });
    Ok(())
}

/// What the manual leaves to the silicon: the host computes, stack and exception responses are ours.
fn transcendental(ctx: &mut Ctx<'_>, op: &Op, how: HostMath) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let pushes = matches!(how, HostMath::Fptan | HostMath::Fsincos);
    let binary = matches!(how, HostMath::Fyl2x | HostMath::Fyl2xp1 | HostMath::Fpatan);
    let trigonometric = !binary && how != HostMath::F2xm1;
    if trigonometric {
        ctx.cpu.fx.fsw &= !fsw::C2;
    }
    if ctx.st_empty(0) || (binary && ctx.st_empty(1)) {
        return stack_fault(ctx, UNDERFLOW, pushes, binary);
    }
    if pushes && !ctx.st_empty(7) {
        return stack_fault(ctx, OVERFLOW, pushes, binary);
    }
    let (a, b) = (ctx.st(0).to_bytes(), ctx.st(1).to_bytes());
    let (first, second, sw) = ctx.platform.x87(how, a, b, ctx.cpu.fx.fcw);
    let unmasked = ctx.x87_raise(sw);
    if trigonometric && sw & fsw::C2 != 0 {
        // Out of range: the operand stays.
        ctx.cpu.fx.fsw |= fsw::C2;
        return Ok(());
    }
    if unmasked & flag::PRE != 0 {
        return Ok(());
    }
    if binary {
        ctx.set_st(1, F80::from_bytes(second));
        ctx.st_pop(1);
    } else {
        ctx.set_st(0, F80::from_bytes(first));
        if pushes {
            ctx.st_push(F80::from_bytes(second));
        }
    }
    Ok(())
}

fn stack_fault(ctx: &mut Ctx<'_>, flags: u16, pushes: bool, binary: bool) -> Exec {
    let indefinite = F80::pack(&Num::INDEFINITE);
    if ctx.x87_raise(flags) & flag::PRE == 0 {
        ctx.set_st(binary.into(), indefinite);
        if binary {
            ctx.st_pop(1);
        }
        if pushes {
            ctx.st_push(indefinite);
        }
    }
    Ok(())
}
