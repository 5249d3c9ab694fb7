//! docs/reference/metrics.md: the metrics of the processes, from the registries that `/metrics` encodes.

use std::collections::{BTreeMap, BTreeSet};

use picket_proto::RegionName;
use picket_runtime::{Bus, Health, PipelineHandle};

use super::markdown::{code_span, end_sentence, format_table};

/// Value of a label whose values are not known in advance.
const PLACEHOLDER: &str = "example";

struct Metric {
    name: String,
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Sections of the processes; metrics of all of them have one of their own.
pub(super) fn generate() -> String {
    let processes = process_registries()
        .map(|(name, health)| (name, parse_openmetrics(&health.encode_metrics().unwrap_or_default())));
    let is_common = |metric: &&Metric| {
        processes.iter().all(|(_, metrics)| metrics.iter().any(|other| other.name == metric.name))
    };
    let section = |title: &str, metrics: Vec<&Metric>| {
        let rows: Vec<_> = metrics.into_iter().map(metric_row).collect();
        format!("## {title}\n\n{}\n", format_table(&["Metric", "Type", "Labels", "Description"], &rows))
    };
    let mut text = section("Every process", processes[0].1.iter().filter(is_common).collect());
    for (name, metrics) in &processes {
        text += &section(&code_span(name), metrics.iter().filter(|metric| !is_common(metric)).collect());
    }
    text
}

/// The registry of each process, with a series in each family: families without series are not encoded.
fn process_registries() -> [(&'static str, Health); 5] {
    let region =
        PLACEHOLDER.parse::<RegionName>().unwrap_or_else(|_| unreachable!("the placeholder is a name"));
    let [coordinator, prober, sink, notifier, api] = std::array::from_fn(|_| Health::new());
    for health in [&coordinator, &prober, &sink, &notifier, &api] {
        Bus::describe_metrics(health);
        PipelineHandle::describe_metrics(health);
    }
    picket_coordinator::describe_metrics(&coordinator, PLACEHOLDER);
    picket_prober::describe_metrics(&prober, &region, PLACEHOLDER);
    picket_sink::describe_metrics(&sink, PLACEHOLDER);
    picket_notifier::describe_metrics(&notifier, PLACEHOLDER);
    picket_api::describe_metrics(&api, PLACEHOLDER);
    [
        ("picket-coordinator", coordinator),
        ("picket-prober", prober),
        ("picket-sink", sink),
        ("picket-notifier", notifier),
        ("picket-api", api),
    ]
}

fn metric_row(metric: &Metric) -> Vec<String> {
    let labels = metric.labels.iter().map(|(label, values)| {
        let known: Vec<_> =
            values.iter().filter(|value| *value != PLACEHOLDER).map(|value| code_span(value)).collect();
        match known.is_empty() {
            true => code_span(label),
            false => format!("{} ({})", code_span(label), known.join(", ")),
        }
    });
    let labels = labels.collect::<Vec<_>>().join("; ");
    vec![code_span(&metric.name), metric.kind.clone(), labels, end_sentence(&metric.help)]
}

/// Metrics of a text in the OpenMetrics format, in its order.
fn parse_openmetrics(text: &str) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            // The library ends each help with a full stop of its own.
            let help = help.trim_end_matches('.').to_owned();
            metrics.push(Metric {
                name: name.to_owned(),
                kind: String::new(),
                help,
                labels: BTreeMap::new(),
            });
        } else if let Some(metric) = metrics.last_mut() {
            if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
                metric.kind = kind.to_owned();
                match kind {
                    "counter" => metric.name += "_total",
                    "info" => metric.name += "_info",
                    _ => {}
                }
            } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
                let labels = labels.rsplit_once('}').map_or(labels, |(labels, _)| labels);
                for (label, value) in labels.split(',').filter_map(|pair| pair.split_once('=')) {
                    if label != "le" {
                        let value = value.trim_matches('"').to_owned();
                        metric.labels.entry(label.to_owned()).or_default().insert(value);
                    }
                }
            }
        }
    }
    // A version is no fixed value.
    metrics.iter_mut().flat_map(|metric| metric.labels.get_mut("version")).for_each(BTreeSet::clear);
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registered_metric_is_in_the_reference() {
        for (name, health) in process_registries() {
            let registered = format!("{:?}", *health.registry()).matches("Descriptor {").count();
            let encoded = health.encode_metrics().unwrap().matches("# HELP ").count();
            assert_eq!(
                registered, encoded,
                "{name}: a family has no series; add one in `describe_metrics`, or the page omits it"
            );
        }
    }

    #[test]
    fn a_metric_is_read_with_its_type_and_labels() {
        let text = "# HELP picket_x_jobs Jobs, by cause.\n# TYPE picket_x_jobs counter\n\
            picket_x_jobs_total{cause=\"late\"} 0\npicket_x_jobs_total{cause=\"example\"} 0\n\
            # HELP picket_x_wait_seconds Wait time.\n# TYPE picket_x_wait_seconds histogram\n\
            picket_x_wait_seconds_bucket{le=\"1.0\"} 0\n# EOF\n";

        let rows: Vec<_> = parse_openmetrics(text).iter().map(metric_row).collect();
        assert_eq!(
            rows,
            [
                ["`picket_x_jobs_total`", "counter", "`cause` (`late`)", "Jobs, by cause."],
                ["`picket_x_wait_seconds`", "histogram", "", "Wait time."]
            ]
        );
    }
}
