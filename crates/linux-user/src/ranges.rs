//! A set of page ranges, and where a gap for a new mapping is.
//!
//! Pages are numbered; ranges are half-open, never touch each other, and are kept in order. The set knows nothing of
//! protections (the page table of `softmmu` holds those): it exists to find room.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, merged ranges of page numbers.
#[derive(Default, Debug, Clone)]
pub(crate) struct RangeSet {
    /// start -> end
    ranges: BTreeMap<u32, u32>,
}

impl RangeSet {
    /// How many values it holds.
    pub(crate) fn len(&self) -> u64 {
        self.ranges.iter().map(|(&s, &e)| u64::from(e - s)).sum()
    }

    /// Adds `r`, merging it with what it overlaps or touches.
    pub(crate) fn insert(&mut self, r: Range<u32>) {
        if r.is_empty() {
            return;
        }
        let (mut start, mut end) = (r.start, r.end);
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.ranges.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
    }

    /// Removes `r`, splitting ranges that stick out of it.
    pub(crate) fn remove(&mut self, r: Range<u32>) {
        if r.is_empty() {
            return;
        }
        while let Some((&s, &e)) = self.ranges.range(..r.end).next_back() {
            if e <= r.start {
                break;
            }
            self.ranges.remove(&s);
            if s < r.start {
                self.ranges.insert(s, r.start);
            }
            if e > r.end {
                self.ranges.insert(r.end, e);
            }
        }
    }

    /// True when no page of `r` is in the set.
    pub(crate) fn is_free(&self, r: Range<u32>) -> bool {
        self.ranges.range(..r.end).next_back().is_none_or(|(_, &e)| e <= r.start)
    }

    /// The parts of `r` that are in the set.
    pub(crate) fn within(&self, r: Range<u32>) -> Vec<Range<u32>> {
        let first = self.ranges.range(..=r.start).next_back().map_or(r.start, |(&s, _)| s);
        self.ranges.range(first..r.end).map(|(&s, &e)| s.max(r.start)..e.min(r.end)).filter(|x| !x.is_empty()).collect()
    }

    /// Start of the highest gap of `count` pages inside `room`.
    pub(crate) fn gap_top_down(&self, count: u32, room: Range<u32>) -> Option<u32> {
        let mut top = room.end;
        for (&s, &e) in self.ranges.range(..room.end).rev() {
            if e < top && top - e >= count {
                break;
            }
            top = top.min(s);
        }
        let start = top.checked_sub(count)?;
        (start >= room.start && self.is_free(start..top)).then_some(start)
    }

    /// Start of the lowest gap of `count` pages inside `room`.
    pub(crate) fn gap_bottom_up(&self, count: u32, room: Range<u32>) -> Option<u32> {
        let mut at = room.start;
        for r in self.within(room.clone()) {
            if r.start - at.min(r.start) >= count {
                break;
            }
            at = r.end;
        }
        (room.end.checked_sub(at)? >= count).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(rs: &[(u32, u32)]) -> RangeSet {
        let mut s = RangeSet::default();
        rs.iter().for_each(|&(a, b)| s.insert(a..b));
        s
    }

    #[test]
    fn ranges_merge_and_split() {
        let mut s = set(&[(10, 20), (30, 40), (20, 30)]);
        assert!(s.within(0..100).iter().eq([&(10..40)]));
        s.remove(15..35);
        assert_eq!(s.within(0..100), [10..15, 35..40]);
        assert!(s.is_free(15..35) && !s.is_free(14..16) && !s.is_free(34..36));
    }

    #[test]
    fn gaps_are_found_from_both_ends() {
        let s = set(&[(10, 20), (30, 40), (90, 100)]);
        assert_eq!(s.gap_top_down(5, 1..100), Some(85));
        assert_eq!(s.gap_top_down(60, 1..100), None);
        assert_eq!(s.gap_top_down(50, 1..100), Some(40));
        assert_eq!(s.gap_top_down(9, 1..30), Some(21));
        assert_eq!(s.gap_top_down(9, 1..19), Some(1));
        assert_eq!(s.gap_top_down(10, 1..19), None);
        assert_eq!(s.gap_bottom_up(10, 1..100), Some(20));
        assert_eq!(s.gap_bottom_up(9, 1..100), Some(1));
        assert_eq!(s.gap_bottom_up(50, 15..100), Some(40));
        assert_eq!(s.gap_bottom_up(10, 95..110), Some(100));
    }

    #[test]
    fn random_operations_agree_with_a_bitmap() {
        let mut s = RangeSet::default();
        let mut map = [false; 64];
        let mut x = 1u32;
        let mut next = |n: u32| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 16) % n
        };
        for _ in 0..20_000 {
            let a = next(64);
            let b = a + next(65 - a);
            let add = next(2) == 0;
            if add {
                s.insert(a..b)
            } else {
                s.remove(a..b)
            }
            map[a as usize..b as usize].fill(add);
            let (c, d) = (next(32), 33 + next(31));
            let n = 1 + next(12);
            let fits = |p: &u32| map[*p as usize..(*p + n) as usize].iter().all(|m| !m);
            assert_eq!(s.gap_top_down(n, c..d), (c..=d.saturating_sub(n)).rev().find(|p| *p + n <= d && fits(p)));
            assert_eq!(s.gap_bottom_up(n, c..d), (c..=d.saturating_sub(n)).find(|p| *p + n <= d && fits(p)));
            assert_eq!(s.is_free(c..d), map[c as usize..d as usize].iter().all(|m| !m));
        }
    }
}
