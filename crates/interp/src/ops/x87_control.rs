//! x87 control instructions and the images of its state in memory (SDM vol. 1, 8.1.10 and 8.3.9).

use super::x87_arith::st_number;
use super::x87_stack::{initialise, set_top, update_summary};
use crate::ctx::{Ctx, Exec};
use crate::op::Op;
use crate::softfloat::{Class, F80, Float, flag};
use crate::table::shapes;
use xlat86_arch::{Fault, FxState, Reg, fcw, fsw};

shapes!(CONTROL {
    Fnop => touch(|_, _| ());
    Fincstp => touch(|ctx, _| move_top(ctx, 1));
    Fdecstp => touch(|ctx, _| move_top(ctx, 7));
    Ffree => touch(free);
    Ffreep => touch(|ctx, op| {
        free(ctx, op);
        ctx.st_pop(1);
    });
    Wait => wait();
    Fninit => no_wait(initialise);
    Fnclex => no_wait(clear_exceptions);
    Fneni => no_wait(|_| ());
    Fndisi => no_wait(|_| ());
    Fnsetpm => no_wait(|_| ());
    Fnstcw => fnstcw();
    Fldcw => fldcw();
} codes {
    Fnstsw_AX => fnstsw_ax();
    Fnstsw_m2byte => fnstsw_mem();
    Fnstenv_m14byte => fnstenv(true);
    Fnstenv_m28byte => fnstenv(false);
    Fldenv_m14byte => fldenv(true);
    Fldenv_m28byte => fldenv(false);
    Fnsave_m94byte => fnsave(true);
    Fnsave_m108byte => fnsave(false);
    Frstor_m94byte => frstor(true);
    Frstor_m108byte => frstor(false);
});

/// A waiting instruction that works on the stack's bookkeeping only.
fn touch(ctx: &mut Ctx<'_>, op: &Op, f: fn(&mut Ctx<'_>, &Op)) -> Exec {
    ctx.x87_wait()?;
    ctx.x87_record(op);
    f(ctx, op);
    Ok(())
}

fn free(ctx: &mut Ctx<'_>, op: &Op) {
    ctx.st_free(st_number(op.a));
    ctx.cpu.fx.fsw &= !fsw::C1;
}

fn move_top(ctx: &mut Ctx<'_>, by: u8) {
    let fx = &mut ctx.cpu.fx;
    let top = fx.top().wrapping_add(by);
    set_top(fx, top);
    fx.fsw &= !fsw::C1;
}

fn wait(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.x87_wait()
}

/// An instruction that ignores pending exceptions and isn't recorded.
fn no_wait(ctx: &mut Ctx<'_>, _: &Op, f: fn(&mut FxState)) -> Exec {
    f(&mut ctx.cpu.fx);
    Ok(())
}

fn clear_exceptions(fx: &mut FxState) {
    fx.fsw &= !(flag::ALL | fsw::SF);
    update_summary(fx);
}

fn fnstcw(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.cpu.fx.fcw;
    Ok(ctx.store::<u16>(op, v)?)
}

fn fldcw(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    ctx.x87_wait()?;
    let v = ctx.load::<u16>(op)?;
    set_control(&mut ctx.cpu.fx, v);
    Ok(())
}

/// Bits of the control word that keep what is written: masks, PC, RC and the 287's infinity control.
const FCW_WRITABLE: u16 = 0x1f3f;
/// Reads as one.
const FCW_FIXED: u16 = 0x40;

/// Loads the control word; exceptions it unmasks become pending.
pub(crate) fn set_control(fx: &mut FxState, v: u16) {
    fx.fcw = v & FCW_WRITABLE | FCW_FIXED;
    update_summary(fx);
}

fn fnstsw_ax(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    let v = ctx.cpu.fx.fsw;
    ctx.set_gpr::<u16>(Reg::Eax as u8, v.into());
    Ok(())
}

fn fnstsw_mem(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.cpu.fx.fsw;
    Ok(ctx.store::<u16>(op, v)?)
}

/// The two-bit tag of each physical register: valid, zero, special, empty (SDM vol. 1, 8.1.7).
fn full_tags(fx: &FxState) -> u16 {
    (0..8).fold(0, |tags, r: u8| {
        let [b @ .., _, _, _, _, _, _] = fx.st[(r.wrapping_sub(fx.top()) & 7) as usize];
        let n = F80::from_bytes(b).unpack();
        let tag = match n.class {
            _ if fx.ftw >> r & 1 == 0 => 3,
            Class::Zero => 1,
            Class::Finite if !n.denormal => 0,
            _ => 2,
        };
        tags | tag << (2 * r)
    })
}

/// From two-bit tags: only "empty" counts, the CPU finds the rest from the contents.
fn abridged_tags(full: u16) -> u8 {
    (0..8).fold(0, |tags, r| tags | u8::from(full >> (2 * r) & 3 != 3) << r)
}

/// An environment image: seven fields of 16 or 32 bits, whose meaning differs between real and protected mode
/// (SDM vol. 1, figures 8-9 to 8-12).
struct Environment {
    bytes: [u8; 28],
    word: usize,
}

impl Environment {
    fn len(&self) -> usize {
        7 * self.word
    }

    fn of(fx: &FxState, protected: bool, narrow: bool) -> Environment {
        // Reserved upper halves read as ones.
        let ones = |v: u16| 0xffff_0000 | u32::from(v);
        let (fop, fcs, fds) = (u32::from(fx.fop & 0x7ff), u32::from(fx.fcs), u32::from(fx.fds));
        let linear = |selector: u32, offset: u32| (selector << 4).wrapping_add(offset);
        let (ip, dp) = (linear(fcs, fx.fip), linear(fds, fx.fdp));
        let pointers = match (protected, narrow) {
            (true, true) => [fx.fip, fcs, fx.fdp, fds],
            (true, false) => [fx.fip, fcs | fop << 16, fx.fdp, ones(fx.fds)],
            (false, true) => [ip, ip >> 4 & 0xf000 | fop, dp, dp >> 4 & 0xf000],
            (false, false) => [ones(ip as u16), (ip >> 16) << 12 | fop, ones(dp as u16), (dp >> 16) << 12],
        };
        let [p0, p1, p2, p3] = pointers;
        let fields = [ones(fx.fcw), ones(fx.fsw), ones(full_tags(fx)), p0, p1, p2, p3];
        let mut image = Environment { bytes: [0; 28], word: if narrow { 2 } else { 4 } };
        for (to, v) in image.bytes.chunks_exact_mut(image.word).zip(fields) {
            to.copy_from_slice(&v.to_le_bytes()[..to.len()]);
        }
        image
    }

    fn apply(&self, fx: &mut FxState, protected: bool) {
        let mut fields = [0u32; 7];
        for (v, from) in fields.iter_mut().zip(self.bytes.chunks_exact(self.word)) {
            let mut b = [0; 4];
            b[..from.len()].copy_from_slice(from);
            *v = u32::from_le_bytes(b);
        }
        let [cw, sw, tags, p0, p1, p2, p3] = fields;
        let narrow = self.word == 2;
        (fx.fop, fx.fip, fx.fcs, fx.fdp, fx.fds) = match (protected, narrow) {
            // The 16-bit protected-mode image has no opcode.
            (true, true) => (0, p0, p1 as u16, p2, p3 as u16),
            (true, false) => ((p1 >> 16) as u16 & 0x7ff, p0, p1 as u16, p2, p3 as u16),
            (false, true) => (p1 as u16 & 0x7ff, p0 | (p1 & 0xf000) << 4, 0, p2 | (p3 & 0xf000) << 4, 0),
            (false, false) => {
                let high = |v: u32| (v >> 12 & 0xffff) << 16;
                (p1 as u16 & 0x7ff, p0 & 0xffff | high(p1), 0, p2 & 0xffff | high(p3), 0)
            }
        };
        set_top(fx, (sw as u16 >> fsw::TOP_SHIFT) as u8);
        fx.fsw = sw as u16;
        fx.ftw = abridged_tags(tags as u16);
        set_control(fx, cw as u16);
    }
}

impl Ctx<'_> {
    fn read_environment(&mut self, op: &Op, narrow: bool) -> Result<Environment, Fault> {
        let mut image = Environment { bytes: [0; 28], word: if narrow { 2 } else { 4 } };
        let (at, len) = (self.address(op), image.len());
        self.read_bytes(op.mem.seg, at, &mut image.bytes[..len])?;
        Ok(image)
    }
}

/// FNSTENV masks all exceptions after storing, so that a handler can use the x87.
fn fnstenv(ctx: &mut Ctx<'_>, op: &Op, narrow: bool) -> Exec {
    let image = Environment::of(&ctx.cpu.fx, ctx.protected(), narrow);
    let at = ctx.address(op);
    ctx.write_bytes(op.mem.seg, at, &image.bytes[..image.len()])?;
    let masked = ctx.cpu.fx.fcw | fcw::MASKS;
    set_control(&mut ctx.cpu.fx, masked);
    Ok(())
}

fn fldenv(ctx: &mut Ctx<'_>, op: &Op, narrow: bool) -> Exec {
    ctx.x87_wait()?;
    let image = ctx.read_environment(op, narrow)?;
    let protected = ctx.protected();
    image.apply(&mut ctx.cpu.fx, protected);
    Ok(())
}

/// FNSAVE: the environment, then the registers from ST(0) on; then the x87 is as after FNINIT.
fn fnsave(ctx: &mut Ctx<'_>, op: &Op, narrow: bool) -> Exec {
    let env = Environment::of(&ctx.cpu.fx, ctx.protected(), narrow);
    let mut image = [0; 108];
    image[..env.len()].copy_from_slice(&env.bytes[..env.len()]);
    let end = env.len() + 80;
    for (to, st) in image[env.len()..end].chunks_exact_mut(10).zip(&ctx.cpu.fx.st) {
        to.copy_from_slice(&st[..10]);
    }
    let at = ctx.address(op);
    ctx.write_bytes(op.mem.seg, at, &image[..end])?;
    initialise(&mut ctx.cpu.fx);
    Ok(())
}

fn frstor(ctx: &mut Ctx<'_>, op: &Op, narrow: bool) -> Exec {
    ctx.x87_wait()?;
    let env = ctx.read_environment(op, narrow)?;
    let mut registers = [0; 80];
    let at = ctx.address(op).wrapping_add(env.len() as u32);
    ctx.read_bytes(op.mem.seg, at, &mut registers)?;
    let protected = ctx.protected();
    env.apply(&mut ctx.cpu.fx, protected);
    for (st, from) in ctx.cpu.fx.st.iter_mut().zip(registers.chunks_exact(10)) {
        *st = [0; 16];
        st[..10].copy_from_slice(from);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> FxState {
        FxState {
            fsw: 0x3800,
            ftw: 0x80,
            fop: 0x5a5,
            fip: 0x1234,
            fcs: 0xf00d,
            fdp: 0x4321,
            fds: 0x1000,
            ..FxState::INIT
        }
    }

    fn words(image: &Environment) -> Vec<u32> {
        let word = |b: &[u8]| b.iter().rev().fold(0, |v, &b| v << 8 | u32::from(b));
        image.bytes[..image.len()].chunks_exact(image.word).map(word).collect()
    }

    /// Layouts that a 64-bit host can't produce: SDM vol. 1, figures 8-10 and 8-12. Linear addresses are f1304 and
    /// 14321.
    #[test]
    fn real_mode_images_hold_linear_addresses() {
        let fx = FxState { ftw: 0, fsw: 0, ..state() };
        let narrow = Environment::of(&fx, false, true);
        assert_eq!(words(&narrow), [0x37f, 0, 0xffff, 0x1304, 0xf5a5, 0x4321, 0x1000]);
        let wide = Environment::of(&fx, false, false);
        let ones = |v: u32| 0xffff_0000 | v;
        let want = [ones(0x37f), ones(0), ones(0xffff), ones(0x1304), 0xf5a5, ones(0x4321), 0x1000];
        assert_eq!(words(&wide), want);
        for image in [narrow, wide] {
            let mut back = FxState::INIT;
            image.apply(&mut back, false);
            assert_eq!((back.fip, back.fdp, back.fop), (0xf_1304, 0x1_4321, 0x5a5));
            assert_eq!(words(&Environment::of(&back, false, image.word == 2)), words(&image));
        }
    }

    #[test]
    fn protected_mode_images_hold_selectors() {
        // R7 is in use and holds a zero.
        let want = [0x37f, 0x3800, 0x7fff, 0x1234, 0xf00d, 0x4321, 0x1000];
        assert_eq!(words(&Environment::of(&state(), true, true)), want);
        let mut back = FxState::INIT;
        Environment::of(&state(), true, false).apply(&mut back, true);
        assert_eq!(back, state());
    }
}
