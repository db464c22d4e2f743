//! Shows a program of the campaign, by its number: what the interpreter executes, and in which configurations translated code differs.
//!
//! `explain NUMBER [ROUNDS]`, the number in hexadecimal as reports give it.

use xlat86_arch::{CpuModel, Mode};
use xlat86_decoder::decode_insn;
use xlat86_difftest::engine::{LowMemory, Stepper, configurations, difference};
use xlat86_difftest::program::{LAYOUT, Programs};
use xlat86_difftest::undefined::Undefined;
use xlat86_vcpu::Engine;

fn main() {
    let mut args = std::env::args().skip(1);
    let number = args.next().expect("usage: explain NUMBER [ROUNDS]");
    let number = u64::from_str_radix(number.trim_start_matches("0x"), 16).expect("a hexadecimal number");
    let program =
        Programs::default().program(number, args.next().map_or(1 + number as u32 % 3, |n| n.parse().expect("rounds")));
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
