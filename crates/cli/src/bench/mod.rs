//! `xlat86 bench`: how much does translation win over interpretation, how far is it from native, and how do others do?

mod costs;
mod csv;
mod engine;
mod html;
mod machine;
mod measure;
mod report;
mod session;
mod stats;
mod svg;
mod terminal;
mod workload;

use clap::Args;
use engine::{DBT, Engine, NATIVE, is_ablation};
use indicatif::{ProgressBar, ProgressStyle};
use report::{Clock, Report, SCHEMA};
use session::{Plan, Session};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};
use workload::{COSTS, EMBEDDED, FEW, STARTUP, Workload};

const EXAMPLES: &str = "\
Examples:
  xlat86 bench                                everything, in some 90 seconds
  xlat86 bench --group integer,calls          two groups of workloads
  xlat86 bench --workload fib --engines native,dbt --scale 100 --runs 9
  xlat86 bench --html report.html --json >report.json
  xlat86 bench -- ./prog args                 a program of your own, an i386 executable

The exit status is 0 if every engine gave the outputs of the one that ratios are to, 1 if not, 2 if
nothing could be measured. Times are CPU time (user and system) unless --clock says otherwise; those of
group threads are always wall time. docs/benchmarks/README.md says what the figures mean.";

/// Status when an engine's output was wrong.
const MISMATCH: u8 = 1;
/// Status when there is nothing to report.
const FAILED: u8 = 2;

/// Compare ways to execute i386 programs
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    /// Only these groups of workloads
    #[arg(long, value_name = "GROUP", value_delimiter = ',', value_parser = known_group)]
    group: Vec<String>,
    /// Only these workloads
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = known_workload)]
    workload: Vec<String>,
    /// Only these engines; the first that works is what ratios are to, native if it is among them
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = known_engine)]
    engines: Vec<String>,
    /// Only what each technique is worth, on all workloads
    #[arg(long)]
    ablations: bool,
    /// Only the costs in small
    #[arg(long)]
    costs: bool,
    /// Rounds, after a warm-up
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// The same work for every engine, in percent of a full workload (0.3 s natively), instead of what fits the time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    scale: Option<u32>,
    /// Choose the work so that all takes about this long
    #[arg(long, value_name = "SECONDS", default_value_t = 85, value_parser = clap::value_parser!(u64).range(1..=86400))]
    time: u64,
    /// Give up on a run after this long
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
    /// Which time to compare
    #[arg(long, value_enum, default_value_t = Clock::Cpu)]
    clock: Clock,
    /// Write the report as JSON to standard output
    #[arg(long)]
    json: bool,
    /// Write every run as CSV to standard output
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Write the report as a web page that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show workloads and engines, and measure nothing
    #[arg(long)]
    list: bool,
    /// Measure this xlat86 instead of the one that runs
    #[arg(long, value_name = "FILE")]
    xlat86: Option<PathBuf>,
    /// A program of your own, and its arguments
    #[arg(value_name = "PROGRAM", last = true)]
    program: Vec<OsString>,
}

fn known(what: &str, name: &str, mut names: Vec<&'static str>) -> Result<String, String> {
    names.dedup();
    if names.contains(&name) { Ok(name.into()) } else { Err(format!("no such {what}; there are {}", names.join(", "))) }
}

fn known_group(name: &str) -> Result<String, String> {
    known("group", name, EMBEDDED.iter().map(|e| e.group).collect())
}

fn known_workload(name: &str) -> Result<String, String> {
    known("workload", name, EMBEDDED.iter().map(|e| e.name).collect())
}

fn known_engine(name: &str) -> Result<String, String> {
    known("engine", name, engine::names().collect())
}

/// Engines that don't work here, and why.
type Missing = Vec<(String, String)>;

/// What a session covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Parts {
    comparison: bool,
    costs: bool,
    ablations: Ablations,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ablations {
    None,
    Few,
    All,
}

impl Bench {
    pub(crate) fn run(self) -> ExitCode {
        if self.list {
            list();
            return ExitCode::SUCCESS;
        }
        match self.measure().and_then(|report| self.write(&report).map(|()| report)) {
            Ok(report) if report.mismatches.is_empty() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(MISMATCH),
            Err(e) => {
                eprintln!("xlat86: {e}");
                ExitCode::from(FAILED)
            }
        }
    }

    fn parts(&self) -> Parts {
        let narrowed = !self.group.is_empty() || !self.workload.is_empty() || !self.engines.is_empty();
        match (self.ablations, self.costs) {
            _ if !self.program.is_empty() => {
                let ablations = if self.ablations { Ablations::All } else { Ablations::None };
                Parts { comparison: true, costs: false, ablations }
            }
            (false, false) if narrowed => Parts { comparison: true, costs: false, ablations: Ablations::None },
            (false, false) => Parts { comparison: true, costs: true, ablations: Ablations::Few },
            (ablations, costs) => {
                let ablations = if ablations { Ablations::All } else { Ablations::None };
                Parts { comparison: false, costs, ablations }
            }
        }
    }

    /// Is `w` to run on `e`?
    fn wants(&self, parts: Parts, w: &Workload, e: &Engine) -> bool {
        if is_ablation(&e.name) {
            let named = self.engines.contains(&e.name);
            return named
                || parts.ablations == Ablations::All
                || (parts.ablations == Ablations::Few && FEW.contains(&&*w.name));
        }
        // Without a comparison, the translator is compared with itself; the base says what is right.
        let needed = [NATIVE, DBT, "interp"].contains(&&*e.name);
        parts.comparison || (parts.costs && costs::prices(&w.name)) || (parts.ablations == Ablations::All && needed)
    }

    fn selects(&self, parts: Parts, group: &str, name: &str) -> bool {
        let by_group = self.group.is_empty() || self.group.iter().any(|g| g == group);
        let by_name = self.workload.is_empty() || self.workload.iter().any(|n| n == name);
        let asked = !self.group.is_empty() || !self.workload.is_empty();
        let wanted = match parts {
            Parts { comparison: true, costs, .. } => group != COSTS || costs,
            Parts { ablations: Ablations::All, costs, .. } => {
                (group != COSTS && name != STARTUP) || (costs && costs::prices(name))
            }
            _ => costs::prices(name),
        };
        by_group && by_name && (wanted || asked)
    }

    /// Engines that work here, the base first, and those that don't.
    fn engines(&self, parts: Parts, empty: &Workload) -> Result<(Vec<Engine>, Missing), String> {
        let own = std::env::current_exe().map_err(|e| format!("this program's file: {e}"))?;
        let xlat86 = self.xlat86.clone().unwrap_or(own);
        let chosen = |name: &str| match () {
            () if !self.engines.is_empty() => {
                self.engines.iter().any(|n| n == name) || (self.ablations && is_ablation(name))
            }
            () => !is_ablation(name) || parts.ablations != Ablations::None,
        };
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for name in engine::names().filter(|n| chosen(n)) {
            let engine = Engine::named(name, &xlat86).ok_or_else(|| format!("no engine {name}"))?;
            match engine.works(empty) {
                Ok(()) => found.push(engine),
                Err(why) => missing.push((name.to_owned(), why)),
            }
        }
        if found.iter().all(|e| is_ablation(&e.name)) {
            return Err(match missing.first() {
                Some((name, why)) => format!("no engine works here: {name}: {why}"),
                None => "an ablation needs an engine to be compared with".into(),
            });
        }
        Ok((found, missing))
    }

    fn measure(&self) -> Result<Report, String> {
        let start = Instant::now();
        let machine = machine::describe();
        let parts = self.parts();
        let folder = tempfile::tempdir().map_err(|e| format!("a temporary folder: {e}"))?;
        let unpack = |e| Workload::unpack(e, folder.path()).map_err(|e| format!("{}: {e}", folder.path().display()));
        let all = EMBEDDED.iter().map(unpack).collect::<Result<Vec<_>, _>>()?;
        let empty = all.iter().find(|w| w.is(STARTUP)).ok_or("no workload to start with")?;
        let workloads: Vec<Workload> = match self.program.split_first() {
            Some((program, args)) => {
                let own = Workload::of_user(program.as_ref(), args);
                vec![own.map_err(|e| format!("{}: {e}", program.to_string_lossy()))?]
            }
            None => all.iter().filter(|w| self.selects(parts, &w.group, &w.name)).cloned().collect(),
        };
        let (engines, missing) = self.engines(parts, empty)?;
        // What comes after the session takes its part of the time.
        let after = if parts.costs { 0.12 } else { 0.0 };
        let plan = Plan {
            runs: self.runs,
            scale: self.scale,
            until: start + Duration::from_secs(self.time).mul_f64(1.0 - after),
            clock: self.clock,
            limit: Duration::from_secs(self.timeout),
        };
        let bar = progress();
        let wanted = |w: &Workload, e: &Engine| self.wants(parts, w, e);
        let mut session = Session::new(plan, &engines, &workloads, empty, wanted, bar.clone());
        session.run();
        let info = session.engine_info();
        let (measurements, mismatches) = session.finish();
        let mut report = Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: std::env::args().collect(),
            seconds: 0.0,
            machine,
            base: engines[0].name.clone(),
            engines: info,
            missing,
            measurements,
            groups: Vec::new(),
            costs: Vec::new(),
            timeline: Vec::new(),
            shares: Vec::new(),
            mismatches,
        };
        if let Some(dbt) = engines.iter().find(|e| e.name == DBT).filter(|_| parts.costs) {
            bar.set_message("costs of translating");
            price(&mut report, dbt, &all, &workloads);
        }
        bar.finish_and_clear();
        report.conclude();
        report.seconds = start.elapsed().as_secs_f64();
        Ok(report)
    }

    fn write(&self, report: &Report) -> Result<(), String> {
        if let Some(file) = &self.html {
            std::fs::write(file, html::page(report)).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        let text = if self.json {
            serde_json::to_string_pretty(report).map_err(|e| e.to_string())? + "\n"
        } else if self.csv {
            csv::csv(report)
        } else {
            terminal::render(report)
        };
        use std::io::Write;
        let written = std::io::stdout().write_all(text.as_bytes());
        if self.json || self.csv {
            // Whoever reads standard output with a program should hear of it too.
            report.mismatches.iter().for_each(|m| eprintln!("xlat86: {} on {}: {}", m.workload, m.engine, m.why));
        }
        written.map_err(|e| format!("standard output: {e}"))
    }
}

/// Adds to the report what single operations and the translator's parts cost.
fn price(report: &mut Report, dbt: &Engine, all: &[Workload], workloads: &[Workload]) {
    report.costs = costs::of_translating(dbt, all);
    report.costs.extend(costs::of_operations(&report.measurements));
    let priced = workloads.iter().filter(|w| w.group != COSTS);
    let runs: Vec<_> = priced.filter_map(|w| Some((w, report.find(&w.name, DBT)?.scale))).collect();
    (report.shares, report.timeline) = costs::shares(dbt, all, &runs);
}

fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {elapsed} {msg}");
    let bar = ProgressBar::new(0);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn list() {
    let mut group = "";
    for e in EMBEDDED {
        if e.group != group {
            println!("{}{}:", if group.is_empty() { "" } else { "\n" }, e.group);
            group = e.group;
        }
        println!("  {}", e.name);
    }
    println!("\nengines:");
    for name in engine::names() {
        let about = Engine::named(name, std::path::Path::new("")).map(|e| e.about).unwrap_or_default();
        println!("  {name:<24}{about}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn parse(line: &str) -> Result<Bench, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|l| l.bench).map_err(|e| e.to_string())
    }

    #[test]
    fn a_bare_command_covers_everything() {
        let parts = parse("").unwrap().parts();
        assert_eq!(parts, Parts { comparison: true, costs: true, ablations: Ablations::Few });
    }

    #[test]
    fn filters_select() {
        let b = parse("--group calls,integer --runs 5 --scale 30 --engines interp,dbt").unwrap();
        let parts = b.parts();
        assert_eq!(parts.ablations, Ablations::None);
        let selected: Vec<_> = EMBEDDED.iter().filter(|e| b.selects(parts, e.group, e.name)).map(|e| e.group).collect();
        assert_eq!(selected.len(), 14);
        assert!(selected.iter().all(|g| ["calls", "integer"].contains(g)));
        let b = parse("--workload fib --ablations").unwrap();
        assert_eq!(b.parts(), Parts { comparison: false, costs: false, ablations: Ablations::All });
        assert!(b.selects(b.parts(), "calls", "fib") && !b.selects(b.parts(), "calls", "mutual"));
    }

    #[test]
    fn a_users_program_keeps_its_options() {
        let b = parse("--runs 2 -- ./prog --group x -v").unwrap();
        assert_eq!(b.program, ["./prog", "--group", "x", "-v"]);
        assert!(Workload::of_user("./prog".as_ref(), &b.program).is_err());
    }

    #[test]
    fn what_does_not_exist_is_refused_with_what_does() {
        assert!(parse("--group integr").unwrap_err().contains("integer"));
        assert!(parse("--engines bochs").unwrap_err().contains("qemu-i386"));
        assert!(parse("--workload nothing").unwrap_err().contains("fib"));
        for bad in ["--runs 0", "--scale 0", "--json --csv", "--clock sun", "--time x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
