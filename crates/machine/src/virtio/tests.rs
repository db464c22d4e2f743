//! Devices driven as a guest's driver drives them: registers through the function, requests through queues in RAM.

use super::*;
use crate::Report;
use crate::console::{Input, Output};
use std::io::Write;
use std::sync::Mutex;
use xlat86_softmmu::PhysMemory;

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const STATUS_ALL: u32 = 1 | 2 | 4 | 8;
const F_NEXT: u16 = 1;
const F_WRITE: u16 = 2;

/// A guest with one device, whose first queues lie 0x10000 apart.
struct Guest {
    memory: Arc<PhysMemory>,
    device: Virtio,
    produced: [u16; 2],
}

impl Guest {
    fn new(backend: Box<dyn Backend>) -> Guest {
        let memory = PhysMemory::new(4 << 20).unwrap();
        let dma = Dma::new(memory.clone()).unwrap();
        let mut g = Guest { memory, device: Virtio::new(backend, dma), produced: [0; 2] };
        g.start(F_VERSION_1);
        g
    }

    /// Starts with the ring of available requests of the first queue at `avail`.
    fn start_at(&mut self, avail: u64) {
        self.configure(F_VERSION_1, |q| if q == 0 { avail } else { (u64::from(q) << 16) + AVAIL });
    }

    fn start(&mut self, features: u64) {
        self.configure(features, |q| (u64::from(q) << 16) + AVAIL);
    }

    fn configure(&mut self, features: u64, avail: impl Fn(u32) -> u64) {
        let d = &mut self.device;
        d.write(0x14, 1, 0);
        d.write(0x14, 1, 3);
        for half in 0..2 {
            d.write(0x08, 4, half);
            d.write(0x0c, 4, (features >> (32 * half)) as u32);
        }
        d.write(0x14, 1, 0xb);
        for q in 0..d.read(0x12, 2) {
            d.write(0x16, 2, q);
            d.write(0x18, 2, 16);
            let base = u64::from(q) << 16;
            for (register, at) in [(0x20, base + DESC), (0x28, avail(q)), (0x30, base + USED)] {
                d.write(register, 4, at as u32);
                d.write(register + 4, 4, 0);
            }
            d.write(0x1c, 2, 1);
        }
        d.write(0x14, 1, STATUS_ALL);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write(at, bytes).unwrap();
    }

    fn get(&self, at: u64, n: usize) -> Vec<u8> {
        let mut v = vec![0; n];
        self.memory.read(at, &mut v).unwrap();
        v
    }

    /// Makes a request of buffers (address, length, device writes) available in `queue`, and notifies.
    fn submit(&mut self, queue: u16, buffers: &[(u64, u32, bool)]) {
        let base = u64::from(queue) << 16;
        for (i, &(at, len, write)) in buffers.iter().enumerate() {
            let last = i + 1 == buffers.len();
            let flags = if write { F_WRITE } else { 0 } | if last { 0 } else { F_NEXT };
            let mut d = at.to_le_bytes().to_vec();
            d.extend(len.to_le_bytes());
            d.extend(flags.to_le_bytes());
            d.extend((i as u16 + 1).to_le_bytes());
            self.put(base + DESC + 16 * i as u64, &d);
        }
        let n = &mut self.produced[usize::from(queue)];
        *n += 1;
        let n = *n;
        self.put(base + AVAIL + 4 + 2 * u64::from((n - 1) % 16), &[0, 0]);
        self.put(base + AVAIL + 2, &n.to_le_bytes());
        self.device.write(NOTIFY, 2, queue.into());
    }

    /// Requests used so far, and the bytes that the device says it has written for the latest.
    fn used(&self, queue: u16) -> (u16, u32) {
        let base = (u64::from(queue) << 16) + USED;
        let n = u16::from_le_bytes(self.get(base + 2, 2).try_into().unwrap());
        let slot = base + 4 + 8 * u64::from(n.wrapping_sub(1) % 16);
        (n, u32::from_le_bytes(self.get(slot + 4, 4).try_into().unwrap()))
    }
}

fn image(sectors: u8) -> tempfile::NamedTempFile {
    let mut f = tempfile::NamedTempFile::new().unwrap();
    (0..sectors).for_each(|i| f.write_all(&[i; 512]).unwrap());
    f
}

fn block(f: &tempfile::NamedTempFile, mode: Mode) -> (Guest, Arc<Mutex<Vec<String>>>) {
    let said = Arc::<Mutex<Vec<String>>>::default();
    let keep = said.clone();
    let report: Report = Arc::new(move |s: &str| keep.lock().unwrap().push(s.to_owned()));
    let disk = Arc::new(Mutex::new(Disk::open(f.path(), mode).unwrap()));
    (Guest::new(Box::new(Block::new(disk, 0, report))), said)
}

const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x10_1000;
const STATUS: u64 = 0x10_4000;

/// One block request; gives its status.
fn request(g: &mut Guest, kind: u32, sector: u64, data: Option<(u32, bool)>) -> u8 {
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    g.put(HEADER, &header);
    g.put(STATUS, &[0xee]);
    let mut buffers = vec![(HEADER, 16, false)];
    buffers.extend(data.map(|(len, write)| (DATA, len, write)));
    buffers.push((STATUS, 1, true));
    g.submit(0, &buffers);
    g.get(STATUS, 1)[0]
}

#[test]
fn a_disk_reads_and_writes_and_interrupts() {
    let f = image(8);
    let (mut g, said) = block(&f, Mode::ReadWrite);
    assert_eq!(g.device.read(DEVICE, 4), 8, "capacity");
    assert_eq!(request(&mut g, 0, 3, Some((1024, true))), 0);
    assert_eq!(g.get(DATA + 511, 2), [3, 4]);
    assert_eq!(g.used(0), (1, 1025));
    assert!(g.device.interrupt());
    assert_eq!(g.device.read(ISR, 1), 1);
    assert!(!g.device.interrupt(), "reading acknowledges");
    g.put(DATA, &[0x55; 512]);
    assert_eq!(request(&mut g, 1, 7, Some((512, false))), 0);
    assert_eq!(request(&mut g, 4, 0, None), 0);
    assert_eq!(std::fs::read(f.path()).unwrap()[3583..3586], [6, 0x55, 0x55]);
    assert_eq!(request(&mut g, 99, 0, None), 2, "unsupported");
    assert!(said.lock().unwrap().is_empty());
}

#[test]
fn disk_faults_reach_guest_and_user() {
    let f = image(8);
    let (mut g, said) = block(&f, Mode::ReadWrite);
    assert_eq!(request(&mut g, 0, 8, Some((512, true))), 1, "beyond the end");
    assert_eq!(request(&mut g, 0, u64::MAX, Some((512, true))), 1);
    f.as_file().set_len(1024).unwrap();
    assert_eq!(request(&mut g, 0, 4, Some((512, true))), 1);
    assert_eq!(request(&mut g, 0, 5, Some((512, true))), 1);
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 2, "each kind once: {said:?}");
    assert!(said[1].contains("shorter"), "{said:?}");
}

#[test]
fn a_read_only_disk_says_so_and_refuses() {
    let f = image(8);
    let (mut g, _) = block(&f, Mode::ReadOnly);
    g.device.write(0x00, 4, 0);
    assert_ne!(g.device.read(0x04, 4) & 1 << 5, 0);
    assert_eq!(request(&mut g, 1, 0, Some((512, false))), 1);
    let before = std::fs::read(f.path()).unwrap();
    let (mut g, _) = block(&f, Mode::Snapshot);
    g.put(DATA, &[0x77; 512]);
    assert_eq!(request(&mut g, 1, 1, Some((512, false))), 0);
    assert_eq!(request(&mut g, 0, 1, Some((512, true))), 0);
    assert_eq!(g.get(DATA, 1), [0x77]);
    assert!(std::fs::read(f.path()).unwrap() == before);
}

#[test]
fn nonsense_breaks_the_device_and_nothing_else() {
    let f = image(8);
    let nonsense: [&[(u64, u32, bool)]; 4] = [
        &[(HEADER, 16, false)],
        &[(HEADER, 4, false), (STATUS, 1, true)],
        &[(0xffff_f000, 16, false), (STATUS, 1, true)],
        &[(0xa_0000, 16, false), (STATUS, 1, true)],
    ];
    for buffers in nonsense {
        let (mut g, _) = block(&f, Mode::ReadWrite);
        g.submit(0, buffers);
        assert_ne!(g.device.read(0x14, 1) & u32::from(STATUS_NEEDS_RESET), 0, "{buffers:x?}");
        assert_eq!(g.device.read(ISR, 1), u32::from(ISR_CONFIG));
        g.produced = [0; 2];
        g.put(AVAIL, &[0; 64]);
        g.put(USED, &[0; 256]);
        g.start(F_VERSION_1);
        assert_eq!(request(&mut g, 0, 1, Some((512, true))), 0, "works again after a reset");
    }
}

/// Rings whose index no driver can have reached, and rings that aren't there, in devices that take requests in turns of their own.
#[test]
fn impossible_rings_end_in_a_reset_not_in_a_loop() {
    let f = image(8);
    type Spoil = fn(&mut Guest);
    let spoils: [Spoil; 2] = [
        |g| g.put(AVAIL + 2, &1000u16.to_le_bytes()),
        |g| {
            // The ring's head is in the last bytes of RAM, its entries aren't.
            let end = 4 << 20;
            g.device.write(0x1c, 2, 0);
            g.start_at(end - 4);
            g.put(end - 2, &1u16.to_le_bytes());
        },
    ];
    for spoil in spoils {
        let console = Console::new(Input::default(), Output::nowhere());
        for (mut g, queue) in
            [(block(&f, Mode::ReadWrite).0, 0), (Guest::new(Box::new(Rng)), 0), (Guest::new(Box::new(console)), 1)]
        {
            if queue == 1 {
                g.put((1 << 16) + AVAIL + 2, &1000u16.to_le_bytes());
            } else {
                spoil(&mut g);
            }
            g.device.write(NOTIFY, 2, queue);
            assert_ne!(g.device.read(0x14, 1) & u32::from(STATUS_NEEDS_RESET), 0);
        }
    }
}

/// What the host refuses: a full disk, a medium that can't be read, a flush that fails.
#[test]
fn host_errors_reach_guest_and_user() {
    for (host, kind, what, why) in [
        ("/dev/full", 1, "write", "No space left"),
        // Reading address 0 of a process is an I/O error.
        ("/proc/self/mem", 0, "read", "Input/output error"),
        ("/dev/full", 4, "flush", "Invalid argument"),
    ] {
        let f = image(8);
        let said = Arc::<Mutex<Vec<String>>>::default();
        let keep = said.clone();
        let report: Report = Arc::new(move |s: &str| keep.lock().unwrap().push(s.to_owned()));
        let mut disk = Disk::open(f.path(), Mode::ReadWrite).unwrap();
        disk.replace_file(std::fs::OpenOptions::new().read(true).write(true).open(host).unwrap());
        let mut g = Guest::new(Box::new(Block::new(Arc::new(Mutex::new(disk)), 0, report)));
        let data = (kind != 4).then_some((512, kind == 0));
        assert_eq!(request(&mut g, kind, 0, data), 1, "{what}");
        let said = said.lock().unwrap();
        assert!(said.len() == 1 && said[0].contains(what) && said[0].contains(why), "{said:?}");
    }
    // A snapshot's own file may be where there is no room.
    let f = image(8);
    let mut disk = Disk::open(f.path(), Mode::Snapshot).unwrap();
    disk.replace_file(std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap());
    assert_eq!(disk.write(0, &[0; 4096]).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(disk.read(0, &mut [1; 512]).map(|()| 0).unwrap(), 0, "what couldn't be written is as it was");
}

#[test]
fn disks_have_names() {
    let f = image(8);
    let disk = Arc::new(Mutex::new(Disk::open(f.path(), Mode::ReadOnly).unwrap()));
    let mut g = Guest::new(Box::new(Block::new(disk, 2, Arc::new(|_: &str| {}))));
    assert_eq!(request(&mut g, 8, 0, Some((20, true))), 0);
    assert_eq!(g.get(DATA, 20), b"xlat86-disk-2\0\0\0\0\0\0\0");
}

#[test]
fn features_are_negotiated() {
    let mut g = Guest::new(Box::new(Rng));
    g.start(0);
    assert_eq!(g.device.read(0x14, 1) & 8, 0, "a driver that isn't of version 1");
    g.start(F_VERSION_1 | 1 << 40);
    assert_eq!(g.device.read(0x14, 1) & 8, 0, "a feature that wasn't offered");
    g.device.write(0x16, 2, 7);
    assert_eq!(g.device.read(0x18, 2), 0, "no such queue");
    g.device.write(NOTIFY, 2, 7);
}

#[test]
fn random_numbers_fill_the_buffer() {
    let mut g = Guest::new(Box::new(Rng));
    g.submit(0, &[(DATA, 64, true)]);
    assert_eq!(g.used(0), (1, 64));
    assert_ne!(g.get(DATA, 64), vec![0; 64]);
}

#[test]
fn a_console_takes_and_gives_characters() {
    let (output, written) = Output::recorder();
    let input = Input::default();
    let mut g = Guest::new(Box::new(Console::new(input.clone(), output)));
    g.put(DATA, b"hello");
    g.submit(1, &[(DATA, 5, false)]);
    assert_eq!(*written.lock().unwrap(), b"hello");
    input.push(b"keys");
    g.device.tick();
    assert_eq!(g.used(0).0, 0, "no buffer yet");
    g.submit(0, &[(DATA, 3, true)]);
    assert_eq!((g.used(0), g.get(DATA, 3)), ((1, 3), b"key".to_vec()));
    g.submit(0, &[(DATA, 16, true)]);
    assert_eq!((g.used(0), g.get(DATA, 1)), ((2, 1), b"s".to_vec()));
}

#[test]
fn writes_by_devices_drop_code() {
    let f = image(8);
    let (mut g, _) = block(&f, Mode::ReadOnly);
    let page = (DATA >> 12) as u32;
    assert!(g.memory.mark_code(page));
    assert_eq!(request(&mut g, 0, 1, Some((512, true))), 0);
    assert!(!g.memory.is_code(page));
    assert_eq!(g.memory.take_dropped(), [page]);
}
