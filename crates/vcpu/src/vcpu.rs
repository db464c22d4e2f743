//! One guest CPU.

use crate::fx::{self, Home};
use crate::lockstep::Lockstep;
use crate::memo::Memo;
use crate::platform::Ldt;
use crate::platform::Surroundings;
use crate::system::System;
use crate::world::Member;
use crate::{Engine, Error, Exit, Process, Stats};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use xlat86_arch::{CpuState, Fault, FxState, Gva, PAGE_SIZE, PfError, Seg, Vector};
use xlat86_decoder::MAX_INSN_LEN;
use xlat86_host::{Arena, HostFault, VcpuFrame, set_gs_base, with_pending};
use xlat86_interp::{Interp, Stop};
use xlat86_softmmu::{Mmu, TlbMemory};
use xlat86_translator::{AddressForm, Stub};

/// One guest CPU, on the host thread that made it: it can't move to another.
pub struct Vcpu {
    pub(crate) process: Arc<Process>,
    pub(crate) me: Arc<Member>,
    pub(crate) state: CpuState,
    pub(crate) mmu: Mmu,
    pub(crate) interp: Interp,
    pub(crate) platform: Surroundings,
    /// What a system's CPU has besides; `None` for a user program's.
    pub(crate) system: Option<System>,
    /// The register file of translated code; `None` when the engine doesn't translate.
    pub(crate) frame: Option<VcpuFrame>,
    pub(crate) arena: Option<Arc<Arena>>,
    pub(crate) memo: Memo,
    /// `None` but in lockstep.
    pub(crate) lockstep: Option<Box<Lockstep>>,
    pub(crate) fx_home: Home,
    pub(crate) last_fault: HostFault,
    pub(crate) evictions_seen: u64,
    changes_seen: u64,
    pub(crate) stats: Stats,
    interpreted_published: u64,
    /// Host threads have their own alternate stacks and x87 state, so a CPU stays where it was made.
    _not_send: core::marker::PhantomData<*const ()>,
}

/// What to do after an instruction could not be completed.
pub(crate) enum Resolution {
    /// Execute it again.
    Retry,
    /// Leave the CPU.
    Exit(Exit),
}

impl Vcpu {
    /// A CPU in the state of a Linux user program, on the current thread.
    pub fn new(process: &Arc<Process>) -> Result<Vcpu, Error> {
        let mmu = Mmu::flat(process.space().clone());
        Self::made(process, CpuState::linux_user(), mmu, Surroundings::user(), None, None)
    }

    pub(crate) fn made(
        process: &Arc<Process>,
        state: CpuState,
        mmu: Mmu,
        platform: Surroundings,
        system: Option<System>,
        tlb: Option<Arc<TlbMemory>>,
    ) -> Result<Vcpu, Error> {
        let host = |what| move |source| Error::Host { what, source };
        xlat86_host::install_fault_handlers();
        xlat86_host::signals::use_alternate_stack().map_err(host("no memory for a signal stack"))?;
        let config = process.config();
        let (mut frame, mut arena) = (None, None);
        if config.engine != Engine::Interp {
            let cache = process.cache();
            let made = VcpuFrame::new(cache.arena(), cache.table(), Stub::Sentinel.offset(), tlb);
            let mut made = made.map_err(host("no memory for a return stack"))?;
            if let Some(function) = config.call_out {
                made.set_call_out(function, process.space().window());
            }
            frame = Some(made);
            arena = Some(cache.arena().clone());
        }
        Ok(Vcpu {
            process: process.clone(),
            me: process.world.join(),
            state,
            mmu,
            interp: Interp::new(config.model),
            platform,
            system,
            frame,
            arena,
            memo: Memo::new(if config.engine == Engine::Lockstep { 1 << 14 } else { 64 }),
            lockstep: (config.engine == Engine::Lockstep).then(|| Box::new(Lockstep::new())),
            fx_home: Home::State,
            last_fault: HostFault::default(),
            evictions_seen: process.evictions(),
            changes_seen: process.changes(),
            stats: Stats::default(),
            interpreted_published: 0,
            _not_send: core::marker::PhantomData,
        })
    }

    /// The guest and what its CPUs share.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Architectural state. Its `fx` part may be stale: see [`Vcpu::fx`].
    #[must_use]
    pub fn state(&self) -> &CpuState {
        &self.state
    }

    /// Architectural state, to be changed. Its `fx` part is not to be touched here: see [`Vcpu::fx_mut`].
    pub fn state_mut(&mut self) -> &mut CpuState {
        &mut self.state
    }

    /// x87, MMX and SSE state.
    pub fn fx(&mut self) -> &FxState {
        fx::bring(&mut self.fx_home, &mut self.state.fx, &mut self.frame, &self.process);
        &self.state.fx
    }

    /// x87, MMX and SSE state, to be changed.
    pub fn fx_mut(&mut self) -> &mut FxState {
        self.fx();
        self.fx_home = Home::State;
        &mut self.state.fx
    }

    /// What the host said about the latest memory fault: which signal it was and its `si_code`.
    #[must_use]
    pub fn last_host_fault(&self) -> HostFault {
        self.last_fault
    }

    /// Sets entry `index` (selector divided by 8) of the descriptor table; 0 empties it. Segment registers loaded before keep
    /// their hidden parts.
    pub fn set_descriptor(&mut self, index: u16, raw: u64) {
        if let Some(d) = self.platform.gdt.get_mut(usize::from(index)) {
            *d = raw;
        }
    }

    /// The local descriptor table.
    #[must_use]
    pub fn ldt(&self) -> &Ldt {
        &self.platform.ldt
    }

    /// Gives this CPU the table of another.
    pub fn set_ldt(&mut self, ldt: Ldt) {
        self.platform.ldt = ldt;
    }

    /// The descriptor table's entry `index`, 0 when empty.
    #[must_use]
    pub fn descriptor(&self, index: u16) -> u64 {
        self.platform.gdt.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Counters of this CPU.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (mmu, shadow) = (self.mmu.stats(), self.mmu.shadow_stats());
        Stats { interpreted: self.interp.retired(), mmu, shadow, ..self.stats }
    }

    /// Adds the counters of this CPU to its process's, so that they show there.
    pub fn publish_stats(&mut self) {
        let mut stats = core::mem::take(&mut self.stats);
        let interpreted = self.interp.retired();
        stats.interpreted = interpreted - self.interpreted_published;
        stats.most_interpreted = self.most_interpreted();
        (stats.mmu, stats.shadow) = self.mmu.take_stats();
        self.interpreted_published = interpreted;
        if let Some(f) = &mut self.frame {
            stats.return_mismatches += core::mem::take(&mut f.regs().mismatches);
        }
        self.process.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&stats);
    }

    /// After a fork, in the child: this CPU's thread is the only one left.
    pub fn after_fork(&mut self) {
        let process = self.process.clone();
        process.world.only(&mut self.me);
    }

    /// In a vfork child, which runs on its parent's CPU while the parent's thread waits, and in the parent when that is over: the CPU is this thread's.
    pub fn taken_over(&mut self) {
        self.me.is_current();
    }

    /// Runs guest code until there is a reason to leave.
    pub fn run(&mut self) -> Exit {
        if self.system.is_some() {
            return self.run_system();
        }
        if let Some(frame) = &self.frame {
            match self.process.config().translator.address_form {
                AddressForm::Low => frame.use_probe(),
                AddressForm::Gs => set_gs_base(self.process.space().window().base()),
                AddressForm::Tlb => {}
            }
        }
        match self.process.config().engine {
            Engine::Interp => self.run_interpreter(),
            Engine::Dbt => self.run_translated(),
            Engine::Lockstep => self.run_lockstep(),
        }
    }

    fn run_interpreter(&mut self) -> Exit {
        let process = self.process.clone();
        loop {
            // Decoded blocks are translations too.
            process.world.go_inside(&self.me);
            self.see_changes();
            let stop = with_pending(|flag| {
                self.interp.run(&mut self.state, &mut self.mmu, &mut self.platform, flag, u64::MAX)
            });
            process.world.come_out(&self.me);
            if let Some(exit) = self.after_interpreter(stop) {
                return exit;
            }
        }
    }

    /// Drops what the interpreter has decoded if code has changed since.
    pub(crate) fn see_changes(&mut self) {
        let now = self.process.changes();
        if now != self.changes_seen {
            self.changes_seen = now;
            self.interp.flush();
        }
    }

    /// Executes one instruction of a user program, without what waits for it outside. `None`: it completed.
    pub fn single_step(&mut self) -> Option<Exit> {
        self.see_changes();
        self.interpret_one()
    }

    /// Executes one instruction on the interpreter. `None`: it completed.
    pub(crate) fn interpret_one(&mut self) -> Option<Exit> {
        loop {
            let watched = self.is_watched();
            if watched {
                self.see_changes();
            }
            let (home, frame, process) = (&mut self.fx_home, &mut self.frame, &self.process);
            let before = |state: &mut CpuState, fx: bool| {
                if fx {
                    fx::bring(home, &mut state.fx, frame, process);
                    *home = Home::State;
                }
            };
            let (state, mmu, platform) = (&mut self.state, &mut self.mmu, &mut self.platform);
            let stop = with_pending(|flag| self.interp.step_after(state, mmu, platform, watched, flag, before));
            match stop {
                Stop::Budget => return None,
                Stop::Fault(f) => match self.resolve(f) {
                    Resolution::Retry => {}
                    Resolution::Exit(exit) => return Some(exit),
                },
                other => return self.after_interpreter(other),
            }
        }
    }

    /// Is the page of the instruction at EIP write-protected for being code? Nobody lifts that while this CPU is inside.
    fn is_watched(&self) -> bool {
        let at = Gva(self.state.segment(Seg::Cs).base.wrapping_add(self.state.eip));
        let inside = self.system.is_none() && self.process.world.is_inside(&self.me);
        inside
            && self.process.space().page(at).is_code()
            && at.page_offset() as usize <= PAGE_SIZE as usize - MAX_INSN_LEN
    }

    fn after_interpreter(&mut self, stop: Stop) -> Option<Exit> {
        match stop {
            Stop::Budget => None,
            Stop::Interrupted => Some(Exit::Interrupted),
            Stop::SoftInt(vector) => Some(Exit::SoftInt(vector)),
            Stop::Halt => Some(Exit::Halt),
            Stop::Window => Some(Exit::InterruptWindow),
            Stop::Unimplemented(code) => Some(Exit::Unimplemented(format!("{code:?} at {:08x}", self.state.eip))),
            Stop::Fault(f) => match self.resolve(f) {
                Resolution::Retry => self.interpret_one(),
                Resolution::Exit(exit) => Some(exit),
            },
        }
    }

    /// Decides what a fault is: our own protection of translated code, or the guest's.
    pub(crate) fn resolve(&mut self, fault: Fault) -> Resolution {
        if self.resolve_code_write() {
            return Resolution::Retry;
        }
        if let Some(addr) = written_page(&fault, &self.mmu.last_host_fault())
            && self.code_write(addr)
        {
            return Resolution::Retry;
        }
        self.last_fault = self.mmu.last_host_fault();
        Resolution::Exit(Exit::Fault(fault))
    }

    /// A write to `addr` hit a protected page. True when it was protected by us, and may now be tried again.
    pub(crate) fn code_write(&mut self, addr: Gva) -> bool {
        self.process.world.come_out(&self.me);
        let ours = self.process.code_write(addr);
        if ours {
            self.stats.code_writes += 1;
            self.see_changes();
        }
        ours
    }

    /// True while something asynchronous waits for this thread.
    pub(crate) fn pending() -> bool {
        with_pending(|f| f.load(Ordering::SeqCst))
    }
}

/// The address of a write that the host's protection of its page forbade. The error code can't tell: a page that was never
/// touched is not present, protected or not. `si_code` can: nothing else makes it SEGV_ACCERR.
pub(crate) fn written_page(fault: &Fault, host: &HostFault) -> Option<Gva> {
    const SIGSEGV: i32 = 11;
    const SEGV_ACCERR: i32 = 2;
    let written = fault.vector == Vector::PF && fault.error.unwrap_or(0) & PfError::W != 0;
    (written && (host.signal, host.code) == (SIGSEGV, SEGV_ACCERR)).then_some(fault.addr)
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // Of a process that was killed inside, by the thread that made it.
        self.process.world.come_out(&self.me);
        self.process.world.part(&self.me);
        self.publish_stats();
    }
}
