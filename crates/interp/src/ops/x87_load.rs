//! x87 loads, stores, exchanges and constants (SDM vol. 1, 8.3.3 and 8.3.4).

use super::x87_arith::st_number;
use super::x87_stack::UNDERFLOW;
use crate::ctx::{Ctx, Exec};
use crate::memory::Access;
use crate::op::{Op, Operand};
use crate::softfloat::{
    BCD_INDEFINITE, Env, Exact, F80, Float, Format, Num, Rounding, bcd_to_num, convert, flag, int_to_num, num_to_bcd,
    num_to_int, round,
};
use crate::table::shapes;
use xlat86_arch::{Fault, eflags};

/// Reads a memory operand.
pub(crate) type Load = fn(&mut Ctx<'_>, &Op) -> Result<Num, Fault>;

/// Converts a register for memory: the bytes and the exception flags.
type Store = fn(&Env, F80) -> ([u8; 10], u16);

shapes!(LOAD {
    Fld => fld_sti();
    Fbld => fld(bcd);

    Fbstp => store(10, to_bcd, 1);
    Fst => fst_sti(0);
    Fstp => fst_sti(1);
    Fstpnce => fstpnce();
    Fxch => fxch();

    Fldz => constant(Exact::Done(Num::zero(false)));
    Fld1 => constant(Exact::of(&Num::finite(false, 0, 1 << 63)));
    Fldpi => constant(irrational(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1));
    Fldl2t => constant(irrational(1, 0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4d));
    Fldl2e => constant(irrational(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89));
    Fldlg2 => constant(irrational(-2, 0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9179));
    Fldln2 => constant(irrational(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af));

    Fcmovb => fcmov(eflags::CF, true);
    Fcmove => fcmov(eflags::ZF, true);
    Fcmovbe => fcmov(eflags::CF | eflags::ZF, true);
    Fcmovu => fcmov(eflags::PF, true);
    Fcmovnb => fcmov(eflags::CF, false);
    Fcmovne => fcmov(eflags::ZF, false);
    Fcmovnbe => fcmov(eflags::CF | eflags::ZF, false);
    Fcmovnu => fcmov(eflags::PF, false);
} codes {
    Fld_m32fp => fld(m32);
    Fld_m64fp => fld(m64);
    Fld_m80fp => fld_m80();
    Fild_m16int => fld(i16);
    Fild_m32int => fld(i32);
    Fild_m64int => fld(i64);
    Fst_m32fp => store(4, to_float::<u32>, 0);
    Fst_m64fp => store(8, to_float::<u64>, 0);
    Fstp_m32fp => store(4, to_float::<u32>, 1);
    Fstp_m64fp => store(8, to_float::<u64>, 1);
    Fstp_m80fp => store(10, |_, v| (v.to_bytes(), 0), 1);
    Fist_m16int => store(2, to_int::<16>, 0);
    Fist_m32int => store(4, to_int::<32>, 0);
    Fistp_m16int => store(2, to_int::<16>, 1);
    Fistp_m32int => store(4, to_int::<32>, 1);
    Fistp_m64int => store(8, to_int::<64>, 1);
    Fisttp_m16int => store(2, to_int_truncated::<16>, 1);
    Fisttp_m32int => store(4, to_int_truncated::<32>, 1);
    Fisttp_m64int => store(8, to_int_truncated::<64>, 1);
});

pub(crate) fn m32(ctx: &mut Ctx<'_>, op: &Op) -> Result<Num, Fault> {
    Ok(ctx.load::<u32>(op)?.unpack())
}
pub(crate) fn m64(ctx: &mut Ctx<'_>, op: &Op) -> Result<Num, Fault> {
    Ok(ctx.load::<u64>(op)?.unpack())
}
pub(crate) fn i16(ctx: &mut Ctx<'_>, op: &Op) -> Result<Num, Fault> {
    Ok(int_to_num((ctx.load::<u16>(op)? as i16).into()))
}
pub(crate) fn i32(ctx: &mut Ctx<'_>, op: &Op) -> Result<Num, Fault> {
    Ok(int_to_num((ctx.load::<u32>(op)? as i32).into()))
}
fn i64(ctx: &mut Ctx<'_>, op: &Op) -> Result<Num, Fault> {
    Ok(int_to_num(ctx.load::<u64>(op)? as i64))
}
fn bcd(ctx: &mut Ctx<'_>, op: &Op) -> Result<Num, Fault> {
    Ok(bcd_to_num(m80(ctx, op)?))
}

fn m80(ctx: &mut Ctx<'_>, op: &Op) -> Result<[u8; 10], Fault> {
    let mut b = [0; 10];
    let at = ctx.linear80(op, Access::Read)?;
    ctx.mmu.read_bytes(at, &mut b)?;
    Ok(b)
}

fn fld(ctx: &mut Ctx<'_>, op: &Op, load: Load) -> Exec {
    ctx.x87_wait()?;
    let n = load(ctx, op)?;
    ctx.x87_record(op);
    let (n, flags) = convert(&ctx.x87_env(), Format::F80, &n, true);
    ctx.x87_deliver_push(F80::pack(&n), flags);
    Ok(())
}

/// An 80-bit load is a copy: it examines nothing.
fn fld_m80(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.x87_wait()?;
    let v = F80::from_bytes(m80(ctx, op)?);
    ctx.x87_record(op);
    ctx.x87_deliver_push(v, 0);
    Ok(())
}

fn fld_sti(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let i = st_number(if op.b == Operand::None { op.a } else { op.b });
    let (v, flags) = if ctx.st_empty(i) { (F80::pack(&Num::INDEFINITE), UNDERFLOW) } else { (ctx.st(i), 0) };
    ctx.x87_deliver_push(v, flags);
    Ok(())
}

fn constant(ctx: &mut Ctx<'_>, op: &Op, v: Exact) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let (n, _) = round(&ctx.x87_env(), Format::F80, v);
    ctx.x87_deliver_push(F80::pack(&n), 0);
    Ok(())
}

/// An irrational constant to 128 bits: its further digits never matter to rounding at 64.
const fn irrational(exp: i32, sig: u128) -> Exact {
    Exact::Finite { sign: false, exp, sig }
}

fn to_float<T: Float + Into<u64>>(env: &Env, v: F80) -> ([u8; 10], u16) {
    let (n, flags) = convert(env, T::FORMAT, &v.unpack(), false);
    // An unmasked overflow or underflow stores nothing, and its biased value has no place in the format.
    let bits = if env.unmasked(flags) & (flag::OE | flag::UE) != 0 { 0 } else { T::pack(&n).into() };
    (widen(bits), flags)
}

fn to_int<const BITS: u32>(env: &Env, v: F80) -> ([u8; 10], u16) {
    let (i, flags) = num_to_int(env, &v.unpack(), BITS);
    (widen(i as u64), flags)
}

fn to_int_truncated<const BITS: u32>(env: &Env, v: F80) -> ([u8; 10], u16) {
    to_int::<BITS>(&env.with_rounding(Rounding::Zero), v)
}

fn to_bcd(env: &Env, v: F80) -> ([u8; 10], u16) {
    let (b, flags) = num_to_bcd(env, &v.unpack());
    (b.unwrap_or(BCD_INDEFINITE), flags)
}

fn widen(v: u64) -> [u8; 10] {
    F80 { sig: v, se: 0 }.to_bytes()
}

/// Stores ST(0), converted, in `len` bytes. Unmasked exceptions other than precision leave memory and stack alone.
fn store(ctx: &mut Ctx<'_>, op: &Op, len: usize, to: Store, pops: u8) -> Exec {
    ctx.x87_wait()?;
    let env = ctx.x87_env();
    let (bytes, flags) = match ctx.st_empty(0) {
        true => (to(&env, F80::pack(&Num::INDEFINITE)).0, UNDERFLOW),
        false => to(&env, ctx.st(0)),
    };
    let stores = env.unmasked(flags) & !flag::PE == 0;
    if len == 10 {
        ctx.linear80(op, Access::Write)?;
    }
    if stores {
        let at = ctx.address(op);
        ctx.write_bytes(op.mem.seg, at, &bytes[..len])?;
    } else {
        ctx.probe_write(op, len as u32)?;
    }
    ctx.x87_record(op);
    // What isn't stored isn't rounded either.
    ctx.x87_raise(if stores { flags } else { flags & !(flag::PE | flag::UP) });
    if stores {
        ctx.st_pop(pops);
    }
    Ok(())
}

fn fst_sti(ctx: &mut Ctx<'_>, op: &Op, pops: u8) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let (v, flags) = if ctx.st_empty(0) { (F80::pack(&Num::INDEFINITE), UNDERFLOW) } else { (ctx.st(0), 0) };
    if ctx.x87_raise(flags) == 0 {
        ctx.set_st(st_number(op.a), v);
        ctx.st_pop(pops);
    }
    Ok(())
}

/// FSTPNCE, the D9 D8 alias of FSTP: an empty ST(0) is popped without a report.
fn fstpnce(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    ctx.x87_raise(0);
    if !ctx.st_empty(0) {
        let v = ctx.st(0);
        ctx.set_st(st_number(op.a), v);
    }
    ctx.st_pop(1);
    Ok(())
}

fn fxch(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let i = st_number(if op.b == Operand::None { op.a } else { op.b });
    let flags = if ctx.st_empty(0) || ctx.st_empty(i) { UNDERFLOW } else { 0 };
    if ctx.x87_raise(flags) == 0 {
        let value = |i| if ctx.st_empty(i) { F80::pack(&Num::INDEFINITE) } else { ctx.st(i) };
        let (a, b) = (value(0), value(i));
        ctx.set_st(0, b);
        ctx.set_st(i, a);
    }
    Ok(())
}

fn fcmov(ctx: &mut Ctx<'_>, op: &Op, flags: u32, set: bool) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    let i = st_number(op.b);
    if ctx.st_empty(0) || ctx.st_empty(i) {
        ctx.x87_deliver(0, &Num::INDEFINITE, UNDERFLOW, 0);
    } else if ctx.flag(flags) == set {
        let v = ctx.st(i);
        ctx.set_st(0, v);
    }
    Ok(())
}
