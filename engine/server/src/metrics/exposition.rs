//! `GET /metrics`: Prometheus text. `tgi_*` names are those of TGI's dashboards, `agentlm_*` are ours.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentlm_host::Snapshot;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::histogram::Histogram;
use super::{Failure, Metrics};
use crate::app::App;

/// Everything at this moment.
pub(crate) async fn render(State(app): State<Arc<App>>) -> Response {
    let text = exposition(&app.metrics, &app.engine.snapshot());
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

fn exposition(metrics: &Metrics, snapshot: &Snapshot) -> String {
    let mut page = Page {
        text: String::with_capacity(64 * 1024),
    };
    requests(&mut page, metrics);
    engine(&mut page, snapshot);
    page.text
}

fn requests(page: &mut Page, metrics: &Metrics) {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
    page.single(
        "tgi_request_count",
        "counter",
        "HTTP requests to generate",
        count(&metrics.arrived),
    );
    page.single(
        "tgi_request_success",
        "counter",
        "requests answered",
        count(&metrics.succeeded),
    );
    let failures = Failure::ALL.map(|(failure, label)| (label, count(&metrics.failed[failure as usize])));
    page.labelled(
        "tgi_request_failure",
        "counter",
        "requests not answered",
        "err",
        &failures,
    );
    let histograms = [
        (
            "tgi_request_duration",
            "seconds from arrival to the end",
            &metrics.duration,
        ),
        (
            "tgi_request_validation_duration",
            "seconds of parsing and tokenising",
            &metrics.validation,
        ),
        (
            "tgi_request_queue_duration",
            "seconds from submission to the first plan",
            &metrics.queue,
        ),
        (
            "tgi_request_inference_duration",
            "seconds from the first plan to the end",
            &metrics.inference,
        ),
        (
            "tgi_request_mean_time_per_token_duration",
            "seconds of inference a token",
            &metrics.time_per_token,
        ),
        ("tgi_request_input_length", "prompt tokens", &metrics.input_length),
        (
            "tgi_request_max_new_tokens",
            "tokens allowed",
            &metrics.max_new_tokens,
        ),
        (
            "tgi_request_generated_tokens",
            "tokens generated",
            &metrics.generated_tokens,
        ),
        // Nothing is speculated: the series is there for the panels that ask for it.
        (
            "tgi_request_skipped_tokens",
            "speculated tokens a step",
            &metrics.skipped_tokens,
        ),
    ];
    for (name, help, histogram) in histograms {
        page.histogram(name, help, histogram);
    }
}

fn engine(page: &mut Page, snapshot: &Snapshot) {
    let core = &snapshot.core;
    page.single(
        "tgi_queue_size",
        "gauge",
        "requests waiting",
        f64::from(core.queued),
    );
    page.single(
        "tgi_batch_current_size",
        "gauge",
        "requests running",
        f64::from(core.running),
    );
    let blocks = &core.blocks;
    let held = f64::from(blocks.held) * f64::from(agentlm_core::BLOCK_SIZE);
    page.single(
        "tgi_batch_current_max_tokens",
        "gauge",
        "KV positions that running requests hold",
        held,
    );
    let places = [
        ("free", f64::from(blocks.free)),
        ("cached", f64::from(blocks.cached)),
        ("held", f64::from(blocks.held)),
        ("limbo", f64::from(blocks.limbo)),
    ];
    page.labelled("agentlm_blocks", "gauge", "KV blocks by place", "state", &places);
    page.single(
        "agentlm_unfinished",
        "gauge",
        "requests submitted and not ended",
        snapshot.unfinished as f64,
    );
    let counters = [
        (
            "agentlm_preemptions",
            "requests sent back to the queue",
            core.preemptions,
        ),
        (
            "agentlm_prefix_lookup_tokens",
            "tokens looked up in the prefix cache",
            core.prefix_lookup_tokens,
        ),
        (
            "agentlm_prefix_hit_tokens",
            "tokens found in the prefix cache",
            core.prefix_hit_tokens,
        ),
        ("agentlm_steps", "steps planned", core.steps),
        ("agentlm_tokens_computed", "tokens computed", core.tokens_computed),
        (
            "agentlm_tokens_generated",
            "tokens sampled",
            core.tokens_generated,
        ),
        ("agentlm_aborted", "requests aborted", core.aborted),
    ];
    for (name, help, value) in counters {
        page.single(name, "counter", help, value as f64);
    }
    let finishes = [
        ("length", core.finished_length as f64),
        ("eos_token", core.finished_eos as f64),
        ("stop_sequence", core.finished_stop as f64),
    ];
    page.labelled(
        "agentlm_finished",
        "counter",
        "requests ended by themselves",
        "reason",
        &finishes,
    );
    page.single(
        "agentlm_step_seconds",
        "counter",
        "seconds spent in steps",
        snapshot.total_step_seconds,
    );
    page.single(
        "agentlm_last_step_seconds",
        "gauge",
        "seconds of the last step",
        snapshot.last_step_seconds,
    );
}

/// The text under construction. Writing to a string cannot fail, so the results are not looked at.
struct Page {
    text: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        let _ = write!(self.text, "{name} {value}\n\n");
    }

    fn labelled(&mut self, name: &str, kind: &str, help: &str, label: &str, values: &[(&str, f64)]) {
        self.head(name, kind, help);
        for (kind, value) in values {
            let _ = writeln!(self.text, "{name}{{{label}=\"{kind}\"}} {value}");
        }
        self.text.push('\n');
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let (buckets, count, sum) = histogram.read();
        for (bound, below) in buckets {
            let _ = writeln!(self.text, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(self.text, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = write!(self.text, "{name}_sum {sum}\n{name}_count {count}\n\n");
    }
}

#[cfg(test)]
mod tests {
    use agentlm_core::params::Limits;
    use agentlm_host::Timing;

    use super::super::Meter;
    use super::*;
    use crate::error::ApiError;

    #[test]
    fn every_request_has_one_outcome() {
        let limits = Limits {
            max_input_tokens: 100,
            max_total_tokens: 200,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            max_best_of: 2,
        };
        let metrics = Arc::new(Metrics::new(&limits));
        let done = Meter::new(metrics.clone());
        done.admitted([(3, 20)].into_iter());
        done.succeeded(&Timing::default(), 7);
        done.failed(&ApiError::Overloaded);
        drop(done);
        Meter::new(metrics.clone()).failed(&ApiError::Overloaded);
        drop(Meter::new(metrics.clone()));
        let text = exposition(&metrics, &Snapshot::default());
        for line in [
            "# TYPE tgi_request_count counter\ntgi_request_count 3\n\n",
            "tgi_request_success 1\n",
            "tgi_request_failure{err=\"overloaded\"} 1\n",
            "tgi_request_failure{err=\"dropped\"} 1\n",
            "tgi_request_failure{err=\"validation\"} 0\n",
            "tgi_request_input_length_bucket{le=\"2\"} 0\ntgi_request_input_length_bucket{le=\"3\"} 1\n",
            "tgi_request_generated_tokens_sum 7\ntgi_request_generated_tokens_count 1\n",
            "tgi_request_duration_bucket{le=\"0.00015\"}",
            "agentlm_blocks{state=\"free\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
    }
}
