//! Virtio console with one port. (Virtual I/O Device Version 1.2, section 5.3.)

use super::dma::serve_all;
use super::{Backend, Dma, Malformed};
use crate::console::{Input, Output};
use std::io::{Read, Write};
use virtio_queue::Queue;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// The device.
pub struct Console {
    input: Input,
    output: Output,
}

impl Console {
    /// A console that writes to `output` and receives `input`.
    #[must_use]
    pub fn new(input: Input, output: Output) -> Console {
        Console { input, output }
    }

    fn receive(&mut self, queue: &mut Queue, dma: &Dma) -> Result<bool, Malformed> {
        let mut used = false;
        while !self.input.is_empty() {
            let Some(mut chain) = dma.next(queue)? else { break };
            let bytes = self.input.take(chain.writer.available_bytes());
            chain.writer.write_all(&bytes).map_err(|_| Malformed)?;
            dma.finish(queue, chain, bytes.len() as u32)?;
            used = true;
        }
        Ok(used)
    }
}

impl Backend for Console {
    fn kind(&self) -> (u16, [u8; 3]) {
        (3, [0x07, 0x80, 0x00])
    }
    fn features(&self) -> u64 {
        0
    }
    fn queues(&self) -> &'static [u16] {
        &[64, 64]
    }
    fn config(&self) -> Vec<u8> {
        // Size of the terminal and number of ports: fields of features that aren't offered.
        vec![0; 12]
    }
    fn serve(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<bool, Malformed> {
        if index == RECEIVE {
            return self.receive(queue, dma);
        }
        debug_assert_eq!(index, TRANSMIT);
        let used = serve_all(queue, dma, |chain| {
            let mut piece = [0; 4096];
            loop {
                match chain.reader.read(&mut piece) {
                    Ok(0) => return Ok(0),
                    // A terminal that went away loses output; the guest isn't told.
                    Ok(n) => drop(self.output.write_all(&piece[..n])),
                    Err(_) => return Err(Malformed),
                }
            }
        });
        self.output.send();
        used
    }
    fn waiting(&self) -> Option<usize> {
        (!self.input.is_empty()).then_some(RECEIVE)
    }
}
