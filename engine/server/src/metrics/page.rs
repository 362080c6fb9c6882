//! Prometheus text under construction. It knows the format, not what is told. Writing to a string cannot fail, so the results
//! are not looked at.

use std::fmt::Write;

use agentlm_host::Histogram;

/// The text so far.
pub(super) struct Page {
    text: String,
}

impl Page {
    pub(super) fn new() -> Self {
        Self {
            text: String::with_capacity(64 * 1024),
        }
    }

    /// The whole text.
    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A metric of one value.
    pub(super) fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        let _ = write!(self.text, "{name} {value}\n\n");
    }

    /// A metric of one value for each value of a label.
    pub(super) fn labelled(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        values: &[(&str, f64)],
    ) {
        self.head(name, kind, help);
        for (kind, value) in values {
            let _ = writeln!(self.text, "{name}{{{label}=\"{kind}\"}} {value}");
        }
        self.text.push('\n');
    }

    /// A histogram.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        self.buckets(name, "", histogram);
        self.text.push('\n');
    }

    /// A histogram for each value of the label `method`.
    pub(super) fn by_method(&mut self, name: &str, help: &str, histograms: &[(&str, &Histogram)]) {
        self.head(name, "histogram", help);
        for (method, histogram) in histograms {
            self.buckets(name, &format!("method=\"{method}\""), histogram);
        }
        self.text.push('\n');
    }

    fn buckets(&mut self, name: &str, label: &str, histogram: &Histogram) {
        let (buckets, count, sum) = histogram.read();
        let comma = if label.is_empty() { "" } else { "," };
        for (bound, below) in buckets {
            let _ = writeln!(self.text, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(self.text, "{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}");
        let braced = if label.is_empty() {
            String::new()
        } else {
            format!("{{{label}}}")
        };
        let _ = write!(
            self.text,
            "{name}_sum{braced} {sum}\n{name}_count{braced} {count}\n"
        );
    }
}
