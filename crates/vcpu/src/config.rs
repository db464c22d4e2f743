//! How a guest CPU is to be run.

use xlat86_arch::CpuModel;

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

/// Engine settings, fixed for the life of a guest process.
#[derive(Clone, Debug)]
pub struct Config {
    /// What executes guest instructions.
    pub engine: Engine,
    /// The CPU the guest sees.
    pub model: &'static CpuModel,
    /// The translator's own settings.
    pub translator: xlat86_translator::Config,
}

impl Default for Config {
    fn default() -> Self {
        Config { engine: Engine::default(), model: CpuModel::MAX, translator: xlat86_translator::Config::default() }
    }
}
