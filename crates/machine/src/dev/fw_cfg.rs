//! The firmware configuration interface of QEMU's machines: selector at port 0x510, data at 0x511.
//!
//! Read-only items by number, and named files behind a directory. Without the DMA interface, which its revision says.

use crate::dev::Device;

/// Selector (16 bits) and data (8 bits). 16-bit accesses to the selector cover both ports.
pub const PORTS: std::ops::RangeInclusive<u16> = 0x510..=0x511;

const SIGNATURE: u16 = 0x00;
const ID: u16 = 0x01;
const RAM_SIZE: u16 = 0x03;
const NB_CPUS: u16 = 0x05;
const MAX_CPUS: u16 = 0x0f;
const FILE_DIR: u16 = 0x19;
const FIRST_FILE: u16 = 0x20;
const NAME_BYTES: usize = 56;

/// The interface's state.
pub struct FwCfg {
    items: Vec<(u16, Vec<u8>)>,
    selected: u16,
    offset: usize,
}

impl FwCfg {
    /// The items that describe a machine with one CPU and `ram_bytes`, and `files` by name.
    #[must_use]
    pub fn new(ram_bytes: u64, files: &[(&str, Vec<u8>)]) -> FwCfg {
        let mut items = vec![
            (SIGNATURE, b"QEMU".to_vec()),
            (ID, 1u32.to_le_bytes().to_vec()),
            (RAM_SIZE, ram_bytes.to_le_bytes().to_vec()),
            (NB_CPUS, 1u16.to_le_bytes().to_vec()),
            (MAX_CPUS, 1u16.to_le_bytes().to_vec()),
        ];
        let mut directory = (files.len() as u32).to_be_bytes().to_vec();
        for (number, (name, data)) in (FIRST_FILE..).zip(files) {
            directory.extend((data.len() as u32).to_be_bytes());
            directory.extend(number.to_be_bytes());
            directory.extend([0, 0]);
            let mut padded = name.as_bytes()[..name.len().min(NAME_BYTES - 1)].to_vec();
            padded.resize(NAME_BYTES, 0);
            directory.extend(padded);
            items.push((number, data.clone()));
        }
        items.push((FILE_DIR, directory));
        FwCfg { items, selected: SIGNATURE, offset: 0 }
    }

    fn next(&mut self) -> u8 {
        let item = self.items.iter().find(|i| i.0 == self.selected);
        let byte = item.and_then(|i| i.1.get(self.offset)).copied().unwrap_or(0);
        self.offset = self.offset.saturating_add(1);
        byte
    }
}

impl Device for FwCfg {
    fn width(&self) -> u8 {
        4
    }
    fn read(&mut self, port: u16, size: u8) -> u32 {
        if port != *PORTS.end() {
            return 0;
        }
        (0..size).fold(0, |v, i| v | u32::from(self.next()) << (8 * i))
    }

    fn write(&mut self, port: u16, size: u8, value: u32) {
        if port == *PORTS.start() && size == 2 {
            // Bit 14 asks for write access, which nothing here has.
            self.selected = value as u16 & !0x4000;
            self.offset = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(f: &mut FwCfg, number: u16, n: usize) -> Vec<u8> {
        f.write(0x510, 2, number.into());
        (0..n).map(|_| f.read(0x511, 1) as u8).collect()
    }

    #[test]
    fn items_and_files_read_from_their_start() {
        let mut f = FwCfg::new(1 << 28, &[("etc/answer", vec![42, 43])]);
        assert_eq!(item(&mut f, 0, 6), b"QEMU\0\0");
        assert_eq!(item(&mut f, 3, 8), (1u64 << 28).to_le_bytes());
        let directory = item(&mut f, FILE_DIR, 4 + 64);
        assert_eq!(directory[..12], [0, 0, 0, 1, 0, 0, 0, 2, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..23], b"etc/answer\0");
        assert_eq!(item(&mut f, FIRST_FILE, 3), [42, 43, 0]);
    }
}
