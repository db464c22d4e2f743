//! A machine's life: made, loaded, run until it ends, and made again when it resets.

use crate::board::End;
use crate::boot::{Boot, BootError};
use crate::clock::{Clock, Nanos, SECOND, TSC_HZ, TimeSource, ticks};
use crate::console::{Input, Output};
use crate::control::{Control, Pending};
use crate::pc::{Parts, Pc};
use crate::pci;
use crate::virtio::{Backend, Block, Console, Disk, Rng};
use crate::{Doorbell, Report, Sink, acpi, doorbell::Alarm, tsc};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use xlat86_host::signals;
use xlat86_softmmu::PhysMemory;
use xlat86_vcpu::{Config, Engine, Exit, Io, Process, Vcpu};

/// The CPU leaves guest code at least this often, so that output without an end of line shows.
const HEARTBEAT: Nanos = SECOND / 50;

/// Most disks: the PCI bus has that many slots besides those of its bridge, the console and the entropy device.
pub const MOST_DISKS: usize = pci::SLOTS - 3;

/// Which of the guest's consoles the terminal is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Terminal {
    /// The first serial port: ttyS0.
    #[default]
    Serial,
    /// The virtio console: hvc0.
    Virtio,
}

/// What a machine is made from. A reset makes it again from the same.
pub struct Options {
    /// RAM in bytes.
    pub ram_bytes: u64,
    /// What to start.
    pub boot: Boot,
    /// Disks, in the order of their slots.
    pub disks: Vec<Arc<Mutex<Disk>>>,
    /// Which console the terminal is.
    pub terminal: Terminal,
    /// What the terminal shows.
    pub output: Sink,
    /// Told what the user should know.
    pub report: Report,
    /// How the CPU runs.
    pub config: Config,
    /// What makes guest time pass.
    pub time: TimeSource,
    /// A reset ends the run.
    pub no_reboot: bool,
}

/// Why a machine couldn't be made, or stopped without the guest's doing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was to be started can't be.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
    /// Translated code doesn't count the guest's instructions.
    #[error(
        "instructions can't be the clock of translated code, which doesn't count them: use the interpreter or lockstep"
    )]
    Uncounted,
    /// The CPU couldn't be made.
    #[error(transparent)]
    Cpu(#[from] xlat86_vcpu::Error),
    /// There are more disks than slots for them.
    #[error("{0} disks: there is room for {MOST_DISKS}")]
    TooManyDisks(usize),
    /// The CPU can't go on: an instruction has no meaning yet, or lockstep found a difference.
    #[error("the CPU can't go on: {0}")]
    Stuck(String),
}

/// A machine that can be run, and asked while it runs.
pub struct Machine {
    options: Options,
    input: Input,
    bell: Doorbell,
    control: Control,
    requests: Receiver<Pending>,
    made: tsc::Reading,
}

impl Machine {
    /// A machine made from `options`, switched off.
    #[must_use]
    pub fn new(options: Options) -> Machine {
        let bell = Doorbell::default();
        let (control, requests) = Control::new(bell.clone());
        let made = tsc::Reading::take();
        Machine { options, input: Input::default(), bell, control, requests, made }
    }

    /// Where requests go while it runs.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Gives `bytes` to the console that the terminal is; from any thread.
    pub fn keyboard(&self) -> impl Fn(&[u8]) + Send + use<> {
        let (input, bell) = (self.input.clone(), self.bell.clone());
        move |bytes| {
            input.push(bytes);
            bell.ring();
        }
    }

    /// Runs until the end; gives what the CPU's counters came to as well.
    pub fn run(&mut self) -> Result<(End, xlat86_vcpu::Stats), Error> {
        // Handlers of other threads' signals must not run on this thread while its stack pointer is the translated code's.
        let mask = signals::mask();
        signals::set_mask(u64::MAX);
        let tsc_hz = match self.options.time {
            TimeSource::Host => self.made.hz(),
            TimeSource::Instructions => TSC_HZ,
        };
        let end = loop {
            let end = Powered::on(&self.options, &self.input, &self.bell, tsc_hz).and_then(|p| p.run(&self.requests));
            if !matches!(end, Ok((End::Reset, _))) || self.options.no_reboot {
                break end;
            }
        };
        signals::set_mask(mask);
        end
    }
}

/// The devices, shared by the CPU's port accesses and the loop around it.
struct Shared {
    pc: Pc,
    /// Stops the CPU when a device has something to do; `None` where instructions are the clock, and the CPU is told after how many.
    alarm: Option<Alarm>,
    bell: Doorbell,
    /// The loop knows that an interrupt waits: accesses needn't stop the CPU for it.
    noticed: bool,
}

impl Shared {
    /// When the CPU is to leave guest code at the latest.
    fn next(&self) -> Nanos {
        self.pc.deadline().unwrap_or(Nanos::MAX).min(self.pc.clock.now() + HEARTBEAT)
    }

    /// After an access: the CPU is to stop if there is something that its loop doesn't know.
    fn look(&mut self) {
        if self.pc.power.ended().is_some() || !self.noticed && self.pc.intr() {
            self.bell.stop_cpu();
        }
    }
}

/// The CPU's view of the devices.
struct Ports {
    shared: Arc<Mutex<Shared>>,
    tsc_hz: u64,
    host_clock: bool,
}

fn lock(m: &Arc<Mutex<Shared>>) -> MutexGuard<'_, Shared> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Io for Ports {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        let mut s = lock(&self.shared);
        let value = s.pc.bus().read(port, size);
        if s.pc.bus().has(port) {
            s.look();
        }
        value
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        let mut s = lock(&self.shared);
        // A timer that was set to an earlier time must not wait for the one that the alarm is set to.
        if s.pc.bus().write(port, size, value) {
            match &s.alarm {
                Some(alarm) => alarm.set(Some(s.next())),
                // The loop tells the CPU anew.
                None => s.bell.stop_cpu(),
            }
        }
        if s.pc.bus().has(port) {
            s.look();
        }
    }

    fn retired(&mut self, insns: u64) {
        lock(&self.shared).pc.clock.retired(insns);
    }

    fn tsc(&mut self) -> u64 {
        match &lock(&self.shared).pc.clock {
            clock if clock.counts_instructions() => ticks(clock.now(), self.tsc_hz),
            _ => xlat86_host::tsc(),
        }
    }

    fn tsc_hz(&self) -> Option<u64> {
        Some(self.tsc_hz)
    }

    fn is_host_clock(&self) -> bool {
        self.host_clock
    }

    fn read_msr(&mut self, msr: u32) -> Option<u64> {
        crate::msr::read(msr)
    }

    fn write_msr(&mut self, msr: u32, _value: u64) -> Option<()> {
        crate::msr::write(msr)
    }
}

/// A machine that is switched on.
pub(crate) struct Powered {
    shared: Arc<Mutex<Shared>>,
    clock: Clock,
    pub(crate) memory: Arc<PhysMemory>,
    process: Arc<Process>,
    pub(crate) vcpu: Vcpu,
    bell: Doorbell,
    report: Report,
    pub(crate) input: Input,
    pub(crate) paused: bool,
}

impl Powered {
    fn on(options: &Options, input: &Input, bell: &Doorbell, tsc_hz: u64) -> Result<Powered, Error> {
        let host = |what| move |source| Error::Host { what, source };
        if options.disks.len() > MOST_DISKS {
            return Err(Error::TooManyDisks(options.disks.len()));
        }
        let memory = PhysMemory::new(options.ram_bytes).map_err(host("RAM"))?;
        let counted = options.time == TimeSource::Instructions;
        if counted && options.config.engine == Engine::Dbt {
            return Err(Error::Uncounted);
        }
        let clock = Clock::start(options.time);
        let pc = Pc::new(&memory, parts(options, input), clock.clone()).map_err(host("mapping RAM for devices"))?;
        let alarm = if counted {
            None
        } else {
            Some(Alarm::new(clock.clone(), bell.clone()).map_err(host("the alarm's thread"))?)
        };
        let shared = Arc::new(Mutex::new(Shared { pc, alarm, bell: bell.clone(), noticed: false }));
        let process = Process::system(memory.clone(), options.config.clone())?;
        let mut vcpu =
            Vcpu::system(&process, Box::new(Ports { shared: shared.clone(), tsc_hz, host_clock: !counted }))?;
        bell.connect(vcpu.kicker());
        // The area is RAM in every machine that has a MiB of it; one that hasn't can't boot what looks for tables.
        let rsdp = acpi::write(&memory).unwrap_or(0);
        options.boot.load(&memory, vcpu.state_mut(), rsdp)?;
        let (bell, report, input) = (bell.clone(), options.report.clone(), input.clone());
        Ok(Powered { shared, clock, memory, process, vcpu, bell, report, input, paused: false })
    }

    pub(crate) fn with_pc<T>(&self, f: impl FnOnce(&mut Pc) -> T) -> T {
        f(&mut lock(&self.shared).pc)
    }

    pub(crate) fn stats(&mut self) -> xlat86_vcpu::Stats {
        self.vcpu.publish_stats();
        self.process.stats()
    }

    /// The loop around the CPU: deals with whatever has come up, delivers interrupts, and runs guest code.
    fn run(mut self, requests: &Receiver<Pending>) -> Result<(End, xlat86_vcpu::Stats), Error> {
        loop {
            self.bell.answer();
            while let Ok((request, reply)) = requests.try_recv() {
                // Whoever asked may have stopped waiting.
                let _ = reply.send(self.carry_out(request));
            }
            if let Some(end) = self.with_pc(|pc| pc.power.ended()) {
                return Ok((end, self.stats()));
            }
            if self.paused {
                self.bell.sleep(None);
                continue;
            }
            let exit = match self.interrupts() {
                Some(exit) => exit,
                None => self.vcpu.run(),
            };
            self.clock.retired(self.vcpu.retired());
            match exit {
                Exit::Interrupted | Exit::InterruptWindow => {}
                Exit::Halt => self.idle(),
                Exit::Shutdown => {
                    let cpu = crate::debug::describe_registers(self.vcpu.state());
                    (self.report)(&format!("the guest's CPU has shut down (triple fault):\n{cpu}"));
                    self.with_pc(|pc| pc.power.end(End::Reset));
                }
                Exit::Unimplemented(what) | Exit::Diverged(what) => return Err(Error::Stuck(what)),
                other @ (Exit::Fault(_) | Exit::SoftInt(_)) => return Err(Error::Stuck(format!("{other:?}"))),
            }
        }
    }

    /// Lets devices do what is due, and gives the CPU an interrupt if one waits and it can take it.
    pub(crate) fn interrupts(&mut self) -> Option<Exit> {
        self.clock.retired(self.vcpu.retired());
        let mut s = lock(&self.shared);
        s.pc.tick();
        let next = s.next();
        if let Some(alarm) = &s.alarm {
            alarm.set(Some(next));
        }
        if let Some(insns) = self.clock.insns_at(next) {
            // Whatever devices want: time passes only if the CPU gets on.
            self.vcpu.stop_at(insns.max(self.vcpu.retired() + 1));
        }
        let waits = s.pc.intr();
        let take = waits && self.vcpu.interrupt_ready();
        s.noticed = waits && !take;
        let vector = take.then(|| s.pc.acknowledge());
        // Another one may wait behind the one that is taken.
        s.noticed |= take && s.pc.intr();
        let more = s.noticed;
        drop(s);
        self.vcpu.want_window(more);
        vector.and_then(|v| self.vcpu.inject(v))
    }

    /// The guest waits for an interrupt: so does the host.
    fn idle(&mut self) {
        let left = {
            let mut s = lock(&self.shared);
            s.pc.tick();
            if s.pc.intr() && self.vcpu.interrupt_ready() {
                return;
            }
            let now = s.pc.clock.now();
            if let Some(alarm) = &s.alarm {
                alarm.set(None);
            }
            s.pc.deadline().map(|t| t.saturating_sub(now))
        };
        if left != Some(0) {
            let start = Instant::now();
            let rung = self.bell.sleep(left);
            let slept = start.elapsed().as_nanos() as Nanos;
            // Whatever the host makes of it, a whole sleep is as long as was asked for.
            let time = left.map_or(slept, |left| if rung { slept.min(left) } else { left });
            self.clock.halted(time);
        }
    }
}

fn parts(options: &Options, input: &Input) -> Parts {
    let output = || Output::new(options.output.clone());
    let (serial, console) = match options.terminal {
        Terminal::Serial => ((input.clone(), output()), (Input::default(), Output::nowhere())),
        Terminal::Virtio => ((Input::default(), Output::nowhere()), (input.clone(), output())),
    };
    let second = (Input::default(), Output::nowhere());
    let disk = |(n, d): (usize, &Arc<Mutex<Disk>>)| -> Box<dyn Backend> {
        Box::new(Block::new(d.clone(), n, options.report.clone()))
    };
    let mut virtio: Vec<Box<dyn Backend>> = options.disks.iter().enumerate().map(disk).collect();
    virtio.push(Box::new(Console::new(console.0, console.1)));
    virtio.push(Box::new(Rng));
    Parts { serial: vec![serial, second], debug_console: output(), virtio, fw_cfg: Vec::new() }
}
