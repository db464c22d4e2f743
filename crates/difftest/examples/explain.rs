//! Shows a case of the campaign, by its number as reports give it, in hexadecimal.
//!
//! `explain NUMBER`: a program; what the interpreter executes, and in which configurations translated code differs.
//! `explain NUMBER BYTES`: an instruction; where the host CPU, the interpreter and the translator differ.

use xlat86_arch::{CpuModel, Mode};
use xlat86_decoder::decode_insn;
use xlat86_difftest::bulk::{self, Batch, STATES, Trio};
use xlat86_difftest::campaign::silicon_judges;
use xlat86_difftest::engine::{LowMemory, Stepper, configurations, difference};
use xlat86_difftest::program::{LAYOUT, Programs};
use xlat86_difftest::undefined::Undefined;
use xlat86_vcpu::Engine;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = args.first().expect("usage: explain NUMBER [BYTES]");
    let number = u64::from_str_radix(number.trim_start_matches("0x"), 16).expect("a hexadecimal number");
    match args.get(1) {
        Some(bytes) => instruction(number, bytes),
        None => program(number),
    }
}

fn instruction(number: u64, hex: &str) {
    let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).expect("hexadecimal bytes");
    let bytes = (0..hex.len()).step_by(2).map(byte).collect();
    let low = LowMemory::new(&bulk::LAYOUT).expect("low memory");
    let mut trio = Trio::new(&low).expect("room for guests");
    let batch = Batch::new(number, bytes, STATES);
    // Once for every configuration.
    for _ in 1..configurations().len() {
        for f in trio.run(&batch, silicon_judges(batch.insn.code())).0 {
            println!("{}\n{}", batch.text(f.state), f.what);
        }
    }
}

fn program(number: u64) {
    let program = Programs::default().program(number, 1 + number as u32 % 3);
    let mut stepper = Stepper::new(&LAYOUT).expect("a window");
    let want = stepper.trace(&program, 20_000, |cpu, window| {
        let mut bytes = [0; 15];
        let n = window.read_bytes(cpu.eip, &mut bytes).map_or_else(|(n, _)| n, |()| 15);
        let text = decode_insn(&bytes[..n], cpu.eip, Mode::USER32, CpuModel::MAX.features).map(|i| i.iced.to_string());
        println!("{:08x} {:03x} {:08x?} {}", cpu.eip, cpu.eflags, cpu.gpr, text.unwrap_or_default());
    });
    let Some(want) = want else { return println!("it doesn't end") };
    println!("{:?} at {:08x}", want.exit, want.cpu.eip);
    let low = LowMemory::new(&LAYOUT).expect("low memory");
    for (name, config) in configurations() {
        if let Some(what) = difference(&want, &low.cpu(Engine::Dbt, config).run(&program), &Undefined::default()) {
            println!("{name}:\n{what}");
        }
    }
}
