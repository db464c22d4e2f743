//! Decoded blocks, kept.
//!
//! A block is found by where it starts and the mode it was decoded under: first in a direct-mapped array, then in a
//! map. Blocks are dropped by the page they were read from; nothing refers to a block while it may be dropped, because
//! that happens only between two calls of [`crate::Interp::run`] or between two blocks.

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
    mode: Mode,
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
const EMPTY: FrontEntry = FrontEntry { key: Key { base: 0, eip: 0, mode: Mode(1 << 15) }, block: u32::MAX };

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
    let mut bytes = [0; MAX_INSN_LEN];
    let fetched = ctx.mmu.fetch_once(at, &mut bytes)?;
    let n = fetched.min(((limit - eip) as usize).saturating_add(1));
    match decode_insn(&bytes[..n], eip, ctx.mode, ctx.model.features) {
        Some(insn) => Ok(prepare(&insn, &bytes, ctx.mode)),
        None if n < fetched => Err(Fault::gp(0)),
        // The rest is in a page that can't be fetched: its fault.
        None => Err(ctx.mmu.fetch_once(at.wrapping_add(n as u32), &mut bytes).err().unwrap_or(Fault::gp(0))),
    }
}

pub(crate) struct Cache {
    /// Instructions that were stepped over, where the caller said that they may be kept.
    steps: Vec<Option<(Key, Op)>>,
    front: Box<[FrontEntry]>,
    map: HashMap<Key, u32>,
    blocks: Vec<Box<[Op]>>,
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
            front: vec![EMPTY; FRONT].into_boxed_slice(),
            map: HashMap::new(),
            blocks: vec![Box::default()],
            pages: HashMap::new(),
            free: Vec::new(),
            ops: 0,
            decoded: Block::default(),
            bytes: Box::new([0; 4096 + 14]),
        }
    }

    /// The instruction at CS:EIP, fetched afresh unless `watched` says that its page hasn't changed since the latest [`Cache::flush`].
    pub(crate) fn one(&mut self, ctx: &mut Ctx<'_>, watched: bool) -> Result<Op, Fault> {
        if !watched {
            return fetch_one(ctx);
        }
        let key = Key { base: ctx.cpu.segment(Seg::Cs).base, eip: ctx.cpu.eip, mode: ctx.mode };
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
        let key = Key { base: ctx.cpu.segment(Seg::Cs).base, eip: ctx.cpu.eip, mode: ctx.mode };
        let front = self.front[key.slot()];
        let number = if front.key == key { front.block } else { self.find(ctx, key)? };
        Ok(&self.blocks[number as usize])
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

    fn build(&mut self, ctx: &mut Ctx<'_>, key: Key) -> Result<u32, Fault> {
        let Some(crosses) = self.decode(ctx, key)? else {
            self.blocks[ONCE as usize] = Box::new([fetch_one(ctx)?]);
            return Ok(ONCE);
        };
        if self.ops > MAX_OPS {
            self.flush();
        }
        let code: Box<[Op]> = self
            .decoded
            .insns
            .iter()
            .map(|insn| prepare(insn, &self.bytes[insn.eip().wrapping_sub(key.eip) as usize..], key.mode))
            .collect();
        self.ops += code.len();
        let number = match self.free.pop() {
            Some(n) => {
                self.blocks[n as usize] = code;
                n
            }
            None => {
                self.blocks.push(code);
                self.blocks.len() as u32 - 1
            }
        };
        let first = Gva(key.base.wrapping_add(key.eip)).page();
        self.map.insert(key, number);
        self.pages.entry(first).or_default().push((key, number));
        if crosses {
            self.pages.entry(first.wrapping_add(1) & 0xf_ffff).or_default().push((key, number));
        }
        Ok(number)
    }

    /// Decodes the block at `key` into `self.decoded`; true when it lies on two pages, `None` when it may not be kept.
    fn decode(&mut self, ctx: &mut Ctx<'_>, key: Key) -> Result<Option<bool>, Fault> {
        let at = Gva(key.base.wrapping_add(key.eip));
        let page_left = (PAGE_SIZE - at.page_offset()) as usize;
        // Bytes beyond the limit of CS don't exist: an instruction that needs them is #GP(0).
        let limit = ctx.cpu.segment(Seg::Cs).limit;
        if key.eip > limit {
            return Err(Fault::gp(0));
        }
        let within = (limit - key.eip) as usize;
        let mut second_page = false;
        loop {
            let Some(fetched) = ctx.mmu.fetch(at, &mut self.bytes)? else { return Ok(None) };
            let n = fetched.min(within.saturating_add(1));
            decode_block_into(
                &mut self.decoded,
                &self.bytes[..n],
                key.eip,
                page_left,
                key.mode,
                ctx.model.features,
                MAX_BLOCK,
            );
            let starved = self.decoded.end == BlockEnd::Truncated && self.decoded.insns.is_empty();
            if starved && n < fetched {
                return Err(Fault::gp(0));
            }
            if !(starved || self.decoded.crosses_page) || second_page {
                return if starved { Err(Fault::gp(0)) } else { Ok(Some(second_page)) };
            }
            // The instruction goes on in the next page: that one has to be there, and be watched for writes, before
            // its bytes are read.
            second_page = true;
            let mut scratch = [0; 4096 + 14];
            if ctx.mmu.fetch(at.page_base().wrapping_add(PAGE_SIZE), &mut scratch)?.is_none() {
                return Ok(None);
            }
        }
    }

    /// Drops the blocks read from page number `page` (linear).
    pub(crate) fn invalidate_page(&mut self, page: u32) {
        self.steps.fill(None);
        for (key, number) in self.pages.remove(&page).unwrap_or_default() {
            // A block on two pages stands in both lists; the second one to come finds it gone.
            if self.map.get(&key) != Some(&number) {
                continue;
            }
            self.map.remove(&key);
            let front = &mut self.front[key.slot()];
            if front.key == key {
                *front = EMPTY;
            }
            self.ops -= self.blocks[number as usize].len();
            self.blocks[number as usize] = Box::default();
            self.free.push(number);
        }
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
