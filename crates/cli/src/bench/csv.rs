//! `--csv`: one line for each run, so that any tool can do its own statistics.

use super::report::Report;
use std::fmt::Write;

/// Columns: see the first line. Times are in seconds, start-up included.
pub(crate) fn csv(report: &Report) -> String {
    let mut out = String::from("group,workload,engine,scale,run,cpu_s,wall_s\n");
    for m in &report.measurements {
        let scale = m.scale.map(|s| s.to_string()).unwrap_or_default();
        for (i, s) in m.samples.iter().enumerate() {
            let names = [&m.group, &m.workload, &m.engine].map(|n| quote(n)).join(",");
            let _ = writeln!(out, "{names},{scale},{i},{:.6},{:.6}", s.cpu, s.wall);
        }
    }
    out
}

/// As RFC 4180 has it: a user's program may be called anything.
fn quote(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::sample;

    #[test]
    fn one_line_a_run() {
        let mut report = sample();
        report.measurements[0].workload = "a,\"b\"".into();
        let text = csv(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + report.measurements.len());
        assert_eq!(lines[1], "integer,\"a,\"\"b\"\"\",native,40,0,0.040000,0.044000");
    }
}
