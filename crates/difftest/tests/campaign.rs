//! A small campaign of every family: nothing may differ, and everything must have been asked of every oracle it has.

use xlat86_difftest::campaign::{FAMILIES, PROGRAM, Plan, run};
use xlat86_difftest::undefined::silicon_is_followed;

#[test]
fn nothing_differs() {
    if !silicon_is_followed("nothing_differs") {
        return;
    }
    let cases = std::env::var("XLAT86_CASES").ok().map_or(24_000, |v| v.parse().expect("XLAT86_CASES"));
    let report = run(&Plan { cases, family: None, seed: 3 }, |_| {}).expect("room for guests");
    for text in report.reproducers.iter() {
        eprintln!("{text}");
    }
    assert_eq!(report.differences(), 0);
    for family in FAMILIES {
        let tally = report.tallies.get(family).unwrap_or_else(|| panic!("no case of {family}"));
        assert!(tally.translator > 0 && (tally.silicon > 0 || family == PROGRAM), "{family}: {tally:?}");
    }
}
