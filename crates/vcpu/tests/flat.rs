//! Flat test images (testdata/flat): ROMs that test the privileged half of the CPU from within and report through the debug port.
//!
//! What each has to say stands in `testdata/flat/NAME.expected`, cross-checked with other implementations by `testdata/flat/cross-check`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use xlat86_softmmu::PhysMemory;
use xlat86_vcpu::{Config, Engine, Exit, Io, MmuMode, Process, Stats, Vcpu};

/// Ports of the debug console and of the exit device.
const DEBUG: u16 = 0xe9;
const EXIT: u16 = 0xf4;

#[derive(Default)]
struct Said {
    text: Vec<u8>,
    exit: Option<u32>,
}

struct Ports(Arc<Mutex<Said>>);

impl Io for Ports {
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        if port == DEBUG { DEBUG.into() } else { u32::MAX >> (32 - 8 * u32::from(size)) }
    }
    fn port_out(&mut self, port: u16, _: u8, value: u32) {
        let mut said = self.0.lock().unwrap();
        match port {
            DEBUG => said.text.push(value as u8),
            EXIT => said.exit = Some(value),
            _ => {}
        }
    }
}

fn source(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/flat").join(file)
}

/// Assembles an image.
fn image(name: &str) -> Vec<u8> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (object, binary) = (out.join(format!("{name}.o")), out.join(format!("{name}.bin")));
    let run = |program: &str, args: &[&Path]| {
        let status = Command::new(program).args(args).status().unwrap_or_else(|e| panic!("{program}: {e}"));
        assert!(status.success(), "{program} failed for {name}");
    };
    let (dir, asm, script) = (source(""), source(&format!("{name}.S")), source("link.ld"));
    run("as", &["--32".as_ref(), "-I".as_ref(), &dir, "-o".as_ref(), &object, &asm]);
    let format = ["-m", "elf_i386", "--oformat", "binary", "-T"].map(Path::new);
    run("ld", &[&format[..], &[&script, "-o".as_ref(), &binary, &object]].concat());
    std::fs::read(binary).unwrap()
}

/// Runs an image to its end; gives what it said and the counters.
fn run(image: &[u8], config: &Config) -> (String, Stats) {
    let memory = PhysMemory::new(16 << 20).unwrap();
    memory.map_rom((1 << 32) - image.len() as u64, image.to_vec());
    let said = Arc::new(Mutex::new(Said::default()));
    let process = Process::system(memory, config.clone()).unwrap();
    let mut cpu = Vcpu::system(&process, Box::new(Ports(said.clone()))).unwrap();
    let kicker = cpu.kicker();
    let watchdog = Arc::downgrade(&said);
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(60));
        if watchdog.upgrade().is_some() {
            kicker.kick();
        }
    });
    let exit = loop {
        let exit = cpu.run();
        if exit != Exit::InterruptWindow || said.lock().unwrap().exit.is_some() {
            break exit;
        }
    };
    let mut said = said.lock().unwrap();
    let mut text = String::from_utf8(core::mem::take(&mut said.text)).unwrap();
    if said.exit != Some(0x10) || exit != Exit::Halt {
        text += &format!("ended by {exit:?}, not through the exit port:\n{:x?}\n", cpu.state());
    }
    (text, cpu.stats())
}

fn check(name: &str) {
    let expected = std::fs::read_to_string(source(&format!("{name}.expected"))).unwrap();
    let image = image(name);
    let ways = [
        (Engine::Interp, MmuMode::Tlb),
        (Engine::Dbt, MmuMode::Tlb),
        (Engine::Dbt, MmuMode::Shadow),
        (Engine::Lockstep, MmuMode::Tlb),
        (Engine::Lockstep, MmuMode::Shadow),
    ];
    for (engine, mmu) in ways {
        let (said, _) = run(&image, &Config { engine, mmu, ..Config::default() });
        assert!(
            said.trim_end() == expected.trim_end(),
            "{name} on {engine:?} with {mmu:?} said\n{said}\nexpected was\n{expected}"
        );
    }
}

macro_rules! images {
    ($($name:ident),* $(,)?) => { $(
        #[test]
        fn $name() {
            check(stringify!($name));
        }
    )* };
}

images!(
    hello, exceptions, pages, rings, debug, smc, tasks, v86, crossings, leaves, remapped, priority, unpaged, fold,
    global
);

/// 20,000 system calls with seven segment loads, an IRET and a VERW each: what they come to is noted the first time.
#[test]
fn what_kernels_do_all_the_time_stays_in_translated_code() {
    let (said, stats) = run(&image("leaves"), &Config { engine: Engine::Dbt, ..Config::default() });
    assert!(said.contains("served=00004e20"), "{said}");
    assert!(stats.leaves() < 1000 && stats.interpreted < 2000, "{stats}");
}

/// What is taken for granted is taken back: folded calls and divisions that keep faulting are translated anew.
#[test]
fn what_was_folded_is_unfolded() {
    let (_, stats) = run(&image("fold"), &Config { engine: Engine::Dbt, mmu: MmuMode::Tlb, ..Config::default() });
    assert!(stats.retranslated >= 2, "{stats}");
    assert!(stats.leave_fault < 200, "{stats}");
}
