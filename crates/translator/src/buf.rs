//! The growing code of a unit, as a target for dynasm.

use dynasmrt::{AssemblyOffset, DynasmApi};

/// Host code under construction.
#[derive(Default, Debug)]
pub(crate) struct CodeBuf {
    pub(crate) bytes: Vec<u8>,
}

impl CodeBuf {
    /// Offset of the next byte.
    pub(crate) fn pos(&self) -> usize {
        self.bytes.len()
    }

    /// Appends no-operation instructions, as few and as long as possible, filling exactly `n` bytes.
    pub(crate) fn nop(&mut self, mut n: usize) {
        /// Recommended multi-byte NOPs (AMD Software Optimization Guide for family 19h, 2.8.3.3).
        const NOPS: [&[u8]; 9] = [
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x00],
            &[0x0f, 0x1f, 0x40, 0x00],
            &[0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
            &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
            &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
            &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
        ];
        while n > 0 {
            let k = n.min(NOPS.len());
            self.bytes.extend_from_slice(NOPS[k - 1]);
            n -= k;
        }
    }

    /// Appends `insn`: as many bytes as fit at once, and takes back what is too much.
    #[inline(always)]
    pub(crate) fn append(&mut self, insn: &InsnBytes) {
        let end = self.bytes.len() + insn.len;
        self.bytes.extend_from_slice(&insn.bytes);
        self.bytes.truncate(end);
    }

    /// Appends the instruction `bytes`.
    #[inline(always)]
    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        let len = bytes.len();
        let few = match *bytes {
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            [a, b, c] => u64::from(u32::from_le_bytes([a, b, c, 0])),
            // Two halves that may overlap, put together in a register.
            [a, b, c, d, ..] if len <= 8 => {
                let last = bytes.last_chunk().map_or(0, |last| u32::from_le_bytes(*last));
                u64::from(u32::from_le_bytes([a, b, c, d])) | u64::from(last) << (8 * (len - 4))
            }
            _ => return self.bytes.extend_from_slice(bytes),
        };
        let end = self.bytes.len() + len;
        self.bytes.extend_from_slice(&few.to_le_bytes());
        self.bytes.truncate(end);
    }

    /// Pads so that a 4-byte field `ahead` bytes further on doesn't cross an 8-byte boundary, and can be patched
    /// atomically.
    pub(crate) fn align_patch(&mut self, ahead: usize) {
        let at = (self.pos() + ahead) % 8;
        if at > 4 {
            self.nop(8 - at);
        }
    }

    /// Overwrites the 4 bytes at `at`.
    pub(crate) fn set32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// One host instruction under construction: appended to the code in one go.
#[derive(Default)]
pub(crate) struct InsnBytes {
    bytes: [u8; 24],
    len: usize,
}

impl InsnBytes {
    /// Appends `bytes`, whose number the compiler knows.
    #[inline(always)]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends `bytes`, which are few. A call of the C library's memcpy takes longer than all the rest.
    #[inline(always)]
    pub(crate) fn put_few(&mut self, bytes: &[u8]) {
        match *bytes {
            [] => {}
            [a] => self.put(&[a]),
            [a, b] => self.put(&[a, b]),
            [a, b, c] => self.put(&[a, b, c]),
            [a, b, c, d] => self.put(&[a, b, c, d]),
            _ => self.put(bytes),
        }
    }
}

impl Extend<u8> for CodeBuf {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, iter: T) {
        self.bytes.extend(iter);
    }
}

impl<'a> Extend<&'a u8> for CodeBuf {
    fn extend<T: IntoIterator<Item = &'a u8>>(&mut self, iter: T) {
        self.bytes.extend(iter);
    }
}

impl DynasmApi for CodeBuf {
    fn offset(&self) -> AssemblyOffset {
        AssemblyOffset(self.bytes.len())
    }
    fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
    }
    fn align(&mut self, alignment: usize, _with: u8) {
        self.nop(self.bytes.len().next_multiple_of(alignment) - self.bytes.len());
    }
}
