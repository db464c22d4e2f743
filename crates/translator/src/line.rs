//! Where host code lies within cache lines, for the sake of indirect jumps.
//!
//! Processors predict an indirect jump by what was executed before it. AMD's Zen 4 remembers little of that: which target the previous indirect jump took
//! counts only if since the return from there the host has gone on to another line at most once, by a jump, and not by falling into it
//! ([017](../../../docs/decisions/017-lines.md)). Guest code is laid out well by chance; host code, which is twice as long, rarely is. So where a call is
//! closely followed by an indirect jump, its landing starts a line, and a jump takes the rest to the next one.

use crate::emit::Emitter;
use crate::image::UNIT_ALIGN;
use iced_x86::{Code, FlowControl};
use xlat86_decoder::Insn;

/// Bytes of a line.
const LINE: usize = 64;
/// Host bytes of a landing.
const LANDING: usize = 16;
/// Host bytes that an instruction rarely exceeds.
const ORDINARY: usize = 12;
/// The same of an indirect call, up to the jump itself.
const INDIRECT: usize = 36;

/// Number of instructions from the start of `insns` up to an indirect jump or call that is reached without another branch, and soon enough for
/// two lines to hold it all.
fn close(insns: &[Insn]) -> Option<usize> {
    let mut room = 2 * LINE - LANDING - INDIRECT;
    for (n, insn) in insns.iter().enumerate() {
        match insn.iced.flow_control() {
            FlowControl::Next => room = room.checked_sub(2 * insn.len() + 1)?,
            _ => return matches!(insn.code(), Code::Call_rm32 | Code::Jmp_rm32).then_some(n),
        }
    }
    None
}

/// Where the landing of a call that ends a line has its load, after the line's start.
const LOAD: usize = 8;

/// What the place of a unit with these landings has to be a multiple of.
pub(crate) fn alignment(landings: &[u32]) -> u32 {
    let lined = landings.iter().any(|&at| at as usize % LINE == LOAD);
    if lined { LINE as u32 } else { UNIT_ALIGN }
}

impl Emitter<'_> {
    /// Before `length` bytes of a host call: sees to it that it ends a line, if that may help.
    pub(crate) fn place_call(&mut self, length: usize) {
        self.indirect = None;
        if self.config.paged || !self.config.extended {
            return;
        }
        if let Some(n) = close(&self.insns[self.at + 1..]) {
            let at = self.buf.pos() + length;
            self.buf.nop(at.next_multiple_of(LINE) - at);
            self.indirect = Some(self.at + 1 + n);
        }
    }

    /// At an instruction's boundary: goes on in another line, if this one can't hold it and an indirect jump is near.
    pub(crate) fn place_boundary(&mut self) {
        let Some(indirect) = self.indirect else { return };
        let needed = if self.at < indirect { ORDINARY } else { INDIRECT };
        let room = LINE - self.buf.pos() % LINE;
        if room < needed {
            let skipped = room.saturating_sub(2);
            self.buf.bytes.extend_from_slice(&[0xeb, skipped as u8]);
            self.buf.nop(skipped);
        }
        if room < needed || self.at >= indirect {
            self.indirect = None;
        }
    }
}
