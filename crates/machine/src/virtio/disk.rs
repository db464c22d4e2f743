//! Disk images: raw files, or what a run changes about one and forgets.
//!
//! Nothing is cached here: a write has reached the host's page cache when the guest is told so, in the order in which the
//! guest wrote, and a flush is an fsync. So an image is as consistent after this process was killed as after a power cut
//! at a moment when the disk's own cache was empty.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that a sector has.
pub(crate) const SECTOR: u64 = 512;
/// What the overlay keeps together.
const CLUSTER: u64 = 4096;

/// What a guest may do to an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Read and write it.
    #[default]
    ReadWrite,
    /// Read it.
    ReadOnly,
    /// Read it; writes are kept aside and forgotten at the end.
    Snapshot,
}

/// Why an image can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It can't be opened, or its size not be determined.
    #[error("disk image {path}: {source}")]
    Open {
        /// The image.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// Another process holds it.
    #[error("disk image {0} is in use by another process; share it with ,ro or --snapshot")]
    Locked(PathBuf),
    /// It has no whole sector.
    #[error("disk image {0} is shorter than a sector")]
    Empty(PathBuf),
}

/// Writes of a run that is to leave no trace.
struct Overlay {
    file: File,
    /// Clusters that are here and no longer in the image.
    present: HashSet<u64>,
}

/// An open image.
pub struct Disk {
    path: PathBuf,
    file: File,
    mode: Mode,
    sectors: u64,
    overlay: Option<Overlay>,
}

impl Disk {
    /// Opens the image at `path`. One that may be written is locked against others who would write or read it.
    pub fn open(path: &Path, mode: Mode) -> Result<Disk, DiskError> {
        let open = |source| DiskError::Open { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).write(mode == Mode::ReadWrite).open(path).map_err(open)?;
        let locked = if mode == Mode::ReadWrite { file.try_lock() } else { file.try_lock_shared() };
        match locked {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(DiskError::Locked(path.to_owned())),
            // Not every file system has locks.
            Err(std::fs::TryLockError::Error(_)) => {}
        }
        // Works for block devices too, whose metadata has no size.
        let bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(open)?;
        if bytes < SECTOR {
            return Err(DiskError::Empty(path.to_owned()));
        }
        let overlay = match mode {
            Mode::Snapshot => Some(Overlay { file: tempfile::tempfile().map_err(open)?, present: HashSet::new() }),
            _ => None,
        };
        Ok(Disk { path: path.to_owned(), file, mode, sectors: bytes / SECTOR, overlay })
    }

    /// Its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whole sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// True when writes fail.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.mode == Mode::ReadOnly
    }

    /// Fails unless `len` bytes at `offset` are on the disk.
    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.sectors * SECTOR);
        end.map(|_| ()).ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "beyond the end of the disk"))
    }

    /// Fills `to` from `offset` on. Fails also when the image has become shorter since it was opened.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        self.check(offset, to.len())?;
        let Some(overlay) = &self.overlay else { return self.file.read_exact_at(to, offset) };
        for (at, part) in pieces(offset, to.len()) {
            let file = if overlay.present.contains(&(at / CLUSTER)) { &overlay.file } else { &self.file };
            file.read_exact_at(&mut to[part], at)?;
        }
        Ok(())
    }

    /// Writes `from` at `offset`.
    pub fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.check(offset, from.len())?;
        if self.read_only() {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        let end = self.sectors * SECTOR;
        let Some(overlay) = &mut self.overlay else { return self.file.write_all_at(from, offset) };
        for (at, part) in pieces(offset, from.len()) {
            let cluster = at / CLUSTER;
            if !overlay.present.contains(&cluster) {
                // What this write leaves of the cluster comes from the image, which may end inside it.
                let start = cluster * CLUSTER;
                let mut whole = vec![0; CLUSTER.min(end - start) as usize];
                if part.len() < whole.len() {
                    self.file.read_exact_at(&mut whole, start)?;
                }
                let inside = (at - start) as usize;
                whole[inside..inside + part.len()].copy_from_slice(&from[part.clone()]);
                overlay.file.write_all_at(&whole, start)?;
                overlay.present.insert(cluster);
            } else {
                overlay.file.write_all_at(&from[part], at)?;
            }
        }
        Ok(())
    }

    /// Has the host's side of the disk, a snapshot's writes if it is one, in another file.
    #[cfg(test)]
    pub(crate) fn replace_file(&mut self, file: File) {
        match &mut self.overlay {
            Some(overlay) => overlay.file = file,
            None => self.file = file,
        }
    }

    /// Waits until everything written so far survives a power cut. Throw-away writes needn't.
    pub fn flush(&self) -> io::Result<()> {
        match self.mode {
            Mode::ReadWrite => self.file.sync_all(),
            Mode::ReadOnly | Mode::Snapshot => Ok(()),
        }
    }
}

/// `len` bytes from `offset` on, taken apart at clusters: where on the disk, and which of the bytes.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let n = (len - done).min((CLUSTER - at % CLUSTER) as usize);
        done += n;
        (n > 0).then(|| (at, done - n..done))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image(bytes: usize) -> tempfile::NamedTempFile {
        let mut f = tempfile::NamedTempFile::new().unwrap();
        f.write_all(&(0..bytes).map(|i| (i / 512) as u8).collect::<Vec<_>>()).unwrap();
        f
    }

    #[test]
    fn a_snapshot_reads_its_writes_and_leaves_none() {
        let f = image(5 * 4096 + 1536);
        let before = std::fs::read(f.path()).unwrap();
        let mut expected = before.clone();
        let mut disk = Disk::open(f.path(), Mode::Snapshot).unwrap();
        for (offset, len, byte) in [(512, 512, 0xaa), (4096, 8192, 0xbb), (3584, 1024, 0xcc), (20480, 1536, 0xdd)] {
            disk.write(offset as u64, &vec![byte; len]).unwrap();
            expected[offset..offset + len].fill(byte);
        }
        let mut all = vec![0; before.len()];
        disk.read(0, &mut all).unwrap();
        assert!(all == expected);
        disk.flush().unwrap();
        assert!(std::fs::read(f.path()).unwrap() == before);
    }

    #[test]
    fn writes_reach_the_image_unless_it_is_read_only() {
        let f = image(4096);
        Disk::open(f.path(), Mode::ReadWrite).unwrap().write(512, &[9; 512]).unwrap();
        assert_eq!(std::fs::read(f.path()).unwrap()[511..514], [0, 9, 9]);
        let mut disk = Disk::open(f.path(), Mode::ReadOnly).unwrap();
        assert_eq!(disk.write(0, &[1; 512]).unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }

    #[test]
    fn bounds_and_locks_are_errors() {
        let f = image(4096 + 100);
        let mut disk = Disk::open(f.path(), Mode::ReadWrite).unwrap();
        assert_eq!(disk.sectors(), 8);
        assert!(disk.read(4096, &mut [0; 512]).is_err());
        assert!(disk.write(u64::MAX - 100, &[0; 512]).is_err());
        assert!(matches!(Disk::open(f.path(), Mode::ReadOnly), Err(DiskError::Locked(_))));
        f.as_file().set_len(1024).unwrap();
        assert_eq!(disk.read(2048, &mut [0; 512]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
