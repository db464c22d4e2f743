//! What /proc says about the machine, without its name or anything else private.

use super::report::Machine;

/// Describes this machine. What can't be found out stays empty.
pub(crate) fn describe() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| value(&cpuinfo, name).unwrap_or_default().to_owned();
    let number = |name: &str| field(name).parse().unwrap_or_default();
    let memory = read("/proc/meminfo");
    let kib: u64 = value(&memory, "MemTotal").and_then(|v| v.split(' ').next()?.parse().ok()).unwrap_or_default();
    Machine {
        cpu: field("model name"),
        family: number("cpu family"),
        model: number("model"),
        stepping: number("stepping"),
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        virtualised: field("flags").split(' ').any(|f| f == "hypervisor"),
        memory_mib: kib / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        load: read("/proc/loadavg").split(' ').next().and_then(|l| l.parse().ok()).unwrap_or_default(),
    }
}

/// The value of the first line `name : value`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|l| l.split_once(':'));
    lines.filter(|(key, _)| key.trim() == name).map(|(_, v)| v.trim()).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model name\t: Some CPU\nmodel\t\t: 17\n";
        assert_eq!(value(text, "model"), Some("17"));
        assert_eq!(value(text, "model name"), Some("Some CPU"));
        assert_eq!(value(text, "name"), None);
    }

    #[test]
    fn this_machine_has_cpus() {
        let m = describe();
        assert!(m.cpus > 0 && !m.kernel.is_empty() && m.memory_mib > 0);
    }
}
