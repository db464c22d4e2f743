//! Virtio block device. (Virtual I/O Device Version 1.2, section 5.2.)
//!
//! Requests are carried out when the guest announces them. What the host refuses reaches the guest as an I/O error and
//! the user as one message for each kind of failure.

use super::disk::SECTOR;
use super::dma::serve_all;
use super::{Backend, Chain, Disk, Dma, Malformed};
use crate::Report;
use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtio_queue::Queue;

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;
const ID_BYTES: usize = 20;

const QUEUE: u16 = 256;
/// Data buffers in one request, so that header, data and status fit the queue.
const SEG_MAX: u32 = 126;
/// Data is moved in pieces of at most this, so that a guest can't make the host allocate more.
const PIECE: usize = 256 << 10;

/// The device.
pub struct Block {
    disk: Arc<Mutex<Disk>>,
    number: usize,
    report: Report,
    /// Failures that the user knows of.
    reported: HashSet<(&'static str, ErrorKind)>,
}

impl Block {
    /// A device for `disk`, the machine's `number`th, that tells the user of failures through `report`.
    #[must_use]
    pub fn new(disk: Arc<Mutex<Disk>>, number: usize, report: Report) -> Block {
        Block { disk, number, report, reported: HashSet::new() }
    }

    /// The disk outlives the machine, which a reset makes anew; nobody else uses it meanwhile.
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out one request; gives the number of bytes written to the guest.
    fn request(&mut self, chain: &mut Chain<'_>) -> Result<u32, Malformed> {
        let Chain { reader, writer, .. } = chain;
        let mut header = [0; 16];
        reader.read_exact(&mut header).map_err(|_| Malformed)?;
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let sector = u64::from_le_bytes(header[8..].try_into().map_err(|_| Malformed)?);
        let data = writer.available_bytes().checked_sub(1).ok_or(Malformed)?;
        // The status is the last byte that the device may write.
        let mut status = writer.split_at(data).map_err(|_| Malformed)?;
        let offset = sector.saturating_mul(SECTOR);
        let outcome = match kind {
            T_IN => self.read(offset, writer, data).map_err(|e| ("read", e)),
            T_OUT => self.write(offset, reader).map_err(|e| ("write", e)),
            T_FLUSH => self.disk().flush().map_err(|e| ("flush", e)),
            T_GET_ID => self.write_id(writer, data).map_err(|e| ("identify", e)),
            _ => {
                status.write_all(&[S_UNSUPP]).map_err(|_| Malformed)?;
                return Ok(1);
            }
        };
        let code = match outcome {
            Ok(()) => S_OK,
            Err((what, e)) => {
                self.tell(what, sector, &e);
                S_IOERR
            }
        };
        status.write_all(&[code]).map_err(|_| Malformed)?;
        Ok(writer.bytes_written() as u32 + 1)
    }

    fn read(&mut self, mut offset: u64, to: &mut impl Write, mut left: usize) -> io::Result<()> {
        while left > 0 {
            let n = left.min(PIECE);
            let mut piece = vec![0; n];
            self.disk().read(offset, &mut piece)?;
            to.write_all(&piece)?;
            offset += n as u64;
            left -= n;
        }
        Ok(())
    }

    fn write(&mut self, mut offset: u64, from: &mut virtio_queue::Reader<'_>) -> io::Result<()> {
        while from.available_bytes() > 0 {
            let n = from.available_bytes().min(PIECE);
            let mut piece = vec![0; n];
            from.read_exact(&mut piece)?;
            self.disk().write(offset, &piece)?;
            offset += n as u64;
        }
        Ok(())
    }

    /// A name by which the guest can tell disks apart, the same in every run.
    fn write_id(&self, to: &mut impl Write, room: usize) -> io::Result<()> {
        let mut id = format!("xlat86-disk-{}", self.number).into_bytes();
        id.resize(ID_BYTES, 0);
        to.write_all(&id[..room.min(ID_BYTES)])
    }

    fn tell(&mut self, what: &'static str, sector: u64, e: &io::Error) {
        if self.reported.insert((what, e.kind())) {
            let why = match e.kind() {
                ErrorKind::UnexpectedEof => "the image has become shorter".to_owned(),
                _ => e.to_string(),
            };
            let path = self.disk().path().to_owned();
            let path = path.display();
            (self.report)(&format!(
                "disk {path}: {what} at sector {sector} failed: {why}; the guest sees an I/O error"
            ));
        }
    }
}

impl Backend for Block {
    fn kind(&self) -> (u16, [u8; 3]) {
        (2, [0x01, 0x00, 0x00])
    }
    fn features(&self) -> u64 {
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | if self.disk().read_only() { F_RO } else { 0 }
    }
    fn queues(&self) -> &'static [u16] {
        &[QUEUE]
    }
    fn config(&self) -> Vec<u8> {
        let mut c = vec![0; 24];
        c[..8].copy_from_slice(&self.disk().sectors().to_le_bytes());
        c[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        c[20..24].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        c
    }
    fn serve(&mut self, _index: usize, queue: &mut Queue, dma: &Dma) -> Result<bool, Malformed> {
        serve_all(queue, dma, |chain| self.request(chain))
    }
}
