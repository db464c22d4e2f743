//! `xlat86 binfmt`: lets the host's kernel start xlat86 by itself for i386 programs, through binfmt_misc.
//!
//! The registration has the flags F (the kernel opens xlat86 now, so that containers and other roots need no copy of it;
//! it has to be linked statically for that) and P (the program keeps its own argument 0). The kernel then executes
//! `xlat86 PATH ARGV0 ARGS...` and sets a bit in AT_FLAGS, by which [`invoked`] knows.

use crate::run::CANNOT_EXECUTE;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

/// The registration's name.
const NAME: &str = "xlat86-i386";
/// The first 20 bytes of an i386 ELF program: 32 bits, little endian, version 1, ET_EXEC or ET_DYN, EM_386. The ABI may
/// be any, as for the kernel's own loader.
const MAGIC: [u8; 20] = *b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0";
const MASK: [u8; 20] = *b"\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\xfe\xff\xff\xff";

/// Start xlat86 by itself for i386 programs (needs the right to register binary formats)
#[derive(Args)]
pub(crate) struct Binfmt {
    #[command(subcommand)]
    what: What,
    /// Where binfmt_misc is mounted
    #[arg(long, global = true, value_name = "DIR", default_value = "/proc/sys/fs/binfmt_misc")]
    dir: PathBuf,
}

#[derive(Subcommand, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Register this xlat86
    Install,
    /// Take the registration back
    Remove,
    /// Say whether there is one; exit with 1 if not
    Status,
}

impl Binfmt {
    pub(crate) fn run(self) -> ExitCode {
        let result = match self.what {
            What::Install => install(&self.dir).map(|()| true),
            What::Remove => fs::write(self.dir.join(NAME), "-1").map(|()| true),
            What::Status => status(&self.dir),
        };
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(e) => {
                eprintln!("xlat86: {}: {e}", self.dir.display());
                if !self.dir.join("register").exists() {
                    eprintln!("xlat86: is it mounted? (mount -t binfmt_misc binfmt_misc {})", self.dir.display());
                }
                ExitCode::from(CANNOT_EXECUTE)
            }
        }
    }
}

fn install(dir: &Path) -> io::Result<()> {
    if xlat86_linux_user::linked_dynamically() {
        eprintln!(
            "xlat86: note: this xlat86 is linked dynamically: it won't start where its libraries aren't (containers)"
        );
    }
    let line = line(&std::env::current_exe()?)?;
    // One write: the kernel takes a line as a whole.
    fs::OpenOptions::new().write(true).open(dir.join("register"))?.write_all_at_once(&line)
}

trait WriteOnce {
    fn write_all_at_once(self, bytes: &[u8]) -> io::Result<()>;
}

impl WriteOnce for fs::File {
    fn write_all_at_once(mut self, bytes: &[u8]) -> io::Result<()> {
        match io::Write::write(&mut self, bytes)? {
            n if n == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

fn status(dir: &Path) -> io::Result<bool> {
    match fs::read_to_string(dir.join(NAME)) {
        Ok(text) => {
            print!("{text}");
            Ok(text.starts_with("enabled"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && dir.join("register").exists() => {
            println!("not registered");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// What is written to `register`.
fn line(program: &Path) -> io::Result<Vec<u8>> {
    let program = program.as_os_str().as_bytes();
    if program.contains(&b':') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "binfmt_misc takes no path with a colon"));
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("\\x{b:02x}")).collect::<String>().into_bytes();
    Ok([format!(":{NAME}:M::").as_bytes(), &hex(&MAGIC), b":", &hex(&MASK), b":", program, b":PF"].concat())
}

/// The command line that the kernel's `[xlat86, PATH, ARGV0, ARGS...]` stands for, if it was binfmt_misc that started this.
pub(crate) fn invoked(args: Vec<OsString>) -> Vec<OsString> {
    if !xlat86_linux_user::started_by_binfmt() || args.len() < 3 {
        return args;
    }
    translated(args)
}

fn translated(args: Vec<OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut next = || args.next().unwrap_or_default();
    let (own, path, argv0) = (next(), next(), next());
    let s = |s: &str| OsString::from_vec(s.as_bytes().to_vec());
    [own, s("run"), s("--argv0"), argv0, s("--"), path].into_iter().chain(args).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_one_that_the_kernel_takes() {
        let line = String::from_utf8(line(Path::new("/opt/xlat86")).unwrap()).unwrap();
        let fields: Vec<&str> = line.split(':').collect();
        assert_eq!(fields[..4], ["", NAME, "M", ""]);
        assert_eq!(fields[6..], ["/opt/xlat86", "PF"]);
        // Limits of the kernel: 1920 bytes for the line, magic within the first 128 bytes of a file.
        assert!(line.len() < 1920 && fields[4].len() == 4 * MAGIC.len() && fields[5].len() == 4 * MASK.len());
        assert!(super::line(Path::new("/a:b")).is_err());
    }

    #[test]
    fn install_and_status_use_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(install(dir.path()).is_err());
        fs::write(dir.path().join("register"), "").unwrap();
        assert!(!status(dir.path()).unwrap());
        install(dir.path()).unwrap();
        let written = fs::read(dir.path().join("register")).unwrap();
        assert_eq!(written, line(&std::env::current_exe().unwrap()).unwrap());
        fs::write(dir.path().join(NAME), "enabled\n").unwrap();
        assert!(status(dir.path()).unwrap());
    }

    #[test]
    fn the_kernels_arguments_become_ours() {
        let v = |s: &str| s.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(translated(v("/opt/xlat86 /bin/ls ls -l")), v("/opt/xlat86 run --argv0 ls -- /bin/ls -l"));
    }
}
