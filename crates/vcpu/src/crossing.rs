//! The worlds that a system's code runs in, and what leads from one to another ([`xlat86_host::Crossing`]).
//!
//! Translated code crosses by itself where a record says how. Records are made here, after an instruction has been carried out in the
//! quick way ([`crate::quick`]), and emptied when something changes that they rely on but don't compare: [`Relied`], the mapping of the
//! descriptor table, and what the jump tables they name rely on.

use crate::Vcpu;
use xlat86_arch::{CpuState, Gva, PAGE_SIZE, Seg, Segment, TableReg, eflags};
use xlat86_host::{Crossing, Load, RETURN_KEEPS, WorldRegs, gather};

/// Most worlds at a time.
const MOST: usize = 64;

/// What code runs under that its mode doesn't say.
#[derive(Clone, PartialEq, Eq)]
struct World {
    seg: [Segment; 6],
    cpl: u8,
}

/// What every record relies on.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Relied {
    /// An instruction is what it was as long as no code has been dropped.
    generation: u64,
    control: [u32; 3],
    sysenter: [u32; 3],
    gdtr: TableReg,
    /// The flags of [`RETURN_KEEPS`].
    flags: u32,
    nmi_masked: bool,
}

/// The worlds of one CPU.
#[derive(Default)]
pub(crate) struct Worlds {
    /// World n is the one numbered n + 1.
    all: Vec<World>,
    current: usize,
    /// The numbering has begun anew since the last record was made.
    renumbered: bool,
    relied: Relied,
}

/// An instruction that led from one world to another, or to the same.
pub(crate) struct Cross {
    /// Its guest address.
    pub(crate) eip: u32,
    /// It is an IRETD to an outer level.
    pub(crate) outer: bool,
    /// What it loaded.
    pub(crate) loads: [Option<Load>; 2],
    /// The zero flag that it left.
    pub(crate) zero_flag: bool,
    /// The number of the world that it led from.
    pub(crate) from: u64,
}

/// A world's number as frames and records have it.
fn number(world: usize) -> u64 {
    (world as u64 + 1) << 32
}

/// May linear page `page` hold a part of the descriptor table?
pub(crate) fn in_gdt(state: &CpuState, page: u32) -> bool {
    let TableReg { base, limit } = state.gdtr;
    page.wrapping_sub(base / PAGE_SIZE) & 0xf_ffff <= (base % PAGE_SIZE + u32::from(limit)) / PAGE_SIZE
}

impl Vcpu {
    /// A crossing by the instruction at EIP, from the current world.
    pub(crate) fn crossing(&mut self) -> Cross {
        let from = number(self.system_mut().worlds.current);
        Cross { eip: self.state.eip, outer: false, loads: [None; 2], zero_flag: false, from }
    }

    /// What `selector` has just been found to name, for a record. `None`: it can't be compared.
    pub(crate) fn noted_load(&mut self, selector: u16) -> Option<Load> {
        if selector & !3 == 0 {
            return Some(Load { selector, descriptor: None });
        }
        let at = Gva(self.state.gdtr.base.wrapping_add(u32::from(selector & !7)));
        let value = self.mmu.read_system(at).ok()?;
        let place = self.mmu.place_system(at, 8)?;
        Some(Load { selector, descriptor: Some((value, place)) })
    }

    /// Tells translated code which world it is in.
    pub(crate) fn choose_world(&mut self) {
        let state = &self.state;
        let frame = self.frame.as_mut().expect("translating");
        let worlds = &mut self.system.as_mut().expect("a system's CPU").worlds;
        let relied = Relied {
            generation: self.process.generation(),
            control: [state.cr0, state.cr3, state.cr4],
            sysenter: [state.msr.sysenter_cs, state.msr.sysenter_esp, state.msr.sysenter_eip],
            gdtr: state.gdtr,
            flags: state.eflags & RETURN_KEEPS,
            nmi_masked: state.nmi_masked,
        };
        if relied != worlds.relied {
            worlds.relied = relied;
            frame.forget_crossings();
        }
        let same = |w: &World| w.cpl == state.cpl && w.seg == state.seg;
        if !worlds.all.get(worlds.current).is_some_and(same) {
            worlds.current = worlds.all.iter().position(same).unwrap_or_else(|| {
                if worlds.all.len() == MOST {
                    worlds.all.clear();
                    worlds.renumbered = true;
                    frame.forget_crossings();
                }
                worlds.all.push(World { seg: state.seg, cpl: state.cpl });
                worlds.all.len() - 1
            });
        }
        let (frame, regs) = (frame.regs(), world_regs(state, worlds.current));
        (frame.seg_base, frame.selector, frame.zero, frame.world) =
            (regs.seg_base, regs.selector, regs.zero, regs.world);
    }

    /// Takes over the world that translated code has got to.
    #[inline]
    pub(crate) fn see_world(&mut self) {
        let frame = self.frame.as_mut().expect("translating");
        let system = self.system.as_mut().expect("a system's CPU");
        let &mut xlat86_host::Frame { world, table, .. } = frame.regs();
        if world == number(system.worlds.current) {
            return;
        }
        system.worlds.current = (world >> 32) as usize - 1;
        let world = &system.worlds.all[system.worlds.current];
        (self.state.seg, self.state.cpl) = (world.seg, world.cpl);
        system.spaces.see(table);
        frame.note_returns(usize::from(self.state.cpl == 3));
        self.mmu.sync(&self.state);
    }

    /// Makes the record of `cross`, which has led to where translated code is about to be entered.
    pub(crate) fn note_crossing(&mut self, cross: Option<Cross>) {
        let (state, worlds) = (&self.state, &mut self.system.as_mut().expect("a system's CPU").worlds);
        let renumbered = core::mem::take(&mut worlds.renumbered);
        let (Some(cross), Some(memory), false) = (cross, self.process.physical(), renumbered) else { return };
        let world = worlds.current;
        let frame = self.frame.as_mut().expect("translating");
        let crossing = Crossing {
            kept_flags: u64::from(gather(state.eflags, RETURN_KEEPS)).wrapping_neg(),
            to: world_regs(state, world),
            table: frame.regs().table,
            stack: [state.msr.sysenter_esp, state.msr.sysenter_eip],
            zero_flag: if cross.zero_flag { eflags::ZF << 8 } else { 0 },
            ..Crossing::default()
        };
        frame.set_crossing(cross.eip, cross.outer, cross.from, cross.loads, memory.ram(), crossing);
    }
}

/// What the frame holds of `state` in world `world`.
fn world_regs(state: &CpuState, world: usize) -> WorldRegs {
    WorldRegs {
        seg_base: [Seg::Fs, Seg::Gs].map(|s| state.segment(s).base),
        selector: state.seg.map(|s| s.selector),
        zero: 0,
        world: number(world),
    }
}
