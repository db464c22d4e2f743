//! Costs in small: what one operation takes, and what the translator takes to begin with.

use super::engine::{Engine, is_ablation};
use super::measure::{self, End};
use super::report::{Cost, Measurement, Share};
use super::workload::{EMBEDDED, LARGEST, STARTUP, Work, Workload};
use serde::Deserialize;
use std::time::Duration;

/// Operation, the workload that does it over and over, and how often in a unit of work (its source says so).
const OPERATIONS: &[(&str, &str, f64)] = &[
    ("call and return", "call", 1e6),
    ("indirect jump", "indirect", 1e6),
    ("sensitive instruction (leave, interpret, re-enter)", "leave", 2e4),
    ("system call (getppid)", "getppid", 400.0),
    ("system call with a pointer (write)", "devnull", 400.0),
    ("signal sent, handled, returned from", "sigusr1", 180.0),
    ("fault handled by the guest (SIGSEGV)", "sigsegv", 200.0),
    ("write fault, page unprotected by the handler", "mprotect", 96.0),
    ("fresh page touched", "touch", 768.0),
    ("code patched and called", "patch", 36000.0),
];

/// Where the time line looks, in units of work.
const INSTANTS: &[u32] = &[0, 1, 2, 3, 5, 7, 10, 15, 20, 25, 30];
/// Runs with counters, translating everything: with code kept from earlier runs there would be nothing to count.
const COUNTS: usize = 7;
/// Where embedded programs are linked.
const LINKED_AT: u32 = 0x0804_8000;

/// What `xlat86 run --stats=json` prints; it has more.
#[derive(Deserialize, Debug)]
pub(crate) struct Counters {
    peak_memory_kib: u64,
    translation_ns: u64,
    insns: u64,
    guest_bytes: u64,
    host_bytes: u64,
}

impl Counters {
    /// From what a program under `--stats=json` wrote to standard error: the last line is the process's own.
    fn parse(errors: &str) -> Option<Counters> {
        errors.lines().rev().find_map(|line| serde_json::from_str(line).ok())
    }
}

/// Does the table of costs need this workload?
pub(crate) fn prices(workload: &str) -> bool {
    OPERATIONS.iter().any(|o| o.1 == workload)
}

/// Prices of single operations, from measurements of the workloads that do them.
pub(crate) fn of_operations(measurements: &[Measurement]) -> Vec<Cost> {
    let priced = OPERATIONS.iter().flat_map(|&(what, workload, count)| {
        measurements.iter().filter(move |m| m.workload == workload && m.unit.min > 0.0 && !is_ablation(&m.engine)).map(
            move |m| Cost {
                what: what.into(),
                unit: "ns".into(),
                engine: m.engine.clone(),
                value: m.unit.min / count * 1e9,
            },
        )
    });
    priced.collect()
}

/// What the translator's own parts cost. `share` runs a workload at a scale with counters.
pub(crate) fn of_translating(dbt: &Engine, workloads: &[Workload]) -> Vec<Cost> {
    let cost = |what: &str, unit: &str, value: f64| Cost {
        what: what.into(),
        unit: unit.into(),
        engine: dbt.name.clone(),
        value,
    };
    let mut costs = Vec::new();
    if let Some(speed) = decode_speed() {
        costs.push(cost("decoding", "MB/s", speed));
    }
    let counted = |name: &str| {
        let w = workloads.iter().find(|w| w.is(name))?;
        // The quickest of some: the engine's own clock goes on while others have the CPU.
        let counts = (0..COUNTS).filter_map(|_| count(dbt, w, Some(5)));
        counts.map(|(_, c)| c).min_by_key(|c| c.translation_ns)
    };
    let mib = |c: &Counters| c.peak_memory_kib as f64 / 1024.0;
    let (Some(most), Some(least)) = (counted(LARGEST), counted(STARTUP)) else { return costs };
    // The first translation makes tables and touches fresh memory: that is a price of its own.
    let (time, insns) =
        (most.translation_ns.saturating_sub(least.translation_ns), most.insns.saturating_sub(least.insns));
    if insns > 0 && most.guest_bytes > 0 {
        costs.push(cost("translating one more guest instruction", "ns", time as f64 / insns as f64));
        costs.push(cost("translating the smallest guest", "us", least.translation_ns as f64 / 1e3));
        costs.push(cost("host code for guest code", "bytes/byte", most.host_bytes as f64 / most.guest_bytes as f64));
    }
    costs.push(cost("memory with 600 functions translated", "MiB", mib(&most)));
    costs.push(cost("memory with the smallest guest", "MiB", mib(&least)));
    costs
}

/// Megabytes a second, over the largest embedded program. The best of some runs: the first meets cold caches.
fn decode_speed() -> Option<f64> {
    let elf = EMBEDDED.iter().find(|e| e.name == LARGEST)?.elf;
    let entry = u32::from_le_bytes(elf.get(24..28)?.try_into().ok()?);
    let text = elf.get(entry.checked_sub(LINKED_AT)? as usize..)?;
    let runs = (0..10).map(|_| xlat86_vcpu::probe::decode(text, entry));
    runs.map(|d| d.bytes as f64 / d.time.as_secs_f64().max(1e-9) / 1e6).reduce(f64::max)
}

/// Runs with counters, translating everything: with code kept from earlier runs there would be nothing to count.
fn count(dbt: &Engine, workload: &Workload, scale: Option<u32>) -> Option<(Duration, Counters)> {
    let mut command = dbt.with("--stats=json").with("--no-code-cache").command(&workload.program);
    match &workload.work {
        Work::Units => command.arg(scale.unwrap_or_default().to_string()),
        Work::Fixed(args) => command.args(args),
    };
    let run = measure::run(&mut command, Duration::from_secs(30)).ok()?;
    let counters = Counters::parse(&run.errors)?;
    (run.end != End::TimedOut).then_some((run.cpu, counters))
}

/// Where the translator's time goes in one run, at best: what noise adds to either part is left out. `startup` is without
/// translating.
fn share(dbt: &Engine, workload: &Workload, scale: Option<u32>, startup: f64, runs: usize) -> Option<Share> {
    let counts: Vec<_> = (0..runs).filter_map(|_| count(dbt, workload, scale)).collect();
    let total = counts.iter().map(|c| c.0.as_secs_f64()).reduce(f64::min)?;
    let least = counts.iter().min_by_key(|c| c.1.translation_ns)?;
    let translating = (least.1.translation_ns as f64 / 1e9).min(total);
    let startup = startup.min(total - translating);
    Some(Share { workload: workload.name.clone(), scale, total, startup, translating, insns: least.1.insns })
}

/// The parts of one run of each workload, at the scale that is given with it; and, as time line, one program ended earlier
/// and later: since it does the same each time, the runs together show it as time goes by.
pub(crate) fn shares(dbt: &Engine, all: &[Workload], runs: &[(&Workload, Option<u32>)]) -> (Vec<Share>, Vec<Share>) {
    let find = |name: &str| all.iter().find(|w| w.is(name));
    let empty = find(STARTUP).and_then(|w| share(dbt, w, None, 0.0, COUNTS));
    let startup = empty.map_or(0.0, |s| s.total - s.translating);
    let parts = runs.iter().filter_map(|(w, scale)| share(dbt, w, *scale, startup, 2)).collect();
    let instants = find(LARGEST).into_iter().flat_map(|w| INSTANTS.iter().map(move |scale| (w, Some(*scale))));
    (parts, instants.filter_map(|(w, scale)| share(dbt, w, scale, startup, 4)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::sample;

    #[test]
    fn every_operation_has_its_workload() {
        for (what, workload, _) in OPERATIONS {
            assert!(EMBEDDED.iter().any(|e| e.name == *workload), "{what}");
        }
    }

    #[test]
    fn prices_are_by_operation() {
        let costs = of_operations(&sample().measurements);
        let call = costs.iter().find(|c| c.what == "call and return" && c.engine == "dbt").unwrap();
        assert!((call.value - 100.0).abs() < 1e-9);
    }

    #[test]
    fn counters_are_found_among_other_lines() {
        let line =
            r#"{"elapsed_ns":1,"peak_memory_kib":2,"translation_ns":3,"insns":4,"guest_bytes":5,"host_bytes":6}"#;
        let c = Counters::parse(&format!("guest says {{}}\n{line}\n")).unwrap();
        assert_eq!((c.peak_memory_kib, c.translation_ns, c.insns, c.guest_bytes, c.host_bytes), (2, 3, 4, 5, 6));
        assert!(Counters::parse("nothing\n").is_none());
    }

    #[test]
    fn the_largest_program_decodes() {
        assert!(decode_speed().unwrap() > 0.0);
    }
}
