//! The two ends of a console: bytes that wait for the guest, and bytes that it has written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Input that other threads have pushed and a device has not taken yet.
#[derive(Clone, Default)]
pub struct Input(Arc<Mutex<VecDeque<u8>>>);

impl Input {
    /// Appends `bytes`. The machine's doorbell is to be rung afterwards.
    pub fn push(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
    }

    /// Removes at most `max` bytes.
    #[must_use]
    pub fn take(&self, max: usize) -> Vec<u8> {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n = max.min(queue.len());
        queue.drain(..n).collect()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Bytes kept before they are sent, so that a kernel's messages don't cost a system call for each character.
const BUFFER: usize = 512;

/// What shows a console's output; several devices, and the user's messages, may share one.
pub type Sink = Arc<Mutex<dyn Write + Send>>;

/// Where a device's output goes. Sent at the end of a line, when there is much of it, and with every tick.
pub struct Output {
    to: Sink,
    buffer: Vec<u8>,
}

impl Output {
    /// Output to `to`.
    #[must_use]
    pub fn new(to: Sink) -> Output {
        Output { to, buffer: Vec::with_capacity(BUFFER) }
    }

    /// Output to nowhere.
    #[must_use]
    pub fn nowhere() -> Output {
        Output::new(Arc::new(Mutex::new(io::sink())))
    }

    /// Output that a test can look at.
    #[cfg(test)]
    pub(crate) fn recorder() -> (Output, Arc<Mutex<Vec<u8>>>) {
        struct Recorder(Arc<Mutex<Vec<u8>>>);
        impl Write for Recorder {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        (Output::new(Arc::new(Mutex::new(Recorder(kept.clone())))), kept)
    }

    /// Sends what is kept. A closed terminal or pipe loses it: the guest is not to notice.
    pub fn send(&mut self) {
        if !self.buffer.is_empty() {
            let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = to.write_all(&self.buffer).and_then(|()| to.flush());
            drop(to);
            self.buffer.clear();
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend(bytes);
        if bytes.contains(&b'\n') || self.buffer.len() >= BUFFER {
            self.send();
        }
        Ok(bytes.len())
    }

    /// Nothing: devices flush after each byte.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.send();
    }
}
