//! How a guest CPU is to be run.

/// What executes guest instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Engine {
    /// The reference interpreter.
    #[default]
    Interp,
    /// The dynamic binary translator.
    Dbt,
    /// Each translated block is replayed by the interpreter and compared.
    Lockstep,
}

/// Engine settings, fixed for the life of a guest process.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// What executes guest instructions.
    pub engine: Engine,
}
