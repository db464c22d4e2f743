//! The report as tables.

use super::engine::{DBT, is_ablation};
use super::report::{Cost, Measurement, Report};
use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, presets};

/// A spread in percent that makes a figure doubtful.
const NOISY: f64 = 10.0;

fn table(header: Vec<String>) -> Table {
    let mut t = Table::new();
    t.load_style(presets::UTF8_BORDERS_ONLY);
    t.set_header(header.into_iter().map(|h| Cell::new(h).add_attribute(Attribute::Bold)));
    for column in t.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    t
}

/// Three digits.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// With thousands kept apart from small things.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if v >= 1.0 => format!("{v:.2} s"),
        v if v >= 1e-3 => format!("{:.2} ms", v * 1e3),
        v => format!("{:.1} us", v * 1e6),
    }
}

fn ratio_cell(m: Option<&Measurement>) -> Cell {
    let Some((m, ratio)) = m.and_then(|m| Some((m, m.ratio?))) else { return Cell::new("-") };
    let text = figure(ratio);
    let cell = if m.unit.spread() > NOISY { Cell::new(format!("{text}~")) } else { Cell::new(text) };
    match ratio {
        r if r <= 1.1 => cell.fg(Color::Green),
        r if r <= 3.0 => cell,
        r if r <= 10.0 => cell.fg(Color::Yellow),
        _ => cell.fg(Color::Red),
    }
}

/// All of it, as the terminal shows it.
pub(crate) fn render(r: &Report) -> String {
    let mut out = vec![comparison(r)];
    out.extend(summary(r));
    out.extend(ablations(r));
    out.extend(costs(r));
    out.extend(notes(r));
    out.join("\n") + "\n"
}

/// Workloads with what the base takes, and the others' ratios to that.
fn comparison(r: &Report) -> String {
    let engines = r.compared();
    if engines.len() < 2 && r.measurements.iter().all(|m| is_ablation(&m.engine)) {
        return String::new();
    }
    let mut header = vec!["workload".to_owned(), format!("{} / unit", r.base)];
    header.extend(engines.iter().skip(1).map(|e| e.name.clone()));
    let mut t = table(header);
    for group in r.group_names() {
        for workload in r.workloads_of(&group) {
            let Some(base) = r.find(&workload, &r.base) else { continue };
            let mut row = vec![Cell::new(format!("{group}/{workload}")), Cell::new(seconds(base.unit.min))];
            row.extend(engines.iter().skip(1).map(|e| ratio_cell(r.find(&workload, &e.name))));
            t.add_row(row);
        }
    }
    format!(
        "Time, in multiples of {} (quickest run to quickest run; ~ means a spread over {NOISY:.0} %)\n{t}\n",
        r.base
    )
}

/// Geometric means by group.
fn summary(r: &Report) -> Option<String> {
    let engines = r.compared();
    let mut header = vec!["group".to_owned()];
    header.extend(engines.iter().skip(1).map(|e| e.name.clone()));
    let mut t = table(header);
    let mut rows = r.group_names();
    rows.push("all".into());
    for group in &rows {
        let means: Vec<Option<f64>> = engines.iter().skip(1).map(|e| r.group_mean(group, &e.name)).collect();
        if means.iter().any(Option::is_some) {
            let mut row = vec![Cell::new(group)];
            row.extend(means.into_iter().map(|m| Cell::new(m.map_or("-".into(), figure))));
            t.add_row(row);
        }
    }
    (t.row_count() > 0).then(|| format!("Geometric means by group (\"all\" without startup)\n{t}\n"))
}

fn ablations(r: &Report) -> Option<String> {
    let rows = r.ablations(DBT);
    let mut header = vec!["translator without".to_owned(), "mean".to_owned()];
    header.extend(rows.first()?.slowdowns.iter().map(|s| s.0.clone()));
    let mut t = table(header);
    for a in rows {
        let number = |v: Option<f64>| Cell::new(v.map_or("-".into(), figure));
        let name = a.engine.strip_prefix("dbt:").unwrap_or(&a.engine).to_owned();
        let mut row = vec![Cell::new(name), number(a.mean).add_attribute(Attribute::Bold)];
        row.extend(a.slowdowns.iter().map(|s| number(s.1)));
        t.add_row(row);
    }
    Some(format!("What each technique is worth: time in multiples of the full translator's\n{t}\n"))
}

/// Rows of operations by engine.
pub(crate) fn cost_rows(costs: &[Cost]) -> Vec<(String, Vec<&Cost>)> {
    let mut rows: Vec<(String, Vec<&Cost>)> = Vec::new();
    for c in costs {
        let what = format!("{}, {}", c.what, c.unit);
        match rows.iter_mut().find(|row| row.0 == what) {
            Some(row) => row.1.push(c),
            None => rows.push((what, vec![c])),
        }
    }
    rows
}

fn costs(r: &Report) -> Option<String> {
    let engines = r.compared();
    let mut header = vec!["cost of".to_owned()];
    header.extend(engines.iter().map(|e| e.name.clone()));
    let mut t = table(header);
    for (what, values) in cost_rows(&r.costs) {
        let mut row = vec![Cell::new(what)];
        row.extend(engines.iter().map(|e| {
            let value = values.iter().find(|c| c.engine == e.name);
            Cell::new(value.map_or(String::new(), |c| figure(c.value)))
        }));
        t.add_row(row);
    }
    (t.row_count() > 0).then(|| format!("Costs in small\n{t}\n"))
}

fn notes(r: &Report) -> Vec<String> {
    let m = &r.machine;
    let mut out = Vec::new();
    let startups = r.compared().iter().map(|e| format!("{} {}", e.name, seconds(e.startup))).collect::<Vec<_>>();
    if !startups.is_empty() {
        out.push(format!("Start-up, taken off all but the startup group: {}.", startups.join(", ")));
    }
    let guest = if m.virtualised { ", virtualised" } else { "" };
    out.push(format!(
        "{} (family {}, model {}{guest}), {} CPUs, Linux {}, load {:.2} at the start; {:.0} s in all.",
        m.cpu, m.family, m.model, m.cpus, m.kernel, m.load, r.seconds
    ));
    out.extend(r.missing.iter().map(|(name, why)| format!("Not here: {name} ({why}).")));
    out.extend(r.mismatches.iter().map(|x| format!("MISMATCH: {} on {}: {}. No ratio.", x.workload, x.engine, x.why)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::sample;

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(
            [0.954, 9.99, 9.996, 42.42, 99.96, 12345.0].map(figure),
            ["0.95", "9.99", "10.0", "42.4", "100", "12345"]
        );
    }

    #[test]
    fn the_tables_name_all_that_matters() {
        let text = render(&sample());
        for part in ["integer/sort", "2.00", "no-chaining", "call, ns", "Not here: valgrind", "MISMATCH: hash on dbt"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
