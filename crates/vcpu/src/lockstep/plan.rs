//! The way that translated code will go when it is entered, as far as it can be told beforehand; the interpreter follows it.
//!
//! Units are run unchained, and jumps within a unit are chains too: so code goes on as long as control falls through, over jumps that aren't taken
//! and calls that are executed in place, and leaves at the first jump that is taken. Only a return goes on elsewhere: behind its call, if the host's
//! return stack says so. What the host's stack holds is known here (a *return* for each entry), or a little more than it holds: where code leaves
//! earlier than expected, the replay is repeated up to there.

use super::Repeat;
use iced_x86::Code;
use std::rc::Rc;
use xlat86_decoder::{Block, Insn, Unit, ends_block, unit_of};
use xlat86_translator::{BlockInfo, CodeKey};

/// What is known about a unit, from one of its entries on.
pub(super) struct Plan {
    pub(super) key: CodeKey,
    pub(super) info: BlockInfo,
    /// Guest instructions, up to the first that always leaves.
    pub(super) insns: Vec<Insn>,
    stretches: Vec<Stretch>,
    /// It may use x87, MMX or SSE state.
    pub(super) float: bool,
    /// It is a repeated string instruction.
    pub(super) repeated: Option<Repeat>,
}

/// Instructions that are executed one after the other.
struct Stretch {
    /// Index of the first.
    first: usize,
    /// How many.
    insns: usize,
    /// What comes then.
    end: End,
    /// Address behind the last one.
    next: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The next stretch, if that is where EIP is.
    Through,
    /// Code leaves.
    Leaves,
    /// A call, from which there may be a return to the next stretch.
    Call,
    /// A call executed in place: the two instructions of what it calls, then the next stretch, if they lead there.
    InPlace,
    /// A return.
    Return,
}

/// Instructions of a function that is executed in place of its call (see `translator/src/branch.rs`).
const IN_PLACE: u64 = 2;

impl Plan {
    /// Of the unit at `key` that `info` describes and whose guest code is `block`.
    pub(super) fn new(key: CodeKey, info: BlockInfo, block: Block) -> Plan {
        let mut stretches = Vec::new();
        let (mut first, mut done) = (0, block.insns.len());
        for (i, insn) in block.insns.iter().enumerate() {
            if info.leaves.contains(&insn.eip()) {
                done = i;
                stretches.push(Stretch { first, insns: i - first, end: End::Leaves, next: insn.eip() });
                break;
            }
            if ends_block(insn.code()) || i + 1 == block.insns.len() {
                let end = end_of(insn, &info);
                stretches.push(Stretch { first, insns: i + 1 - first, end, next: insn.next_eip() });
                first = i + 1;
            }
        }
        let mut insns = block.insns;
        insns.truncate(done);
        Plan {
            key,
            stretches,
            info,
            float: insns.iter().any(|i| unit_of(i.code()) != Unit::Integer),
            repeated: insns.first().and_then(|i| super::repeat(&i.iced)),
            insns,
        }
    }

    /// The unit leaves at once: there is nothing to compare.
    pub(super) fn leaves(&self) -> bool {
        self.insns.is_empty()
    }
}

fn end_of(insn: &Insn, info: &BlockInfo) -> End {
    match insn.code() {
        Code::Retnd | Code::Retnd_imm16 => End::Return,
        _ if info.calls.contains(&insn.eip()) => End::Call,
        Code::Call_rel32_32 if insn.iced.near_branch32() != insn.next_eip() => End::InPlace,
        _ => End::Through,
    }
}

/// Where a return may go on.
#[derive(Clone)]
pub(super) struct Return {
    /// Guest address.
    to: u32,
    plan: Rc<Plan>,
    stretch: usize,
    /// This or an earlier one leads to code that may use floating-point state.
    pub(super) float: bool,
}

/// The way that the interpreter has gone.
pub(super) struct Path {
    plan: Rc<Plan>,
    stretch: usize,
    /// Executing a function in place.
    inside: bool,
    /// Stretches gone, with the number of instructions before each.
    gone: Vec<(Rc<Plan>, usize, u64)>,
    /// Functions executed in place: their addresses, and the number of instructions before each.
    in_place: Vec<(u32, u64)>,
    /// Returns used up.
    used: usize,
    /// The return that the last instruction has made possible.
    made: Option<Return>,
    /// The last instruction has returned to somewhere else.
    astray: bool,
}

/// A place on a path: so many instructions behind its start, before this one if it is known.
#[derive(Clone)]
pub(super) struct Position {
    pub(super) done: u64,
    pub(super) before: Option<(Rc<Plan>, usize)>,
}

impl Path {
    /// At the start of `plan`; `before` is a path that is of no use any more.
    pub(super) fn new(plan: Rc<Plan>, before: Option<Path>) -> Path {
        let (mut gone, mut in_place) = before.map_or_else(Default::default, |p| (p.gone, p.in_place));
        gone.clear();
        in_place.clear();
        Path { plan, stretch: 0, inside: false, gone, in_place, used: 0, made: None, astray: false }
    }

    /// `done` instructions have been executed, and EIP is `eip`: how many are next, before asking again? `returns` are possible.
    pub(super) fn next(&mut self, returns: &[Return], done: u64, eip: u32) -> u64 {
        if let Some(s) = self.plan.stretches.get(self.stretch).filter(|_| !self.gone.is_empty()) {
            let end = if core::mem::take(&mut self.inside) { End::Through } else { s.end };
            match end {
                End::Through if eip == s.next => self.stretch += 1,
                End::Through | End::Leaves => return 0,
                End::InPlace => {
                    self.inside = true;
                    self.in_place.push((eip, done));
                    return IN_PLACE;
                }
                End::Call => {
                    let float = self.plan.float || returns.last().is_some_and(|r| r.float);
                    let (to, plan, stretch) = (s.next, self.plan.clone(), self.stretch + 1);
                    self.made = Some(Return { to, plan, stretch, float });
                    return 0;
                }
                End::Return => {
                    let Some(r) = returns.len().checked_sub(self.used + 1).map(|i| &returns[i]) else { return 0 };
                    self.used += 1;
                    if r.to != eip {
                        self.astray = true;
                        return 0;
                    }
                    (self.plan, self.stretch) = (r.plan.clone(), r.stretch);
                }
            }
        }
        let Some(s) = self.plan.stretches.get(self.stretch) else { return 0 };
        self.gone.push((self.plan.clone(), self.stretch, done));
        s.insns as u64
    }

    /// Where on the path EIP was `eip`, ends apart.
    pub(super) fn positions(&self, eip: u32) -> Vec<Position> {
        let mut all = Vec::new();
        for (plan, stretch, done) in &self.gone {
            let s = &plan.stretches[*stretch];
            // An instruction that leaves stands behind those of its stretch.
            let behind = (s.end == End::Leaves && s.next == eip).then_some(s.insns);
            let within = plan.insns[s.first..s.first + s.insns].iter().position(|i| i.eip() == eip);
            if let Some(n) = within.or(behind) {
                all.push(Position { done: done + n as u64, before: Some((plan.clone(), s.first + n)) });
            }
        }
        let in_place = self.in_place.iter().filter(|p| p.0 == eip);
        all.extend(in_place.map(|p| Position { done: p.1, before: None }));
        all
    }

    /// The first `done` instructions, those executed in place apart.
    pub(super) fn insns(&self, done: u64) -> impl Iterator<Item = &Insn> {
        self.gone.iter().flat_map(move |(plan, stretch, before)| {
            let s = &plan.stretches[*stretch];
            let n = done.saturating_sub(*before).min(s.insns as u64) as usize;
            &plan.insns[s.first..s.first + n]
        })
    }

    /// What has become of `returns` at the end of the path. False: the host's return stack is to be dropped.
    pub(super) fn settle(&mut self, returns: &mut Vec<Return>) -> bool {
        returns.truncate(returns.len() - self.used);
        returns.extend(self.made.take());
        !self.astray
    }
}
