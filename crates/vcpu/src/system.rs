//! A CPU that carries a whole system: events go through the guest's IDT, and others make it stop.

pub(crate) mod spaces;
pub(crate) mod window;

use crate::platform::{Io, Surroundings};
use crate::vcpu::Resolution;
use crate::{Engine, Error, Exit, Process, Vcpu};
use iced_x86::Code;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use xlat86_arch::{CpuState, Gva, Vector, eflags};
use xlat86_host::{signals, with_pending};
use xlat86_interp::{Event, Stop, note_fault};
use xlat86_softmmu::{Mmu, TlbMemory};

/// Makes a CPU's [`Vcpu::run`] return [`Exit::Interrupted`] soon, from any thread.
#[derive(Clone, Debug)]
pub struct Kicker {
    kicked: Arc<AtomicBool>,
    pid: i32,
    tid: i32,
    thread: ThreadId,
}

impl Kicker {
    fn current() -> Kicker {
        Kicker {
            kicked: Arc::default(),
            pid: signals::process_id(),
            tid: signals::thread_id(),
            thread: thread::current().id(),
        }
    }

    /// The CPU stops between two instructions, or doesn't start.
    pub fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.rouse();
    }

    /// Has the CPU look for what it has to attend to.
    fn rouse(&self) {
        if thread::current().id() == self.thread {
            signals::kick_self();
        } else {
            signals::kick(self.pid, self.tid);
        }
    }
}

/// What a system's CPU has besides.
pub(crate) struct System {
    kicker: Kicker,
    pub(crate) nmi_pending: bool,
    pub(crate) window_wanted: bool,
    pub(crate) spaces: spaces::Spaces,
    pub(crate) memo: crate::quick::Memo,
    pub(crate) worlds: crate::crossing::Worlds,
    pub(crate) windows: window::Windows,
    /// How often each instruction was stepped over, by its code.
    pub(crate) stepped: Vec<u64>,
    /// [`Vcpu::stop_at`].
    stop_at: u64,
    /// The changes of physical memory that have been attended to.
    memory_seen: u64,
}

impl Vcpu {
    /// A CPU of a system, in its state after reset, on the current thread. `process` was made by [`Process::system`].
    pub fn system(process: &Arc<Process>, io: Box<dyn Io>) -> Result<Vcpu, Error> {
        let Some(memory) = process.physical() else {
            let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(Error::Host { what: "a system's CPU needs a system's memory", source });
        };
        let kicker = Kicker::current();
        let listener = kicker.clone();
        memory.set_listener(Box::new(move || listener.rouse()));
        let mut state = CpuState::reset();
        // There is no local APIC: its enable bit is 0, and so is CPUID's (SDM vol. 3A, 11.4.3).
        state.msr.apic_base = 0;
        let tlb = TlbMemory::new().map_err(|source| Error::Host { what: "no memory for the software TLB", source })?;
        let mmu = Mmu::paged(memory.clone(), &tlb, process.config().model.physical_address_bits());
        let system = System {
            kicker,
            nmi_pending: false,
            window_wanted: false,
            stop_at: u64::MAX,
            memory_seen: memory.changes(),
            spaces: spaces::Spaces::new(),
            memo: crate::quick::Memo::new(),
            worlds: crate::crossing::Worlds::default(),
            windows: window::Windows::default(),
            stepped: Vec::new(),
        };
        Self::made(process, state, mmu, Surroundings::system(io), Some(system), Some(tlb))
    }

    pub(crate) fn system_mut(&mut self) -> &mut System {
        self.system.as_mut().expect("a system's CPU")
    }

    /// Something that makes [`Vcpu::run`] return from any thread.
    ///
    /// # Panics
    /// For a user program's CPU.
    #[must_use]
    pub fn kicker(&self) -> Kicker {
        self.system.as_ref().expect("a system's CPU").kicker.clone()
    }

    /// Would an external interrupt be taken now?
    #[must_use]
    pub fn interrupt_ready(&self) -> bool {
        self.state.eflags & eflags::IF != 0 && !self.state.interrupt_shadow
    }

    /// Asks for [`Exit::InterruptWindow`] as soon as [`Vcpu::interrupt_ready`], or no longer.
    pub fn want_window(&mut self, wanted: bool) {
        self.system_mut().window_wanted = wanted;
        self.interp.watch_window(wanted);
    }

    /// Guest instructions executed so far. Only the interpreter and lockstep count them; a repeated string instruction counts once, in lockstep
    /// each slice of one.
    #[must_use]
    pub fn retired(&self) -> u64 {
        self.interp.retired()
    }

    /// [`Vcpu::run`] returns [`Exit::Interrupted`] once `insns` instructions have been executed in all, or (lockstep) at the end of the run of code that
    /// has reached that number. Not for engines that don't count.
    pub fn stop_at(&mut self, insns: u64) {
        self.system_mut().stop_at = insns;
    }

    /// Instructions left to [`Vcpu::stop_at`].
    fn left_to_run(&self) -> u64 {
        let counts = self.process.config().engine != Engine::Dbt;
        let stop_at = self.system.as_ref().filter(|_| counts).map_or(u64::MAX, |s| s.stop_at);
        stop_at.saturating_sub(self.interp.retired())
    }

    /// Has that number been reached?
    pub(crate) fn is_time_up(&self) -> bool {
        self.left_to_run() == 0
    }

    /// Delivers external interrupt `vector`; only when [`Vcpu::interrupt_ready`]. `None` unless that ended in a shutdown.
    pub fn inject(&mut self, vector: u8) -> Option<Exit> {
        self.deliver(Event::External(Vector(vector)))
    }

    /// Raises a non-maskable interrupt, to be taken when no other one is being handled.
    pub fn nmi(&mut self) {
        self.system_mut().nmi_pending = true;
        signals::kick_self();
    }

    /// What was stepped over most.
    pub(crate) fn most_interpreted(&self) -> [Option<(Code, u64)>; 16] {
        let stepped = self.system.as_ref().map_or(&[][..], |s| &s.stepped);
        let mut all: Vec<_> = Code::values().zip(stepped.iter().copied()).filter(|c| c.1 != 0).collect();
        all.sort_by_key(|c| core::cmp::Reverse(c.1));
        core::array::from_fn(|i| all.get(i).copied())
    }

    /// Reads guest memory as a debugger does, at linear address `gva`: nothing changes. False when not all of it is mapped memory.
    #[must_use]
    pub fn guest_read(&mut self, gva: u32, to: &mut [u8]) -> bool {
        self.mmu.sync(&self.state);
        self.mmu.peek_bytes(Gva(gva), to)
    }

    /// Executes one instruction on the interpreter, or delivers the event that it raises: for a debugger. `None`: it completed.
    pub fn step(&mut self) -> Option<Exit> {
        if let Some(exit) = self.attend() {
            return Some(exit);
        }
        self.fx_mut();
        self.see_changes();
        let stop = self.step_alone();
        self.settle(stop)
    }

    /// Executes the instruction at EIP, fetched afresh, or some iterations of it if something asynchronous waits.
    fn step_alone(&mut self) -> Stop {
        let (state, mmu, platform) = (&mut self.state, &mut self.mmu, &mut self.platform);
        with_pending(|flag| self.interp.step_after(state, mmu, platform, false, flag, |_, _| ()))
    }

    pub(crate) fn run_system(&mut self) -> Exit {
        if self.process.config().engine != Engine::Interp {
            return self.run_system_translated();
        }
        let process = self.process.clone();
        loop {
            if let Some(exit) = self.attend() {
                return exit;
            }
            process.world.go_inside(&self.me);
            self.see_changes();
            let left = self.left_to_run();
            let stop =
                with_pending(|flag| self.interp.run(&mut self.state, &mut self.mmu, &mut self.platform, flag, left));
            process.world.come_out(&self.me);
            if let Some(exit) = self.settle(stop) {
                return exit;
            }
        }
    }

    /// Between two instructions: deals with whatever has come up from outside. `None`: go on.
    pub(crate) fn attend(&mut self) -> Option<Exit> {
        signals::attended();
        self.see_memory();
        let state = &self.state;
        let (shadow, masked, halted) = (state.interrupt_shadow, state.nmi_masked, state.halted);
        let (ready, time_up) = (self.interrupt_ready(), self.is_time_up());
        let system = self.system_mut();
        if system.kicker.kicked.swap(false, Ordering::SeqCst) || Vcpu::pending() || time_up {
            return Some(Exit::Interrupted);
        }
        if system.nmi_pending && !masked && !shadow {
            system.nmi_pending = false;
            let exit = self.deliver(Event::External(Vector::NMI));
            self.state.nmi_masked = true;
            return exit;
        }
        if system.window_wanted && ready {
            return Some(Exit::InterruptWindow);
        }
        halted.then_some(Exit::Halt)
    }

    /// Drops what was derived from code that devices have written.
    fn see_memory(&mut self) {
        let process = self.process.clone();
        let Some(memory) = process.physical() else { return };
        let now = memory.changes();
        if now != self.system_mut().memory_seen {
            self.system_mut().memory_seen = now;
            self.mmu.sync(&self.state);
            for page in memory.take_dropped() {
                process.drop_physical(page);
                self.interp.invalidate_page(page);
            }
        }
    }

    /// Deals with the reason for which the interpreter stopped. `None`: go on.
    pub(crate) fn settle(&mut self, stop: Stop) -> Option<Exit> {
        match stop {
            // What `attend` finds.
            Stop::Budget | Stop::Interrupted | Stop::Window => None,
            Stop::Halt => Some(Exit::Halt),
            Stop::SoftInt(vector) => self.deliver(Event::Software(Vector(vector))),
            Stop::Unimplemented(code) => Some(Exit::Unimplemented(format!("{code:?} at {:08x}", self.state.eip))),
            Stop::Fault(fault) => match self.resolve(fault) {
                Resolution::Retry => {
                    // On its own, so that the page isn't marked as code again before the write.
                    self.fx_mut();
                    let stop = self.step_alone();
                    self.settle(stop)
                }
                Resolution::Exit(_) => self.deliver(Event::Fault(fault)),
            },
        }
    }

    /// Delivers `event` through the IDT, and whatever faults that leads to. `None`: the handler is next.
    pub(crate) fn deliver(&mut self, mut event: Event) -> Option<Exit> {
        if let Event::Fault(fault) = event {
            let (trace, eip) = (&self.process.config().tracing, self.state.eip);
            trace.line(trace.fault, || {
                let error = fault.error.map_or_else(String::new, |e| format!(" error {e:#x}"));
                format!("fault {eip:08x} {:?}{error} address {}", fault.vector, fault.addr)
            });
            note_fault(&mut self.state, &fault);
        }
        if self.process.config().engine != Engine::Interp && self.deliver_at_once(event) {
            return None;
        }
        loop {
            let fault = match self.interp.deliver(&mut self.state, &mut self.mmu, &mut self.platform, event) {
                Stop::Fault(fault) => fault,
                _ => return None,
            };
            if matches!(self.resolve(fault), Resolution::Retry) {
                continue;
            }
            note_fault(&mut self.state, &fault);
            event = match event {
                Event::Fault(first) => match fault.after(first.vector) {
                    Some(next) => Event::Fault(next),
                    None => return Some(Exit::Shutdown),
                },
                _ => Event::Fault(fault),
            };
        }
    }

    /// Was the fault only about writing to a page from which code was derived? Drops that code.
    pub(crate) fn resolve_code_write(&mut self) -> bool {
        let Some(page) = self.mmu.take_code_write() else { return false };
        self.process.world.come_out(&self.me);
        let process = self.process.clone();
        process.drop_physical(page);
        self.interp.invalidate_page(page);
        self.stats.code_writes += 1;
        true
    }
}
