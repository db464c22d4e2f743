//! The few statistics that a comparison on a noisy machine needs. All of them are of samples that are never empty.

use serde::{Deserialize, Serialize};

/// What several runs of the same work took, in seconds a unit of work.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The quickest: noise only ever adds, so this is the best estimate of the true cost.
    pub(crate) min: f64,
    pub(crate) median: f64,
    /// Median absolute deviation from the median: the spread, whatever a few outliers do.
    pub(crate) mad: f64,
}

impl Summary {
    /// `None` of no samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Summary> {
        let min = samples.iter().copied().reduce(f64::min)?;
        let middle = median(samples)?;
        let away: Vec<f64> = samples.iter().map(|s| (s - middle).abs()).collect();
        Some(Summary { min, median: middle, mad: median(&away)? })
    }

    /// The spread in percent of the median.
    pub(crate) fn spread(&self) -> f64 {
        if self.median > 0.0 { 100.0 * self.mad / self.median } else { 0.0 }
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 })
}

/// The mean that suits ratios: that of twice as fast and twice as slow is 1. `None` of nothing.
pub(crate) fn geomean(ratios: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (n, sum) = ratios.into_iter().fold((0u32, 0.0), |(n, sum), r| (n + 1, sum + r.ln()));
    (n > 0).then(|| (sum / f64::from(n)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn an_outlier_moves_neither_median_nor_spread() {
        let s = Summary::of(&[10.0, 11.0, 12.0, 13.0, 900.0]).unwrap();
        assert_eq!(s, Summary { min: 10.0, median: 12.0, mad: 1.0 });
        assert!((s.spread() - 100.0 / 12.0).abs() < 1e-9);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn geometric_means() {
        assert_eq!(geomean([]), None);
        assert!((geomean([2.0, 0.5]).unwrap() - 1.0).abs() < 1e-12);
        assert!((geomean([1.0, 10.0, 100.0]).unwrap() - 10.0).abs() < 1e-9);
    }
}
