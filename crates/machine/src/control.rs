//! Requests to a running machine, from the control socket and from the monitor: one set for both.
//!
//! They are carried out by the thread that runs the CPU, between two guest instructions.

use crate::Doorbell;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What can be asked for. As JSON: `{"do": "read", "address": 4096, "length": 16}`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The CPU's registers.
    Registers,
    /// Guest memory, by linear address or by physical address.
    Read {
        /// Where.
        address: u64,
        /// How many bytes, at most a MiB.
        length: usize,
        /// By physical address.
        #[serde(default)]
        physical: bool,
    },
    /// Text about a part of the machine.
    Info {
        /// Which.
        about: About,
    },
    /// Input for the console that the terminal is: the first serial port, or the virtio console.
    Serial {
        /// The characters.
        text: String,
    },
    /// A key of the keyboard; pressed and released unless `press` says which.
    Key {
        /// Its name, such as `a`, `enter` or `shift`.
        name: String,
        /// Pressed or released.
        press: Option<bool>,
    },
    /// Presses the power button: the operating system shuts down.
    PowerButton,
    /// Stops the CPU.
    Pause,
    /// Lets it go on.
    Resume,
    /// Executes instructions while paused.
    Step {
        /// How many, at most a million.
        #[serde(default = "one")]
        count: u32,
    },
    /// Ends the run at once.
    Quit,
}

fn one() -> u32 {
    1
}

/// Parts of the machine that there is something to tell about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum About {
    /// The CPU's registers, as text.
    Registers,
    /// Interrupt controllers.
    Irq,
    /// Counters of the TLB.
    Tlb,
    /// Counters of shadow page tables.
    Shadow,
    /// Counters of translated blocks.
    Blocks,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It has been done.
    Done,
    /// Registers by name.
    Registers(BTreeMap<String, u32>),
    /// Bytes in hexadecimal.
    Memory(String),
    /// For people.
    Text(String),
    /// It can't be done, and why.
    Error(String),
}

/// A request on its way, with where the answer goes.
pub(crate) type Pending = (Request, Sender<Answer>);

/// The end that asks. Any thread may have one.
#[derive(Clone)]
pub struct Control {
    to: Sender<Pending>,
    bell: Doorbell,
}

impl Control {
    /// Both ends; requests ring `bell`.
    pub(crate) fn new(bell: Doorbell) -> (Control, Receiver<Pending>) {
        let (to, from) = channel();
        (Control { to, bell }, from)
    }

    /// Asks, and waits for the answer.
    #[must_use]
    pub fn ask(&self, request: Request) -> Answer {
        let gone = || Answer::Error("the machine is gone".to_owned());
        let (reply, answer) = channel();
        if self.to.send((request, reply)).is_err() {
            return gone();
        }
        self.bell.ring();
        answer.recv().unwrap_or_else(|_| gone())
    }
}
