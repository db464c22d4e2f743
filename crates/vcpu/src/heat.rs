//! Which pages of code keep changing.
//!
//! Protecting a page against writes and dropping its translations at the first one costs microseconds and all that was translated from
//! the page. That is cheap where code changes once in a while; where it is generated or patched all the time the page is
//! *hot*: it isn't protected any more, and its translations check themselves. When nothing has changed for long enough it cools.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Writes, each at most [`APART`] after the one before, that make a page hot.
const WRITES: u32 = 4;
/// Writes further apart than this are nothing to prepare for.
const APART: Duration = Duration::from_millis(500);
/// How long a hot page must stay unchanged to cool, at first; doubled each time it proves wrong.
const PATIENCE: Duration = Duration::from_millis(250);
/// It isn't doubled beyond this.
const MOST_PATIENCE: Duration = Duration::from_secs(16);
/// How often to look for pages that have cooled.
const LOOK: Duration = Duration::from_millis(100);

struct Page {
    writes: u32,
    last: Instant,
    hot: bool,
    patience: Duration,
}

/// The pages that have been written since they were translated from.
pub(crate) struct Heat {
    pages: HashMap<u32, Page>,
    looked: Option<Instant>,
}

impl Heat {
    pub(crate) fn new() -> Self {
        Heat { pages: HashMap::new(), looked: None }
    }

    /// A write hit the translations of `page`. True when it is hot from now on.
    pub(crate) fn written(&mut self, page: u32, now: Instant) -> bool {
        let new = Page { writes: 0, last: now, hot: false, patience: PATIENCE };
        let p = self.pages.entry(page).or_insert(new);
        p.writes = if now.duration_since(p.last) > APART { 1 } else { p.writes + 1 };
        p.last = now;
        p.hot = p.writes >= WRITES;
        p.hot
    }

    /// Code on the hot `page` has changed, or is new.
    pub(crate) fn changed(&mut self, page: u32, now: Instant) {
        if let Some(p) = self.pages.get_mut(&page) {
            p.last = now;
        }
    }

    /// Pages that have cooled by now. Each needs but one more write to be hot again, and more time to cool then.
    pub(crate) fn cooled(&mut self, now: Instant) -> Vec<u32> {
        if self.looked.is_some_and(|t| now.duration_since(t) < LOOK) {
            return Vec::new();
        }
        self.looked = Some(now);
        let mut cooled = Vec::new();
        for (&page, p) in &mut self.pages {
            if p.hot && now.duration_since(p.last) >= p.patience {
                (p.hot, p.writes, p.last) = (false, WRITES - 1, now);
                p.patience = (p.patience * 2).min(MOST_PATIENCE);
                cooled.push(page);
            }
        }
        cooled
    }

    /// Is any page hot?
    pub(crate) fn any(&self) -> bool {
        self.pages.values().any(|p| p.hot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_heats_by_writes_in_a_row_and_cools_when_left_alone() {
        let mut heat = Heat::new();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!(0..3).any(|i| heat.written(7, at(i * 600))), "far apart");
        assert!((0..3).all(|i| !heat.written(8, at(i))));
        assert!(heat.written(8, at(3)) && heat.any());
        assert_eq!(heat.cooled(at(100)), []);
        heat.changed(8, at(200));
        assert_eq!(heat.cooled(at(300)), []);
        assert_eq!(heat.cooled(at(460)), [8]);
        assert!(!heat.any());
        assert!(heat.written(8, at(470)), "one write is enough now");
        assert_eq!(heat.cooled(at(800)), [], "and it takes longer");
        assert_eq!(heat.cooled(at(1000)), [8]);
    }
}
