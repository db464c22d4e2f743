//! Virtio entropy device: the host's random numbers. (Virtual I/O Device Version 1.2, section 5.4.)

use super::dma::serve_all;
use super::{Backend, Dma, Malformed};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io::Write;
use virtio_queue::Queue;

/// Most bytes given for one request; a guest that wants more asks again.
const MOST: usize = 4096;

/// The device.
pub struct Rng;

impl Backend for Rng {
    fn kind(&self) -> (u16, [u8; 3]) {
        (4, [0x00, 0xff, 0x00])
    }
    fn features(&self) -> u64 {
        0
    }
    fn queues(&self) -> &'static [u16] {
        &[64]
    }
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }
    fn serve(&mut self, _index: usize, queue: &mut Queue, dma: &Dma) -> Result<bool, Malformed> {
        serve_all(queue, dma, |chain| {
            let mut bytes = vec![0; chain.writer.available_bytes().min(MOST)];
            // Short only when a signal interrupts it; the guest sees how much it got.
            let n = getrandom(&mut bytes[..], GetRandomFlags::empty()).unwrap_or(0);
            chain.writer.write_all(&bytes[..n]).map_err(|_| Malformed)?;
            Ok(n as u32)
        })
    }
}
