//! `--trace decode,block,exit,fault`: what the translator's engine does, a line for each event.
//!
//! Where nothing is traced this costs one test on paths that are slow anyway, and nothing in translated code.

use std::fmt;
use std::sync::Arc;

/// Takes a line.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// Events of the engine.
#[derive(Clone, Default)]
pub struct Tracing {
    /// Guest instructions as they are decoded for translation.
    pub decode: bool,
    /// Translations made.
    pub block: bool,
    /// Times translated code is left, and why.
    pub exit: bool,
    /// Host faults in translated code.
    pub fault: bool,
    /// Where lines go; nowhere when there is none.
    pub to: Option<Sink>,
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tracing { decode, block, exit, fault, to } = self;
        write!(f, "Tracing({decode} {block} {exit} {fault} {})", to.is_some())
    }
}

impl Tracing {
    /// Is anything to be traced?
    #[must_use]
    pub fn any(&self) -> bool {
        self.decode || self.block || self.exit || self.fault
    }

    /// Writes what `text` gives, if `on` (one of the switches).
    #[inline]
    pub(crate) fn line(&self, on: bool, text: impl FnOnce() -> String) {
        if on && let Some(to) = &self.to {
            text().lines().for_each(|l| to(l));
        }
    }
}
