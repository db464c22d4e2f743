//! `testdata/known-failures`: what is known to differ, so that everything else is a finding, and so that what is mended is noticed.
//!
//! A line names a suite, a program or case, an engine, the date, and the reason; see the file. `testdata/suites/run` reads it too.

/// What is known about one suite.
#[derive(Debug, Default)]
pub struct Known {
    entries: Vec<(String, String)>,
    met: Vec<bool>,
}

impl Known {
    /// The entries of `suite` in `text`.
    ///
    /// # Panics
    /// A line is malformed.
    #[must_use]
    pub fn parse(text: &str, suite: &str) -> Known {
        let lines = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
        let mut known = Known::default();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [of, name, engine, date, _, ..] = words[..] else { panic!("known-failures: no reason in {line:?}") };
            assert!(date.len() == 10 && date.starts_with("20"), "known-failures: no date in {line:?}");
            if of == suite {
                known.entries.push((name.to_owned(), engine.to_owned()));
            }
        }
        known.met = vec![false; known.entries.len()];
        known
    }

    /// The entries of `suite` in the repository's file.
    ///
    /// # Panics
    /// It can't be read.
    #[must_use]
    pub fn of(suite: &str) -> Known {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/known-failures");
        Known::parse(&std::fs::read_to_string(path).expect("testdata/known-failures"), suite)
    }

    /// Is it known that `name` fails on `engine`? It is then expected to.
    pub fn expects(&mut self, name: &str, engine: &str) -> bool {
        let Some(i) = self.entries.iter().position(|(n, e)| n == name && e == engine) else { return false };
        self.met[i] = true;
        true
    }

    /// Entries that have not failed.
    #[must_use]
    pub fn mended(&self) -> Vec<String> {
        let unmet = self.entries.iter().zip(&self.met).filter(|(_, met)| !**met);
        unmet.map(|((n, e), _)| format!("{n} on {e} passes: remove it from testdata/known-failures")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_noticed() {
        let text = "# a comment\ninsn 90 translator 2026-11-22 because\nqemu x dbt 2026-11-22 so\n";
        let mut known = Known::parse(text, "insn");
        assert!(!known.expects("91", "translator") && !known.expects("x", "dbt"));
        assert_eq!(known.mended().len(), 1);
        assert!(known.expects("90", "translator"));
        assert!(known.mended().is_empty());
    }
}
