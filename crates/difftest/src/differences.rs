//! What is different between two outcomes, in words.

use crate::case::NAMES;
use crate::undefined::Undefined;
use core::fmt::{Debug, Write as _};
use xlat86_arch::FxState;

/// The registers that outcomes are compared by.
#[derive(Clone, Copy)]
pub(crate) struct Registers<'a> {
    pub(crate) gpr: &'a [u32; 8],
    pub(crate) eip: u32,
    pub(crate) eflags: u32,
    pub(crate) fx: &'a FxState,
}

/// A line for each difference found so far.
#[derive(Default)]
pub(crate) struct Differences(String);

impl Differences {
    /// Notes that `name` is `a` here and `b` there, if it is.
    pub(crate) fn note(&mut self, name: &str, a: &dyn Debug, b: &dyn Debug) {
        let (a, b) = (format!("{a:x?}"), format!("{b:x?}"));
        if a != b {
            let _ = writeln!(self.0, "  {name}: {a}, but {b}");
        }
    }

    /// Compares registers, leaving out what `except` lists; `faulted`: what it lists for faults too. The x87 pointers aren't compared: the
    /// host forgets them at task switches.
    pub(crate) fn registers(&mut self, a: Registers<'_>, b: Registers<'_>, except: &Undefined, faulted: bool) {
        for (i, name) in NAMES.iter().enumerate() {
            if !(faulted && except.registers_on_fault >> i & 1 != 0) {
                self.note(name, &a.gpr[i], &b.gpr[i]);
            }
        }
        self.note("eip", &a.eip, &b.eip);
        self.note("eflags", &(a.eflags & !except.flags), &(b.eflags & !except.flags));
        let control = |f: &FxState| (f.fcw, f.fsw, f.ftw, f.mxcsr);
        self.note("fcw, fsw, ftw, mxcsr", &control(a.fx), &control(b.fx));
        for i in 0..8 {
            self.note(&format!("st{i}"), &a.fx.st[i], &b.fx.st[i]);
            self.note(&format!("xmm{i}"), &a.fx.xmm[i], &b.fx.xmm[i]);
        }
    }

    /// All of them, if there are any.
    pub(crate) fn text(self) -> Option<String> {
        (!self.0.is_empty()).then_some(self.0)
    }
}
