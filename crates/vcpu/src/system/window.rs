//! Which form of access the code of a system's programs gets: looking pages up in the software TLB, or a window.
//!
//! Both mean the same. A window costs nothing per access but microseconds per page, so with [`MmuMode::Auto`] an address space gets one
//! when it has run for some time. Kernels always look pages up: what they touch of programs they touch once. The base of the GS
//! segment is the window's whenever code with [`Mode::WINDOW`] runs; it is set here, before such code is entered, which is also where
//! the window is brought up to date with the guest's page tables.

use crate::{MmuMode, Vcpu};
use xlat86_arch::{Gva, Mode, PfError};
use xlat86_host::{last_fault, set_gs_base, tsc};

/// What a CPU knows of its windows.
#[derive(Default)]
pub(crate) struct Windows {
    /// Base of the GS segment.
    base: u64,
    /// The address space (CR3) that was last asked about, and whether it is worth a window.
    hot: (u32, bool),
}

/// What became of a host fault in translated code.
pub(crate) enum WindowFault {
    /// It may go on at this arena offset, with the registers that it left.
    Again(u32),
    /// The interpreter has to find out.
    Interpret,
}

impl Vcpu {
    /// `mode` with the form of access that code entered now is to have.
    pub(crate) fn choose_reach(&mut self, mode: Mode) -> Mode {
        if !mode.has(Mode::USER | Mode::PAGING) || !self.is_worth_a_window() {
            return mode;
        }
        self.mmu.sync(&self.state);
        let Some(base) = self.mmu.window().map(|w| w.base()) else { return mode };
        let windows = &mut self.system_mut().windows;
        if windows.base != base {
            windows.base = base;
            set_gs_base(base);
        }
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
        if self.process.config().mmu != MmuMode::Auto || mode.has(Mode::WINDOW) {
            return run(self);
        }
        let started = tsc();
        let result = run(self);
        if self.state.cpl == 3 && !self.system_mut().spaces.in_window() {
            let hot = self.mmu.heat(tsc().wrapping_sub(started));
            self.system_mut().windows.hot.1 = hot;
            if hot {
                // They lead to code without a window.
                self.frame.as_mut().expect("translating").forget_crossings();
            }
        }
        result
    }

    /// Deals with a host fault at host address `site` in translated code.
    pub(crate) fn after_window_fault(&mut self, site: u64) -> WindowFault {
        const PAGE_FAULT: u32 = 14;
        let host = last_fault();
        let base = self.system_mut().windows.base;
        let addr = host.addr.checked_sub(base).and_then(|a| u32::try_from(a).ok());
        let (Some(addr), PAGE_FAULT, true) = (addr, host.trapno, base != 0) else { return WindowFault::Interpret };
        // Faults of the guest's are left to the interpreter: it knows what comes first.
        match self.mmu.map_window(Gva(addr), host.error & PfError::W != 0) {
            Ok(true) => match self.process.cache().boundary_at(site) {
                Some(offset) => WindowFault::Again(offset),
                None => WindowFault::Interpret,
            },
            Ok(false) | Err(_) => WindowFault::Interpret,
        }
    }
}
