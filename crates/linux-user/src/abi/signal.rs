//! Signal layouts: actions, siginfo, and the frames that the kernel builds on the user stack
//! (`arch/x86/include/asm/sigframe.h`, `uapi/asm/sigcontext.h`).

use super::{U64, layout, offsets};

layout! {
    /// `struct sigaction` of rt_sigaction.
    Sigaction = 20 { handler: u32, flags: u32, restorer: u32, mask: U64 }
}

layout! {
    /// `struct old_sigaction`.
    OldSigaction = 16 { handler: u32, mask: u32, flags: u32, restorer: u32 }
}

layout! {
    /// `stack_t`.
    StackT = 12 { sp: u32, flags: u32, size: u32 }
}

layout! {
    /// `siginfo_t`: number, errno and code, then a union of 29 words.
    Siginfo = 128 { signo: u32, errno: u32, code: u32, fields: [u32; 29] }
}

layout! {
    /// The host's `siginfo_t`: its union is 8-byte aligned and begins at 16.
    HostSiginfo = 128 { signo: u32, errno: u32, code: u32, pad: u32, fields: [u64; 14] }
}

const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;
const SI_TIMER: i32 = -2;
const SI_MESGQ: i32 = -3;
const SI_SIGIO: i32 = -5;
const SI_TKILL: i32 = -6;
/// `si_code` of a signal that the kernel sent for an exception without a code of its own.
pub const SI_KERNEL: u32 = 0x80;

/// Which member of the union is in use, as the kernel's `siginfo_layout` decides it.
enum Layout {
    Kill,
    Timer,
    Poll,
    Chld,
    Rt,
    Fault,
    Sys,
}

/// NSIGPOLL: the codes that F_SETSIG gives any signal.
const POLL_CODES: i32 = 6;

fn layout_of(signo: u32, code: u32) -> Layout {
    let code = code as i32;
    if code > SI_USER && code < SI_KERNEL as i32 {
        // Each signal's own codes, as many as it has.
        let (own, layout) = match signo as i32 {
            libc::SIGCHLD => (6, Layout::Chld),
            libc::SIGILL => (11, Layout::Fault),
            libc::SIGFPE => (15, Layout::Fault),
            libc::SIGSEGV => (10, Layout::Fault),
            libc::SIGBUS => (5, Layout::Fault),
            libc::SIGTRAP => (6, Layout::Fault),
            libc::SIGSYS => (2, Layout::Sys),
            _ => (0, Layout::Kill),
        };
        return match code {
            c if c <= own => layout,
            1..=POLL_CODES => Layout::Poll,
            _ => Layout::Kill,
        };
    }
    match code {
        SI_TIMER => Layout::Timer,
        SI_SIGIO => Layout::Poll,
        SI_QUEUE | SI_MESGQ => Layout::Rt,
        SI_USER | SI_TKILL => Layout::Kill,
        c if c < 0 => Layout::Rt,
        _ => Layout::Kill,
    }
}

impl HostSiginfo {
    /// The words of the union.
    fn word(&self, i: usize) -> u32 {
        (self.fields[i / 2] >> (i % 2 * 32)) as u32
    }
}

impl From<&HostSiginfo> for Siginfo {
    fn from(h: &HostSiginfo) -> Self {
        let mut g = Siginfo { signo: h.signo, errno: h.errno, code: h.code, ..Siginfo::default() };
        let w = |i| h.word(i);
        let words: &[u32] = &match layout_of(h.signo, h.code) {
            Layout::Kill => vec![w(0), w(1)],
            // tid, overrun, value
            Layout::Timer => vec![w(0), w(1), w(2)],
            // pid, uid, value
            Layout::Rt => vec![w(0), w(1), w(2)],
            // pid, uid, status, (pad), utime, stime in clock ticks
            Layout::Chld => vec![w(0), w(1), w(2), w(4), w(6)],
            // address; then address lsb or bounds
            Layout::Fault => vec![w(0), w(2)],
            // band, fd
            Layout::Poll => vec![w(0), w(2)],
            // call address, number, architecture
            Layout::Sys => vec![w(0), w(2), w(3)],
        };
        g.fields[..words.len()].copy_from_slice(words);
        g
    }
}

impl From<&Siginfo> for HostSiginfo {
    /// For signals that a guest sends by itself (rt_sigqueueinfo): pid, uid, value.
    fn from(g: &Siginfo) -> Self {
        let mut h = HostSiginfo { signo: g.signo, errno: g.errno, code: g.code, ..HostSiginfo::default() };
        h.fields[0] = u64::from(g.fields[0]) | u64::from(g.fields[1]) << 32;
        h.fields[1] = u64::from(g.fields[2]);
        h
    }
}

layout! {
    /// `struct sigcontext_32`.
    Sigcontext = 88 {
        gs: u32, fs: u32, es: u32, ds: u32, edi: u32, esi: u32, ebp: u32, esp: u32, ebx: u32, edx: u32, ecx: u32, eax: u32,
        trapno: u32, err: u32, eip: u32, cs: u32, eflags: u32, esp_at_signal: u32, ss: u32, fpstate: u32, oldmask: u32, cr2: u32,
    }
}
offsets!(Sigcontext { eax: 44, eip: 56, eflags: 64, fpstate: 76, cr2: 84 });

layout! {
    /// `struct ucontext_ia32`.
    Ucontext = 116 { flags: u32, link: u32, stack: StackT, mcontext: Sigcontext, sigmask: U64 }
}

layout! {
    /// `struct sigframe_ia32`: what a handler without SA_SIGINFO finds at its ESP.
    Sigframe = 732 { pretcode: u32, sig: u32, sc: Sigcontext, fpstate_unused: [u8; 624], extramask: u32, retcode: [u8; 8] }
}

layout! {
    /// `struct rt_sigframe_ia32`: what an SA_SIGINFO handler finds at its ESP.
    RtSigframe = 268 { pretcode: u32, sig: u32, pinfo: u32, puc: u32, info: Siginfo, uc: Ucontext, retcode: [u8; 8] }
}

layout! {
    /// The head of the FPU state in a frame: an FNSAVE environment (the FXSAVE image follows), its status and a
    /// magic number (0: an FXSAVE image does follow).
    FsaveHead = 112 {
        cw: u32, sw: u32, tag: u32, ip: u32, cs: u32, dp: u32, ds: u32, st: [[u8; 10]; 8], status: u16, magic: u16,
    }
}
offsets!(FsaveHead { st: 28, status: 108 });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siginfo_moves_the_union() {
        let mut h =
            HostSiginfo { signo: libc::SIGCHLD as u32, code: libc::CLD_EXITED as u32, ..HostSiginfo::default() };
        h.fields[0] = 1234 | 1000 << 32;
        h.fields[1] = 7;
        h.fields[2] = 55;
        h.fields[3] = 66;
        let g = Siginfo::from(&h);
        assert_eq!(g.fields[..5], [1234, 1000, 7, 55, 66]);
        let mut h = HostSiginfo { signo: libc::SIGSEGV as u32, code: 1, ..HostSiginfo::default() };
        h.fields[0] = 0xdead_beef;
        assert_eq!(Siginfo::from(&h).fields[..2], [0xdead_beef, 0]);
    }

    #[test]
    fn any_signal_can_tell_of_a_descriptor() {
        const POLL_IN: u32 = 1;
        let band_and_fd = |signo: u32, code: u32| {
            let mut h = HostSiginfo { signo, code, ..HostSiginfo::default() };
            h.fields[..2].copy_from_slice(&[0x41, 17]);
            Siginfo::from(&h).fields[..2].to_vec()
        };
        for signo in [libc::SIGPOLL as u32, libc::SIGUSR1 as u32, 40] {
            assert_eq!(band_and_fd(signo, POLL_IN), [0x41, 17]);
        }
        assert_eq!(band_and_fd(40, 7), [0x41, 0]);
    }
}
