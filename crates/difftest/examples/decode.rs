//! The decoder's campaign: `decode CASES SEED [cpu]`. Candidates of [`Walk`] are decoded by our decoder and by Zydis, or measured on the host CPU,
//! and every difference that isn't a known one is shown. Three quarters are 32-bit code, the rest 16-bit code of both kinds.

use std::collections::BTreeMap;
use xlat86_arch::{CpuModel, Mode};
use xlat86_decoder::decode_insn;
use xlat86_difftest::decode::{Setting, Zydis, check};
use xlat86_difftest::length::Ruler;
use xlat86_difftest::walk::Walk;

/// One candidate in so many is put through all the decoder's laws.
const LAWS: u64 = 256;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [cases, seed, rest @ ..] = &args[..] else { panic!("usage: decode CASES SEED [cpu]") };
    let (cases, seed): (u64, u64) = (cases.parse().expect("a number"), seed.parse().expect("a number"));
    let mut ruler = rest.first().map(|_| Ruler::new().expect("room for code"));
    let modes = [
        Mode::USER32,
        Mode::USER32,
        Mode::USER32,
        Mode(Mode::PROTECTED),
        Mode::USER32,
        Mode::USER32,
        Mode::USER32,
        Mode(0),
    ];
    let modes = if ruler.is_some() { [Mode::USER32; 8] } else { modes };
    let zydis = modes.map(Zydis::new);
    let mut walk = Walk::new(seed);
    let mut found: BTreeMap<String, (u64, [u8; 16])> = BTreeMap::new();
    let (mut valid, started) = (0u64, std::time::Instant::now());
    for n in 0..cases {
        let bytes = walk.next_bytes();
        let which = (n >> 1) as usize % modes.len();
        let insn = decode_insn(&bytes, 0, modes[which], CpuModel::MAX.features).expect("16 bytes suffice");
        walk.seen(insn.len());
        valid += u64::from(insn.fault().is_none());
        let what = match &mut ruler {
            Some(ruler) => ruler.disagreement(&bytes, &insn),
            None => zydis[which].disagreement(&bytes, &insn),
        };
        if let Some(what) = what {
            found.entry(what).or_insert((0, bytes)).0 += 1;
        }
        if n % LAWS == 0 {
            check(&Setting { mode: modes[which], ..Setting::USER32 }, &bytes);
        }
    }
    println!(
        "{cases} candidates, seed {seed}: {valid} instructions, {} differences, {:.0} s",
        found.len(),
        started.elapsed().as_secs_f64()
    );
    for (what, (n, bytes)) in &found {
        println!("{what}: {n}, first {}", bytes.map(|b| format!("{b:02x}")).concat());
    }
    std::process::exit(i32::from(!found.is_empty()));
}
