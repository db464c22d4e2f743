//! What a system's CPU does most often outside translated code, without the interpreter: finding code that was found before, and the
//! usual cases of loading segments and of changing the privilege level. Anything unusual, a fault above all, is left undone, and the
//! interpreter does it.

use crate::Vcpu;
use crate::crossing::Cross;
use xlat86_arch::{Gva, Mode, Reg, Seg, SegAttr, Segment, Vector, eflags};
use xlat86_host::RETURN_KEEPS;
use xlat86_interp::{Event, Platform};
use xlat86_translator::{CodeKey, Exit, Quick};

/// Answers kept.
const ENTRIES: usize = 2048;

/// Code and exits that were found before, until anything is dropped from the cache ([`crate::Process::generation`]).
pub(crate) struct Memo {
    generation: u64,
    entries: Box<[Option<(CodeKey, u32)>; ENTRIES]>,
    /// By the host address after the call that leaves.
    exits: Box<[Option<(u64, Exit)>; ENTRIES]>,
}

impl Memo {
    pub(crate) fn new() -> Memo {
        Memo { generation: 0, entries: Box::new([None; ENTRIES]), exits: Box::new([None; ENTRIES]) }
    }

    fn slot(key: CodeKey) -> usize {
        (key.eip() ^ key.eip() >> 11) as usize % ENTRIES
    }

    /// Arena offset of the translation of `key`.
    #[inline]
    pub(crate) fn get(&mut self, key: CodeKey, generation: u64) -> Option<u32> {
        self.see(generation);
        self.entries[Self::slot(key)].filter(|e| e.0 == key).map(|e| e.1)
    }

    #[inline]
    fn see(&mut self, generation: u64) {
        if generation != self.generation {
            self.generation = generation;
            self.entries.fill(None);
            self.exits.fill(None);
        }
    }

    fn exit_slot(site: u64) -> usize {
        (site ^ site >> 11) as usize % ENTRIES
    }

    /// What leaves at `site`.
    #[inline]
    pub(crate) fn exit(&mut self, site: u64, generation: u64) -> Option<Exit> {
        self.see(generation);
        self.exits[Self::exit_slot(site)].filter(|e| e.0 == site).map(|e| e.1)
    }

    pub(crate) fn put_exit(&mut self, site: u64, generation: u64, exit: Exit) {
        if generation == self.generation {
            self.exits[Self::exit_slot(site)] = Some((site, exit));
        }
    }

    pub(crate) fn put(&mut self, key: CodeKey, generation: u64, offset: u32) {
        if generation == self.generation {
            self.entries[Self::slot(key)] = Some((key, offset));
        }
    }
}

/// Descriptor attribute bits that no quick way changes: accessed, present.
const READY: u16 = 0x81;

/// What an instruction carried out in the quick way came to.
pub(crate) enum Crossed {
    /// Code can do the same by itself from now on.
    Noted(Cross),
    /// It can't.
    Unnoted,
}

impl Vcpu {
    /// Does `what`, with `value` what leaving has passed on and EIP to be `next`. `None`: nothing was done.
    pub(crate) fn quick(&mut self, what: Quick, value: u64, next: u32) -> Option<Crossed> {
        let cross = self.crossing();
        let selector = value as u16;
        let (cross, loads) = match what {
            Quick::Port { .. } | Quick::Invlpg => return None,
            Quick::Int { vector } => {
                let eip = core::mem::replace(&mut self.state.eip, next);
                if self.deliver_at_once(Event::Software(Vector(vector))) {
                    return Some(Crossed::Unnoted);
                }
                self.state.eip = eip;
                return None;
            }
            Quick::Load { seg, pop } => (self.load(seg, selector, pop).then_some(cross)?, [Some(selector), None]),
            Quick::Verw => (Cross { zero_flag: self.verw(selector)?, ..cross }, [Some(selector), None]),
            Quick::Sysenter => (self.sysenter().then_some(cross)?, [None; 2]),
            Quick::Sysexit => (self.sysexit().then_some(cross)?, [None; 2]),
            Quick::Iret => {
                let flags = self.state.eflags;
                let inner = self.state.cpl;
                self.iret().then_some(())?;
                let outer = self.state.cpl != inner;
                let [cs, ss] = [Seg::Cs, Seg::Ss].map(|s| self.state.segment(s).selector);
                if (flags ^ self.state.eflags) & RETURN_KEEPS != 0 {
                    return Some(Crossed::Unnoted);
                }
                (Cross { outer, ..cross }, [Some(cs), outer.then_some(ss)])
            }
        };
        if matches!(what, Quick::Load { .. } | Quick::Verw) {
            self.state.eip = next;
        }
        let mut cross = cross;
        for (to, selector) in cross.loads.iter_mut().zip(loads) {
            let Some(selector) = selector else { continue };
            *to = self.noted_load(selector);
            if to.is_none() {
                return Some(Crossed::Unnoted);
            }
        }
        Some(Crossed::Noted(cross))
    }

    /// The segment that `selector` names in the GDT, if its descriptor is a present and accessed code or data segment.
    #[inline]
    pub(crate) fn gdt_segment(&mut self, selector: u16) -> Option<Segment> {
        self.gdt_descriptor(selector).filter(|s| s.attr.0 & READY == READY)
    }

    /// What `selector` names in the GDT, if it is a code or data segment.
    #[inline]
    fn gdt_descriptor(&mut self, selector: u16) -> Option<Segment> {
        let offset = u32::from(selector & !7);
        if selector & 4 != 0 || offset == 0 || offset + 7 > self.state.gdtr.limit.into() {
            return None;
        }
        let raw: u64 = self.mmu.read_system(Gva(self.state.gdtr.base.wrapping_add(offset))).ok()?;
        let s = Segment::from_descriptor(selector, raw);
        s.attr.s().then_some(s)
    }

    /// SDM vol. 3A, 5.6: data and readable code segments whose DPL is not below CPL and RPL.
    fn load(&mut self, seg: Seg, selector: u16, pop: bool) -> bool {
        let segment = if selector & !3 == 0 {
            Segment::null(selector)
        } else {
            let Some(s) = self.gdt_segment(selector) else { return false };
            let level = self.state.cpl.max((selector & 3) as u8);
            if !s.attr.readable() || s.attr.conforming() || s.attr.dpl() < level {
                return false;
            }
            s
        };
        self.state.seg[seg as usize] = segment;
        if pop {
            let esp = self.state.reg(Reg::Esp);
            self.state.set_reg(Reg::Esp, esp.wrapping_add(4));
        }
        true
    }

    /// VERW of `selector`; gives the zero flag.
    fn verw(&mut self, selector: u16) -> Option<bool> {
        let s = self.gdt_descriptor(selector)?;
        let ok = s.attr.writable() && s.attr.dpl() >= self.state.cpl.max((selector & 3) as u8);
        self.state.eflags = self.state.eflags & !eflags::ZF | if ok { eflags::ZF } else { 0 };
        Some(ok)
    }

    /// IN or OUT at CPL 0, where every port may be used; EAX is the frame's. False: translated code mustn't go on without a look at the mode.
    pub(crate) fn port(&mut self, port: u16, size: u8, out: bool) -> bool {
        let mask = u32::MAX >> (32 - 8 * u32::from(size));
        let eax = self.frame.as_mut().expect("translating").regs().gpr[0];
        if out {
            self.platform.port_out(port, size, eax & mask);
            // The port may have been that of the A20 gate.
            self.mmu.sync(&self.state);
            !self.mmu.has_forgotten()
        } else {
            let read = self.platform.port_in(port, size);
            self.frame.as_mut().expect("translating").regs().gpr[0] = eax & !mask | read & mask;
            true
        }
    }

    fn sysenter(&mut self) -> bool {
        let s = &mut self.state;
        let cs = s.msr.sysenter_cs as u16;
        if cs & !3 == 0 {
            return false;
        }
        s.eflags &= !(eflags::VM | eflags::IF | eflags::RF);
        s.seg[Seg::Cs as usize] = flat(cs, SegAttr::CODE32, 0);
        s.seg[Seg::Ss as usize] = flat(cs.wrapping_add(8), SegAttr::DATA32, 0);
        (s.eip, s.cpl) = (s.msr.sysenter_eip, 0);
        s.set_reg(Reg::Esp, s.msr.sysenter_esp);
        true
    }

    fn sysexit(&mut self) -> bool {
        let s = &mut self.state;
        let cs = s.msr.sysenter_cs as u16;
        if cs & !3 == 0 || s.cpl != 0 {
            return false;
        }
        s.seg[Seg::Cs as usize] = flat(cs.wrapping_add(16), SegAttr::CODE32, 3);
        s.seg[Seg::Ss as usize] = flat(cs.wrapping_add(24), SegAttr::DATA32, 3);
        (s.eip, s.cpl) = (s.reg(Reg::Edx), 3);
        s.set_reg(Reg::Esp, s.reg(Reg::Ecx));
        true
    }

    /// IRETD at CPL 0 to CPL 0 or 3, flat 32-bit code, with nothing in the flags that has to be looked at.
    fn iret(&mut self) -> bool {
        /// What IRETD at CPL 0 loads besides the status flags (SDM vol. 2A, IRET).
        const LOADED: u32 = eflags::LIVE | eflags::IF | eflags::IOPL | eflags::AC | eflags::ID;
        /// Bits that make something happen.
        const SPECIAL: u32 = eflags::TF | eflags::NT | eflags::VM | eflags::VIF | eflags::VIP;
        if (self.state.eflags & SPECIAL) != 0 || self.state.nmi_masked {
            return false;
        }
        let esp = self.state.reg(Reg::Esp);
        if esp > u32::MAX - 20 {
            return false;
        }
        let mut word = |n: u32| self.mmu.read::<u32>(Gva(esp.wrapping_add(4 * n))).ok();
        let (Some(eip), Some(cs), Some(flags)) = (word(0), word(1), word(2)) else { return false };
        let cs = cs as u16;
        let level = (cs & 3) as u8;
        if flags & SPECIAL != 0 {
            return false;
        }
        let outer = match level {
            0 => None,
            3 => match (word(3), word(4)) {
                (Some(esp), Some(ss)) => Some((esp, ss as u16)),
                _ => return false,
            },
            _ => return false,
        };
        let Some(code) = self.gdt_segment(cs) else { return false };
        if !code.attr.code() || code.attr.conforming() || code.attr.dpl() != level || !code.is_flat() {
            return false;
        }
        match outer {
            None => self.state.set_reg(Reg::Esp, esp.wrapping_add(12)),
            Some((esp, ss)) => {
                let Some(stack) = self.gdt_segment(ss).filter(|_| ss & 3 == 3) else { return false };
                if !stack.attr.writable() || stack.attr.dpl() != 3 || !stack.attr.db() {
                    return false;
                }
                self.state.set_reg(Reg::Esp, esp);
                self.state.seg[Seg::Ss as usize] = stack;
                self.state.cpl = 3;
                // Data segments that the outer level may not use become null (SDM vol. 3A, 5.8.5).
                for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
                    let s = &mut self.state.seg[seg as usize];
                    if !s.attr.conforming() && s.attr.dpl() < 3 {
                        *s = Segment::null(0);
                    }
                }
            }
        }
        let s = &mut self.state;
        s.seg[Seg::Cs as usize] = code;
        s.eip = eip;
        // RF holds off instruction breakpoints, of which there are none while code is translated.
        s.eflags = s.eflags & !(LOADED | eflags::RF) | flags & LOADED;
        debug_assert!(!s.mode().has(Mode::VM86));
        true
    }
}

/// A flat segment as SYSENTER and SYSEXIT make it.
fn flat(selector: u16, attr: SegAttr, level: u8) -> Segment {
    Segment::flat(selector & !3 | u16::from(level), attr.with_dpl(level))
}
