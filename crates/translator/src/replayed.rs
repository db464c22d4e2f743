//! How far a unit goes that lockstep executes twice. It is cut before anything is translated: what liveness looks ahead at has to be in the unit.

use crate::string;
use iced_x86::{FlowControl, Register, RflagsBits};
use xlat86_decoder::{Insn, Kind};

/// Instructions of `insns` that can be replayed together: a repeated string instruction stands alone, so that it can be executed in parts, and one that
/// reads flags which an earlier one left undefined begins a unit, so that it finds what the host's flags, and no others, have become.
pub(crate) fn span(insns: &[Insn]) -> usize {
    let mut undefined = Undefined::default();
    for (i, insn) in insns.iter().enumerate() {
        let alone = insn.kind == Kind::String && string::is_repeated(insn);
        if alone || undefined.are_read_by(insn) {
            return i.max(1);
        }
        undefined.after(insn);
    }
    insns.len()
}

/// Status flags that the manual leaves undefined: what they are is the host CPU's own business.
#[derive(Clone, Copy, Default)]
struct Undefined(u32);

impl Undefined {
    /// Would `insn` show them?
    fn are_read_by(self, insn: &Insn) -> bool {
        self.0 & insn.iced.rflags_read() != 0
    }

    /// `insn` has been executed.
    fn after(&mut self, insn: &Insn) {
        let i = &insn.iced;
        if matches!(i.flow_control(), FlowControl::Call | FlowControl::IndirectCall) {
            // What it returns with is another function's.
            self.0 = STATUS;
            return;
        }
        // A shift by nothing leaves all flags alone.
        let by_cl = i.op_count() > 0 && i.op_register(i.op_count() - 1) == Register::CL;
        let settled = i.rflags_written() | i.rflags_cleared() | i.rflags_set();
        let kept = if by_cl { self.0 } else { self.0 & !settled };
        self.0 = kept | i.rflags_undefined() & STATUS;
    }
}

/// The status flags as iced has them.
const STATUS: u32 = RflagsBits::CF | RflagsBits::PF | RflagsBits::AF | RflagsBits::ZF | RflagsBits::SF | RflagsBits::OF;
