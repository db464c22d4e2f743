//! Runs workloads on engines, so that the figures can be compared.
//!
//! Every pair of a workload and an engine is a [`Job`]. Jobs are first calibrated, to find how many units of work fill the
//! time there is; then rounds go through all of them, so that what slows the machine for a while strikes all alike. Each output
//! is compared with what the base prints for the same amount of work: an engine that prints something else has no time.

use super::engine::Engine;
use super::measure::{self, End, Run};
use super::report::{Clock, EngineInfo, Measurement, Mismatch, Sample};
use super::stats::{Summary, median};
use super::workload::{Work, Workload};
use indicatif::ProgressBar;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Amounts of work to choose from.
const SCALES: &[u32] = &[1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100, 200, 400];
/// A calibration run shorter than this, or than start-up, says little; it is repeated with more work.
const CALIBRATED: f64 = 0.008;
/// What one run should take, start-up apart, if there is time enough.
const LONGEST: f64 = 0.3;
/// A run should take this long even if there isn't.
const SHORTEST: f64 = 0.02;
/// Rounds below which there is nothing to take a median of.
const ROUNDS: u32 = 2;
/// Runs of the empty program, for each engine.
const STARTUPS: usize = 7;

/// How to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) runs: u32,
    /// Units of work for every engine; `None`: what fits.
    pub(crate) scale: Option<u32>,
    /// When to be done.
    pub(crate) until: Instant,
    pub(crate) clock: Clock,
    /// When to stop a run.
    pub(crate) limit: Duration,
}

/// A workload on an engine.
struct Job {
    workload: usize,
    engine: usize,
    scale: Option<u32>,
    samples: Vec<Sample>,
}

/// A comparison being made.
pub(crate) struct Session<'a> {
    plan: Plan,
    /// The base is the first.
    engines: &'a [Engine],
    workloads: &'a [Workload],
    startup: Vec<Sample>,
    jobs: Vec<Job>,
    expected: BTreeMap<(usize, Option<u32>), (End, Vec<u8>)>,
    mismatches: Vec<Mismatch>,
    bar: ProgressBar,
}

fn sample(run: &Run) -> Sample {
    Sample { cpu: run.cpu.as_secs_f64(), wall: run.wall.as_secs_f64() }
}

/// Threads are about time as it passes.
fn clock_for(workload: &Workload, clock: Clock) -> Clock {
    if workload.group == "threads" { Clock::Wall } else { clock }
}

fn time(s: &Sample, clock: Clock) -> f64 {
    match clock {
        Clock::Cpu => s.cpu,
        Clock::Wall => s.wall,
    }
}

impl<'a> Session<'a> {
    /// Prepares to run those workloads on those engines that `wanted` says. `empty` is a program that does nothing.
    pub(crate) fn new(
        plan: Plan,
        engines: &'a [Engine],
        workloads: &'a [Workload],
        empty: &Workload,
        wanted: impl Fn(&Workload, &Engine) -> bool,
        bar: ProgressBar,
    ) -> Session<'a> {
        let pairs = (0..workloads.len()).flat_map(|w| (0..engines.len()).map(move |e| (w, e)));
        let jobs: Vec<Job> = pairs
            .filter(|&(w, e)| wanted(&workloads[w], &engines[e]))
            .map(|(workload, engine)| Job { workload, engine, scale: None, samples: Vec::new() })
            .collect();
        bar.set_length(jobs.len() as u64);
        let mut session = Session {
            plan,
            engines,
            workloads,
            startup: Vec::new(),
            jobs,
            expected: BTreeMap::new(),
            mismatches: Vec::new(),
            bar,
        };
        session.startup = engines.iter().map(|e| session.startup_of(e, empty)).collect();
        session
    }

    fn startup_of(&self, engine: &Engine, empty: &Workload) -> Sample {
        let runs =
            (0..STARTUPS).filter_map(|_| measure::run(&mut engine.command(&empty.program), self.plan.limit).ok());
        let samples: Vec<Sample> = runs.map(|r| sample(&r)).collect();
        let middle = |clock| {
            let times: Vec<f64> = samples.iter().map(|s| time(s, clock)).collect();
            median(&times).unwrap_or_default()
        };
        Sample { cpu: middle(Clock::Cpu), wall: middle(Clock::Wall) }
    }

    /// Measures everything.
    pub(crate) fn run(&mut self) {
        self.calibrate();
        self.bar.set_position(0);
        self.bar.set_length(self.jobs.len() as u64 * u64::from(self.plan.runs));
        for round in 0..self.plan.runs {
            let start = Instant::now();
            for j in 0..self.jobs.len() {
                let (workload, engine, scale) = (self.jobs[j].workload, self.jobs[j].engine, self.jobs[j].scale);
                self.bar.set_message(format!("{} on {}", self.workloads[workload].name, self.engines[engine].name));
                if let Some(s) = self.once(workload, engine, scale) {
                    self.jobs[j].samples.push(s);
                }
                self.bar.inc(1);
            }
            // A machine that has become busier since the calibration gets fewer rounds, not more time.
            if round + 1 >= ROUNDS && Instant::now() + start.elapsed() > self.plan.until && self.plan.scale.is_none() {
                break;
            }
        }
    }

    /// One run, compared with what it must print. `None`, and noted, if it printed something else.
    fn once(&mut self, workload: usize, engine: usize, scale: Option<u32>) -> Option<Sample> {
        let name = self.workloads[workload].name.clone();
        if self.mismatches.iter().any(|m| m.workload == name && m.engine == self.engines[engine].name) {
            return None;
        }
        let result = self.execute(workload, engine, scale).and_then(|run| {
            if engine == 0 && run.end != End::TimedOut {
                // Even the base may not contradict itself.
                self.expected.entry((workload, scale)).or_insert_with(|| (run.end, run.output.clone()));
            }
            let expected = self.expected(workload, scale)?;
            if (run.end, &run.output) == (expected.0, &expected.1) {
                Ok(sample(&run))
            } else {
                Err(differs(&run, expected))
            }
        });
        result.map_err(|why| self.mismatch(name, engine, why)).ok()
    }

    fn mismatch(&mut self, workload: String, engine: usize, why: String) {
        self.mismatches.push(Mismatch { workload, engine: self.engines[engine].name.clone(), why });
    }

    fn execute(&self, workload: usize, engine: usize, scale: Option<u32>) -> Result<Run, String> {
        let w = &self.workloads[workload];
        let mut command = self.engines[engine].command(&w.program);
        match &w.work {
            Work::Units => command.arg(scale.unwrap_or_default().to_string()),
            Work::Fixed(args) => command.args(args),
        };
        measure::run(&mut command, self.plan.limit).map_err(|e| e.to_string())
    }

    /// What the base prints.
    fn expected(&mut self, workload: usize, scale: Option<u32>) -> Result<&(End, Vec<u8>), String> {
        if !self.expected.contains_key(&(workload, scale)) {
            let run = self.execute(workload, 0, scale)?;
            if run.end == End::TimedOut {
                return Err(format!("nothing to compare with: {} was {}", self.engines[0].name, run.why()));
            }
            self.expected.insert((workload, scale), (run.end, run.output));
        }
        Ok(&self.expected[&(workload, scale)])
    }

    /// Finds how much work each job is to do. This is also each job's warm-up.
    fn calibrate(&mut self) {
        let mut unit = Vec::with_capacity(self.jobs.len());
        let pairs: Vec<_> = self.jobs.iter().map(|j| (j.workload, j.engine)).collect();
        for (w, e) in pairs {
            self.bar.set_message(format!("calibrating {} on {}", self.workloads[w].name, self.engines[e].name));
            unit.push(if self.workloads[w].work == Work::Units {
                self.unit_time(w, e)
            } else {
                self.once(w, e, None);
                None
            });
            self.bar.inc(1);
        }
        let target = self.target(&unit);
        for (job, unit) in self.jobs.iter_mut().zip(unit) {
            let (w, e) = (&self.workloads[job.workload], &self.engines[job.engine]);
            if w.work == Work::Units {
                let fits = |s: &&u32| f64::from(**s) * unit.unwrap_or(f64::INFINITY) <= target;
                let least = if e.translates() { w.least } else { 1 };
                let fitting = SCALES.iter().rev().find(fits).copied().unwrap_or(1).max(least);
                job.scale = Some(self.plan.scale.unwrap_or(fitting));
            }
        }
    }

    /// Seconds that pass during a unit of work, roughly.
    fn unit_time(&mut self, w: usize, e: usize) -> Option<f64> {
        if let Some(fixed) = self.plan.scale {
            self.once(w, e, Some(fixed));
            return None;
        }
        for scale in [1, 5, 20] {
            let t = self.once(w, e, Some(scale))?.wall - self.startup[e].wall;
            if t > CALIBRATED.max(self.startup[e].wall) || scale == 20 {
                return Some(t.max(1e-4) / f64::from(scale));
            }
        }
        None
    }

    /// Seconds of work a run may take for all to be done in time, given what a unit takes in each job.
    fn target(&self, units: &[Option<f64>]) -> f64 {
        let left = self.plan.until.saturating_duration_since(Instant::now()).as_secs_f64() / f64::from(self.plan.runs);
        let startup: f64 = self.jobs.iter().map(|j| self.startup[j.engine].wall).sum();
        let mut units: Vec<f64> = units.iter().flatten().copied().collect();
        units.sort_by(f64::total_cmp);
        // Jobs that need longer for a single unit take what they need; the others share what is left.
        let mut target = share(left - startup, units.len());
        while let Some(slowest) = units.pop().filter(|u| *u > target) {
            let rest: f64 = slowest + units.iter().filter(|u| **u > target).sum::<f64>();
            units.retain(|u| *u <= target);
            target = share(left - startup - rest, units.len());
        }
        target
    }

    /// Engines, with their start-up.
    pub(crate) fn engine_info(&self) -> Vec<EngineInfo> {
        let all = self.engines.iter().zip(&self.startup);
        all.map(|(e, s)| EngineInfo {
            name: e.name.clone(),
            about: e.about.clone(),
            version: e.version(),
            startup: time(s, self.plan.clock),
        })
        .collect()
    }

    /// What was measured. Jobs with a mismatch have no measurement.
    pub(crate) fn finish(self) -> (Vec<Measurement>, Vec<Mismatch>) {
        let bad: BTreeSet<(String, String)> =
            self.mismatches.iter().map(|m| (m.workload.clone(), m.engine.clone())).collect();
        let measured = self.jobs.into_iter().filter_map(|job| {
            let (w, e) = (&self.workloads[job.workload], &self.engines[job.engine]);
            if bad.contains(&(w.name.clone(), e.name.clone())) {
                return None;
            }
            let clock = clock_for(w, self.plan.clock);
            // A program that always does the same is measured whole: its start-up is part of what it does.
            let (off, units) = match job.scale {
                Some(n) => (time(&self.startup[job.engine], clock), f64::from(n)),
                None => (0.0, 1.0),
            };
            let units: Vec<f64> = job.samples.iter().map(|s| (time(s, clock) - off).max(0.0) / units).collect();
            Some(Measurement {
                group: w.group.clone(),
                workload: w.name.clone(),
                engine: e.name.clone(),
                scale: job.scale,
                clock,
                samples: job.samples,
                unit: Summary::of(&units)?,
                ratio: None,
                median_ratio: None,
            })
        });
        (measured.collect(), self.mismatches)
    }
}

/// Each one's part of `seconds`, within reason.
fn share(seconds: f64, among: usize) -> f64 {
    (seconds / (among as f64).max(1.0)).clamp(SHORTEST, LONGEST)
}

/// How a run differs from what was expected, in one line.
fn differs(run: &Run, expected: &(End, Vec<u8>)) -> String {
    if run.end != expected.0 {
        return match expected.0 {
            End::Exit(0) => run.why(),
            other => format!("{}, but expected was {other:?}", run.why()),
        };
    }
    let at = run.output.iter().zip(&expected.1).take_while(|(a, b)| a == b).count();
    let excerpt =
        |b: &[u8]| String::from_utf8_lossy(&b[at.saturating_sub(12).min(b.len())..b.len().min(at + 12)]).into_owned();
    format!("output differs at byte {at}: {:?}, not {:?}", excerpt(&run.output), excerpt(&expected.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::engine::NATIVE;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    /// A script as a workload; the engines of these tests are all the host, told apart by a wrapper.
    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn session(wrapper: &str, program: &str) -> (Vec<Measurement>, Vec<Mismatch>) {
        let _alone = measure::tests::alone();
        let dir = tempfile::tempdir().unwrap();
        // `xlat86 run PROGRAM ARGS` stands for whatever `wrapper` makes of it.
        let other = script(dir.path(), "other", &format!("shift\n{wrapper}"));
        let engines = [Engine::named(NATIVE, &other).unwrap(), Engine::named("dbt", &other).unwrap()];
        let workload = |name: &str, text: &str| Workload {
            group: "test".into(),
            name: name.into(),
            program: script(dir.path(), name, text),
            work: Work::Units,
            least: 1,
        };
        let empty = workload("empty", ":");
        let workloads = [workload("program", program)];
        let plan =
            Plan { runs: 2, scale: Some(3), until: Instant::now(), clock: Clock::Wall, limit: Duration::from_secs(20) };
        let mut s = Session::new(plan, &engines, &workloads, &empty, |_, _| true, ProgressBar::hidden());
        s.run();
        s.finish()
    }

    #[test]
    fn equal_outputs_are_measured() {
        let (measured, mismatches) = session("exec \"$@\"", "echo $1; sleep 0.02");
        assert_eq!(mismatches, []);
        let seen: Vec<_> = measured.iter().map(|m| (m.engine.as_str(), m.samples.len(), m.scale)).collect();
        assert_eq!(seen, [(NATIVE, 2, Some(3)), ("dbt", 2, Some(3))]);
        assert!(measured.iter().all(|m| m.unit.min > 0.001));
    }

    #[test]
    fn another_output_has_no_time() {
        let (measured, mismatches) = session("\"$@\"; echo more", "echo checksum 12");
        assert!(measured.iter().all(|m| m.engine == NATIVE));
        assert_eq!((mismatches.len(), mismatches[0].engine.as_str()), (1, "dbt"));
        assert!(mismatches[0].why.contains("output differs at byte 12"), "{}", mismatches[0].why);
    }

    #[test]
    fn another_status_has_no_time() {
        let (measured, mismatches) = session("\"$@\"; echo oops >&2; exit 9", "echo same");
        assert!(measured.iter().all(|m| m.engine == NATIVE));
        assert_eq!(mismatches[0].why, "exit status 9: oops");
    }

    #[test]
    fn a_program_that_contradicts_itself_has_no_time() {
        let (measured, mismatches) = session("exec \"$@\"", "date +%N");
        assert!(measured.is_empty());
        assert_eq!(mismatches.len(), 2);
    }
}
