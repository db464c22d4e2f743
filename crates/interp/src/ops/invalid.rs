//! What has no row: encodings that raise an exception, and the guard before floating-point instructions.

use crate::Stop;
use crate::ctx::{Ctx, Exec};
use crate::op::{Handler, Op};
use crate::table::handler;
use xlat86_arch::{Fault, Vector, cr0, cr4};
use xlat86_decoder::{Insn, Unit, unit_of};

/// The handler of an instruction that the decoder calls invalid.
pub(crate) fn raise_over(insn: &Insn) -> Handler {
    if insn.fault() == Some(Fault::ud()) { undefined } else { too_long }
}

fn undefined(_: &mut Ctx<'_>, _: &Op) -> Exec {
    Err(Fault::ud().into())
}

fn too_long(_: &mut Ctx<'_>, _: &Op) -> Exec {
    Err(Fault::gp(0).into())
}

pub(crate) fn unimplemented(_: &mut Ctx<'_>, op: &Op) -> Exec {
    Err(Stop::Unimplemented(op.code))
}

/// Stands before each floating-point instruction while CR0.EM, CR0.TS or a clear CR4.OSFXSR may forbid it (SDM vol.
/// 3A, tables 2-2 and 13-1).
pub(crate) fn fpu_guard(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let (em, ts, mp) = (ctx.cpu.cr0 & cr0::EM != 0, ctx.cpu.cr0 & cr0::TS != 0, ctx.cpu.cr0 & cr0::MP != 0);
    let osfxsr = ctx.cpu.cr4 & cr4::OSFXSR != 0;
    let (ud, nm) = match unit_of(op.code) {
        Unit::Integer => (false, false),
        Unit::X87 => (false, em || ts),
        Unit::Wait => (false, mp && ts),
        Unit::Mmx => (em, ts),
        Unit::Sse => (em || !osfxsr, ts),
    };
    match (ud, nm) {
        (true, _) => Err(Fault::ud().into()),
        (_, true) => Err(Fault::simple(Vector::NM).into()),
        _ => handler(op.code).unwrap_or(unimplemented)(ctx, op),
    }
}
