//! `xlat86 verify`: the differential campaign, for whoever wants to see for themselves on their own CPU.

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use xlat86_difftest::campaign::{FAMILIES, Plan, Report, missing, run};
use xlat86_difftest::{moo, rom};
use xlat86_vcpu::Engine;

/// How long a ROM may take.
const PATIENCE: Duration = Duration::from_secs(120);

const EXAMPLES: &str = "\
Examples:
  xlat86 verify                          a million random cases of every family
  xlat86 verify --family shift --seed 7  one family, another sequence
  xlat86 verify --coverage               also: which instructions the CPU wasn't asked about
  xlat86 verify --vectors v1_ex_real_mode    captures of a real 386
  xlat86 verify --rom test386.bin            a test ROM

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
    /// Instead: run captures of a real 80386 (MOO files, as of the SingleStepTests project), one or a directory of them
    #[arg(long, value_name = "PATH", conflicts_with_all = ["rom", "coverage", "family"])]
    vectors: Option<PathBuf>,
    /// Instead: run a flat test ROM from reset until it halts, on the interpreter and on the translator
    #[arg(long, value_name = "PATH", conflicts_with_all = ["coverage", "family"])]
    rom: Option<PathBuf>,
    /// Port to which a ROM writes progress codes, FFh at success
    #[arg(long, value_name = "HEX", default_value = "190", value_parser = port, requires = "rom")]
    post_port: u16,
    /// Port to which a ROM writes text
    #[arg(long, value_name = "HEX", default_value = "e9", value_parser = port, requires = "rom")]
    debug_port: u16,
    /// List instructions without a case on the CPU; the exit status is 1 if there are any
    #[arg(long)]
    coverage: bool,
}

fn port(text: &str) -> Result<u16, String> {
    u16::from_str_radix(text.trim_start_matches("0x"), 16).map_err(|_| "not a hexadecimal port number".into())
}

impl Verify {
    pub(crate) fn run(&self) -> ExitCode {
        let other = self.vectors.as_deref().map(vectors).or_else(|| self.rom.as_deref().map(|p| self.run_rom(p)));
        match other {
            None => self.campaign(),
            Some(Ok(true)) => ExitCode::SUCCESS,
            Some(Ok(false)) => ExitCode::FAILURE,
            Some(Err(why)) => {
                eprintln!("xlat86: {why}");
                ExitCode::FAILURE
            }
        }
    }

    /// Does the ROM at `path` succeed on both engines?
    fn run_rom(&self, path: &Path) -> Result<bool, String> {
        let image = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let ports = rom::Ports { debug: self.debug_port, post: self.post_port };
        let mut good = true;
        for (name, engine) in [("interpreter", Engine::Interp), ("translator", Engine::Dbt)] {
            let told = rom::run(&image, engine, ports, PATIENCE).map_err(|e| format!("{}: {e}", path.display()))?;
            let last = told.posts.last().map_or("none".into(), |p| format!("{p:02X}h"));
            let ended = told.trouble.as_deref().unwrap_or("halted");
            println!("{name}: {ended}; last progress code {last} of {}", told.posts.len());
            print!("{}", String::from_utf8_lossy(&told.text));
            good &= told.trouble.is_none() && told.posts.last().is_none_or(|&p| p == 0xff);
        }
        Ok(good)
    }

    fn campaign(&self) -> ExitCode {
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

/// Every file below `path`, in order.
fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut entries = std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    let inside = entries.iter().map(|p| files(p)).collect::<Result<Vec<_>, _>>()?;
    Ok(inside.concat())
}

/// Are all captures below `path` as the interpreter does it? Prints a line for each file.
fn vectors(path: &Path) -> Result<bool, String> {
    let about = |p: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", p.display());
    let is_moo = |p: &PathBuf| p == path || p.extension().is_some_and(|e| e.eq_ignore_ascii_case("moo"));
    let files: Vec<_> = files(path).map_err(|e| about(path, &e))?.into_iter().filter(is_moo).collect();
    if files.is_empty() {
        return Err(about(path, &"no .MOO file there (decompress .gz files first)"));
    }
    let mut machine = moo::Machine::new().map_err(|e| format!("no room for test guests: {e}"))?;
    let (mut captures, mut differ) = (0, 0);
    for file in &files {
        let bytes = std::fs::read(file).map_err(|e| about(file, &e))?;
        let contents = moo::File::read(&bytes).map_err(|e| about(file, &e))?;
        let found: Vec<_> =
            contents.captures.iter().filter_map(|c| machine.difference(c).map(|what| (&c.name, what))).collect();
        println!(
            "{}: {} captures of {}, {} differ",
            file.display(),
            contents.captures.len(),
            contents.cpu,
            found.len()
        );
        if let Some((name, what)) = found.first() {
            print!("  the first: {name}\n{what}");
        }
        captures += contents.captures.len();
        differ += found.len();
    }
    println!("{captures} captures in {} files, {differ} differ", files.len());
    Ok(differ == 0)
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
