//! `xlat86 verify`: the differential campaign, for whoever wants to see for themselves on their own CPU.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;
use xlat86_difftest::campaign::{FAMILIES, Plan, Report, missing, run};

const EXAMPLES: &str = "\
Examples:
  xlat86 verify                          a million random cases of every family
  xlat86 verify --family shift --seed 7  one family, another sequence
  xlat86 verify --coverage               also: which instructions the CPU wasn't asked about

Each case runs on the host CPU in 32-bit mode, on the interpreter, and on the translator in its default configuration and
one other. The exit status is 1 if any two disagree; what reproduces the first differences is printed.";

/// Compare this emulator with the CPU it runs on
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Verify {
    /// Number of random cases
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    cases: u64,
    /// Only cases of this family
    #[arg(long, value_name = "FAMILY", value_parser = FAMILIES)]
    family: Option<String>,
    /// Start of the random sequence
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// List instructions without a case on the CPU; the exit status is 1 if there are any
    #[arg(long)]
    coverage: bool,
}

impl Verify {
    pub(crate) fn run(&self) -> ExitCode {
        let bar = ProgressBar::new(self.cases);
        let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} cases, {eta} left");
        bar.set_style(style.expect("a valid template"));
        let plan = Plan { cases: self.cases, family: self.family.clone(), seed: self.seed };
        let report = match run(&plan, |done| bar.set_position(done)) {
            Ok(report) => report,
            Err(why) => {
                eprintln!("xlat86: no room for test guests: {why}");
                return ExitCode::FAILURE;
            }
        };
        bar.finish_and_clear();
        println!("{}", table(&report));
        for text in report.reproducers.iter() {
            println!("\n{text}");
        }
        let uncovered = if self.coverage { missing(&report, self.family.as_deref()) } else { Vec::new() };
        if self.coverage {
            println!("{} instructions asked of the CPU, {} not", report.codes.len(), uncovered.len());
            uncovered.iter().for_each(|code| println!("  {code}"));
        }
        if report.differences() == 0 && uncovered.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["family", "cases", "with the CPU", "with the translator", "stale flags", "differences"]);
    for (family, t) in &report.tallies {
        let numbers = [t.cases, t.silicon, t.translator, t.stale, t.differences].map(|n| n.to_string());
        table.add_row(std::iter::once((*family).to_string()).chain(numbers));
    }
    table.column_iter_mut().skip(1).for_each(|c| c.set_cell_alignment(CellAlignment::Right));
    table
}
