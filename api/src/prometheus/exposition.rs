//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write;

/// Media type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text exposition of gauges.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    /// Adds a gauge with one sample.
    pub(crate) fn add_gauge(&mut self, name: &str, help: &str, value: f64) {
        self.add_family(name, help, &[(&[], value)]);
    }

    /// Adds a gauge with a sample for each set of labels.
    pub(crate) fn add_family(&mut self, name: &str, help: &str, samples: &[(&[(&str, &str)], f64)]) {
        let text = &mut self.0;
        // Writing to a text cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (labels, value) in samples {
            text.push_str(name);
            for (place, (label, value)) in labels.iter().enumerate() {
                text.push(if place == 0 { '{' } else { ',' });
                let _ = write!(text, "{label}=\"{}\"", escape_label(value));
            }
            if !labels.is_empty() {
                text.push('}');
            }
            let _ = writeln!(text, " {value}");
        }
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

fn escape_label(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_written_with_escaped_labels() {
        let mut exposition = Exposition::default();
        exposition.add_gauge("a", "An a", 1.0);
        exposition.add_family("b", "A b", &[(&[("x", "1"), ("y", "q\"\\\n")], 0.5), (&[("x", "2")], -1.0)]);

        assert_eq!(
            exposition.into_text(),
            "# HELP a An a\n# TYPE a gauge\na 1\n# HELP b A b\n# TYPE b gauge\nb{x=\"1\",y=\"q\\\"\\\\\\n\"} 0.5\nb{x=\"2\"} -1\n"
        );
    }
}
