//! Flat test ROMs: an image at the top of the first megabyte and of memory, entered by reset, that tells its progress through I/O ports.
//!
//! Text goes to a debug port, progress to a POST port, and HLT ends it. That is how test386.asm and its kin report: their last code is FFh, and a
//! halt at any other is a failure whose number is the code.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use xlat86_softmmu::PhysMemory;
use xlat86_vcpu::{Config, Engine, Exit, Io, Process, Vcpu};

/// RAM of the machine.
const RAM: u64 = 16 << 20;

/// Where an image reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Characters.
    pub debug: u16,
    /// Progress codes.
    pub post: u16,
}

/// What an image told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// Characters written to the debug port.
    pub text: Vec<u8>,
    /// Codes written to the POST port.
    pub posts: Vec<u8>,
    /// How it ended, when not by HLT.
    pub trouble: Option<String>,
}

struct Devices {
    ports: Ports,
    told: Arc<Mutex<Told>>,
}

impl Io for Devices {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        if port == self.ports.debug { port.into() } else { u32::MAX >> (32 - 8 * u32::from(size)) }
    }

    fn port_out(&mut self, port: u16, _size: u8, value: u32) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if port == self.ports.debug {
            told.text.push(value as u8);
        } else if port == self.ports.post {
            told.posts.push(value as u8);
        }
    }
}

/// Runs `image` on `engine` until it halts, or for `patience` at most.
///
/// # Errors
/// The image has no size that a ROM can have, or the host refuses memory.
pub fn run(image: &[u8], engine: Engine, ports: Ports, patience: Duration) -> io::Result<Told> {
    if image.len() < 16 || image.len() > 1 << 19 || !image.len().is_multiple_of(16) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a ROM has 16 bytes to 512 KB, in multiples of 16"));
    }
    let memory = PhysMemory::new(RAM)?;
    let len = image.len() as u64;
    memory.map_rom((1 << 32) - len, image.to_vec());
    // The same below 1 MB, where real mode finds it; RAM, so that it can be shadowed.
    let low = &image[image.len() - image.len().min(0x4_0000)..];
    memory.write((1 << 20) - low.len() as u64, low).map_err(|_| io::Error::other("no RAM below 1 MB"))?;
    let told = Arc::new(Mutex::new(Told::default()));
    let process = Process::system(memory, Config { engine, ..Config::default() }).map_err(io::Error::other)?;
    let devices = Devices { ports, told: told.clone() };
    let mut cpu = Vcpu::system(&process, Box::new(devices)).map_err(io::Error::other)?;
    let kicker = cpu.kicker();
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        while waiting.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            kicker.kick();
        }
    });
    let exit = loop {
        match cpu.run() {
            Exit::InterruptWindow => {}
            exit => break exit,
        }
    };
    let at = (cpu.state().seg[1].selector, cpu.state().eip);
    drop(done);
    let _ = watchdog.join();
    drop(cpu);
    let mut told = core::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    told.trouble = match exit {
        Exit::Halt => None,
        Exit::Interrupted => Some(format!("still running at {:x}:{:x}", at.0, at.1)),
        other => Some(format!("{other:?} at {:x}:{:x}", at.0, at.1)),
    };
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 256-byte ROM: `code` at its start, and at the reset vector a jump there.
    fn rom(code: &[u8]) -> Vec<u8> {
        let mut image = vec![0xf4; 256];
        image[..code.len()].copy_from_slice(code);
        image[0xf0..0xf3].copy_from_slice(&[0xe9, 0x0d, 0xff]);
        image
    }

    const PORTS: Ports = Ports { debug: 0xe9, post: 0x190 };

    /// mov dx, 190h; mov al, 1; out dx, al; mov al, 'x'; out 0e9h, al; mov al, 0ffh; out dx, al; cli; hlt
    const GOOD: [u8; 16] =
        [0xba, 0x90, 0x01, 0xb0, 1, 0xee, 0xb0, b'x', 0xe6, 0xe9, 0xb0, 0xff, 0xee, 0xfa, 0xf4, 0x90];

    #[test]
    fn a_rom_reports_on_every_engine() {
        for engine in [Engine::Interp, Engine::Dbt] {
            let told = run(&rom(&GOOD), engine, PORTS, Duration::from_secs(30)).unwrap();
            assert_eq!(told, Told { text: b"x".to_vec(), posts: vec![1, 0xff], trouble: None });
        }
    }

    #[test]
    fn a_rom_that_never_ends_is_stopped() {
        let told = run(&rom(&[0xeb, 0xfe]), Engine::Interp, PORTS, Duration::from_millis(100)).unwrap();
        assert!(told.trouble.unwrap().contains("still running"));
    }
}
