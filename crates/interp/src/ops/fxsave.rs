//! FXSAVE and FXRSTOR, MXCSR, EMMS (SDM vol. 1, 10.5 and 9.4.4).

use super::x87_control::set_control;
use super::x87_stack::set_top;
use crate::ctx::{Ctx, Exec};
use crate::memory::Access;
use crate::op::Op;
use crate::table::shapes;
use xlat86_arch::{Fault, FxState, Gva, cr4, fsw};

shapes!(STATE {
    Fxsave => fxsave();
    Fxrstor => fxrstor();
    Ldmxcsr => ldmxcsr();
    Stmxcsr => stmxcsr();
    Emms => emms();
} codes {
});

/// Bytes of the image that are used without the XMM registers, and with eight of them. The rest must be accessible, but
/// is neither used nor changed.
const X87_LEN: usize = 160;
const SSE_LEN: usize = 288;

/// Reads or writes the fields of an image in order.
struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, v: &[u8]) {
        self.bytes[self.at..self.at + v.len()].copy_from_slice(v);
        self.at += v.len();
    }
    fn get<const N: usize>(&mut self) -> [u8; N] {
        let mut v = [0; N];
        v.copy_from_slice(&self.bytes[self.at..self.at + N]);
        self.at += N;
        v
    }
}

fn pack(fx: &FxState, image: &mut [u8; SSE_LEN]) {
    let mut c = Cursor { bytes: image, at: 0 };
    // Like the AMD processors this models: the error pointers are saved only while an exception is pending.
    let pending = fx.fsw & fsw::ES != 0;
    let (fop, fip, fcs, fdp, fds) = if pending { (fx.fop, fx.fip, fx.fcs, fx.fdp, fx.fds) } else { (0, 0, 0, 0, 0) };
    c.put(&fx.fcw.to_le_bytes());
    c.put(&fx.fsw.to_le_bytes());
    c.put(&[fx.ftw, 0]);
    c.put(&fop.to_le_bytes());
    c.put(&fip.to_le_bytes());
    c.put(&u32::from(fcs).to_le_bytes());
    c.put(&fdp.to_le_bytes());
    c.put(&u32::from(fds).to_le_bytes());
    c.put(&fx.mxcsr.to_le_bytes());
    c.put(&fx.mxcsr_mask.to_le_bytes());
    for st in &fx.st {
        c.put(&st[..10]);
        c.put(&[0; 6]);
    }
    for xmm in &fx.xmm[..8] {
        c.put(&xmm.to_le_bytes());
    }
}

fn unpack(fx: &mut FxState, image: &mut [u8; SSE_LEN], sse: bool) {
    let mut c = Cursor { bytes: image, at: 0 };
    let fcw = u16::from_le_bytes(c.get());
    let fsw = u16::from_le_bytes(c.get());
    set_top(fx, (fsw >> fsw::TOP_SHIFT) as u8);
    fx.fsw = fsw;
    [fx.ftw, _] = c.get();
    fx.fop = u16::from_le_bytes(c.get()) & 0x7ff;
    fx.fip = u32::from_le_bytes(c.get());
    fx.fcs = u32::from_le_bytes(c.get()) as u16;
    fx.fdp = u32::from_le_bytes(c.get());
    fx.fds = u32::from_le_bytes(c.get()) as u16;
    let mxcsr = u32::from_le_bytes(c.get());
    let _: [u8; 4] = c.get();
    for st in &mut fx.st {
        *st = [0; 16];
        st[..10].copy_from_slice(&c.get::<16>()[..10]);
    }
    if sse {
        fx.mxcsr = mxcsr;
        for xmm in &mut fx.xmm[..8] {
            *xmm = u128::from_le_bytes(c.get());
        }
    }
    set_control(fx, fcw);
}

impl Ctx<'_> {
    /// Does the operating system save the XMM registers with these instructions?
    fn has_sse_state(&self) -> bool {
        self.cpu.cr4 & cr4::OSFXSR != 0
    }

    /// Address of the image, which must lie on a 16-byte boundary.
    fn image_address(&self, op: &Op, access: Access) -> Result<Gva, Fault> {
        let at = self.linear(op.mem.seg, self.address(op), 512, access)?;
        if at.0 & 15 == 0 { Ok(at) } else { Err(Fault::gp(0)) }
    }

    /// Bits that MXCSR doesn't have must be zero.
    fn check_mxcsr(&self, v: u32) -> Result<(), Fault> {
        if v & !self.cpu.fx.mxcsr_mask == 0 { Ok(()) } else { Err(Fault::gp(0)) }
    }
}

fn fxsave(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let at = ctx.image_address(op, Access::Write)?;
    let mut image = [0; SSE_LEN];
    pack(&ctx.cpu.fx, &mut image);
    let len = if ctx.has_sse_state() { SSE_LEN } else { X87_LEN };
    ctx.mmu.probe_write(at, 512)?;
    Ok(ctx.mmu.write_bytes(at, &image[..len])?)
}

fn fxrstor(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let at = ctx.image_address(op, Access::Read)?;
    let mut whole = [0; 512];
    ctx.mmu.read_bytes(at, &mut whole)?;
    let mut image = [0; SSE_LEN];
    image.copy_from_slice(&whole[..SSE_LEN]);
    let sse = ctx.has_sse_state();
    if sse {
        let [m0, m1, m2, m3] = [image[24], image[25], image[26], image[27]];
        ctx.check_mxcsr(u32::from_le_bytes([m0, m1, m2, m3]))?;
    }
    unpack(&mut ctx.cpu.fx, &mut image, sse);
    Ok(())
}

fn ldmxcsr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.load::<u32>(op)?;
    ctx.check_mxcsr(v)?;
    ctx.cpu.fx.mxcsr = v;
    Ok(())
}

fn stmxcsr(ctx: &mut Ctx<'_>, op: &Op) -> Exec {
    let v = ctx.cpu.fx.mxcsr;
    Ok(ctx.store(op, v)?)
}

fn emms(ctx: &mut Ctx<'_>, _: &Op) -> Exec {
    ctx.x87_wait()?;
    set_top(&mut ctx.cpu.fx, 0);
    ctx.cpu.fx.ftw = 0;
    Ok(())
}
