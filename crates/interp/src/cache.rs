//! Decoded blocks, kept.
//!
//! A block is found by where it starts, the (physical) page it was read from and the mode it was decoded under: first in
//! a direct-mapped array, then in a map. Blocks are dropped by page; nothing refers to a block while it may be dropped, because
//! that happens only between two calls of [`crate::Interp::run`] or between two blocks.
//!
//! An instruction that crosses into another page is a block by itself, which remembers the second page and is used only while
//! the guest still maps that one behind the first.

use crate::ctx::Ctx;
use crate::op::Op;
use crate::ops;
use crate::table::handler;
use std::collections::HashMap;
use xlat86_arch::{Fault, Gva, Mode, PAGE_SIZE, Seg};
use xlat86_decoder::{Block, BlockEnd, Insn, MAX_INSN_LEN, Unit, decode_block_into, decode_insn, unit_of};

/// Longest block in instructions: bounds how long an interrupt waits.
const MAX_BLOCK: usize = 64;
/// Entries of the direct-mapped array.
const FRONT: usize = 1 << 12;
/// When this many instructions are kept, everything is dropped: no program's working set is that large for long.
const MAX_OPS: usize = 1 << 21;

/// A block's identity. The operations have EIP in them, so where CS has a base both parts count.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    base: u32,
    eip: u32,
    /// Number of the page it was read from, as [`xlat86_softmmu::Mmu::code_page`] gives it.
    page: u32,
    mode: Mode,
}

/// First address of the page behind the one that the block at `key` starts in.
fn next_page(key: Key) -> Gva {
    Gva(key.base.wrapping_add(key.eip)).page_base().wrapping_add(PAGE_SIZE)
}

impl Key {
    fn slot(self) -> usize {
        (self.eip ^ self.eip >> 12 ^ self.base >> 4) as usize % FRONT
    }
}

#[derive(Clone, Copy)]
struct FrontEntry {
    key: Key,
    block: u32,
}

/// No block has this number, nor this key: EIP can't be beyond 64 KB in 16-bit code outside a 32-bit limit, and mode
/// bit 15 doesn't exist.
const EMPTY: FrontEntry = FrontEntry { key: Key { base: 0, eip: 0, page: 0, mode: Mode(1 << 15) }, block: u32::MAX };

/// [`Kept::second`] of a block on one page.
const NO_PAGE: u32 = u32::MAX;

/// A block.
struct Kept {
    ops: Box<[Op]>,
    /// Number of the page that its only instruction goes on in.
    second: u32,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept { ops: Box::default(), second: NO_PAGE }
    }
}

/// Number of the block that is never found again: the one instruction just fetched from a page that may change unnoticed.
const ONCE: u32 = 0;

/// Instructions kept for stepping: few places are stepped over often.
const STEPS: usize = 64;

/// `insn` with its handler under `mode`.
fn prepare(insn: &Insn, bytes: &[u8], mode: Mode) -> Op {
    let guarded = mode.has(Mode::FPU_OFF) && unit_of(insn.code()) != Unit::Integer;
    let run = match insn.fault() {
        Some(_) => ops::invalid::raise_over(insn),
        None if guarded => ops::invalid::fpu_guard,
        None => handler(insn.code()).unwrap_or(ops::invalid::unimplemented),
    };
    Op::new(insn, bytes, run)
}

/// The instruction at CS:EIP, decoded for one execution and not kept.
pub(crate) fn fetch_one(ctx: &mut Ctx<'_>) -> Result<Op, Fault> {
    let cs = ctx.cpu.segment(Seg::Cs);
    let (at, eip, limit) = (Gva(cs.base.wrapping_add(ctx.cpu.eip)), ctx.cpu.eip, cs.limit);
    if eip > limit {
        return Err(Fault::gp(0));
    }
    let within = ((limit - eip) as usize).saturating_add(1);
    let mut bytes = [0; MAX_INSN_LEN];
    let mut n = ctx.mmu.fetch_once(at, &mut bytes)?;
    loop {
        let visible = n.min(within);
        if let Some(insn) = decode_insn(&bytes[..visible], eip, ctx.mode, ctx.model.features) {
            return Ok(prepare(&insn, &bytes, ctx.mode));
        }
        if visible < n || n == MAX_INSN_LEN {
            return Err(Fault::gp(0));
        }
        // The rest is in another page, or that page's fault is the instruction's.
        n += ctx.mmu.fetch_once(at.wrapping_add(n as u32), &mut bytes[n..])?;
    }
}

pub(crate) struct Cache {
    /// Instructions that were stepped over, where the caller said that they may be kept.
    steps: Vec<Option<(Key, Op)>>,
    /// Empty until blocks are asked for: most interpreters only step.
    front: Box<[FrontEntry]>,
    map: HashMap<Key, u32>,
    blocks: Vec<Kept>,
    /// Blocks (numbers and keys) read from each page.
    pages: HashMap<u32, Vec<(Key, u32)>>,
    /// Numbers of dropped blocks.
    free: Vec<u32>,
    ops: usize,
    /// Scratch for decoding.
    decoded: Block,
    bytes: Box<[u8; 4096 + 14]>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Cache {
            steps: vec![None; STEPS],
            front: Box::default(),
            map: HashMap::new(),
            blocks: vec![Kept::default()],
            pages: HashMap::new(),
            free: Vec::new(),
            ops: 0,
            decoded: Block::default(),
            bytes: Box::new([0; 4096 + 14]),
        }
    }

    /// To be called before the first [`Cache::block`].
    pub(crate) fn expect_blocks(&mut self) {
        if self.front.is_empty() {
            self.front = vec![EMPTY; FRONT].into_boxed_slice();
        }
    }

    /// The instruction at CS:EIP, fetched afresh unless `watched` says that its page hasn't changed since the latest [`Cache::flush`].
    pub(crate) fn one(&mut self, ctx: &mut Ctx<'_>, watched: bool) -> Result<Op, Fault> {
        if !watched {
            return fetch_one(ctx);
        }
        let (base, eip) = (ctx.cpu.segment(Seg::Cs).base, ctx.cpu.eip);
        let page = ctx.mmu.code_page(Gva(base.wrapping_add(eip)))?;
        let key = Key { base, eip, page, mode: ctx.mode };
        let slot = key.eip as usize % STEPS;
        if let Some((k, op)) = self.steps[slot]
            && k == key
        {
            return Ok(op);
        }
        let op = fetch_one(ctx)?;
        self.steps[slot] = Some((key, op));
        Ok(op)
    }

    /// The block at CS:EIP, or the fault of fetching it.
    #[inline(always)]
    pub(crate) fn block(&mut self, ctx: &mut Ctx<'_>) -> Result<&[Op], Fault> {
        let (base, eip) = (ctx.cpu.segment(Seg::Cs).base, ctx.cpu.eip);
        let page = ctx.mmu.code_page(Gva(base.wrapping_add(eip)))?;
        let key = Key { base, eip, page, mode: ctx.mode };
        let front = self.front[key.slot()];
        let mut number = if front.key == key { front.block } else { self.find(ctx, key)? };
        if self.blocks[number as usize].second != NO_PAGE {
            number = self.still_whole(ctx, key, number)?;
        }
        Ok(&self.blocks[number as usize].ops)
    }

    #[cold]
    fn find(&mut self, ctx: &mut Ctx<'_>, key: Key) -> Result<u32, Fault> {
        let block = match self.map.get(&key) {
            Some(&n) => n,
            None => self.build(ctx, key)?,
        };
        if block != ONCE {
            self.front[key.slot()] = FrontEntry { key, block };
        }
        Ok(block)
    }

    /// `block` on two pages, or a new one in its place when the guest has mapped another page behind the first.
    #[cold]
    fn still_whole(&mut self, ctx: &mut Ctx<'_>, key: Key, block: u32) -> Result<u32, Fault> {
        if ctx.mmu.code_page(next_page(key))? == self.blocks[block as usize].second {
            return Ok(block);
        }
        self.remove(key, block);
        self.find(ctx, key)
    }

    fn build(&mut self, ctx: &mut Ctx<'_>, key: Key) -> Result<u32, Fault> {
        let Some(second) = self.decode(ctx, key)? else {
            self.blocks[ONCE as usize].ops = Box::new([fetch_one(ctx)?]);
            return Ok(ONCE);
        };
        if self.ops > MAX_OPS {
            self.flush();
        }
        let ops: Box<[Op]> = self
            .decoded
            .insns
            .iter()
            .map(|insn| prepare(insn, &self.bytes[insn.eip().wrapping_sub(key.eip) as usize..], key.mode))
            .collect();
        self.ops += ops.len();
        let kept = Kept { ops, second };
        let number = match self.free.pop() {
            Some(n) => {
                self.blocks[n as usize] = kept;
                n
            }
            None => {
                self.blocks.push(kept);
                self.blocks.len() as u32 - 1
            }
        };
        self.map.insert(key, number);
        self.pages.entry(key.page).or_default().push((key, number));
        if second != NO_PAGE {
            self.pages.entry(second).or_default().push((key, number));
        }
        Ok(number)
    }

    /// Decodes the block at `key` into `self.decoded`; gives the number of the second page that it lies on or [`NO_PAGE`], and `None` when
    /// it may not be kept.
    fn decode(&mut self, ctx: &mut Ctx<'_>, key: Key) -> Result<Option<u32>, Fault> {
        let at = Gva(key.base.wrapping_add(key.eip));
        let page_left = (PAGE_SIZE - at.page_offset()) as usize;
        // Bytes beyond the limit of CS don't exist: an instruction that needs them is #GP(0).
        let limit = ctx.cpu.segment(Seg::Cs).limit;
        if key.eip > limit {
            return Err(Fault::gp(0));
        }
        let within = ((limit - key.eip) as usize).saturating_add(1);
        let Some(mut fetched) = ctx.mmu.fetch(at, &mut self.bytes[..page_left])? else { return Ok(None) };
        let mut second = NO_PAGE;
        loop {
            let n = fetched.min(within);
            decode_block_into(
                &mut self.decoded,
                &self.bytes[..n],
                key.eip,
                page_left,
                key.mode,
                ctx.model.features,
                MAX_BLOCK,
            );
            if self.decoded.end != BlockEnd::Truncated || !self.decoded.insns.is_empty() {
                return Ok(Some(second));
            }
            if n < fetched || second != NO_PAGE {
                return Err(Fault::gp(0));
            }
            // The instruction goes on in the next page.
            let next = next_page(key);
            second = ctx.mmu.code_page(next)?;
            let Some(more) = ctx.mmu.fetch(next, &mut self.bytes[fetched..fetched + 14])? else { return Ok(None) };
            fetched += more;
        }
    }

    /// Drops the blocks read from page number `page` (see [`xlat86_softmmu::Mmu::code_page`]).
    pub(crate) fn invalidate_page(&mut self, page: u32) {
        self.steps.fill(None);
        for (key, number) in self.pages.remove(&page).unwrap_or_default() {
            // A block on two pages stands in both lists; the second one to come finds it gone.
            if self.map.get(&key) == Some(&number) {
                self.remove(key, number);
            }
        }
    }

    fn remove(&mut self, key: Key, number: u32) {
        self.map.remove(&key);
        let front = &mut self.front[key.slot()];
        if front.key == key {
            *front = EMPTY;
        }
        self.ops -= self.blocks[number as usize].ops.len();
        self.blocks[number as usize] = Kept::default();
        self.free.push(number);
    }

    /// Drops everything.
    pub(crate) fn flush(&mut self) {
        self.steps.fill(None);
        if self.map.is_empty() {
            // Only stepped: nothing else to forget.
            return;
        }
        self.front.fill(EMPTY);
        self.map.clear();
        self.pages.clear();
        self.blocks.truncate(ONCE as usize + 1);
        self.free.clear();
        self.ops = 0;
    }
}
