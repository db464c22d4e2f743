//! Guest memory as devices reach it, and chains of buffers in it.
//!
//! vm-memory maps the same memory file that the CPU's memory is. What is written through this mapping is told to
//! [`PhysMemory`] afterwards, so that translated code in those pages is dropped.

use super::Malformed;
use std::sync::Arc;
use virtio_queue::{DescriptorChain, Queue, QueueT, Reader, Writer};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use xlat86_softmmu::PhysMemory;

/// The hole in RAM where the VGA's memory is.
const HOLE: std::ops::Range<u64> = 0xa_0000..0xc_0000;

/// A device's view of RAM.
pub struct Dma {
    map: GuestMemoryMmap<()>,
    memory: Arc<PhysMemory>,
}

impl Dma {
    /// Maps the RAM of `memory` once more.
    pub fn new(memory: Arc<PhysMemory>) -> std::io::Result<Arc<Dma>> {
        let file = Arc::new(memory.file().try_clone()?);
        let region = |r: std::ops::Range<u64>| {
            (GuestAddress(r.start), (r.end - r.start) as usize, Some(FileOffset::from_arc(file.clone(), r.start)))
        };
        let all = memory.ram_bytes();
        let ranges = [0..HOLE.start.min(all), HOLE.end..all.max(HOLE.end)];
        let ranges: Vec<_> = ranges.into_iter().filter(|r| !r.is_empty()).map(region).collect();
        let map = GuestMemoryMmap::from_ranges_with_files(ranges).map_err(std::io::Error::other)?;
        Ok(Arc::new(Dma { map, memory }))
    }

    /// Takes the next request out of `queue`.
    pub(super) fn next(&self, queue: &mut Queue) -> Result<Option<Chain<'_>>, Malformed> {
        let Some(chain) = queue.pop_descriptor_chain(&self.map) else { return Ok(None) };
        let reader = chain.clone().reader(&self.map).map_err(|_| Malformed)?;
        let writer = chain.clone().writer(&self.map).map_err(|_| Malformed)?;
        Ok(Some(Chain { reader, writer, chain }))
    }

    /// Gives a request back to the guest, `written` bytes of its buffers filled.
    pub(super) fn finish(&self, queue: &mut Queue, chain: Chain<'_>, written: u32) -> Result<(), Malformed> {
        let head = chain.chain.head_index();
        for d in chain.chain.writable() {
            self.memory.written(d.addr().0, d.len().into());
        }
        queue.add_used(&self.map, head, written).map_err(|_| Malformed)
    }

    /// After a queue has been served: whether the guest wants to be interrupted, if buffers were `used`.
    pub(super) fn used(&self, queue: &mut Queue, used: bool) -> Result<bool, Malformed> {
        if !used {
            return Ok(false);
        }
        self.memory.written(queue.used_ring(), 6 + 8 * u64::from(queue.size()));
        queue.needs_notification(&self.map).map_err(|_| Malformed)
    }

    /// Asks to be notified of new requests. True when some came meanwhile.
    pub(super) fn rearm(&self, queue: &mut Queue) -> Result<bool, Malformed> {
        queue.enable_notification(&self.map).map_err(|_| Malformed)
    }
}

/// A request: what the guest has written for the device, and where the device is to write.
pub struct Chain<'a> {
    /// The device reads from here.
    pub reader: Reader<'a>,
    /// The device writes here.
    pub writer: Writer<'a>,
    chain: DescriptorChain<&'a GuestMemoryMmap<()>>,
}

/// Serves every request in `queue` with `one`, which gives the number of bytes it wrote. Tells whether there were any.
pub(super) fn serve_all(
    queue: &mut Queue,
    dma: &Dma,
    mut one: impl FnMut(&mut Chain<'_>) -> Result<u32, Malformed>,
) -> Result<bool, Malformed> {
    let mut used = false;
    loop {
        let mut taken = false;
        while let Some(mut chain) = dma.next(queue)? {
            let written = one(&mut chain)?;
            dma.finish(queue, chain, written)?;
            taken = true;
        }
        used |= taken;
        if !dma.rearm(queue)? {
            return Ok(used);
        }
        if !taken {
            // The ring says that there are requests, and none can be taken: its index is impossible, or it isn't in RAM.
            return Err(Malformed);
        }
    }
}
