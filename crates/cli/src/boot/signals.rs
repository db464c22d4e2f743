//! Signals that end the run: the machine stops between two instructions and the terminal is restored.

use super::terminal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use xlat86_machine::{Control, Request};

/// The signal that came, if any.
pub(super) struct Received(Arc<AtomicI32>);

impl Received {
    /// The exit status that says which.
    pub(super) fn status(&self) -> Option<u8> {
        let n = self.0.load(Ordering::SeqCst);
        (n != 0).then_some(128 + n as u8)
    }
}

/// From now on such a signal ends the run in good order, and a second one at once.
pub(super) fn watch(control: Control) -> std::io::Result<Received> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    let received = Arc::<AtomicI32>::default();
    let note = received.clone();
    let wait = move || {
        for signal in signals.forever() {
            if note.swap(signal, Ordering::SeqCst) != 0 {
                terminal::restore();
                std::process::exit(128 + signal);
            }
            let control = control.clone();
            // Asking waits for the machine, which may be stuck: a second signal must still be heard.
            std::thread::spawn(move || control.ask(Request::Quit));
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(Received(received))
}
