//! How a guest CPU is to be run.

use crate::Tracing;
use xlat86_arch::CpuModel;
use xlat86_host::CallOut;
use xlat86_translator::Columns;

/// What executes guest instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// The reference interpreter.
    Interp,
    /// The dynamic binary translator.
    #[default]
    Dbt,
    /// Each translated block is replayed by the interpreter and compared.
    Lockstep,
}

/// How translated code reaches the memory of a guest with page tables of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MmuMode {
    /// Through a software TLB, looked up inline.
    Tlb,
    /// Through shadow page tables: host mappings of guest RAM where the guest's page tables put it.
    Shadow,
    /// Shadow page tables where they pay.
    #[default]
    Auto,
}

/// Engine settings, fixed for the life of a guest process.
#[derive(Clone, Debug)]
pub struct Config {
    /// What executes guest instructions.
    pub engine: Engine,
    /// The CPU the guest sees.
    pub model: &'static CpuModel,
    /// Print each unit as it is translated, to standard error.
    pub dump: Option<Columns>,
    /// Events to report as they happen.
    pub tracing: Tracing,
    /// Keep translations of executable files for later runs, and use those of earlier ones.
    pub keep_code: bool,
    /// Does what system calls at certain places do ([`crate::Process::call_out_at`]), without translated code being left.
    pub call_out: Option<CallOut>,
    /// Write /tmp/perf-PID.map for perf(1).
    pub perf_map: bool,
    /// How a guest system's memory is reached.
    pub mmu: MmuMode,
    /// The translator's own settings.
    pub translator: xlat86_translator::Config,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            engine: Engine::default(),
            model: CpuModel::MAX,
            dump: None,
            tracing: Tracing::default(),
            keep_code: false,
            call_out: None,
            perf_map: false,
            mmu: MmuMode::default(),
            translator: xlat86_translator::Config::default(),
        }
    }
}
