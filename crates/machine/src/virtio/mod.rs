//! Virtio devices over PCI, transport 1.0 ("modern"). (Virtual I/O Device Version 1.2, sections 2 and 4.1.)
//!
//! All register structures lie in one I/O range: an OUT is cheaper to recognise than a memory access that faults. The
//! transport knows queues and feature negotiation; a [`Backend`] knows what the requests in them mean.

mod block;
mod console;
mod disk;
mod dma;
mod rng;

pub use block::Block;
pub use console::Console;
pub use disk::{Disk, DiskError, Mode};
pub use dma::{Chain, Dma};
pub use rng::Rng;

use crate::pci::{Config, Function, Identity};
use std::sync::Arc;
use virtio_queue::{Queue, QueueT};

const VENDOR: u16 = 0x1af4;
/// Device numbers are this and the device type.
const MODERN: u16 = 0x1040;
const CAP_VENDOR: u8 = 9;

/// Where the structures lie in the I/O range. (4.1.4)
const COMMON: u16 = 0x00;
const COMMON_SIZE: u16 = 0x38;
const ISR: u16 = 0x40;
const NOTIFY: u16 = 0x44;
const DEVICE: u16 = 0x80;
const DEVICE_SIZE: u16 = 0x80;
const IO_SIZE: u16 = 0x100;

/// VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_VERSION_1.
const F_INDIRECT_DESC: u64 = 1 << 28;
const F_EVENT_IDX: u64 = 1 << 29;
const F_VERSION_1: u64 = 1 << 32;

const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_NEEDS_RESET: u8 = 0x40;
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;
const NO_VECTOR: u32 = 0xffff;

/// The guest has put something into a queue that breaks the specification's rules.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a device does with its requests.
pub trait Backend: Send {
    /// Device type (section 5) and PCI class.
    fn kind(&self) -> (u16, [u8; 3]);
    /// Features beyond the transport's own.
    fn features(&self) -> u64;
    /// The greatest size of each queue.
    fn queues(&self) -> &'static [u16];
    /// The device-specific configuration structure.
    fn config(&self) -> Vec<u8>;
    /// Queue `index` has something in it, or what the device waits for may have come. Gives whether it used a buffer.
    fn serve(&mut self, index: usize, queue: &mut Queue, dma: &Dma) -> Result<bool, Malformed>;
    /// The queue to be served when something outside may have happened.
    fn waiting(&self) -> Option<usize> {
        None
    }
}

/// A virtio device as a PCI function.
pub struct Virtio {
    backend: Box<dyn Backend>,
    dma: Arc<Dma>,
    queues: Vec<Queue>,
    feature_select: [u32; 2],
    driver_features: u64,
    queue_select: u16,
    status: u8,
    isr: u8,
    /// Device configuration, fixed.
    config: Vec<u8>,
}

impl Virtio {
    /// A device of `backend`'s kind whose queues lie in `dma`.
    #[must_use]
    pub fn new(backend: Box<dyn Backend>, dma: Arc<Dma>) -> Virtio {
        let queues = backend.queues().iter().map(|&n| Queue::new(n).expect("a power of two")).collect();
        let config = backend.config();
        Virtio {
            backend,
            dma,
            queues,
            feature_select: [0; 2],
            driver_features: 0,
            queue_select: 0,
            status: 0,
            isr: 0,
            config,
        }
    }

    fn features(&self) -> u64 {
        self.backend.features() | F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX
    }

    fn reset(&mut self) {
        self.queues.iter_mut().for_each(QueueT::reset);
        self.feature_select = [0; 2];
        (self.driver_features, self.queue_select, self.status, self.isr) = (0, 0, 0, 0);
    }

    fn set_status(&mut self, status: u8) {
        if status == 0 {
            return self.reset();
        }
        self.status = status | self.status & STATUS_NEEDS_RESET;
        let acceptable = self.driver_features & !self.features() == 0 && self.driver_features & F_VERSION_1 != 0;
        if status & STATUS_FEATURES_OK != 0 && !acceptable {
            self.status &= !STATUS_FEATURES_OK;
        }
        let event_idx = self.driver_features & F_EVENT_IDX != 0;
        if self.status & STATUS_FEATURES_OK != 0 {
            self.queues.iter_mut().for_each(|q| q.set_event_idx(event_idx));
        }
    }

    fn serve(&mut self, index: usize) {
        let running = self.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET) == STATUS_DRIVER_OK;
        let Some(queue) = self.queues.get_mut(index).filter(|q| running && q.ready()) else { return };
        let used = self.backend.serve(index, queue, &self.dma);
        let wanted = used.and_then(|used| self.dma.used(queue, used));
        match wanted {
            Ok(true) => self.isr |= ISR_QUEUE,
            Ok(false) => {}
            Err(Malformed) => {
                self.status |= STATUS_NEEDS_RESET;
                self.isr |= ISR_CONFIG;
            }
        }
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.queue_select))
    }

    fn read_common(&mut self, offset: u16) -> u32 {
        let half = |v: u64, select: u32| if select < 2 { (v >> (32 * select)) as u32 } else { 0 };
        let q = |f: fn(&Queue) -> u64| self.queue().map_or(0, f) as u32;
        match offset {
            0x00 => self.feature_select[0],
            0x04 => half(self.features(), self.feature_select[0]),
            0x08 => self.feature_select[1],
            0x0c => half(self.driver_features, self.feature_select[1]),
            0x10 | 0x1a => NO_VECTOR,
            0x12 => self.queues.len() as u32,
            0x14 => self.status.into(),
            0x16 => self.queue_select.into(),
            // A queue that doesn't exist has size 0.
            0x18 => q(|q| q.size().into()),
            0x1c => q(|q| q.ready().into()),
            0x20 => q(|q| q.desc_table()),
            0x24 => q(|q| q.desc_table() >> 32),
            0x28 => q(|q| q.avail_ring()),
            0x2c => q(|q| q.avail_ring() >> 32),
            0x30 => q(|q| q.used_ring()),
            0x34 => q(|q| q.used_ring() >> 32),
            // Configuration generation and notification offsets: always 0.
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u16, value: u32) {
        match offset {
            0x00 => self.feature_select[0] = value,
            0x08 => self.feature_select[1] = value,
            0x0c if self.feature_select[1] < 2 => {
                let shift = 32 * self.feature_select[1];
                self.driver_features = self.driver_features & !(0xffff_ffff << shift) | u64::from(value) << shift;
            }
            0x14 => self.set_status(value as u8),
            0x16 => self.queue_select = value as u16,
            _ => {
                let Some(q) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
                let v = Some(value);
                match offset {
                    0x18 => q.set_size(value as u16),
                    0x1c => q.set_ready(value as u16 == 1),
                    0x20 => q.set_desc_table_address(v, None),
                    0x24 => q.set_desc_table_address(None, v),
                    0x28 => q.set_avail_ring_address(v, None),
                    0x2c => q.set_avail_ring_address(None, v),
                    0x30 => q.set_used_ring_address(v, None),
                    0x34 => q.set_used_ring_address(None, v),
                    _ => {}
                }
            }
        }
    }
}

impl Function for Virtio {
    fn config(&self) -> Config {
        let (number, class) = self.backend.kind();
        let id = Identity { id: (VENDOR, MODERN + number), class, revision: 1, subsystem: (VENDOR, MODERN + number) };
        let mut config = Config::new(id, IO_SIZE);
        // Types of structures: common 1, notification 2 (which has a multiplier behind it), ISR 3, device 4.
        let structures = [(1, COMMON, COMMON_SIZE), (2, NOTIFY, 4), (3, ISR, 1), (4, DEVICE, DEVICE_SIZE)];
        for (kind, offset, size) in structures {
            let mut body = vec![if kind == 2 { 20 } else { 16 }, kind, 0, 0, 0, 0];
            body.extend(u32::from(offset).to_le_bytes());
            body.extend(u32::from(size).to_le_bytes());
            if kind == 2 {
                body.extend(0u32.to_le_bytes());
            }
            config.add_capability(CAP_VENDOR, &body);
        }
        config
    }

    fn read(&mut self, offset: u16, size: u8) -> u32 {
        match offset {
            ISR => std::mem::take(&mut self.isr).into(),
            0..COMMON_SIZE => self.read_common(offset),
            DEVICE..IO_SIZE => {
                let at = usize::from(offset - DEVICE);
                let byte = |i| self.config.get(at + i).copied().unwrap_or(0);
                (0..usize::from(size)).fold(0, |v, i| v | u32::from(byte(i)) << (8 * i))
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: u16, _size: u8, value: u32) {
        match offset {
            NOTIFY => self.serve(usize::from(value as u16)),
            0..COMMON_SIZE => self.write_common(offset, value),
            _ => {}
        }
    }

    fn interrupt(&self) -> bool {
        self.isr != 0
    }

    fn tick(&mut self) {
        if let Some(index) = self.backend.waiting() {
            self.serve(index);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
