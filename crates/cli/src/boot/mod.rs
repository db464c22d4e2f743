//! `xlat86 boot`: system mode.

mod monitor;
mod signals;
mod socket;
mod terminal;

use crate::engine::EngineOptions;
use clap::{Args, ValueEnum};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
pub(crate) use terminal::restore as restore_terminal;
use xlat86_machine::{Boot, Disk, DiskError, End, Error, Machine, Mode, Options, Terminal, TimeSource};
use xlat86_vcpu::{Engine, MmuMode, Sink, Tracing};

/// Status of a shell that can't execute what it was told to.
const CANNOT_BOOT: u8 = 126;
/// With --no-reboot: the guest was reset, or its CPU shut down (triple fault).
const RESET: u8 = 3;

const HELP: &str = "\
Examples:
  xlat86 boot --kernel vmlinuz --initrd initrd.img --append console=ttyS0
  xlat86 boot --kernel vmlinuz --append 'console=ttyS0 root=/dev/vda' --disk root.img --snapshot -m 1G
  xlat86 boot --kernel test.elf --no-reboot       a multiboot kernel
  xlat86 boot --bios test.rom                     a flat image at the reset vector

Keys: Ctrl-A x quits, Ctrl-A c opens or closes the monitor (type `help` there), Ctrl-A Ctrl-A sends Ctrl-A.

The exit status is 0 when the guest has switched itself off or the user has quit; (v << 1) | 1 after the guest wrote v
to port 0xf4 (3 if v is 1); 3 with --no-reboot when the guest was reset; 126 when it can't be booted; 128 + n when signal n ended
the run; 70 for a bug in xlat86.";

/// Boot a 32-bit operating system on an emulated PC
#[derive(Args)]
#[command(after_help = HELP)]
#[group(id = "what", required = true, multiple = false, args = ["kernel", "bios"])]
pub(crate) struct BootCommand {
    /// A Linux bzImage or a multiboot kernel
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk (several are joined); for multiboot a module, with its command line after the name
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Vec<String>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true, requires = "kernel")]
    append: String,
    /// Firmware whose end is at the end of the address space
    #[arg(long, value_name = "FILE")]
    bios: Option<PathBuf>,
    /// RAM, such as 256M or 2G
    #[arg(short = 'm', long = "memory", value_name = "SIZE", default_value = "512M", value_parser = ram)]
    memory: u64,
    /// A raw disk image for a virtio disk; with `,ro` it can't be written
    #[arg(long, value_name = "FILE[,ro]")]
    disk: Vec<String>,
    /// Forget at the end what the guest has written to its disks
    #[arg(long)]
    snapshot: bool,
    /// Which of the guest's consoles the terminal is
    #[arg(long, value_enum, default_value_t = Console::Serial)]
    console: Console,
    /// End when the guest is reset
    #[arg(long)]
    no_reboot: bool,
    /// Listen on a Unix socket for requests, one JSON object a line
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Print counters at the end
    #[arg(long)]
    stats: bool,
    /// How guest memory is reached
    #[arg(long, value_enum, default_value_t = Mmu::Auto)]
    mmu: Mmu,
    /// What makes guest time pass [default: host; instructions with --engine lockstep]
    #[arg(long, value_enum)]
    clock: Option<ClockName>,
    /// What to trace
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',')]
    trace: Vec<Trace>,
    /// Append the trace to FILE instead of showing it on the terminal
    #[arg(long, value_name = "FILE", requires = "trace")]
    trace_file: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineOptions,
}

#[derive(Clone, Copy, ValueEnum)]
enum Console {
    /// ttyS0
    Serial,
    /// hvc0
    Virtio,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mmu {
    /// Software TLB
    Tlb,
    /// Shadow page tables
    Shadow,
    /// Shadow page tables where they pay
    Auto,
}

#[derive(Clone, Copy, ValueEnum)]
enum ClockName {
    /// The host's clock
    Host,
    /// The guest's instructions: the same ones always find the same time (not with the translator, which doesn't count them)
    Instructions,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Trace {
    /// Instructions decoded for translation
    Decode,
    /// Translations made
    Block,
    /// Why translated code is left, each time
    Exit,
    /// Exceptions of the guest's, and host faults in translated code
    Fault,
}

/// Bytes of RAM: whole MiB, so that they are whole pages too.
fn ram(text: &str) -> Result<u64, String> {
    let bytes = crate::engine::bytes(text)?;
    let whole = bytes.is_multiple_of(1 << 20) && (2 << 20..=3 << 30).contains(&bytes);
    if whole { Ok(bytes) } else { Err("a machine has 2M to 3G, in whole M".to_owned()) }
}

impl BootCommand {
    pub(crate) fn run(self) -> ExitCode {
        let disks = match self.disks() {
            Ok(disks) => disks,
            Err(e) => return cannot(&e),
        };
        let mut options = self.options(disks);
        options.config.tracing = match self.tracing() {
            Ok(tracing) => tracing,
            Err(e) => return cannot(&format!("trace file: {e}")),
        };
        let mut machine = Machine::new(options);
        let control = machine.control();
        let _socket = match self.control.as_deref().map(|path| socket::listen(path, control.clone())).transpose() {
            Ok(socket) => socket,
            Err(e) => return cannot(&format!("control socket: {e}")),
        };
        let signal = match signals::watch(control.clone()) {
            Ok(signal) => signal,
            Err(e) => return cannot(&e),
        };
        let _raw = terminal::raw();
        terminal::read(machine.keyboard(), control);
        let ended = machine.run();
        drop(machine);
        terminal::restore();
        match ended {
            Ok((end, stats)) => {
                if self.stats {
                    eprint!("{stats}");
                }
                ExitCode::from(signal.status().unwrap_or(match end {
                    End::PowerOff | End::Quit => 0,
                    End::Status(status) => status,
                    End::Reset => RESET,
                }))
            }
            Err(e @ Error::Stuck(_)) => {
                eprintln!("xlat86: {e}\nxlat86: please report this with the command that led to it");
                ExitCode::from(xlat86_linux_user::EXIT_BUG as u8)
            }
            Err(e) => cannot(&e),
        }
    }

    fn disks(&self) -> Result<Vec<Arc<Mutex<Disk>>>, DiskError> {
        let open = |text: &String| {
            let (path, mode) = match text.strip_suffix(",ro") {
                Some(path) => (path, Mode::ReadOnly),
                None if self.snapshot => (text.as_str(), Mode::Snapshot),
                None => (text.as_str(), Mode::ReadWrite),
            };
            Ok(Arc::new(Mutex::new(Disk::open(Path::new(path), mode)?)))
        };
        self.disk.iter().map(open).collect()
    }

    fn tracing(&self) -> std::io::Result<Tracing> {
        let traced = |what| self.trace.contains(&what);
        let to: Sink = match &self.trace_file {
            None => Arc::new(|line| terminal::say(&format!("{line}\n"))),
            Some(path) => {
                let file = Mutex::new(File::options().append(true).create(true).open(path)?);
                Arc::new(move |line| {
                    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                    // A full disk costs the trace, not the guest.
                    let _ = writeln!(file, "{line}");
                })
            }
        };
        Ok(Tracing {
            decode: traced(Trace::Decode),
            block: traced(Trace::Block),
            exit: traced(Trace::Exit),
            fault: traced(Trace::Fault),
            to: Some(to),
        })
    }

    fn options(&self, disks: Vec<Arc<Mutex<Disk>>>) -> Options {
        let boot = match (&self.kernel, &self.bios) {
            (Some(kernel), _) => {
                Boot::Kernel { kernel: kernel.clone(), initrd: self.initrd.clone(), append: self.append.clone() }
            }
            (None, bios) => Boot::Bios(bios.clone().unwrap_or_default()),
        };
        let mut config = self.engine.config();
        config.mmu = match self.mmu {
            Mmu::Tlb => MmuMode::Tlb,
            Mmu::Shadow => MmuMode::Shadow,
            Mmu::Auto => MmuMode::Auto,
        };
        Options {
            ram_bytes: self.memory,
            boot,
            disks,
            terminal: match self.console {
                Console::Serial => Terminal::Serial,
                Console::Virtio => Terminal::Virtio,
            },
            output: Arc::new(Mutex::new(std::io::stdout())),
            report: Arc::new(|text| terminal::say(&format!("xlat86: {text}\n"))),
            time: match self.clock {
                Some(ClockName::Host) => TimeSource::Host,
                Some(ClockName::Instructions) => TimeSource::Instructions,
                // By the host's clock ticks of the timer would come faster than they are dealt with.
                None if config.engine == Engine::Lockstep => TimeSource::Instructions,
                None => TimeSource::Host,
            },
            config,
            no_reboot: self.no_reboot,
        }
    }
}

fn cannot(why: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("xlat86: {why}");
    ExitCode::from(CANNOT_BOOT)
}
