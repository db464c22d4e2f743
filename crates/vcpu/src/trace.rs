//! `--trace decode,block,exit,fault`: what the translator's engine does, a line for each event.
//!
//! Where nothing is traced this costs one test on paths that are slow anyway, and nothing in translated code.

use crate::Vcpu;
use std::fmt;
use std::sync::Arc;
use xlat86_host::{HostFault, Left};
use xlat86_translator::Place;

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
    /// Host faults in translated code; of a system exceptions, too.
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

impl Vcpu {
    /// Translated code was left at `site`, towards `target` if that was an indirect jump.
    #[inline]
    pub(crate) fn trace_exit(&self, left: Left, site: u64, target: u64) {
        let trace = &self.process.config().tracing;
        trace.line(trace.exit, || match self.process.cache().place(site, left == Left::Call) {
            Some(Place::Exit(x)) => format!("exit {:08x} {:?}", x.eip, x.kind),
            Some(Place::Miss) => format!("exit to {:08x}, not translated", target as u32),
            Some(Place::Inside(m)) => format!("exit {:08x} {left:?}", m.eip),
            None => format!("exit {left:?}"),
        });
    }

    /// The guest instruction at `eip` met with a host fault.
    #[inline]
    pub(crate) fn trace_fault(&self, eip: u32, host: HostFault) {
        let trace = &self.process.config().tracing;
        trace.line(trace.fault, || {
            let HostFault { addr, error, trapno, signal, .. } = host;
            format!("fault {eip:08x} trap {trapno} error {error:#x} address {addr:#x} signal {signal}")
        });
    }
}
