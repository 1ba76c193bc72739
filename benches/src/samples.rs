//! A handful of measurements of the same thing, and what to say of them.

use serde::{Deserialize, Serialize};

/// Measurements of one thing, in order of size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Samples {
    sorted: Vec<f64>,
}

impl Samples {
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { sorted: values }
    }

    /// Returns the value that `per_cent` of the samples do not exceed (nearest rank).
    pub(crate) fn percentile(&self, per_cent: usize) -> f64 {
        let rank = (self.sorted.len() * per_cent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    pub(crate) fn least(&self) -> f64 {
        self.percentile(0)
    }

    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(left: f64, right: f64) -> bool {
        (left - right).abs() < f64::EPSILON
    }

    #[test]
    fn percentiles_are_samples() {
        let samples = Samples::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert!(is(samples.least(), 1.0));
        assert!(is(samples.median(), 2.0));
        assert!(is(samples.percentile(95), 4.0));
        assert_eq!(samples.count(), 4);
    }

    #[test]
    fn no_samples_have_no_median() {
        assert!(Samples::new(Vec::new()).median().is_nan());
    }
}
