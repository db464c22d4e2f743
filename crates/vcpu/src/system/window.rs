//! Which form of access the code of a system's programs gets: looking pages up in the software TLB, or a window.
//!
//! Both mean the same. A window costs nothing per access but microseconds per page, so with [`MmuMode::Auto`] an address space gets one
//! when it has run for some time. Kernels with paging always look pages up: what they touch of programs they touch once. Without paging
//! there is one window for all code, the memory file. The base of the GS segment is the window's whenever code with [`Mode::WINDOW`] runs; it is
//! set here, before such code is entered, which is also where the window is brought up to date with the guest's page tables. Crossings never lead
//! from one window to another: loading CR3 and changing CR0 empties their records.

use crate::{MmuMode, Vcpu};
use std::collections::{HashMap, HashSet};
use xlat86_arch::{Gva, Mode, PfError};
use xlat86_host::{last_fault, set_gs_base, tsc};
use xlat86_translator::Place;

/// An instruction is translated anew, to look its pages up, when this many of its accesses have been the guest's page faults, or
/// went to devices or pages of code...
const FAULTS: u32 = 16;
/// ...within this many ticks: a host fault costs some 8000 more than a look-up that fails.
const FAULTS_WITHIN: u64 = 16 * 200_000;
/// Instructions whose faults are counted.
const COUNTED: usize = 64;
/// Most instructions that look their pages up for it.
const FOUND: usize = 4096;

/// An instruction: physical page, and guest address.
type Site = (u32, u32);

/// Instructions whose accesses through a window can't be made there time and again.
#[derive(Default)]
struct Faulting {
    /// How often, and since when.
    counted: HashMap<Site, (u32, u64)>,
    found: HashSet<Site>,
}

impl Faulting {
    /// `site` has faulted at `now`. True if it has become one that keeps doing so.
    fn count(&mut self, site: Site, now: u64) -> bool {
        if self.counted.len() >= COUNTED && !self.counted.contains_key(&site) {
            self.counted.clear();
        }
        let (n, since) = self.counted.entry(site).or_insert((0, now));
        *n += 1;
        if *n < FAULTS {
            return false;
        }
        let often = now.wrapping_sub(*since) < FAULTS_WITHIN;
        self.counted.remove(&site);
        often && self.insert(site)
    }

    fn insert(&mut self, site: Site) -> bool {
        if self.found.len() >= FOUND {
            self.found.clear();
        }
        self.found.insert(site)
    }
}

/// What a CPU knows of its windows.
#[derive(Default)]
pub(crate) struct Windows {
    /// Base of the one that is entered.
    base: u64,
    /// The address space (CR3) that was last asked about, and whether it is worth a window.
    hot: (u32, bool),
    faulting: Faulting,
}

impl Windows {
    /// The instruction at `eip`, on physical page `page`, isn't to be translated as it was.
    pub(crate) fn give_up(&mut self, eip: u32, page: u32) {
        self.faulting.insert((page, eip));
    }

    /// Does the instruction at `eip`, on physical page `page`, look its pages up even in code with a window?
    pub(crate) fn keeps_faulting(&self, eip: u32, page: u32) -> bool {
        self.faulting.found.contains(&(page, eip))
    }
}

/// What became of a host fault in translated code.
pub(crate) enum WindowFault {
    /// It may go on at this arena offset, with the registers that it left.
    Again(u32),
    /// The interpreter has to find out.
    Interpret,
    /// The instruction faulted as it has before: its code has been dropped, to be made anew.
    Anew,
}

impl Vcpu {
    /// `mode` with the form of access that code entered now is to have.
    pub(crate) fn choose_reach(&mut self, mode: Mode) -> Mode {
        let worth = match mode.has(Mode::PAGING) {
            true => mode.has(Mode::USER) && self.is_worth_a_window(),
            false => self.process.config().mmu != MmuMode::Tlb,
        };
        if !worth {
            return mode;
        }
        self.mmu.sync(&self.state);
        let Some(base) = self.mmu.window().map(|w| w.base()) else { return mode };
        self.system_mut().windows.base = base;
        set_gs_base(base);
        self.frame.as_mut().expect("translating").regs().window = base;
        Mode(mode.0 | Mode::WINDOW)
    }

    fn is_worth_a_window(&mut self) -> bool {
        match self.process.config().mmu {
            MmuMode::Tlb => false,
            MmuMode::Shadow => true,
            MmuMode::Auto => {
                let cr3 = self.state.cr3;
                if self.system_mut().windows.hot.0 != cr3 {
                    self.mmu.sync(&self.state);
                    let hot = self.mmu.heat(0);
                    self.system_mut().windows.hot = (cr3, hot);
                }
                self.system_mut().windows.hot.1
            }
        }
    }

    /// Runs `run`, which runs code under `mode`, and notes how long the address space has been busy: the time counts if it ends in the
    /// program, whatever came before.
    pub(crate) fn timed<T>(&mut self, mode: Mode, run: impl FnOnce(&mut Self) -> T) -> T {
        if self.process.config().mmu != MmuMode::Auto || !mode.has(Mode::PAGING) {
            return run(self);
        }
        let started = tsc();
        let result = run(self);
        if self.state.cpl == 3 {
            let hot = self.mmu.heat(tsc().wrapping_sub(started));
            let system = self.system_mut();
            system.windows.hot.1 = hot;
            if hot != system.spaces.in_window() {
                // They lead to code with a window, or without one, as is no longer right.
                self.frame.as_mut().expect("translating").forget_crossings();
            }
        }
        result
    }

    /// Deals with a host fault at host address `site` in translated code.
    pub(crate) fn after_window_fault(&mut self, site: u64) -> WindowFault {
        const DIVIDE_ERROR: u32 = 0;
        const PAGE_FAULT: u32 = 14;
        let host = last_fault();
        let trace = &self.process.config().tracing;
        if trace.fault
            && let Some(Place::Inside(mark)) = self.process.cache().place(site, false)
        {
            self.trace_fault(mark.eip, host);
        }
        if host.trapno == DIVIDE_ERROR {
            // However seldom: an interpreted division costs little more.
            return self.note_faulting(site, 0);
        }
        let base = self.system_mut().windows.base;
        let addr = host.addr.checked_sub(base).and_then(|a| u32::try_from(a).ok());
        let (Some(addr), PAGE_FAULT, true) = (addr, host.trapno, base != 0) else { return WindowFault::Interpret };
        // Faults of the guest's are left to the interpreter: it knows what comes first.
        match self.mmu.map_window(Gva(addr), host.error & PfError::W != 0) {
            Ok(true) => match self.process.cache().boundary_at(site) {
                Some(offset) => WindowFault::Again(offset),
                None => WindowFault::Interpret,
            },
            // What can't be mapped (a device, code about to be written) and what the guest may not do: sites that keep doing it look up.
            Ok(false) | Err(_) => self.note_faulting(site, tsc()),
        }
    }

    /// The instruction that host address `site` belongs to has faulted, and would again: one that keeps doing so is translated anew.
    fn note_faulting(&mut self, site: u64, now: u64) -> WindowFault {
        let mut cache = self.process.cache();
        let (Some(key), Some(Place::Inside(mark))) = (cache.key_at(site), cache.place(site, false)) else {
            return WindowFault::Interpret;
        };
        let windows = &mut self.system.as_mut().expect("a system's CPU").windows;
        if !windows.faulting.count((key.page(), mark.eip), now) {
            return WindowFault::Interpret;
        }
        cache.retire_at(site + 1);
        drop(cache);
        self.process.dropped();
        self.stats.retranslated += 1;
        WindowFault::Anew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_found_when_it_faults_often_enough() {
        let mut f = Faulting::default();
        let rarely = FAULTS_WITHIN / u64::from(FAULTS) * 2;
        assert!(!(0..100).any(|i| f.count((1, 0x1000), i * rarely)), "too rarely");
        let often = rarely / 10;
        let found = (0..100).filter(|i| f.count((1, 0x1004), i * often)).count();
        assert_eq!(found, 1, "once");
        assert!(f.found.contains(&(1, 0x1004)) && !f.found.contains(&(1, 0x1000)));
        (0..10_000).for_each(|i| _ = f.count((2, i), 0));
        assert!(f.counted.len() <= COUNTED);
    }
}
