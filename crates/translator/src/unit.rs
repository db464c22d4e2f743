//! Units of translation.
//!
//! A unit is a run of basic blocks that lie one after the other in guest memory, on one page: translation goes on past
//! conditional jumps, calls and leaving instructions, since what follows is likely to run, and falling through is free. State is exact at
//! every guest instruction boundary, so every one of them is an entry.

use crate::Config;
use crate::checked::Snapshot;
use crate::emit::{self, Input};
use core::cell::Cell;
use xlat86_arch::{Features, Mode, Seg};
use xlat86_decoder::{Block, BlockEnd, Blocks, Insn};

/// Where guest bytes come from.
pub trait Source {
    /// Reads up to `to.len()` bytes at guest EIP `eip`, not beyond the end of its page, having seen to it that a later
    /// change of that page is noticed. Gives the number read; 0 when the guest couldn't execute there.
    fn peek(&mut self, eip: u32, to: &mut [u8]) -> usize;

    /// May the page at `eip`, which has been read, change with nobody noticing? Then units made from it check themselves.
    fn is_volatile(&self, eip: u32) -> bool;

    /// Has a unit at `eip` that checks itself found its code changed before? Then it is expected to change in its immediates again.
    fn found_changed(&self, eip: u32) -> bool {
        let _ = eip;
        false
    }

    /// The unit holds what was read at `eip`: it has to be dropped when that page changes.
    fn depend(&mut self, eip: u32);

    /// Is there a translation that starts at `eip` already?
    fn known(&self, eip: u32) -> bool;

    /// May what the system call at `eip` does be done without leaving ([`xlat86_host::Frame::call_out`])?
    fn calls_out(&self, eip: u32) -> bool {
        let _ = eip;
        false
    }

    /// May the code at `eip`, on another page, be read with no effect on the guest, because the guest has run code there?
    fn has_run(&self, eip: u32) -> bool {
        let _ = eip;
        false
    }

    /// Does the instruction at `eip` keep faulting? Then accesses that go through a window look their pages up instead, divisions are
    /// interpreted, and calls aren't folded.
    fn keeps_faulting(&self, eip: u32) -> bool {
        let _ = eip;
        false
    }
}

/// What guest registers need when translated code is stopped or faults: they are those of the guest instruction's start, but for
/// this.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fix {
    /// To be added to ESP.
    pub esp: i32,
    /// The general register (0 to 3) whose two low bytes are exchanged.
    pub swapped: Option<u8>,
    /// Nothing, but code mustn't be entered here: it relies on what the instructions before have looked up, or the instruction is under way.
    pub pinned: bool,
    /// The instruction before holds interrupts off until this one has completed.
    pub shadow: bool,
}

/// From `host` on (until the next mark), host code belongs to the guest instruction at `eip`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Offset in the unit's code.
    pub host: u32,
    /// Guest EIP.
    pub eip: u32,
    /// What to repair when stopped or faulting here.
    pub fix: Fix,
    /// `host` is the start of the guest instruction: registers are exact but for `fix`.
    pub boundary: bool,
    /// The status flags are exact too, so that code may be stopped at `host`. Where they aren't, the guest overwrites them before it reads them.
    pub exact: bool,
    /// The instruction begins by looking its page up, which loses the status flags: the guest overwrites them before it reads them. What leaves
    /// there shows them so.
    pub clobbers: bool,
}

/// Frequent sensitive instructions that change what code runs under: executed outside translated code, without the
/// interpreter where nothing is special.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quick {
    /// MOV to a data segment register, POP if `pop`. The selector is the target that leaving passes on.
    Load {
        /// The register.
        seg: Seg,
        /// ESP moves by 4.
        pop: bool,
    },
    /// VERW of the selector that leaving passes on.
    Verw,
    /// SYSENTER.
    Sysenter,
    /// SYSEXIT.
    Sysexit,
    /// IRETD.
    Iret,
    /// IN or OUT of `size` bytes at CPL 0. The port is the target that leaving passes on.
    Port {
        /// 1, 2 or 4.
        size: u8,
        /// It is OUT.
        out: bool,
    },
    /// INT n in a system.
    Int {
        /// n.
        vector: u8,
    },
    /// INVLPG of the address that leaving passes on.
    Invlpg,
}

/// Why translated code leaves at a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitKind {
    /// A direct jump to a target that isn't translated yet. The 4 bytes at `patch` are its displacement.
    Link {
        /// Guest EIP of the target.
        target: u32,
        /// Offset of the displacement in the unit's code.
        patch: u32,
    },
    /// A range of addresses that several accesses share isn't in the software TLB as a whole, or crosses pages. Its first address is in
    /// the frame. Another translation of the code at `target` can be chained here.
    Careful {
        /// Guest EIP to go on at.
        target: u32,
        /// Offset of the displacement in the unit's code.
        patch: u32,
        /// Bytes.
        size: u16,
        /// Needs write permission.
        write: bool,
    },
    /// A call of a thunk on another page, which has been folded, and may not be what it was: its jump table's entry isn't the one in the 4 bytes
    /// at `patch`.
    Thunk {
        /// Guest EIP of the thunk.
        target: u32,
        /// Offset of the entry in the unit's code.
        patch: u32,
        /// Where the call may be started again with the registers as they are (offset in the unit's code).
        again: u32,
        /// What makes registers those of the instruction's start.
        fix: Fix,
    },
    /// The interpreter executes the instruction at this exit's EIP.
    Interpret,
    /// A sensitive instruction that may be dealt with quickly; if not, the interpreter executes it.
    Quick {
        /// Which.
        what: Quick,
        /// EIP after the instruction.
        next: u32,
    },
    /// The page of a checked access isn't in the software TLB, or not for this kind of access, or the access crosses pages.
    /// The guest address is in the frame.
    Access {
        /// Bytes.
        size: u16,
        /// Needs write permission.
        write: bool,
        /// Where the instruction may be started again with the registers as they are (offset in the unit's code).
        again: Option<u32>,
        /// What makes registers those of the instruction's start.
        fix: Fix,
    },
    /// INT n: the guest enters its system.
    SoftInt {
        /// The vector.
        vector: u8,
        /// EIP after the instruction.
        next: u32,
    },
    /// The guest code is not what the unit was made from.
    Changed,
}

impl ExitKind {
    /// Does the instruction itself leave (rather than the jump that it makes)?
    pub(crate) const fn is_leave(self) -> bool {
        matches!(self, ExitKind::Interpret | ExitKind::Quick { .. } | ExitKind::SoftInt { .. })
    }
}

/// A place where translated code leaves: the return address of its call of the leave routine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Offset after the call, in the unit's code.
    pub site: u32,
    /// Guest EIP of the instruction that leaves.
    pub eip: u32,
    /// Why.
    pub kind: ExitKind,
}

/// One translated unit, independent of where it will be placed.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Guest EIP of the first instruction.
    pub eip: u32,
    /// Guest bytes covered, from `eip` on.
    pub len: u32,
    /// Number of guest instructions.
    pub insns: u32,
    /// Host code.
    pub code: Vec<u8>,
    /// Offset behind the guest instructions' code, where the exits of unchained jumps begin.
    pub(crate) body: u32,
    /// Ascending in both `host` and `eip`.
    pub marks: Vec<Mark>,
    /// Ascending in `site`.
    pub exits: Vec<Exit>,
    /// Offsets of the loads by which landings make sure that the guest returned to them.
    pub(crate) landings: Vec<u32>,
    /// It is to start a cache line.
    pub(crate) lined: bool,
    /// The unit checks itself: it compares guest memory with this when it is entered, which can only be at its start.
    pub(crate) snapshot: Option<Box<Snapshot>>,
}

impl Unit {
    /// Gives its memory to the next unit that this thread translates.
    pub fn recycle(self) {
        emit::recycle(self);
    }

    /// Offset behind the code of the guest instructions: there the exits of unchained jumps stand.
    #[must_use]
    pub fn exits_start(&self) -> u32 {
        self.body
    }

    /// Offset of the code for the guest instruction at `eip`, if one starts there.
    #[must_use]
    pub fn entry(&self, eip: u32) -> Option<u32> {
        entry(&self.marks, eip)
    }
}

/// Offset of the boundary of the guest instruction at `eip` among `marks`.
pub(crate) fn entry(marks: &[Mark], eip: u32) -> Option<u32> {
    let i = marks.partition_point(|m| m.eip < eip);
    let m = marks.get(i)?;
    // Where ESP is biased, code may be stopped but not entered.
    (m.eip == eip && m.boundary && m.fix == Fix::default()).then_some(m.host)
}

/// Guest bytes looked at for one unit.
const WINDOW: usize = 256;
/// No unit covers as many guest bytes.
pub(crate) const LONGEST: u32 = WINDOW as u32 + 15;

thread_local! {
    /// The decoded instructions of the latest unit: not to ask for that much memory each time takes a tenth off translation.
    static INSNS: Cell<Vec<Insn>> = const { Cell::new(Vec::new()) };
}

/// Translates the unit at `eip`. `None` when no byte can be fetched there, or the mode isn't one that translated code runs in
/// (everything but flat 32-bit code, at CPL 3 unless the guest is paged).
pub fn translate(eip: u32, mode: Mode, features: Features, config: &Config, source: &mut dyn Source) -> Option<Unit> {
    const FLAT32: u16 = Mode::CODE32 | Mode::STACK32 | Mode::FLAT | Mode::PROTECTED;
    let other =
        if config.paged { !mode.has(FLAT32) || mode.0 & (Mode::VM86 | Mode::TRAP) != 0 } else { mode != Mode::USER32 };
    if other {
        return None;
    }
    let in_page = 4096 - (eip & 0xfff) as usize;
    // Enough for a unit of ordinary length; a longer one goes on as another unit.
    let mut bytes = [0; WINDOW + 14];
    let mut available = in_page.min(WINDOW);
    if source.peek(eip, &mut bytes[..available]) < available {
        return None;
    }
    source.depend(eip);
    let mut checked = source.is_volatile(eip);
    let mut block = Block { insns: INSNS.take(), ..Block::default() };
    block.insns.clear();
    let mut blocks = Blocks::new(&bytes[..available], eip, in_page, mode, features);
    blocks.next_into(&mut block, config.max_insns);
    if block.end == BlockEnd::Truncated && block.insns.is_empty() && available == in_page {
        // An instruction that crosses the page makes a unit of its own; the next page's bytes are asked for only now.
        let next_page = eip.wrapping_add(in_page as u32);
        available += source.peek(next_page, &mut bytes[in_page..in_page + 14]);
        source.depend(next_page);
        checked |= source.is_volatile(next_page);
        blocks = Blocks::new(&bytes[..available], eip, in_page, mode, features);
        blocks.next_into(&mut block, config.max_insns);
    }
    let mut at = 0;
    loop {
        at += block.len as usize;
        let last = block.insns.last()?;
        let next = eip.wrapping_add(at as u32);
        if block.end != BlockEnd::ControlFlow
            || !emit::falls_through(last)
            || checked
            || at >= in_page
            || block.insns.len() >= config.max_insns
            || source.known(next)
        {
            break;
        }
        let room = config.max_insns - block.insns.len();
        blocks.next_into(&mut block, room);
    }
    let unit = emit::emit(Input { eip, insns: &block.insns, bytes: &bytes[..at], mode, checked, config }, source);
    INSNS.set(block.insns);
    Some(unit)
}
