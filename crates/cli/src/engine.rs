//! Options that say how guest code is executed.

use clap::{Args, ValueEnum};
use std::ffi::OsString;
use xlat86_vcpu::{AddressForm, Columns, Config, CpuModel, Engine};

/// Engine settings. Everything but the first two takes something away: for bisection, and to see what it is worth.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineOptions {
    /// What executes the guest's instructions
    #[arg(long, value_enum, default_value_t = EngineName::Dbt)]
    engine: EngineName,
    /// The CPU that the program sees
    #[arg(long, value_name = "MODEL", default_value = "max", value_parser = cpu_model)]
    cpu: &'static CpuModel,
    /// Don't let translations jump to each other directly
    #[arg(long, help_heading = TUNING)]
    no_chaining: bool,
    /// Don't use the host's calls and returns for the guest's
    #[arg(long, help_heading = TUNING)]
    no_return_pairing: bool,
    /// Keep flags even where nothing reads them
    #[arg(long, help_heading = TUNING)]
    no_flag_liveness: bool,
    /// Move the stack pointer with every PUSH and POP
    #[arg(long, help_heading = TUNING)]
    no_lazy_esp: bool,
    /// Interpret code that may change unnoticed, rather than translate it to code that checks itself
    #[arg(long, help_heading = TUNING)]
    no_self_checking: bool,
    /// Neither keep translations for later runs nor use those of earlier ones ($XDG_CACHE_HOME/xlat86)
    #[arg(long, help_heading = TUNING)]
    no_code_cache: bool,
    /// How guest memory is reached: directly, or through the GS segment
    #[arg(long, value_enum, default_value_t = Window::Low, help_heading = TUNING)]
    window: Window,
    /// Most guest instructions translated as one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = TUNING)]
    max_insns: Option<u16>,
    /// Size of the translation cache, such as 256K or 64M
    #[arg(long, value_name = "SIZE", value_parser = size, help_heading = TUNING)]
    cache_size: Option<usize>,
    /// Print each translation as it is made: guest code, host code, or both side by side
    #[arg(long, value_enum, value_name = "WHAT", value_delimiter = ',', help_heading = TUNING)]
    dump: Vec<Dump>,
    /// Write /tmp/perf-PID.map, by which `perf report` names translated code
    #[arg(long, help_heading = TUNING)]
    perf_map: bool,
}

const TUNING: &str = "Translator";
/// Below this, not even one region has room for a translation of every size.
const SMALLEST_CACHE: usize = 256 << 10;
/// Host jumps reach 2 GB.
const LARGEST_CACHE: usize = 1 << 30;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum EngineName {
    /// The reference interpreter
    Interp,
    /// The dynamic binary translator
    Dbt,
    /// The translator, each block checked by the interpreter
    Lockstep,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Dump {
    /// Guest instructions
    Guest,
    /// Host instructions
    Host,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Window {
    /// Guest addresses are host addresses
    Low,
    /// Every access goes through GS
    Gs,
}

fn cpu_model(name: &str) -> Result<&'static CpuModel, String> {
    CpuModel::by_name(name).ok_or_else(|| {
        let names: Vec<&str> = CpuModel::all().iter().map(|m| m.name).collect();
        format!("unknown; there are {}", names.join(", "))
    })
}

/// Size of a translation cache.
fn size(text: &str) -> Result<usize, String> {
    let number = bytes(text)? as usize;
    let possible = (SMALLEST_CACHE..=LARGEST_CACHE).contains(&number);
    if possible { Ok(number) } else { Err("a cache has 256K to 1G".to_owned()) }
}

/// Bytes, or with a suffix KiB, MiB or GiB.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let shift = match text.as_bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { &text[..text.len() - 1] };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number.and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| "not a size; give a number, or one with K, M or G".to_owned())
}

impl EngineOptions {
    /// The settings that the options amount to.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config { model: self.cpu, ..Config::default() };
        config.engine = match self.engine {
            EngineName::Interp => Engine::Interp,
            EngineName::Dbt => Engine::Dbt,
            EngineName::Lockstep => Engine::Lockstep,
        };
        let (guest, host) = (self.dump.contains(&Dump::Guest), self.dump.contains(&Dump::Host));
        config.dump = (guest || host).then_some(Columns { guest, host });
        config.perf_map = self.perf_map;
        config.keep_code = !self.no_code_cache;
        let t = &mut config.translator;
        t.suit_host();
        t.chaining = !self.no_chaining;
        t.return_pairing = !self.no_return_pairing;
        t.flag_liveness = !self.no_flag_liveness;
        t.lazy_esp = !self.no_lazy_esp;
        t.self_checking = !self.no_self_checking;
        t.address_form = match self.window {
            Window::Low => AddressForm::Low,
            Window::Gs => AddressForm::Gs,
        };
        t.max_insns = self.max_insns.map_or(t.max_insns, usize::from);
        t.cache_size = self.cache_size.unwrap_or(t.cache_size);
        config
    }

    /// The options that say the same again.
    pub(crate) fn again(&self) -> Vec<OsString> {
        let name = |v: Option<clap::builder::PossibleValue>| v.map(|v| v.get_name().to_owned()).unwrap_or_default();
        let mut again: Vec<String> = vec!["--engine".into(), name(self.engine.to_possible_value())];
        again.extend(["--cpu".into(), self.cpu.name.into()]);
        again.extend(["--window".into(), name(self.window.to_possible_value())]);
        let switches = [
            ("--no-chaining", self.no_chaining),
            ("--no-return-pairing", self.no_return_pairing),
            ("--no-flag-liveness", self.no_flag_liveness),
            ("--no-lazy-esp", self.no_lazy_esp),
            ("--no-self-checking", self.no_self_checking),
            ("--no-code-cache", self.no_code_cache),
            ("--perf-map", self.perf_map),
        ];
        again.extend(switches.iter().filter(|s| s.1).map(|s| s.0.to_owned()));
        let numbers = [("--max-insns", self.max_insns.map(usize::from)), ("--cache-size", self.cache_size)];
        for (option, value) in numbers {
            again.extend(value.into_iter().flat_map(|v| [option.to_owned(), v.to_string()]));
        }
        for what in &self.dump {
            again.extend(["--dump".into(), name(what.to_possible_value())]);
        }
        again.into_iter().map(OsString::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        engine: EngineOptions,
    }

    fn parse(args: &[&str]) -> EngineOptions {
        Line::try_parse_from(std::iter::once("xlat86").chain(args.iter().copied())).unwrap().engine
    }

    #[test]
    fn nothing_said_is_everything_on() {
        let mut all = Config::default().translator;
        all.suit_host();
        assert_eq!(parse(&[]).config().translator, all);
    }

    #[test]
    fn options_survive_being_handed_on() {
        let all = "--engine interp --no-chaining --no-return-pairing --no-flag-liveness --no-lazy-esp --no-self-checking --no-code-cache --window gs --max-insns 1 --dump guest,host --perf-map \
                   --cache-size 256K";
        let first = parse(&all.split_whitespace().collect::<Vec<_>>());
        let again: Vec<String> = first.again().iter().map(|s| s.to_str().unwrap().to_owned()).collect();
        let second = parse(&again.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(first.config().translator, second.config().translator);
        assert_eq!(first.config().engine, Engine::Interp);
        let t = second.config().translator;
        assert_eq!((t.max_insns, t.cache_size, t.address_form), (1, 256 << 10, AddressForm::Gs));
        assert_eq!(second.config().dump, Some(Columns { guest: true, host: true }));
        assert!(second.config().perf_map && !second.config().keep_code);
        assert!(!t.chaining && !t.return_pairing && !t.flag_liveness && !t.lazy_esp && !t.self_checking);
    }

    #[test]
    fn sizes() {
        assert_eq!(size("262144"), Ok(256 << 10));
        assert_eq!(size("2m"), Ok(2 << 20));
        for bad in ["", "K", "12Q", "1K", "2G", "99999999999999999999", "18446744073709551615G", "\u{e9}"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
