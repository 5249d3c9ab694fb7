//! Percentiles of samples.

/// Samples in ascending order.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Sorts `samples`.
    pub fn new(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    /// Smallest sample that at least this share of all samples does not exceed. Share 0 is the
    /// smallest sample, share 1 the largest. Returns `None` without samples.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_smallest_value_at_or_above_its_rank() {
        let samples = Samples::new((1..=200).rev().map(f64::from).collect());

        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|share| samples.quantile(share)),
            [Some(1.0), Some(100.0), Some(198.0), Some(200.0)]
        );
        assert_eq!(Samples::new(vec![7.0]).quantile(0.99), Some(7.0));
        assert_eq!(Samples::new(Vec::new()).quantile(1.0), None);
    }
}
