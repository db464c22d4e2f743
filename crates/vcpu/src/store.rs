//! Translations that outlive the process: a folder with one file for each mapping of an executable file.
//!
//! A file holds units by guest page. It is found by a name made from everything the units depend on: the emulator's own file, its settings,
//! the identity of the mapped file, where it is mapped. The same is written inside, with a checksum over all; what doesn't match is
//! as good as absent. Whoever can write here decides what the emulator executes, so the folder and its files must belong to the
//! user, and be writable by nobody else. Files are only ever replaced whole, by renaming: processes may come and go as they like.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use xlat86_host::MappedFile;
use xlat86_translator::Shared;

/// First bytes of a file.
const MAGIC: &[u8; 8] = b"xlat86\x00\x01";
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

    /// Would a later change of the file show in its times?
    pub(crate) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
        self.times.iter().all(|t| (0..now - SETTLED).contains(&t.0))
    }
}

/// Packed units by guest page, each in its range of bytes that all share.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) bytes: Shared,
    pub(crate) ranges: BTreeMap<u32, Range<usize>>,
}

impl Pages {
    /// The units that begin on `page`.
    pub(crate) fn get(&self, page: u32) -> Option<&[u8]> {
        self.ranges.get(&page).map(|r| &self.all()[r.clone()])
    }

    pub(crate) fn all(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }

    /// Of a mapping for which nothing was kept.
    pub(crate) fn none() -> Self {
        Pages { bytes: Arc::new(Vec::new()), ranges: BTreeMap::new() }
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

    fn at(folder: &Path, settings: &str) -> Option<Store> {
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

    /// What was kept under `key`.
    pub(crate) fn load(&self, key: &Key) -> Option<Pages> {
        let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(self.path(key)).ok()?;
        let m = file.metadata().ok()?;
        if !m.is_file() || !is_private(&m) || m.len() > LARGEST {
            return None;
        }
        let bytes = MappedFile::new(&file).ok()?;
        // For whoever tidies up: it was used.
        let _ = file.set_modified(SystemTime::now());
        let ranges = parse(bytes.as_ref(), key)?;
        Some(Pages { bytes: Arc::new(bytes), ranges })
    }

    /// Keeps `pages` under `key`, instead of whatever was. Not being able to is no reason to complain.
    pub(crate) fn save(&self, key: &Key, pages: &BTreeMap<u32, Vec<u8>>) {
        let bytes = format(key, pages);
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

/// The file: magic, checksum of the rest, length of the key, the key, and for each page its number, its length and its units.
fn format(key: &Key, pages: &BTreeMap<u32, Vec<u8>>) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.extend((key.0.len() as u32).to_le_bytes());
    rest.extend(key.0.as_bytes());
    for (page, units) in pages {
        rest.extend(page.to_le_bytes());
        rest.extend((units.len() as u32).to_le_bytes());
        rest.extend(units);
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend(crc32fast::hash(&rest).to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn parse(bytes: &[u8], key: &Key) -> Option<BTreeMap<u32, Range<usize>>> {
    fn word(b: &mut &[u8]) -> Option<u32> {
        let (head, rest) = b.split_first_chunk()?;
        *b = rest;
        Some(u32::from_le_bytes(*head))
    }
    let mut rest = bytes.strip_prefix(MAGIC)?;
    if word(&mut rest)? != crc32fast::hash(rest) {
        return None;
    }
    let len = word(&mut rest)? as usize;
    let mut rest = rest.strip_prefix(key.0.as_bytes()).filter(|_| len == key.0.len())?;
    let mut ranges = BTreeMap::new();
    while !rest.is_empty() {
        let (page, len) = (word(&mut rest)?, word(&mut rest)? as usize);
        let at = bytes.len() - rest.len();
        rest = rest.get(len..)?;
        ranges.insert(page, at..at + len);
    }
    Some(ranges)
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

    fn pages() -> BTreeMap<u32, Vec<u8>> {
        BTreeMap::from([(1, vec![1, 2, 3]), (9, Vec::new()), (0xf_ffff, vec![4; 5000])])
    }

    #[test]
    fn what_was_saved_is_loaded_under_the_same_key_only() {
        let (store, folder) = store("same");
        let key = store.key(&FILE, 0, 0x1000, 0x2000);
        assert!(store.load(&key).is_none());
        store.save(&key, &pages());
        let back = store.load(&key).expect("just saved");
        assert!(back.ranges.keys().eq(pages().keys()));
        assert!(pages().iter().all(|(p, units)| back.get(*p) == Some(units)));
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
        store.save(&key, &pages());
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
