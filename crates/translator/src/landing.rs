//! Landings: where host returns arrive.
//!
//! A landing loads from a place that exists only if R11, the guest's return address, is the one that it stands for: the [`PROBE`] and 4 GB behind it.
//! No flags, no branch. What can't be reached any more, or was returned to from elsewhere, has the first five bytes of the load overwritten by a jump.
//! Elsewhere: then the jump leads to the landing's *check*, which finds out without a fault. Checks stand at the end of the region that the landing is in,
//! and go with it; where there is no room for another, the guest's return goes through the jump table.

use crate::buf::CodeBuf;
use crate::config::AddressForm;
use crate::stubs::Stub;
use dynasmrt::{DynasmApi, dynasm};
use xlat86_host::PROBE;

/// How a landing loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Landing {
    /// `mov r10d, gs:[r11d - address]`: the segment begins at the probe, and 32-bit addresses wrap.
    Gs,
    /// `lea r10d, [r11 - address]; mov r10d, [r14 + r10 + PROBE]`, where GS is the guest's window.
    Frame,
}

/// First bytes of the load, and whole: those that a jump overwrites.
const GS_HEAD: [u8; 5] = [0x65, 0x67, 0x45, 0x8b, 0x93];
const FRAME_LOAD: [u8; 8] = {
    let [a, b, c, d] = PROBE.to_le_bytes();
    [0x47, 0x8b, 0x94, 0x16, a, b, c, d]
};

/// Bytes that the longest check takes.
pub(crate) const CHECK: u32 = 32;

impl Landing {
    /// That of code whose memory operands have the form `form`.
    pub(crate) const fn of(form: AddressForm) -> Landing {
        match form {
            AddressForm::Low => Landing::Gs,
            AddressForm::Gs | AddressForm::Tlb => Landing::Frame,
        }
    }

    /// Appends the landing for returns to `address`; gives the offset of its load, whose first five bytes can be replaced at once.
    pub(crate) fn emit(self, buf: &mut CodeBuf, address: u32) -> u32 {
        let distance = (address as i32).wrapping_neg();
        let before = if self == Landing::Gs { 0 } else { 7 };
        let over = (buf.pos() + before) % 8;
        if over > 3 {
            buf.nop(8 - over);
        }
        let at = buf.pos() + before;
        match self {
            Landing::Gs => {
                buf.bytes.extend_from_slice(&GS_HEAD);
                buf.bytes.extend_from_slice(&distance.to_le_bytes());
            }
            Landing::Frame => {
                dynasm!(buf ; .arch x64 ; lea r10d, [r11 + distance]);
                buf.bytes.extend_from_slice(&FRAME_LOAD);
            }
        }
        debug_assert_eq!(buf.pos(), at + self.length());
        at as u32
    }

    /// Bytes of the load.
    const fn length(self) -> usize {
        match self {
            Landing::Gs => 9,
            Landing::Frame => 8,
        }
    }

    /// What the load begins with before it is overwritten.
    pub(crate) fn head(self) -> [u8; 5] {
        match self {
            Landing::Gs => GS_HEAD,
            Landing::Frame => [FRAME_LOAD[0], FRAME_LOAD[1], FRAME_LOAD[2], FRAME_LOAD[3], FRAME_LOAD[4]],
        }
    }

    /// Where the distance from the guest address is, from the load on: never overwritten.
    pub(crate) const fn distance(self) -> i32 {
        match self {
            Landing::Gs => 5,
            Landing::Frame => -4,
        }
    }

    /// The check at arena offset `at` for the landing whose load is at `load`, with its `distance`. No flags.
    pub(crate) fn check(self, at: u32, load: u32, distance: i32) -> Vec<u8> {
        let mut buf = CodeBuf::default();
        let jump = |buf: &mut CodeBuf, to: u32| {
            buf.bytes.push(0xe9);
            let from = at + buf.pos() as u32 + 4;
            buf.bytes.extend_from_slice(&to.wrapping_sub(from).to_le_bytes());
        };
        dynasm!(buf ; .arch x64 ; lea r10d, [r11 + distance] ; mov r9d, ecx ; mov ecx, r10d);
        // JRCXZ over the jump.
        buf.bytes.extend_from_slice(&[0xe3, 8]);
        dynasm!(buf ; .arch x64 ; mov ecx, r9d);
        jump(&mut buf, Stub::Mismatch.offset() as u32);
        dynasm!(buf ; .arch x64 ; mov ecx, r9d);
        jump(&mut buf, load + self.length() as u32);
        debug_assert!(buf.pos() <= CHECK as usize);
        buf.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Code, Decoder, DecoderOptions, Instruction};

    const ADDRESS: u32 = 0x8048_0005;

    fn decode(code: &[u8], at: u64) -> Vec<Instruction> {
        Decoder::with_ip(64, code, at, DecoderOptions::NONE).iter().collect()
    }

    #[test]
    fn loads_can_be_overwritten_at_once_wherever_they_are() {
        for landing in [Landing::Gs, Landing::Frame] {
            for before in 0..16 {
                let mut buf = CodeBuf::default();
                buf.nop(before);
                let at = landing.emit(&mut buf, ADDRESS) as usize;
                assert!(at % 8 <= 3, "{landing:?} {before}");
                assert_eq!(buf.bytes[at..at + 5], landing.head());
                let distance = &buf.bytes[at.wrapping_add_signed(landing.distance() as isize)..][..4];
                assert_eq!(distance, ADDRESS.wrapping_neg().to_le_bytes());
                assert_eq!(buf.pos(), at + landing.length());
            }
        }
    }

    #[test]
    fn a_check_goes_back_or_through_the_table() {
        for landing in [Landing::Gs, Landing::Frame] {
            let (at, load) = (0x4000, 0x1003);
            let code = landing.check(at, load, ADDRESS.wrapping_neg() as i32);
            let insns = decode(&code, at.into());
            assert_eq!(insns[0].memory_displacement32(), ADDRESS.wrapping_neg());
            let jumps: Vec<_> = insns.iter().filter(|i| i.is_jmp_short_or_near()).map(|i| i.near_branch64()).collect();
            assert_eq!(jumps, [Stub::Mismatch.offset() as u64, u64::from(load) + landing.length() as u64]);
            let jrcxz = insns.iter().find(|i| i.code() == Code::Jrcxz_rel8_64).expect("JRCXZ");
            // To what restores ECX before the jump back.
            assert_eq!(jrcxz.near_branch64(), insns[insns.len() - 2].ip());
            assert!(!insns.iter().any(|i| i.rflags_modified() != 0));
        }
    }
}
