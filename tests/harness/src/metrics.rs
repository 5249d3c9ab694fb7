//! Metrics as a monitoring system reads them: the text exposition, parsed by name and labels.

use picket_runtime::Health;

/// Samples of a text exposition.
#[derive(Clone, Debug)]
pub struct Metrics(String);

impl Metrics {
    /// Parses a text exposition.
    pub fn parse(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads the metrics of a service in this process.
    pub fn of_health(health: &Health) -> Self {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &health.registry()).expect("metrics are text");
        Self(text)
    }

    /// Sum of all samples that match `selector`: a name, or a name with labels as in
    /// `results_total{outcome="up"}`. A sample may have labels that the selector does not name.
    /// Returns `None` if no sample matches.
    pub fn sum(&self, selector: &str) -> Option<f64> {
        let (name, wanted) = split_series(selector);
        let samples = self.0.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, labels) = split_series(series);
            let is_match = found == name && wanted.iter().all(|label| labels.contains(label));
            is_match.then(|| value.parse::<f64>().ok())?
        });
        samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Sum as by [`sum`](Self::sum). Panics if no sample matches.
    #[track_caller]
    pub fn expect(&self, selector: &str) -> f64 {
        self.sum(selector).unwrap_or_else(|| panic!("no {selector} in {}", self.0))
    }
}

/// Splits a series into its name and its labels, each as `label="value"`.
fn split_series(series: &str) -> (&str, Vec<&str>) {
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let (mut is_quoted, mut is_escaped) = (false, false);
    let labels = labels.strip_suffix('}').unwrap_or(labels).split(move |character| {
        is_quoted ^= character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        character == ',' && !is_quoted
    });
    (name, labels.filter(|label| !label.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE results counter
results_total{region="eu",outcome="up"} 3
results_total{region="us",outcome="up"} 4.5
results_total{outcome="down",message="a \"b\", {c}, d"} 1
results_totals 7
free 2
"#;

    #[test]
    fn a_metric_is_summed_over_unnamed_labels() {
        let metrics = Metrics::parse(TEXT);

        assert_eq!(metrics.sum("results_total"), Some(8.5));
        assert_eq!(metrics.sum(r#"results_total{outcome="up"}"#), Some(7.5));
        assert_eq!(metrics.sum(r#"results_total{outcome="up",region="us"}"#), Some(4.5));
        assert_eq!(metrics.sum(r#"results_total{message="a \"b\", {c}, d"}"#), Some(1.0));
        assert_eq!(metrics.sum("free"), Some(2.0));
    }

    #[test]
    fn a_metric_without_a_sample_is_none() {
        let metrics = Metrics::parse(TEXT);

        assert_eq!(metrics.sum("results"), None);
        assert_eq!(metrics.sum(r#"results_total{outcome="u"}"#), None);
    }
}
