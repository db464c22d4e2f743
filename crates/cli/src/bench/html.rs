//! `--html`: the report as one page that loads nothing from anywhere, with its plots in it.

use super::engine::{DBT, is_ablation};
use super::report::{Measurement, Report, Share};
use super::svg::{self, Bar, Row, escape};
use super::terminal::{cost_rows, figure, seconds};
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");
/// Classes of the parts of a run: what isn't guest code, translating, the rest.
const PARTS: [&str; 3] = ["idle", "c1", "c0"];

/// The whole page.
pub(crate) fn page(r: &Report) -> String {
    let sections = [
        tiles(r),
        mismatches(r),
        overview(r),
        workloads(r),
        ablations(r),
        timeline(r),
        costs(r),
        numbers(r),
        footer(r),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>xlat86 bench</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<h1>xlat86 bench</h1>\n<p>{}</p>\n{}</body>\n</html>\n",
        escape(&machine(r)),
        sections.concat()
    )
}

fn machine(r: &Report) -> String {
    let m = &r.machine;
    let guest = if m.virtualised { ", virtualised" } else { "" };
    format!(
        "{} · family {} model {}{guest} · {} CPUs · Linux {} · xlat86 {} · {}",
        m.cpu, m.family, m.model, m.cpus, m.kernel, r.version, r.date
    )
}

fn section(title: &str, about: &str, body: &str) -> String {
    format!("<h2>{}</h2>\n<p>{}</p>\n{body}\n", escape(title), escape(about))
}

fn card(title: &str, body: &str) -> String {
    let title = if title.is_empty() { String::new() } else { format!("<h3>{}</h3>", escape(title)) };
    format!("<div class=\"card\">{title}{body}</div>\n")
}

/// Colour class of an engine that isn't the base.
fn class(r: &Report, engine: &str) -> String {
    const ORDER: &[&str] = &[DBT, "interp", "qemu-i386", "valgrind"];
    let known = ORDER.iter().position(|e| *e == engine);
    let at = known.unwrap_or_else(|| r.engines.iter().position(|e| e.name == engine).unwrap_or_default());
    format!("c{}", at % 5)
}

fn legend(entries: impl IntoIterator<Item = (String, String)>) -> String {
    let items =
        entries.into_iter().map(|(class, name)| format!("<span><i class=\"{class}\"></i>{}</span>", escape(&name)));
    format!("<div class=\"legend\">{}</div>\n", items.collect::<String>())
}

/// Engines in the order of bars: the base is the line at 1, and what all the others are held against comes first.
fn drawn(r: &Report) -> Vec<String> {
    let mut names: Vec<String> = r.compared().iter().skip(1).map(|e| e.name.clone()).collect();
    names.sort_by_key(|name| name != DBT);
    names
}

fn engine_legend(r: &Report) -> String {
    let about = |name: &String| r.engines.iter().find(|e| e.name == *name).map(|e| e.about.clone()).unwrap_or_default();
    legend(drawn(r).iter().map(|e| (class(r, e), format!("{e}: {}", about(e)))))
}

/// The answers in large type.
fn tiles(r: &Report) -> String {
    let mut out = String::new();
    let mut tile = |value: Option<f64>, unit: &str, text: &str| {
        if let Some(v) = value {
            let _ = writeln!(out, "<div class=\"tile\"><b>{}{unit}</b><span>{}</span></div>", figure(v), escape(text));
        }
    };
    let mean = |e: &str| r.group_mean("all", e);
    let against = |e: &str| mean(e).zip(mean(DBT)).map(|(a, b)| a / b);
    let base = if r.to_native() { "native".to_owned() } else { r.base.clone() };
    if r.base != DBT {
        tile(mean(DBT), "×", &format!("the translator's time, in multiples of {base}"));
    }
    tile(against("interp"), "×", "as fast as its interpreter");
    tile(against("qemu-i386"), "×", "as fast as qemu-i386");
    tile(against("valgrind"), "×", "as fast as Valgrind without a tool");
    let cost = r.costs.iter().find(|c| c.unit == "ns" && c.what.starts_with("translating"));
    tile(cost.map(|c| c.value), " ns", "to translate a guest instruction");
    if out.is_empty() { out } else { format!("<div class=\"tiles\">\n{out}</div>\n") }
}

fn mismatches(r: &Report) -> String {
    if r.mismatches.is_empty() {
        return String::new();
    }
    let rows: String = r
        .mismatches
        .iter()
        .map(|m| format!("<li>{} on {}: {}</li>", escape(&m.workload), escape(&m.engine), escape(&m.why)))
        .collect();
    format!("<div class=\"card alarm\"><b>Outputs differ: these have no ratio</b><ul>{rows}</ul></div>\n")
}

/// The axis that all plots of ratios share, so that they can be compared by eye.
fn range<'a>(ratios: impl Iterator<Item = &'a Measurement>) -> (f64, f64) {
    let (lo, hi) = ratios.filter_map(|m| m.ratio).fold((0.5, 10.0), |(lo, hi): (f64, f64), r| (lo.min(r), hi.max(r)));
    (lo.max(0.05), hi * 1.3)
}

fn compared_range(r: &Report) -> (f64, f64) {
    range(r.measurements.iter().filter(|m| !is_ablation(&m.engine)))
}

fn overview(r: &Report) -> String {
    let engines = drawn(r);
    let mut groups = r.group_names();
    groups.push("all".into());
    let rows: Vec<Row> = groups
        .iter()
        .map(|g| {
            let bars = engines.iter().filter_map(|e| {
                let value = r.group_mean(g, e)?;
                Some(Bar {
                    class: class(r, e),
                    value,
                    label: figure(value),
                    title: format!("{g}: {e} {}×", figure(value)),
                })
            });
            Row { label: g.clone(), bars: bars.collect() }
        })
        .filter(|row| !row.bars.is_empty())
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let about = format!(
        "Geometric means of time in multiples of {}, on a logarithmic axis: the line is {0}, and shorter is better.",
        r.base
    );
    section(
        "By group",
        &about,
        &(engine_legend(r)
            + &format!("<div class=\"narrow\">{}</div>", card("", &svg::ratio_bars(&rows, compared_range(r))))),
    )
}

fn workloads(r: &Report) -> String {
    let engines = drawn(r);
    let mut cards = String::new();
    for group in r.group_names() {
        let rows: Vec<Row> = r
            .workloads_of(&group)
            .into_iter()
            .map(|w| {
                let bars = engines.iter().filter_map(|e| {
                    let m = r.find(&w, e)?;
                    let value = m.ratio?;
                    let title = format!(
                        "{w} on {e}: {}× (spread {:.0} %, {} runs)",
                        figure(value),
                        m.unit.spread(),
                        m.samples.len()
                    );
                    Some(Bar { class: class(r, e), value, label: figure(value), title })
                });
                Row { label: w.clone(), bars: bars.collect() }
            })
            .filter(|row| !row.bars.is_empty())
            .collect();
        if !rows.is_empty() {
            cards += &card(&group, &svg::ratio_bars(&rows, compared_range(r)));
        }
    }
    if cards.is_empty() {
        return cards;
    }
    section(
        "By workload",
        "The same for every program; pointing at a bar tells its spread.",
        &format!("<div class=\"columns\">{cards}</div>"),
    )
}

fn ablations(r: &Report) -> String {
    let all = r.ablations(DBT);
    let rows: Vec<Row> = all
        .iter()
        .filter_map(|a| {
            let value = a.mean?;
            let label = a.engine.strip_prefix("dbt:").unwrap_or(&a.engine).to_owned();
            let bar = Bar {
                class: class(r, if is_ablation(&a.engine) { DBT } else { &a.engine }),
                value,
                label: figure(value),
                title: a.about.clone(),
            };
            Some(Row { label, bars: vec![bar] })
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let hi = rows.iter().flat_map(|r| &r.bars).map(|b| b.value).fold(3.0, f64::max);
    let mut header = vec!["translator without".to_owned(), "mean".to_owned()];
    header.extend(all[0].slowdowns.iter().map(|s| s.0.clone()));
    let number = |v: Option<f64>| v.map_or("-".to_owned(), figure);
    let body = all.iter().map(|a| {
        let mut row = vec![a.engine.strip_prefix("dbt:").unwrap_or(&a.engine).to_owned(), number(a.mean)];
        row.extend(a.slowdowns.iter().map(|s| number(s.1)));
        row
    });
    let plot = card("", &svg::ratio_bars(&rows, (0.8, hi * 1.3)));
    let plots = format!("<div class=\"narrow\">{plot}</div><br>{}", card("", &table(&header, body)));
    section(
        "What each technique is worth",
        "The translator's time with one thing taken away, in multiples of the full translator's time (geometric mean over the workloads in the table).",
        &plots,
    )
}

/// A run's time in parts.
fn parts(s: &Share) -> [f64; 3] {
    [s.startup, s.translating, (s.total - s.startup - s.translating).max(0.0)]
}

fn timeline(r: &Report) -> String {
    if r.shares.is_empty() && r.timeline.is_empty() {
        return String::new();
    }
    let names = ["start-up", "translating", "running"];
    let mut cards = String::new();
    if let Some(first) = r.timeline.first() {
        let points: Vec<(f64, Vec<f64>)> =
            r.timeline.iter().map(|s| (s.total * 1e3, parts(s).iter().map(|p| p * 1e3).collect())).collect();
        let last = r.timeline.last().unwrap_or(first);
        let text = format!(
            "<p>{} with more and more work: each point is a run that ends there. {} guest instructions are translated at the end, {} at the first point.</p>",
            escape(&first.workload),
            last.insns,
            first.insns
        );
        let plot = svg::layers(&PARTS, &points, "CPU time at which the run ends, ms", "ms spent so far");
        cards += &card("Time line", &(text + &plot));
    }
    let rows: Vec<svg::Shares> = r
        .shares
        .iter()
        .map(|s| {
            let p = parts(s);
            let told: Vec<String> = names.iter().zip(p).map(|(n, v)| format!("{n} {}", seconds(v))).collect();
            let title = format!("{}: {}", s.workload, told.join(", "));
            svg::Shares { label: s.workload.clone(), title, parts: PARTS.into_iter().zip(p).collect() }
        })
        .collect();
    if !rows.is_empty() {
        cards += &card("Parts of one run", &svg::shares(&rows));
    }
    let about = "Where the translator's CPU time goes. Runs are short here; in a longer one, start-up and translating take the same time and a smaller part.";
    let key = legend(PARTS.iter().zip(names).map(|(c, n)| ((*c).to_owned(), n.to_owned())));
    section("Translating against running", about, &(key + &format!("<div class=\"columns\">{cards}</div>")))
}

fn table(header: &[String], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line =
        |tag: &str, cells: &[String]| cells.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect::<String>();
    let body: String = rows.map(|row| format!("<tr>{}</tr>\n", line("td", &row))).collect();
    format!("<table><thead><tr>{}</tr></thead><tbody>\n{body}</tbody></table>", line("th", header))
}

fn costs(r: &Report) -> String {
    if r.costs.is_empty() {
        return String::new();
    }
    let engines = r.compared();
    let mut header = vec!["cost of".to_owned()];
    header.extend(engines.iter().map(|e| e.name.clone()));
    let rows = cost_rows(&r.costs).into_iter().map(|(what, values)| {
        let mut row = vec![what];
        let of = |name: &str| values.iter().find(|c| c.engine == name).map_or(String::new(), |c| figure(c.value));
        row.extend(engines.iter().map(|e| of(&e.name)));
        row
    });
    section("Costs in small", "The price of single operations, and of translating.", &card("", &table(&header, rows)))
}

fn numbers(r: &Report) -> String {
    let header: Vec<String> = [
        "workload",
        "engine",
        "scale",
        "runs",
        "quickest / unit",
        "median / unit",
        "spread",
        "ratio",
        "ratio of medians",
    ]
    .map(String::from)
    .into();
    let rows = r.measurements.iter().map(|m| {
        let ratio = |v: Option<f64>| v.map_or("-".to_owned(), figure);
        vec![
            format!("{}/{}", m.group, m.workload),
            m.engine.clone(),
            m.scale.map_or("-".into(), |s| s.to_string()),
            m.samples.len().to_string(),
            seconds(m.unit.min),
            seconds(m.unit.median),
            format!("{:.1} %", m.unit.spread()),
            ratio(m.ratio),
            ratio(m.median_ratio),
        ]
    });
    let body = format!(
        "<details><summary>{} measurements</summary>{}</details>",
        r.measurements.len(),
        card("", &table(&header, rows))
    );
    section(
        "All numbers",
        "A unit is a hundredth of a full workload; start-up is taken off. Spread is the median absolute deviation.",
        &body,
    )
}

fn footer(r: &Report) -> String {
    let engines = r.compared();
    let rows = engines.iter().map(|e| vec![e.name.clone(), e.about.clone(), e.version.clone(), seconds(e.startup)]);
    let header = ["engine", "what it is", "version", "start-up"].map(String::from);
    let mut notes = String::new();
    for (name, why) in &r.missing {
        let _ = writeln!(notes, "<p>Not here: {} ({}).</p>", escape(name), escape(why));
    }
    format!(
        "{}{notes}<footer>Made by <code>{}</code> in {:.0} s, with a load of {:.2} at the start.</footer>\n",
        section("Engines", "What was compared.", &card("", &table(&header, rows))),
        escape(&r.command.join(" ")),
        r.seconds,
        r.machine.load
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::sample;

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&sample());
        for reference in ["http:", "https:", "src=", "href=", "@import", "url(", "<script", "<link"] {
            assert!(!page.contains(reference), "{reference}");
        }
        assert!(
            page.starts_with("<!DOCTYPE html>") && page.contains("<svg") && page.contains("prefers-color-scheme: dark")
        );
    }

    #[test]
    fn text_is_escaped() {
        let page = page(&sample());
        assert!(page.contains("Some &amp; CPU") && page.contains("about &lt;dbt&gt;") && page.contains("a &lt; b"));
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut r = sample();
        r.measurements.retain(|m| !is_ablation(&m.engine));
        r.engines.retain(|e| !is_ablation(&e.name));
        (r.timeline, r.shares, r.costs) = Default::default();
        r.conclude();
        let page = page(&r);
        assert!(
            !page.contains("What each technique")
                && !page.contains("Translating against")
                && !page.contains("Costs in small")
        );
        assert!(page.contains("By workload"));
    }
}
