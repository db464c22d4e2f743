//! The host CPU's word on an instruction's length and validity: its bytes are put at the end of a page after which nothing may be executed.
//!
//! Where the CPU wants more bytes, the fetch faults with EIP still at the instruction; where it has enough, anything else happens. So two
//! runs prove the decoder's length: one byte less is too few, all are enough. An invalid instruction raises what the decoder says.

use iced_x86::{Code, Mnemonic, OpKind, Register};
use std::io;
use xlat86_arch::{Features, Vector};
use xlat86_decoder::{Insn, Kind, required_features};
use xlat86_host::{Compat, CompatState, HostFault};

/// The page with the code; none follows.
const PAGE: u32 = 0x4000_0000;
const END: u32 = PAGE + 0x1000;
/// The longest instruction, and one byte more for those that are too long.
const MOST: usize = 16;

/// Measures instructions on the host CPU.
pub struct Ruler {
    compat: Compat,
}

/// Is `b` a legacy prefix?
#[must_use]
pub fn is_prefix(b: u8) -> bool {
    matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// Encodings on which CPUs differ by mode, vendor or setting, or that are no concern of ours; each with the reason.
#[must_use]
pub fn exempt(insn: &Insn, bytes: &[u8; 16]) -> Option<&'static str> {
    let prefixes = bytes.iter().take_while(|&&b| is_prefix(b)).count();
    let locked = bytes[..prefixes].contains(&0xf0);
    Some(match (insn.code(), &bytes[prefixes..]) {
        (Code::Sysenter | Code::Sysexitd, _) => "AMD has no SYSENTER in long mode",
        (Code::INVALID, [0x0f, 0xff, ..]) => "UD0 has a ModRM byte on Intel only: the limit of 15 comes earlier",
        (Code::INVALID, [0x0f, 0x01, 0xc0..=0xff, ..]) => "VMX, SVM and other extensions, not offered under any prefix",
        (Code::INVALID, [0x0f, 0x20 | 0x22, m, ..]) if locked && m >> 3 & 7 == 0 => "MOV CR8 by AMD's AltMovCr8",
        (Code::INVALID, [0x0f, 0x00, m, ..]) if locked && m >> 3 & 7 == 5 => "Zen 4 ignores LOCK before VERW",
        (c, _) if required_features(c).contains(Features::NEVER) => "not offered",
        _ => return None,
    })
}

/// Would executing `insn` in this process enter the kernel, load FS or GS, leave compatibility mode or not end?
fn is_wild(insn: &Insn, bytes: &[u8; 16]) -> bool {
    use Mnemonic as M;
    let i = &insn.iced;
    let loads = |r: Register| matches!(r, Register::FS | Register::GS | Register::SS);
    let segment = matches!(i.mnemonic(), M::Mov | M::Pop) && loads(i.op0_register());
    let far = matches!(
        i.mnemonic(),
        M::Int | M::Iret | M::Iretd | M::Retf | M::Syscall | M::Sysret | M::Lfs | M::Lgs | M::Lss
    ) || matches!(i.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32)
        || matches!(insn.code(), Code::Call_m1616 | Code::Call_m1632 | Code::Jmp_m1616 | Code::Jmp_m1632);
    let here = matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32);
    // The decoder calls some extensions of the host invalid that change more than registers: 0F 01, 0F 05, XRSTOR, VEX and the like.
    let prefixes = bytes.iter().take_while(|&&b| is_prefix(b)).count();
    let foreign = insn.kind == Kind::Invalid
        && matches!(
            &bytes[prefixes..],
            [0x0f, 0x01 | 0x05 | 0x07 | 0x34 | 0x35 | 0xae | 0xc7, ..] | [0xc4 | 0xc5 | 0x62 | 0x8f, ..]
        );
    segment || far || here || foreign
}

impl Ruler {
    /// # Errors
    /// The host has something where the code goes.
    pub fn new() -> io::Result<Ruler> {
        Ok(Ruler { compat: Compat::new(core::slice::from_ref(&(PAGE..END)))? })
    }

    /// Runs the first `n` of `bytes` at the page's end: the fault, and whether EIP was still at them.
    fn run(&mut self, bytes: &[u8; 16], n: usize) -> (HostFault, bool) {
        let at = END - n as u32;
        self.compat.memory(0)[0x1000 - n..].copy_from_slice(&bytes[..n]);
        // Pointers to nowhere, in 16 bits too; a count that ends.
        let gpr = [0x10, 1, 0x20, 0x30, 0x8000, 0x40, 0x50, 0x60];
        let mut state = CompatState::default();
        (state.gpr, state.eip) = (gpr, at);
        *self.compat.state() = state;
        let fault = self.compat.go().expect("no gate");
        (fault, self.compat.state().eip == at)
    }

    /// How the CPU sees `bytes` differently from `insn`, decoded from them; `None` also where it can't be asked.
    pub fn disagreement(&mut self, bytes: &[u8; 16], insn: &Insn) -> Option<String> {
        if exempt(insn, bytes).is_some() || is_wild(insn, bytes) {
            return None;
        }
        let starved = |(f, here): (HostFault, bool)| here && f.trapno == 14 && f.addr as u32 == END;
        let name = |f: HostFault| Vector(f.trapno as u8).name();
        if let Some(fault) = insn.fault() {
            let (got, here) = self.run(bytes, MOST);
            // The operands of an undefined opcode count towards the limit of 15 bytes here; no manual says which it has.
            let long = got.trapno == 13 && bytes.iter().take_while(|&&b| is_prefix(b)).count() >= 5;
            let same = here && (got.trapno == u32::from(fault.vector.0) || insn.code() == Code::INVALID && long);
            return (!same).then(|| format!("{}; the CPU: {}, {here}", fault.vector.name(), name(got)));
        }
        let len = insn.len();
        if len > 1 && !starved(self.run(bytes, len - 1)) {
            return Some(format!("{:?}, {len} bytes; the CPU needs fewer", insn.code()));
        }
        match self.run(bytes, len) {
            r if starved(r) => Some(format!("{:?}, {len} bytes; the CPU needs more", insn.code())),
            (f, true) if f.trapno == 6 => Some(format!("{:?}; the CPU: #UD", insn.code())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::Walk;
    use xlat86_arch::{CpuModel, Mode};
    use xlat86_decoder::decode_insn;

    #[test]
    fn a_wrong_length_is_noticed() {
        let mut ruler = Ruler::new().unwrap();
        let decode = |b: &[u8; 16]| decode_insn(b, 0, Mode::USER32, CpuModel::MAX.features).unwrap();
        let mov = *b"\xb8\x01\x02\x03\x04\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90";
        assert_eq!(ruler.disagreement(&mov, &decode(&mov)), None);
        let (short, invalid) =
            (decode(&[0x90; 16]), decode(&[0x66, 0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert!(ruler.disagreement(&mov, &short).is_some());
        assert!(ruler.disagreement(&mov, &invalid).is_some());
        assert!(ruler.disagreement(&[0x40; 16], &decode(&mov)).is_some());
    }

    #[test]
    fn random_bytes_have_the_cpus_lengths() {
        if !crate::undefined::silicon_is_followed("random_bytes_have_the_cpus_lengths") {
            return;
        }
        let mut ruler = Ruler::new().unwrap();
        let mut walk = Walk::new(1);
        for _ in 0..40_000 {
            let bytes = walk.next_bytes();
            let insn = decode_insn(&bytes, 0, Mode::USER32, CpuModel::MAX.features).expect("16 bytes suffice");
            walk.seen(insn.len());
            let what = ruler.disagreement(&bytes, &insn);
            assert_eq!(what, None, "{bytes:02x?}");
        }
    }
}
