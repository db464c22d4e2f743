//! The command. Arguments, output and exit codes; everything else is in the libraries.

#![forbid(unsafe_code)]

mod bench;
mod binfmt;
mod boot;
mod engine;
mod run;
mod verify;

use clap::{Args, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs 32-bit x86 software on 64-bit x86 Linux hosts, without help from the host's 32-bit support.
#[derive(Parser)]
#[command(name = "xlat86", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an i386 Linux program
    Run(run::Run),
    /// Boot a 32-bit operating system on an emulated PC
    Boot(boot::BootCommand),
    /// Compare ways to execute i386 programs
    Bench(bench::Bench),
    /// Compare this emulator with the CPU it runs on
    Verify(verify::Verify),
    /// Start xlat86 by itself for i386 programs (binfmt_misc)
    Binfmt(binfmt::Binfmt),
}

/// What `args` say if they are in order and say `run`: describing all the other commands takes longer than many a program runs.
fn only_run(args: &[OsString]) -> Option<run::Run> {
    let args = args.get(1..).filter(|a| a.first().is_some_and(|a| a == "run"))?;
    let matches = run::Run::augment_args(clap::Command::new("run")).try_get_matches_from(args).ok()?;
    run::Run::from_arg_matches(&matches).ok()
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        // A bug of the emulator, whatever the guest did. One line, and a status that no shell uses.
        boot::restore_terminal();
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        let p = info.payload();
        let what = p.downcast_ref::<&str>().copied().or_else(|| p.downcast_ref::<String>().map(String::as_str));
        let what = what.unwrap_or("unknown reason");
        eprintln!(
            "xlat86: internal error at {place}: {what}\nxlat86: please report this with the command that led to it"
        );
        std::process::exit(xlat86_linux_user::EXIT_BUG);
    }));
    let args = binfmt::invoked(std::env::args_os().collect());
    if let Some(run) = only_run(&args) {
        return run.run();
    }
    match Cli::parse_from(args).command {
        Command::Run(run) => run.run(),
        Command::Boot(boot) => boot.run(),
        Command::Bench(bench) => bench.run(),
        Command::Verify(verify) => verify.run(),
        Command::Binfmt(binfmt) => binfmt.run(),
    }
}
