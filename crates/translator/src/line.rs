//! Where host code lies within cache lines, for the sake of indirect jumps.
//!
//! Processors predict an indirect jump by what was executed before it. AMD's Zen 4 remembers little of that: which target the previous indirect jump took
//! counts only if since the return from there the host has gone on to another line at most once, by a jump, and not by falling into it
//! ([019](../../../docs/decisions/019-lines.md)). Guest code is laid out well by chance; host code, which is twice as long, rarely is. So where an indirect call is
//! closely followed by an indirect jump, its landing starts a line, and a jump takes the rest to the next one; in a loop that is the jump to its head.

use crate::emit::Emitter;
use crate::image::UNIT_ALIGN;
use iced_x86::{Code, FlowControl};
use xlat86_decoder::Insn;

/// Bytes of a line.
pub(crate) const LINE: usize = 64;
/// Host bytes of a landing that starts a line.
const LANDING: usize = 9;
/// Host bytes that an instruction rarely exceeds.
const ORDINARY: usize = 12;
/// The same of an indirect call, up to the jump itself.
const INDIRECT: usize = 36;

/// How an indirect jump or call is reached that is close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Close {
    /// By falling through to the instruction with this index; two lines hold it all.
    Straight(usize),
    /// By a jump back to the head of a loop; one line holds what is before the jump, and one what is behind.
    Loop,
}

/// The indirect jump or call that is close behind the instruction `at`, if there is one.
fn close(insns: &[Insn], at: usize) -> Option<Close> {
    let mut used = LANDING;
    for (i, insn) in insns.iter().enumerate().skip(at + 1) {
        match insn.iced.flow_control() {
            FlowControl::Next => used += host_len(insn),
            FlowControl::ConditionalBranch if insn.iced.is_jcc_short_or_near() => {
                let head = insns[..=at].binary_search_by_key(&insn.iced.near_branch32(), Insn::eip).ok()?;
                return (used + ORDINARY <= LINE && leads_to_call(&insns[head..])).then_some(Close::Loop);
            }
            _ => return (is_indirect(insn) && used + INDIRECT <= 2 * LINE).then_some(Close::Straight(i)),
        }
    }
    None
}

/// Does one line hold `insns` up to an indirect jump or call?
pub(crate) fn leads_to_call(insns: &[Insn]) -> bool {
    let Some(end) = insns.iter().position(|i| i.iced.flow_control() != FlowControl::Next) else { return false };
    is_indirect(&insns[end]) && insns[..end].iter().map(host_len).sum::<usize>() + INDIRECT <= LINE
}

fn is_indirect(insn: &Insn) -> bool {
    matches!(insn.code(), Code::Call_rm32 | Code::Jmp_rm32)
}

/// Host bytes of an instruction, mostly.
fn host_len(insn: &Insn) -> usize {
    2 * insn.len() + 1
}

/// What the place of a unit has to be a multiple of.
pub(crate) fn alignment(lined: bool) -> u32 {
    if lined { LINE as u32 } else { UNIT_ALIGN }
}

impl Emitter<'_> {
    /// Does it matter here where code lies within lines?
    pub(crate) fn lines(&self) -> bool {
        self.config.lines && !self.config.paged
    }

    /// Before the `length` bytes of an indirect call: sees to it that it ends a line, if that may help.
    pub(crate) fn place_call(&mut self, length: usize) {
        self.indirect = None;
        if !self.lines() {
            return;
        }
        let Some(close) = close(self.insns, self.at) else { return };
        let end = self.buf.pos() + length;
        self.buf.nop(end.next_multiple_of(LINE) - end);
        self.lined = true;
        if let Close::Straight(indirect) = close {
            self.indirect = Some(indirect);
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
