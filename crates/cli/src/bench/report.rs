//! What a session found out: the raw samples, and what follows from them. This is the schema of `--json`.

use super::engine::{NATIVE, is_ablation};
use super::stats::{Summary, geomean};
use super::workload::COSTS;
use serde::{Deserialize, Serialize};

/// Raised when a field changes its meaning or goes away.
pub(crate) const SCHEMA: u32 = 1;

/// Which time is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Clock {
    /// User and system time: what other programs do meanwhile hardly shows
    #[default]
    Cpu,
    /// Time as it passes, for a quiet machine
    Wall,
}

/// The machine that all of it was measured on.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) family: u32,
    pub(crate) model: u32,
    pub(crate) stepping: u32,
    pub(crate) cpus: usize,
    /// The CPU is a hypervisor's guest: its system calls and faults cost more than bare metal's.
    pub(crate) virtualised: bool,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Load average of the last minute, before the first run.
    pub(crate) load: f64,
}

/// One engine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct EngineInfo {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) version: String,
    /// Seconds to run a program that does nothing; taken off every other workload's time.
    pub(crate) startup: f64,
}

/// One run, in seconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) cpu: f64,
    pub(crate) wall: f64,
}

/// One workload on one engine.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) group: String,
    pub(crate) workload: String,
    pub(crate) engine: String,
    /// Units of work in each run; `None` for a program that always does the same.
    pub(crate) scale: Option<u32>,
    pub(crate) clock: Clock,
    pub(crate) samples: Vec<Sample>,
    /// Seconds a unit, without start-up.
    pub(crate) unit: Summary,
    /// Quickest to the base's quickest.
    pub(crate) ratio: Option<f64>,
    /// Median to the base's median.
    pub(crate) median_ratio: Option<f64>,
}

/// One engine over one group.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct GroupMean {
    pub(crate) group: String,
    pub(crate) engine: String,
    pub(crate) ratio: f64,
    pub(crate) workloads: usize,
}

/// The price of one operation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) engine: String,
    pub(crate) value: f64,
}

/// Where the time of one run under the translator went, in seconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) workload: String,
    pub(crate) scale: Option<u32>,
    pub(crate) total: f64,
    pub(crate) startup: f64,
    pub(crate) translating: f64,
    /// Guest instructions translated.
    pub(crate) insns: u64,
}

/// An engine that didn't do the work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Mismatch {
    pub(crate) workload: String,
    pub(crate) engine: String,
    pub(crate) why: String,
}

/// Everything.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    pub(crate) version: String,
    /// RFC 3339, UTC.
    pub(crate) date: String,
    pub(crate) command: Vec<String>,
    pub(crate) seconds: f64,
    pub(crate) machine: Machine,
    /// The engine that ratios are to.
    pub(crate) base: String,
    pub(crate) engines: Vec<EngineInfo>,
    /// Engines that were looked for in vain, and why.
    pub(crate) missing: Vec<(String, String)>,
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) groups: Vec<GroupMean>,
    pub(crate) costs: Vec<Cost>,
    /// One workload at growing scales: each run ends where the next goes on, so together they are a time line.
    pub(crate) timeline: Vec<Share>,
    pub(crate) shares: Vec<Share>,
    /// Not empty: these pairs have no ratio.
    pub(crate) mismatches: Vec<Mismatch>,
}

impl Report {
    /// The measurement of `workload` on `engine`, if it has one.
    pub(crate) fn find(&self, workload: &str, engine: &str) -> Option<&Measurement> {
        self.measurements.iter().find(|m| m.workload == workload && m.engine == engine)
    }

    /// Fills in what follows from the samples: ratios and means.
    pub(crate) fn conclude(&mut self) {
        let base: Vec<(String, Summary)> =
            self.measurements.iter().filter(|m| m.engine == self.base).map(|m| (m.workload.clone(), m.unit)).collect();
        for m in &mut self.measurements {
            let of = base.iter().find(|b| b.0 == m.workload).map(|b| b.1);
            let ratio = |a: f64, b: f64| (a > 0.0 && b > 0.0).then(|| a / b);
            m.ratio = of.and_then(|b| ratio(m.unit.min, b.min));
            m.median_ratio = of.and_then(|b| ratio(m.unit.median, b.median));
        }
        self.groups = Vec::new();
        for engine in self.engines.iter().filter(|e| !is_ablation(&e.name)) {
            for group in self.group_names() {
                self.groups.extend(self.mean(&group, &engine.name, |m| m.group == group));
            }
            let all = |m: &Measurement| m.group != COSTS && m.group != "startup";
            self.groups.extend(self.mean("all", &engine.name, all));
        }
    }

    fn mean(&self, group: &str, engine: &str, of: impl Fn(&Measurement) -> bool) -> Option<GroupMean> {
        let ratios: Vec<f64> =
            self.measurements.iter().filter(|m| m.engine == engine && of(m)).filter_map(|m| m.ratio).collect();
        let ratio = geomean(ratios.iter().copied())?;
        Some(GroupMean { group: group.into(), engine: engine.into(), ratio, workloads: ratios.len() })
    }

    /// Groups in their order, without the one that only serves the table of costs.
    pub(crate) fn group_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for m in self.measurements.iter().filter(|m| m.group != COSTS) {
            if !names.contains(&m.group) {
                names.push(m.group.clone());
            }
        }
        names
    }

    /// Workloads of a group in their order.
    pub(crate) fn workloads_of(&self, group: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for m in self.measurements.iter().filter(|m| m.group == group) {
            if !names.contains(&m.workload) {
                names.push(m.workload.clone());
            }
        }
        names
    }

    /// Engines that are compared, the base first: without ablations.
    pub(crate) fn compared(&self) -> Vec<&EngineInfo> {
        let mut all: Vec<_> = self.engines.iter().filter(|e| !is_ablation(&e.name)).collect();
        all.sort_by_key(|e| e.name != self.base);
        all
    }

    /// A group's mean for an engine.
    pub(crate) fn group_mean(&self, group: &str, engine: &str) -> Option<f64> {
        self.groups.iter().find(|g| g.group == group && g.engine == engine).map(|g| g.ratio)
    }

    /// Engines beside `reference` that take something away from it, with how much slower each makes each workload.
    pub(crate) fn ablations(&self, reference: &str) -> Vec<Ablation> {
        let ablated = self.engines.iter().filter(|e| is_ablation(&e.name));
        let workloads: Vec<String> = {
            let mut names: Vec<String> = Vec::new();
            for m in self.measurements.iter().filter(|m| is_ablation(&m.engine)) {
                if !names.contains(&m.workload) {
                    names.push(m.workload.clone());
                }
            }
            names
        };
        let interp = self.engines.iter().find(|e| e.name == "interp");
        let full = |w: &str| self.find(w, reference).map(|m| m.unit.min).filter(|t| *t > 0.0);
        ablated
            .chain(interp)
            .filter(|_| !workloads.is_empty())
            .map(|e| {
                let slowdowns: Vec<(String, Option<f64>)> = workloads
                    .iter()
                    .map(|w| (w.clone(), self.find(w, &e.name).and_then(|m| full(w).map(|f| m.unit.min / f))))
                    .collect();
                let mean = geomean(slowdowns.iter().filter_map(|s| s.1));
                Ablation { engine: e.name.clone(), about: e.about.clone(), slowdowns, mean }
            })
            .collect()
    }

    /// True when ratios are to the host's own execution.
    pub(crate) fn to_native(&self) -> bool {
        self.base == NATIVE
    }
}

/// One row of the table that says what each technique is worth.
pub(crate) struct Ablation {
    pub(crate) engine: String,
    pub(crate) about: String,
    /// Workload, and its time to that of the full translator.
    pub(crate) slowdowns: Vec<(String, Option<f64>)>,
    pub(crate) mean: Option<f64>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Report {
        let measurement = |group: &str, workload: &str, engine: &str, unit: f64| Measurement {
            group: group.into(),
            workload: workload.into(),
            engine: engine.into(),
            scale: Some(40),
            clock: Clock::Cpu,
            samples: vec![Sample { cpu: unit * 40.0, wall: unit * 44.0 }],
            unit: Summary { min: unit, median: unit * 1.5, mad: unit / 8.0 },
            ratio: None,
            median_ratio: None,
        };
        let engine = |name: &str| EngineInfo {
            name: name.into(),
            about: format!("about <{name}>"),
            version: "1".into(),
            startup: 0.001,
        };
        let share = |scale| Share {
            workload: "sort".into(),
            scale: Some(scale),
            total: 0.01 * f64::from(scale + 1),
            startup: 0.004,
            translating: 0.002,
            insns: 1000 + u64::from(scale),
        };
        let mut report = Report {
            schema: SCHEMA,
            version: "0.1.0".into(),
            date: "2025-01-01T00:00:00Z".into(),
            command: vec!["xlat86".into(), "bench".into()],
            seconds: 12.5,
            machine: Machine { cpu: "Some & CPU".into(), cpus: 2, ..Machine::default() },
            base: NATIVE.into(),
            engines: [NATIVE, "dbt", "interp", "dbt:no-chaining"].map(engine).into(),
            missing: vec![("valgrind".into(), "No such file".into())],
            measurements: vec![
                measurement("integer", "sort", NATIVE, 0.001),
                measurement("integer", "sort", "dbt", 0.002),
                measurement("integer", "crc32", NATIVE, 0.001),
                measurement("integer", "crc32", "dbt", 0.0005),
                measurement("calls", "fib", NATIVE, 0.001),
                measurement("calls", "fib", "dbt", 0.008),
                measurement("integer", "sort", "interp", 0.05),
                measurement("integer", "sort", "dbt:no-chaining", 0.006),
                measurement(COSTS, "call", NATIVE, 0.001),
                measurement(COSTS, "call", "dbt", 0.1),
            ],
            groups: Vec::new(),
            costs: vec![Cost { what: "call".into(), unit: "ns".into(), engine: "dbt".into(), value: 3.5 }],
            timeline: vec![share(0), share(10), share(20)],
            shares: vec![share(40)],
            mismatches: vec![Mismatch { workload: "hash".into(), engine: "dbt".into(), why: "a < b".into() }],
        };
        report.conclude();
        report
    }

    #[test]
    fn ratios_are_to_the_base_and_means_are_by_group() {
        let r = sample();
        assert_eq!(r.find("sort", "dbt").unwrap().ratio, Some(2.0));
        assert_eq!(r.find("sort", NATIVE).unwrap().ratio, Some(1.0));
        assert!((r.group_mean("integer", "dbt").unwrap() - 1.0).abs() < 1e-12);
        // The table of costs has its own workloads; they would distort the mean.
        assert!((r.group_mean("all", "dbt").unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(r.group_names(), ["integer", "calls"]);
    }

    #[test]
    fn ablations_are_to_the_full_translator() {
        let rows = sample().ablations("dbt");
        let means: Vec<_> =
            rows.iter().map(|a| (a.engine.as_str(), a.mean.map(|m| (m * 10.0).round() / 10.0))).collect();
        assert_eq!(means, [("dbt:no-chaining", Some(3.0)), ("interp", Some(25.0))]);
    }

    #[test]
    fn json_says_it_all() {
        let r = sample();
        let text = serde_json::to_string(&r).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), r);
        assert!(text.contains("\"schema\":1"));
    }
}
