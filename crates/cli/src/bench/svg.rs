//! Plots as inline SVG. Colours are classes of the page's style sheet, so that they follow its light and dark form.

use std::fmt::Write;

/// Width of every plot, in its own units.
const WIDTH: f64 = 560.0;
/// Room for labels on the left and values on the right.
const LEFT: f64 = 118.0;
const RIGHT: f64 = 48.0;
const AXIS: f64 = 22.0;

/// Text that may stand in HTML and in an attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// One bar: its class, its length, what stands at its end, what is told when pointed at.
pub(crate) struct Bar {
    pub(crate) class: String,
    pub(crate) value: f64,
    pub(crate) label: String,
    pub(crate) title: String,
}

/// Bars that belong together.
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) bars: Vec<Bar>,
}

/// Ratios on a logarithmic axis: from a line at 1, to the right is slower, to the left is faster. `range` is that of the axis.
pub(crate) fn ratio_bars(rows: &[Row], range: (f64, f64)) -> String {
    const BAR: f64 = 9.0;
    const GAP: f64 = 9.0;
    let height = rows.iter().map(|r| r.bars.len() as f64 * (BAR + 1.0) + GAP).sum::<f64>() + AXIS;
    let (lo, hi) = (range.0.ln(), range.1.ln());
    let x = |v: f64| LEFT + (WIDTH - LEFT - RIGHT) * ((v.ln() - lo) / (hi - lo)).clamp(0.0, 1.0);
    let mut svg = open(height);
    for tick in ticks(range) {
        let class = if tick == 1.0 { "one" } else { "grid" };
        let (tx, bottom) = (x(tick), height - AXIS + 4.0);
        let _ = write!(svg, "<line class=\"{class}\" x1=\"{tx:.1}\" x2=\"{tx:.1}\" y1=\"0\" y2=\"{bottom:.1}\"/>");
        let _ = write!(svg, "<text class=\"tick\" x=\"{tx:.1}\" y=\"{:.1}\">{tick}×</text>", height - 5.0);
    }
    let mut y = GAP / 2.0;
    for row in rows {
        let middle = y + row.bars.len() as f64 * (BAR + 1.0) / 2.0 + 4.0;
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.1}\" y=\"{middle:.1}\">{}</text>",
            LEFT - 8.0,
            escape(&row.label)
        );
        for b in &row.bars {
            let (from, to) = (x(1.0).min(x(b.value)), x(1.0).max(x(b.value)));
            let width = (to - from).max(1.5);
            let _ = write!(
                svg,
                "<g><title>{}</title><rect class=\"{}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>\
                 <text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
                escape(&b.title),
                b.class,
                from + width + 4.0,
                y + BAR - 1.0,
                escape(&b.label)
            );
            y += BAR + 1.0;
        }
        y += GAP;
    }
    svg + "</svg>"
}

/// A whole and its parts.
pub(crate) struct Shares {
    pub(crate) label: String,
    pub(crate) title: String,
    /// Class and size of each.
    pub(crate) parts: Vec<(&'static str, f64)>,
}

/// Parts of a whole, row by row; each row fills the width.
pub(crate) fn shares(rows: &[Shares]) -> String {
    const BAR: f64 = 12.0;
    const STEP: f64 = 17.0;
    let mut svg = open(rows.len() as f64 * STEP + 4.0);
    for (i, Shares { label, title, parts }) in rows.iter().enumerate() {
        let y = i as f64 * STEP + 2.0;
        let total: f64 = parts.iter().map(|p| p.1).sum();
        let _ = write!(svg, "<g><title>{}</title>", escape(title));
        let _ =
            write!(svg, "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", LEFT - 8.0, y + 10.0, escape(label));
        let mut x = LEFT;
        for (class, size) in parts {
            let width = (WIDTH - LEFT - RIGHT) * if total > 0.0 { size / total } else { 0.0 };
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
            );
            x += width;
        }
        svg += "</g>";
    }
    svg + "</svg>"
}

/// Layers over time: each point is a time and the height of every layer, the lowest first.
pub(crate) fn layers(classes: &[&str], points: &[(f64, Vec<f64>)], x_name: &str, y_name: &str) -> String {
    const HEIGHT: f64 = 260.0;
    const LOW: f64 = HEIGHT - 38.0;
    const X0: f64 = 52.0;
    let x_max = points.iter().map(|p| p.0).fold(0.0, f64::max).max(1e-9);
    let y_max = points.iter().map(|p| p.1.iter().sum::<f64>()).fold(0.0, f64::max).max(1e-9);
    let x = |v: f64| X0 + (WIDTH - X0 - 16.0) * v / x_max;
    let y = |v: f64| LOW - (LOW - 12.0) * v / y_max;
    let mut svg = open(HEIGHT);
    for i in 0..=4 {
        let share = f64::from(i) / 4.0;
        let (gx, gy) = (x(x_max * share), y(y_max * share));
        let _ =
            write!(svg, "<line class=\"grid\" x1=\"{X0}\" x2=\"{:.1}\" y1=\"{gy:.1}\" y2=\"{gy:.1}\"/>", WIDTH - 16.0);
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{:.0}</text>",
            X0 - 6.0,
            gy + 4.0,
            y_max * share
        );
        let _ = write!(svg, "<text class=\"tick\" x=\"{gx:.1}\" y=\"{:.1}\">{:.0}</text>", LOW + 16.0, x_max * share);
    }
    // From the top layer down, each over the one before: the area of a layer is what is left to see.
    for top in (0..classes.len()).rev() {
        let height = |p: &(f64, Vec<f64>)| p.1.iter().take(top + 1).sum::<f64>();
        let mut path = format!("M{:.1} {LOW:.1}", x(points.first().map_or(0.0, |p| p.0)));
        for p in points {
            let _ = write!(path, "L{:.1} {:.1}", x(p.0), y(height(p)));
        }
        let _ = write!(path, "L{:.1} {LOW:.1}Z", x(points.last().map_or(0.0, |p| p.0)));
        let _ = write!(svg, "<path class=\"{}\" d=\"{path}\"/>", classes[top]);
    }
    for p in points {
        let top = y(p.1.iter().sum());
        let _ =
            write!(svg, "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top:.1}\" y2=\"{LOW:.1}\"/>", x(p.0));
    }
    let _ = write!(
        svg,
        "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        (X0 + WIDTH) / 2.0,
        HEIGHT - 6.0,
        escape(x_name)
    );
    let _ = write!(svg, "<text class=\"tick start\" x=\"{X0}\" y=\"9\">{}</text>", escape(y_name));
    svg + "</svg>"
}

fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">")
}

/// Round numbers of an axis from `lo` to `hi`, 1 among them.
fn ticks(range: (f64, f64)) -> impl Iterator<Item = f64> {
    [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]
        .into_iter()
        .filter(move |t| (range.0..=range.1).contains(t))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_start_at_one_and_stay_inside() {
        let bar = |value| Bar { class: "c0".into(), value, label: "l".into(), title: "a<b".into() };
        let row = Row { label: "x&y".into(), bars: vec![bar(0.001), bar(1.0), bar(1e9)] };
        let svg = ratio_bars(&[row], (0.5, 100.0));
        assert!(svg.contains("x&amp;y") && svg.contains("a&lt;b"));
        let numbers = |name: &str| -> Vec<f64> {
            let key = format!(" {name}=\"");
            svg.split("<rect")
                .skip(1)
                .map(|r| r.split(&key).nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
                .collect()
        };
        for (x, width) in numbers("x").into_iter().zip(numbers("width")) {
            assert!(x >= LEFT - 0.1 && x + width <= WIDTH - RIGHT + 2.0, "{x} {width}");
        }
    }

    #[test]
    fn shares_fill_the_row() {
        let row = |parts| Shares { label: "a".into(), title: "t".into(), parts };
        let svg = shares(&[row(vec![("p", 1.0), ("q", 3.0)])]);
        let quarter = (WIDTH - LEFT - RIGHT) / 4.0;
        assert!(svg.contains(&format!("width=\"{quarter:.1}\"")));
        assert!(!shares(&[row(vec![("p", 0.0)])]).contains("NaN"));
    }

    #[test]
    fn empty_plots_hold_no_nonsense() {
        let svg = layers(&["a"], &[], "x", "y");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
