//! The OpenMetrics text format, for scrapers that ask for it: the same series as in the older format, and beside the
//! buckets of latency the trace of a request that fell into one.
//!
//! Written by hand, since the library knows the older format alone. OpenMetrics 1.0: names of counters end in `_total`
//! and their family's does not, bounds are written as floating-point numbers, the text ends with `# EOF`.

use prometheus::proto::{Metric, MetricFamily, MetricType};
use std::fmt::Write as _;
use std::time::Duration;

/// What a scraper says that takes it.
pub const ACCEPTED: &str = "application/openmetrics-text";
/// Of the answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A request that shows how long is long.
#[derive(Clone, Debug)]
pub struct Exemplar {
    /// The trace that it belongs to.
    pub trace_id: Box<str>,
    /// Seconds that it took.
    pub value: f64,
    /// When it arrived, since 1970.
    pub at: Duration,
}

/// The text. `exemplar` finds the one of a series of a histogram.
pub fn render(families: &[MetricFamily], exemplar: &dyn Fn(&str, &Metric) -> Option<Exemplar>) -> String {
    let mut out = String::new();
    for family in families {
        let (kind, name) = match family.get_field_type() {
            MetricType::COUNTER => ("counter", family.name().strip_suffix("_total").unwrap_or(family.name())),
            MetricType::HISTOGRAM => ("histogram", family.name()),
            _ => ("gauge", family.name()),
        };
        let _ = write!(out, "# HELP {name} ");
        escape(&mut out, family.help());
        let _ = writeln!(out, "\n# TYPE {name} {kind}");
        for metric in family.get_metric() {
            match family.get_field_type() {
                MetricType::COUNTER => sample(&mut out, name, "_total", metric, None, metric.get_counter().get_value()),
                MetricType::HISTOGRAM => {
                    let found = exemplar(name, metric);
                    histogram(&mut out, name, metric, found.as_ref());
                }
                _ => sample(&mut out, name, "", metric, None, metric.get_gauge().get_value()),
            }
        }
    }
    out += "# EOF\n";
    out
}

fn histogram(out: &mut String, name: &str, metric: &Metric, exemplar: Option<&Exemplar>) {
    let histogram = metric.get_histogram();
    let bounds = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let mut below = f64::NEG_INFINITY;
    for (bound, count) in bounds.chain([(f64::INFINITY, histogram.get_sample_count())]) {
        if bound <= below {
            continue;
        }
        sample(out, name, "_bucket", metric, Some(bound), count as f64);
        if let Some(exemplar) = exemplar.filter(|exemplar| exemplar.value > below && exemplar.value <= bound) {
            // Behind the number, on its line.
            out.pop();
            let _ = write!(out, " # {{trace_id=\"{}\"}} ", exemplar.trace_id);
            number(out, exemplar.value);
            let _ = writeln!(out, " {}.{:03}", exemplar.at.as_secs(), exemplar.at.subsec_millis());
        }
        below = bound;
    }
    sample(out, name, "_sum", metric, None, histogram.get_sample_sum());
    sample(out, name, "_count", metric, None, histogram.get_sample_count() as f64);
}

fn sample(out: &mut String, name: &str, suffix: &str, metric: &Metric, bound: Option<f64>, value: f64) {
    let _ = write!(out, "{name}{suffix}");
    let mut separator = '{';
    for pair in metric.get_label() {
        let _ = write!(out, "{separator}{}=\"", pair.name());
        escape(out, pair.value());
        out.push('"');
        separator = ',';
    }
    if let Some(bound) = bound {
        let _ = write!(out, "{separator}le=\"");
        if bound.fract() == 0.0 && bound.is_finite() {
            let _ = write!(out, "{bound:.1}");
        } else {
            number(out, bound);
        }
        out.push('"');
        separator = ',';
    }
    if separator == ',' {
        out.push('}');
    }
    out.push(' ');
    number(out, value);
    out.push('\n');
}

fn number(out: &mut String, value: f64) {
    let _ = match value {
        f64::INFINITY => out.write_str("+Inf"),
        f64::NEG_INFINITY => out.write_str("-Inf"),
        value => write!(out, "{value}"),
    };
}

fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

    #[test]
    fn every_kind_is_written_as_the_format_wants_it() {
        let registry = Registry::new();
        let counter = IntCounterVec::new(Opts::new("a_total", "Say \"a\\b\"."), &["route"]).unwrap();
        counter.with_label_values(&["x\"\n"]).inc_by(3);
        let gauge = Gauge::new("b", "B.").unwrap();
        gauge.set(0.5);
        let histogram =
            HistogramVec::new(HistogramOpts::new("c_seconds", "C.").buckets(vec![0.25, 1.0]), &["stage"]).unwrap();
        for seconds in [0.1, 0.25, 0.5, 7.0] {
            histogram.with_label_values(&["total"]).observe(seconds);
        }
        registry.register(Box::new(counter)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        registry.register(Box::new(histogram)).unwrap();
        let with = |value: f64| {
            let exemplar = move |name: &str, metric: &Metric| {
                assert_eq!((name, metric.get_label()[0].value()), ("c_seconds", "total"));
                let at = Duration::from_millis(1_700_000_000_042);
                Some(Exemplar { trace_id: "0af7".into(), value, at })
            };
            render(&registry.gather(), &exemplar)
        };
        let expected = "# HELP a Say \\\"a\\\\b\\\".\n# TYPE a counter\na_total{route=\"x\\\"\\n\"} 3\n\
                        # HELP b B.\n# TYPE b gauge\nb 0.5\n\
                        # HELP c_seconds C.\n# TYPE c_seconds histogram\n\
                        c_seconds_bucket{stage=\"total\",le=\"0.25\"} 2\n\
                        c_seconds_bucket{stage=\"total\",le=\"1.0\"} 3 # {trace_id=\"0af7\"} 0.5 1700000000.042\n\
                        c_seconds_bucket{stage=\"total\",le=\"+Inf\"} 4\n\
                        c_seconds_sum{stage=\"total\"} 7.85\nc_seconds_count{stage=\"total\"} 4\n# EOF\n";
        assert_eq!(with(0.5), expected);
        // On its bound it belongs to the bucket below, beyond all of them to the last one.
        assert!(with(0.25).contains("le=\"0.25\"} 2 # {trace_id=\"0af7\"} 0.25 "));
        assert!(with(7.0).contains("le=\"+Inf\"} 4 # {trace_id=\"0af7\"} 7 "));
    }
}
