//! Where the guest's floating-point state is, and moving it.
//!
//! Translated code keeps x87 and MMX state in the host's x87 and XMM state in the host's registers. Leaving saves the XMM
//! registers, since Rust code uses them; the x87 stays where it is until somebody asks.

use crate::Process;
use xlat86_arch::FxState;
use xlat86_host::{Frame, VcpuFrame, fpu};
use xlat86_translator::Place;

/// Where the current state is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Home {
    /// In the [`FxState`].
    State,
    /// In the host's x87 and in the frame.
    Host,
    /// In both places.
    Both,
}

/// Makes `fx` current if the state is only on the host.
pub(crate) fn bring(home: &mut Home, fx: &mut FxState, frame: &mut Option<VcpuFrame>, process: &Process) {
    if *home == Home::Host {
        let frame = frame.as_mut().expect("host state comes from translated code");
        to_state(fx, frame.regs(), |rip| match process.cache().place(rip, false) {
            Some(Place::Inside(mark)) => Some(mark.eip),
            _ => None,
        });
        *home = Home::Both;
    }
}

/// Copies the state from the host into `fx`. `map` turns a host code address into a guest EIP.
fn to_state(fx: &mut FxState, frame: &Frame, map: impl Fn(u64) -> Option<u32>) {
    let image = fpu::save();
    let bytes = |at: usize| u64::from_le_bytes(image.0[at..at + 8].try_into().expect("8 bytes"));
    let (low, rip, rdp) = (bytes(0), bytes(8), bytes(16));
    fx.fcw = low as u16;
    fx.fsw = (low >> 16) as u16;
    fx.ftw = (low >> 32) as u8;
    fx.fop = (low >> 48) as u16;
    // An address that isn't ours was loaded by FRSTOR or kin, and is the guest's own.
    fx.fip = map(rip).unwrap_or(rip as u32);
    fx.fdp = rdp as u32;
    for (i, st) in fx.st.iter_mut().enumerate() {
        st.copy_from_slice(&image.0[32 + 16 * i..48 + 16 * i]);
        st[10..].fill(0);
    }
    fx.mxcsr = frame.mxcsr;
    fx.xmm[..8].copy_from_slice(&frame.xmm);
}

/// Copies `fx` to the host, where translated code expects it.
pub(crate) fn to_host(fx: &FxState, frame: &mut Frame) {
    let mut image = fpu::Image([0; 512]);
    let low = u64::from(fx.fcw) | u64::from(fx.fsw) << 16 | u64::from(fx.ftw) << 32 | u64::from(fx.fop) << 48;
    image.0[..8].copy_from_slice(&low.to_le_bytes());
    image.0[8..16].copy_from_slice(&u64::from(fx.fip).to_le_bytes());
    image.0[16..24].copy_from_slice(&u64::from(fx.fdp).to_le_bytes());
    for (i, st) in fx.st.iter().enumerate() {
        image.0[32 + 16 * i..42 + 16 * i].copy_from_slice(&st[..10]);
    }
    fpu::restore_x87(&image);
    frame.mxcsr = fx.mxcsr;
    frame.xmm.copy_from_slice(&fx.xmm[..8]);
}
