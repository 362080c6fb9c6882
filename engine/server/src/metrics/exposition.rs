//! `GET /metrics`: Prometheus text. `tgi_*` names are those of TGI's dashboards, `agentlm_*` are ours.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use agentlm_host::{Health, Histogram, KindTimes, Snapshot, StepKind, StepTimes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::page::Page;
use super::{Failure, Metrics};
use crate::app::App;

/// Everything at this moment.
pub(crate) async fn render(State(app): State<Arc<App>>) -> Response {
    let moment = Moment {
        metrics: &app.metrics,
        snapshot: &app.engine.snapshot(),
        steps: app.engine.step_times(),
        failed: matches!(app.engine.health(), Health::Failed(_)),
        dropped_lines: app.log.dropped(),
        dropped_spans: app.spans.as_ref().map_or(0, |spans| spans.lost()),
    };
    (
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
        moment.text(),
    )
        .into_response()
}

/// What is told.
struct Moment<'a> {
    metrics: &'a Metrics,
    snapshot: &'a Snapshot,
    steps: &'a StepTimes,
    /// Whether the engine has failed.
    failed: bool,
    /// Lines that the log lost.
    dropped_lines: u64,
    /// Spans that reached no collector.
    dropped_spans: u64,
}

impl Moment<'_> {
    fn text(&self) -> String {
        let mut page = Page::new();
        self.requests(&mut page);
        self.batches(&mut page);
        self.engine(&mut page);
        self.server(&mut page);
        page.into_text()
    }

    fn requests(&self, page: &mut Page) {
        let metrics = self.metrics;
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

    /// TGI's batches are our steps. One that computes more than a token for some request counts as a prefill.
    fn batches(&self, page: &mut Page) {
        let (prefill, decode) = (self.steps.of(StepKind::Prefill), self.steps.of(StepKind::Decode));
        let count =
            |of: fn(&KindTimes) -> u64| [("prefill", of(prefill) as f64), ("decode", of(decode) as f64)];
        let done = |times: &KindTimes| times.whole.read().1;
        let lost = |times: &KindTimes| times.planned().saturating_sub(times.whole.read().1);
        let counters = [
            (
                "tgi_batch_inference_count",
                "steps planned",
                count(KindTimes::planned),
            ),
            ("tgi_batch_inference_success", "steps committed", count(done)),
            (
                "tgi_batch_inference_failure",
                "steps that the engine failed in",
                if self.failed { count(lost) } else { count(|_| 0) },
            ),
        ];
        for (name, help, values) in counters {
            page.labelled(name, "counter", help, "method", &values);
        }
        let times = |of: fn(&KindTimes) -> &Histogram| [("prefill", of(prefill)), ("decode", of(decode))];
        let never = &self.metrics.never;
        let histograms = [
            (
                "tgi_batch_inference_duration",
                "seconds of a step, plan to commit",
                times(|times| &times.whole),
            ),
            (
                "tgi_batch_forward_duration",
                "seconds of a step until the runner is done",
                times(|times| &times.run),
            ),
            (
                "tgi_batch_decode_duration",
                "seconds of taking a step's results in",
                times(|times| &times.commit),
            ),
            (
                "tgi_batch_filter_duration",
                "seconds of filtering a batch: never needed",
                [("prefill", never), ("decode", never)],
            ),
        ];
        for (name, help, values) in histograms {
            page.by_method(name, help, &values);
        }
        page.by_method(
            "tgi_batch_concat_duration",
            "seconds of merging batches: never needed",
            &[("decode", never)],
        );
        let reasons = ["backpressure", "wait_exceeded", "chunking"].map(|reason| (reason, 0.0));
        page.labelled(
            "tgi_batch_concat",
            "counter",
            "batches merged: never needed",
            "reason",
            &reasons,
        );
        page.histogram("tgi_batch_next_size", "requests a step", &self.steps.requests);
    }

    fn engine(&self, page: &mut Page) {
        let core = &self.snapshot.core;
        let blocks = &core.blocks;
        let held = f64::from(blocks.held) * f64::from(agentlm_core::BLOCK_SIZE);
        let gauges = [
            ("tgi_queue_size", "requests waiting", f64::from(core.queued)),
            (
                "tgi_batch_current_size",
                "requests running",
                f64::from(core.running),
            ),
            (
                "tgi_batch_current_max_tokens",
                "KV positions that running requests hold",
                held,
            ),
            (
                "agentlm_unfinished",
                "requests submitted and not ended",
                self.snapshot.unfinished as f64,
            ),
            (
                "agentlm_queue_age_seconds",
                "seconds that the oldest request without a first step has waited",
                self.snapshot.oldest_waiting_seconds,
            ),
            (
                "agentlm_last_step_seconds",
                "seconds of the last step",
                self.snapshot.last_step_seconds,
            ),
        ];
        for (name, help, value) in gauges {
            page.single(name, "gauge", help, value);
        }
        let places = [
            ("free", f64::from(blocks.free)),
            ("cached", f64::from(blocks.cached)),
            ("held", f64::from(blocks.held)),
            ("limbo", f64::from(blocks.limbo)),
        ];
        page.labelled("agentlm_blocks", "gauge", "KV blocks by place", "state", &places);
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
            ("agentlm_failed", "requests whose sample failed", core.failed),
            (
                "agentlm_late_compilations",
                "kernels compiled or loaded after warm-up, while requests waited",
                self.snapshot.late_compilations,
            ),
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
            self.snapshot.total_step_seconds,
        );
    }

    fn server(&self, page: &mut Page) {
        page.single(
            "agentlm_open_connections",
            "gauge",
            "connections of clients",
            self.metrics.connections.load(Ordering::Relaxed) as f64,
        );
        page.single(
            "agentlm_log_lines_dropped",
            "counter",
            "log lines that could not be written",
            self.dropped_lines as f64,
        );
        page.single(
            "agentlm_spans_dropped",
            "counter",
            "spans of traces that reached no collector",
            self.dropped_spans as f64,
        );
    }
}

#[cfg(test)]
mod tests {
    use agentlm_core::FinishReason;
    use agentlm_core::params::Limits;
    use agentlm_host::Timing;

    use super::super::{Account, Meter};
    use super::*;
    use crate::error::ApiError;

    const LIMITS: Limits = Limits {
        max_input_tokens: 100,
        max_total_tokens: 200,
        max_stop_sequences: 4,
        max_top_n_tokens: 5,
        max_best_of: 2,
    };

    #[test]
    fn every_request_has_one_outcome() {
        let metrics = Arc::new(Metrics::new(&LIMITS));
        let done = Meter::new(metrics.clone(), None);
        done.admitted([(3, 20)].into_iter());
        done.succeeded(&Account {
            timing: Timing::default(),
            prompt_tokens: 3,
            generated_tokens: 7,
            reason: FinishReason::Length,
        });
        done.failed(&ApiError::Overloaded);
        drop(done);
        Meter::new(metrics.clone(), None).succeeded(&Account {
            timing: Timing::default(),
            prompt_tokens: 3,
            generated_tokens: 0,
            reason: FinishReason::Length,
        });
        Meter::new(metrics.clone(), None).failed(&ApiError::Overloaded);
        drop(Meter::new(metrics.clone(), None));
        let _open = metrics.open_connection();
        drop(metrics.open_connection());
        let text = Moment {
            metrics: &metrics,
            snapshot: &Snapshot::default(),
            steps: &StepTimes::default(),
            failed: false,
            dropped_lines: 2,
            dropped_spans: 3,
        }
        .text();
        for line in [
            "# TYPE tgi_request_count counter\ntgi_request_count 4\n\n",
            "tgi_request_success 2\n",
            "tgi_request_mean_time_per_token_duration_count 1\n",
            "tgi_request_failure{err=\"overloaded\"} 1\n",
            "tgi_request_failure{err=\"dropped\"} 1\n",
            "tgi_request_failure{err=\"validation\"} 0\n",
            "tgi_request_input_length_bucket{le=\"2\"} 0\ntgi_request_input_length_bucket{le=\"3\"} 1\n",
            "tgi_request_generated_tokens_sum 7\ntgi_request_generated_tokens_count 2\n",
            "tgi_request_duration_bucket{le=\"0.00015\"}",
            "tgi_batch_inference_duration_bucket{method=\"decode\",le=\"0.00015\"} 0\n",
            "tgi_batch_inference_duration_count{method=\"prefill\"} 0\n",
            "tgi_batch_concat{reason=\"wait_exceeded\"} 0\n",
            "tgi_batch_next_size_bucket{le=\"1024\"} 0\n",
            "agentlm_blocks{state=\"free\"} 0\n",
            "agentlm_open_connections 1\n",
            "agentlm_log_lines_dropped 2\n",
            "agentlm_spans_dropped 3\n",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn each_of_the_engines_numbers_has_its_line() {
        let mut snapshot = Snapshot {
            unfinished: 1,
            oldest_waiting_seconds: 2.5,
            last_step_seconds: 3.5,
            total_step_seconds: 4.5,
            late_compilations: 5,
            ..Snapshot::default()
        };
        let core = &mut snapshot.core;
        (core.queued, core.running) = (6, 7);
        (
            core.blocks.free,
            core.blocks.cached,
            core.blocks.held,
            core.blocks.limbo,
        ) = (8, 9, 10, 11);
        (
            core.preemptions,
            core.prefix_lookup_tokens,
            core.prefix_hit_tokens,
        ) = (12, 13, 14);
        (core.steps, core.tokens_computed, core.tokens_generated) = (15, 16, 17);
        (core.aborted, core.failed) = (18, 19);
        (core.finished_length, core.finished_eos, core.finished_stop) = (20, 21, 22);
        let text = Moment {
            metrics: &Metrics::new(&LIMITS),
            snapshot: &snapshot,
            steps: &StepTimes::default(),
            failed: false,
            dropped_lines: 0,
            dropped_spans: 0,
        }
        .text();
        for line in [
            "tgi_queue_size 6",
            "tgi_batch_current_size 7",
            "tgi_batch_current_max_tokens 160",
            "agentlm_unfinished 1",
            "agentlm_queue_age_seconds 2.5",
            "agentlm_last_step_seconds 3.5",
            "agentlm_step_seconds 4.5",
            "agentlm_late_compilations 5",
            "agentlm_blocks{state=\"free\"} 8",
            "agentlm_blocks{state=\"cached\"} 9",
            "agentlm_blocks{state=\"held\"} 10",
            "agentlm_blocks{state=\"limbo\"} 11",
            "agentlm_preemptions 12",
            "agentlm_prefix_lookup_tokens 13",
            "agentlm_prefix_hit_tokens 14",
            "agentlm_steps 15",
            "agentlm_tokens_computed 16",
            "agentlm_tokens_generated 17",
            "agentlm_aborted 18",
            "agentlm_failed 19",
            "agentlm_finished{reason=\"length\"} 20",
            "agentlm_finished{reason=\"eos_token\"} 21",
            "agentlm_finished{reason=\"stop_sequence\"} 22",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line}\nis not in\n{text}");
        }
    }
}
