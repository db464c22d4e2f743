//! Translations that outlive the process: a folder with one file for each mapping of an executable file.
//!
//! A file holds an image of units. It is found by a name made from everything the units depend on: the emulator's own file, its settings,
//! the identity of the mapped file, where it is mapped. The same is written inside, with a checksum over all; what doesn't match is
//! as good as absent. Whoever can write here decides what the emulator executes, so the folder and its files must belong to the
//! user, and be writable by nobody else. Files are only ever replaced whole, by renaming: processes may come and go as they like.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use xlat86_host::MappedFile;
use xlat86_translator::Image;

/// First bytes of a file.
const MAGIC: &[u8; 8] = b"xlat86\x00\x03";
/// The flag of open(2) on x86: a symbolic link is not followed.
const O_NOFOLLOW: i32 = 0o400_000;
/// Files larger than this are neither written nor read.
const LARGEST: u64 = 64 << 20;
/// The folder is kept below this by removing what was used longest ago.
const FOLDER: u64 = 128 << 20;
/// A file changed within this time before it was mapped may change again without its times telling.
const SETTLED: i64 = 2;

/// What identifies a file's contents, as far as the host tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Modification and status-change time, seconds and nanoseconds.
    pub times: [(i64, i64); 2],
}

impl FileId {
    fn of(m: &Metadata) -> Self {
        let times = [(m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())];
        FileId { dev: m.dev(), ino: m.ino(), size: m.size(), times }
    }

    /// What stands for `contents` that no file holds.
    #[must_use]
    pub fn of_contents(contents: &[u8]) -> Self {
        // No device has this number.
        let (dev, ino) = (u64::MAX, u64::from(crc32fast::hash(contents)));
        FileId { dev, ino, size: contents.len() as u64, times: [(0, 0); 2] }
    }

    /// Would a later change of the file show in its times?
    pub(crate) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        self.times.iter().all(|t| (0..now - SETTLED).contains(&t.0))
    }
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
    /// What all units depend on, whatever they were made from.
    maker: String,
}

/// What one file's units depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Key(String);

impl Store {
    /// The user's folder, made if need be, for translations under `settings`. `None` when there is no safe one.
    pub(crate) fn open(settings: &str) -> Option<Store> {
        let base = std::env::var_os("XDG_CACHE_HOME").filter(|d| Path::new(d).is_absolute()).map(PathBuf::from);
        let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Store::at(&base.join("xlat86"), settings)
    }

    /// The same in `folder`.
    pub(crate) fn at(folder: &Path, settings: &str) -> Option<Store> {
        let me = FileId::of(&fs::metadata("/proc/self/exe").ok()?);
        if !folder.is_dir() {
            // The folder that it is in may be missing too, but not the user's home.
            let _ = DirBuilder::new().mode(0o700).create(folder.parent()?);
            DirBuilder::new().mode(0o700).create(folder).ok()?;
        }
        let m = fs::symlink_metadata(folder).ok()?;
        (m.is_dir() && is_private(&m)).then(|| Store { folder: folder.to_owned(), maker: format!("{me:?} {settings}") })
    }

    /// The key of `len` bytes of `file` from `offset` on, mapped at guest address `at`.
    pub(crate) fn key(&self, file: &FileId, offset: u64, at: u32, len: u32) -> Key {
        Key(format!("{} {file:?} {offset:#x} {at:#x} {len:#x}", self.maker))
    }

    fn path(&self, key: &Key) -> PathBuf {
        // Two 32-bit sums over different texts: collisions are found by the key inside.
        let sum = |salt: &[u8]| {
            let mut h = crc32fast::Hasher::new();
            h.update(salt);
            h.update(key.0.as_bytes());
            h.finalize()
        };
        self.folder.join(format!("{:08x}{:08x}", sum(b"a"), sum(b"b")))
    }

    /// What was kept under `key`, and the file that it is in.
    pub(crate) fn load(&self, key: &Key) -> Option<(Image, File)> {
        let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(self.path(key)).ok()?;
        let m = file.metadata().ok()?;
        if !m.is_file() || !is_private(&m) || m.len() > LARGEST {
            return None;
        }
        let bytes = MappedFile::new(&file).ok()?;
        // For whoever tidies up: it was used.
        let _ = file.set_modified(SystemTime::now());
        let at = parse(bytes.as_ref(), key)?;
        Some((Image::new(Box::new(bytes), at)?, file))
    }

    /// Keeps `image` under `key`, instead of whatever was. Not being able to is no reason to complain.
    pub(crate) fn save(&self, key: &Key, image: &[u8]) {
        let bytes = format(key, image);
        if bytes.len() as u64 <= LARGEST {
            let _ = self.replace(&self.path(key), &bytes);
            let _ = self.tidy();
        }
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = self.folder.join(format!("new-{}", std::process::id()));
        let _ = fs::remove_file(&new);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut f: File| f.write_all(bytes))
            .and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    /// Removes what was used longest ago, as long as there is too much.
    fn tidy(&self) -> io::Result<()> {
        let mut files: Vec<_> = fs::read_dir(&self.folder)?
            .filter_map(|e| {
                let e = e.ok()?;
                let m = e.metadata().ok().filter(Metadata::is_file)?;
                Some((m.modified().ok()?, m.len(), e.path()))
            })
            .collect();
        let mut total: u64 = files.iter().map(|f| f.1).sum();
        files.sort();
        for (_, len, path) in files {
            if total <= FOLDER {
                break;
            }
            fs::remove_file(path)?;
            total -= len;
        }
        Ok(())
    }
}

/// Is it the user's, and does nobody else write to it?
fn is_private(m: &Metadata) -> bool {
    let me = fs::metadata("/proc/self").map(|s| s.uid());
    me.is_ok_and(|uid| uid == m.uid()) && m.mode() & 0o022 == 0
}

/// Images begin on a page.
const PAGE: usize = 4096;

/// The file: magic, checksum of the rest, length of the key, the key, and from the next page on the image.
fn format(key: &Key, image: &[u8]) -> Vec<u8> {
    let mut bytes = [MAGIC.as_slice(), &[0; 4], &(key.0.len() as u32).to_le_bytes(), key.0.as_bytes()].concat();
    bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
    bytes.extend(image);
    let sum = crc32fast::hash(&bytes[MAGIC.len() + 4..]);
    bytes[MAGIC.len()..][..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Where the image is in a file of `bytes` that was written for `key`.
fn parse(bytes: &[u8], key: &Key) -> Option<usize> {
    let (sum, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    if u32::from_le_bytes(*sum) != crc32fast::hash(rest) {
        return None;
    }
    let (len, rest) = rest.split_first_chunk()?;
    let rest = rest.strip_prefix(key.0.as_bytes()).filter(|_| u32::from_le_bytes(*len) as usize == key.0.len())?;
    Some((bytes.len() - rest.len()).next_multiple_of(PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const FILE: FileId = FileId { dev: 1, ino: 2, size: 3, times: [(4, 5), (6, 7)] };

    fn store(name: &str) -> (Store, PathBuf) {
        let folder = std::env::temp_dir().join(format!("xlat86-store-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        (Store::at(&folder, "settings").expect("a folder of our own"), folder)
    }

    /// No units, but addresses that indirect jumps went to.
    fn targets() -> Vec<u32> {
        (0..1000).map(|i| i * 0x1234).collect()
    }

    fn image() -> Vec<u8> {
        xlat86_translator::image(Vec::new(), targets(), true)
    }

    #[test]
    fn what_was_saved_is_loaded_under_the_same_key_only() {
        let (store, folder) = store("same");
        let key = store.key(&FILE, 0, 0x1000, 0x2000);
        assert!(store.load(&key).is_none());
        store.save(&key, &image());
        let back = store.load(&key).expect("just saved");
        assert!(back.0.targets().eq(targets()));
        let others = [
            store.key(&FileId { times: [(4, 5), (6, 8)], ..FILE }, 0, 0x1000, 0x2000),
            store.key(&FILE, 0, 0x2000, 0x2000),
            Store::at(&folder, "others").unwrap().key(&FILE, 0, 0x1000, 0x2000),
        ];
        for other in others {
            assert!(store.load(&other).is_none());
            // Even if their names were the same.
            fs::copy(store.path(&key), store.path(&other)).unwrap();
            assert!(store.load(&other).is_none());
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn damaged_and_foreign_files_are_as_good_as_absent() {
        let (store, folder) = store("damaged");
        let key = store.key(&FILE, 0, 0x1000, 0x2000);
        store.save(&key, &image());
        let path = store.path(&key);
        let good = fs::read(&path).unwrap();
        for n in [0, 7, 8, 11, 12, 40, good.len() - 1] {
            fs::write(&path, &good[..n]).unwrap();
            assert!(store.load(&key).is_none(), "cut at {n}");
        }
        for i in (0..good.len()).step_by(37) {
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            fs::write(&path, bad).unwrap();
            assert!(store.load(&key).is_none(), "changed at {i}");
        }
        fs::write(&path, &good).unwrap();
        assert!(store.load(&key).is_some());
        // Others may write to it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
        assert!(store.load(&key).is_none());
        fs::remove_file(&path).unwrap();
        fs::write(folder.join("elsewhere"), &good).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(store.load(&key).is_none());
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Store::at(&folder, "settings").is_none());
        fs::remove_dir_all(folder).unwrap();
    }
}
