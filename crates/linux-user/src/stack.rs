//! The initial stack of a 32-bit process, byte for byte as the kernel's `create_elf_tables` lays it out for one on a
//! 64-bit host:
//!
//! ```text
//! 0xffffe000  8 zero bytes, the name of the file executed, environment strings, argument strings
//!             (aligned to 16) platform string, 16 random bytes
//!             auxiliary vector, environment pointers, argument pointers
//!      esp -> argument count         (aligned to 16)
//! ```

use crate::guest::Guest;
use crate::mm::TASK_SIZE;
use std::ffi::{CStr, CString};
use syscalls::Errno;

/// Everything that goes on the stack.
pub(crate) struct Contents<'a> {
    /// Arguments, the first being the program's name.
    pub argv: &'a [CString],
    /// Environment strings.
    pub envp: &'a [CString],
    /// Path given to execve (AT_EXECFN).
    pub execfn: &'a CStr,
    /// AT_RANDOM's bytes.
    pub random: [u8; 16],
    /// The auxiliary vector, without AT_NULL. Values of AT_RANDOM, AT_EXECFN and AT_PLATFORM are filled in here.
    pub auxv: Vec<(u32, u32)>,
}

/// What a program finds out about where its stack is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Placed {
    /// Initial ESP.
    pub esp: u32,
    /// The auxiliary vector and its size in bytes (for /proc/self/auxv).
    pub auxv: (u32, u32),
    /// The argument strings, start and end (for /proc/self/cmdline).
    pub args: (u32, u32),
    /// The environment strings, start and end.
    pub env: (u32, u32),
}

/// AT_PLATFORM of every 32-bit x86 process.
const PLATFORM: &[u8] = b"i686\0";

impl Contents<'_> {
    /// An upper bound of the space needed, in bytes.
    pub(crate) fn size(&self) -> usize {
        let strings = |v: &[CString]| v.iter().map(|s| s.as_bytes_with_nul().len() + 4).sum::<usize>();
        strings(self.argv) + strings(self.envp) + self.execfn.to_bytes_with_nul().len() + 8 * self.auxv.len() + 256
    }

    /// Writes the stack; it must be mapped.
    pub(crate) fn place(mut self, guest: &Guest) -> Result<Placed, Errno> {
        let mut p = TASK_SIZE - 8;
        let mut push = |bytes: &[u8]| {
            p -= bytes.len() as u32;
            guest.write_bytes(p, bytes).map(|()| p)
        };
        let execfn = push(self.execfn.to_bytes_with_nul())?;
        let mut strings = |v: &[CString]| -> Result<Vec<u32>, Errno> {
            let mut at: Vec<u32> = v.iter().rev().map(|s| push(s.as_bytes_with_nul())).collect::<Result<_, _>>()?;
            at.reverse();
            Ok(at)
        };
        let env = strings(self.envp)?;
        let args_end = env.first().copied().unwrap_or(execfn);
        let args = strings(self.argv)?;
        let args_start = args.first().copied().unwrap_or(args_end);

        let platform = (p & !15) - PLATFORM.len() as u32;
        guest.write_bytes(platform, PLATFORM)?;
        let random = platform - 16;
        guest.write_bytes(random, &self.random)?;

        for (kind, value) in &mut self.auxv {
            match u64::from(*kind) {
                libc::AT_RANDOM => *value = random,
                libc::AT_EXECFN => *value = execfn,
                libc::AT_PLATFORM => *value = platform,
                _ => {}
            }
        }
        self.auxv.push((0, 0));
        let mut words = vec![self.argv.len() as u32];
        words.extend(&args);
        words.push(0);
        words.extend(&env);
        words.push(0);
        let auxv_index = words.len() as u32;
        words.extend(self.auxv.iter().flat_map(|&(k, v)| [k, v]));
        let esp = (random - 4 * words.len() as u32) & !15;
        guest.write(esp, words.as_slice())?;
        Ok(Placed {
            esp,
            auxv: (esp + 4 * auxv_index, 8 * self.auxv.len() as u32),
            args: (args_start, args_end),
            env: (args_end, execfn),
        })
    }
}
