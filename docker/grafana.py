"""The dashboard as code: prints the JSON that Grafana 10 and newer import. Refuses to know a server; needs only Python.

    python docker/grafana.py > docker/grafana.json

TGI's panels are here by TGI's metric names, and beside them what only agentlm has. Servers are chosen by `job` and
`instance`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

CHOSEN = 'job=~"$job",instance=~"$instance"'
WINDOW = "$__rate_interval"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
QUANTILES = (("p50", 0.5, "green"), ("p90", 0.9, "orange"), ("p99", 0.99, "red"))


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel."""

    expression: str
    legend: str
    color: str | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture."""

    title: str
    unit: str
    queries: Sequence[Query]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    help: str = ""
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


def chosen(metric: str, **labels: str) -> str:
    """A metric of the chosen servers."""
    matchers = ",".join([CHOSEN, *(f'{name}="{value}"' for name, value in labels.items())])
    return f"{metric}{{{matchers}}}"


def rate(metric: str, **labels: str) -> str:
    """How fast a counter grows, all servers together."""
    return f"sum(rate({chosen(metric, **labels)}[{WINDOW}]))"


def rate_by(label: str, metric: str) -> str:
    """The same for each value of a label."""
    return f"sum by ({label}) (rate({chosen(metric)}[{WINDOW}]))"


def quantile(share: float, histogram: str, **labels: str) -> str:
    """A quantile of a histogram, all servers together."""
    return f"histogram_quantile({share}, sum by (le) (rate({chosen(histogram + '_bucket', **labels)}[{WINDOW}])))"


def mean(histogram: str, **labels: str) -> str:
    """The mean of what a histogram saw."""
    return f"{rate(histogram + '_sum', **labels)} / {rate(histogram + '_count', **labels)}"


def quantiles(title: str, unit: str, histogram: str, **labels: str) -> Panel:
    """A panel of three quantiles."""
    lines = [Query(quantile(share, histogram, **labels), name, color) for name, share, color in QUANTILES]
    return Panel(title, unit, lines)


def total(metric: str, legend: str) -> Query:
    """A gauge, all servers together."""
    return Query(f"sum({chosen(metric)})", legend)


def single(title: str, unit: str, expression: str, text: str, width: int = 4) -> Panel:
    """A panel of one number."""
    return Panel(title, unit, [Query(expression, title)], "stat", width, 5, text)


PREFILL = quantile(0.5, "tgi_batch_inference_duration", method="prefill")
FIRST_TOKEN = f"{quantile(0.5, 'tgi_request_queue_duration')} + {PREFILL}"
HITS = f"{rate('agentlm_prefix_hit_tokens')} / {rate('agentlm_prefix_lookup_tokens')}"
USED = f"sum({chosen('agentlm_blocks', state='held')}) / sum({chosen('agentlm_blocks')})"
FAILURES = f"{rate('tgi_request_failure')} / {rate('tgi_request_count')}"

ROWS = (
    Row(
        "At a glance",
        (
            single(
                "Time to first token", "s", FIRST_TOKEN, "Median wait in the queue and median prefill step."
            ),
            single(
                "Time per token",
                "s",
                mean("tgi_request_mean_time_per_token_duration"),
                "Of finished requests.",
            ),
            single("Tokens generated", "short", rate("agentlm_tokens_generated"), "A second."),
            single("Prefix cache hits", "percentunit", HITS, "Share of prompt tokens found in the cache."),
            single("KV blocks held", "percentunit", USED, "Share of the cache that running requests hold."),
            single("Requests failed", "percentunit", FAILURES, "Of those that came."),
        ),
    ),
    Row(
        "Requests",
        (
            Panel(
                "Requests a second",
                "reqps",
                [
                    Query(rate("tgi_request_count"), "arrived"),
                    Query(rate("tgi_request_success"), "answered", "green"),
                    Query(rate("agentlm_aborted"), "aborted", "orange"),
                ],
            ),
            Panel("Failures by reason", "reqps", [Query(rate_by("err", "tgi_request_failure"), "{{err}}")]),
            Panel("Ends by reason", "reqps", [Query(rate_by("reason", "agentlm_finished"), "{{reason}}")]),
            quantiles("Duration", "s", "tgi_request_duration"),
            quantiles("Queue", "s", "tgi_request_queue_duration"),
            quantiles("Inference", "s", "tgi_request_inference_duration"),
            quantiles("Validation", "s", "tgi_request_validation_duration"),
            quantiles("Mean time per token", "s", "tgi_request_mean_time_per_token_duration"),
            Panel(
                "Duration, all requests",
                "s",
                [Query(rate_by("le", "tgi_request_duration_bucket"), "{{le}}")],
                "heatmap",
            ),
        ),
    ),
    Row(
        "Tokens",
        (
            quantiles("Prompt tokens a request", "short", "tgi_request_input_length"),
            quantiles("Generated tokens a request", "short", "tgi_request_generated_tokens"),
            quantiles("Tokens that were allowed", "short", "tgi_request_max_new_tokens"),
            Panel(
                "Tokens a second",
                "short",
                [
                    Query(rate("agentlm_tokens_computed"), "computed"),
                    Query(rate("agentlm_tokens_generated"), "generated", "green"),
                ],
            ),
            Panel(
                "Prefix cache, tokens a second",
                "short",
                [
                    Query(rate("agentlm_prefix_lookup_tokens"), "looked up"),
                    Query(rate("agentlm_prefix_hit_tokens"), "found", "green"),
                ],
            ),
            quantiles("Speculated tokens a step", "short", "tgi_request_skipped_tokens"),
        ),
    ),
    Row(
        "Steps and batches",
        (
            quantiles("Prefill step", "s", "tgi_batch_inference_duration", method="prefill"),
            quantiles("Decode step", "s", "tgi_batch_inference_duration", method="decode"),
            Panel(
                "Where a step's time goes",
                "s",
                [
                    Query(mean("tgi_batch_forward_duration"), "forward"),
                    Query(mean("tgi_batch_decode_duration"), "taking results in"),
                    Query(mean("tgi_batch_filter_duration"), "filter"),
                    Query(mean("tgi_batch_concat_duration"), "concat"),
                ],
            ),
            quantiles("Requests a step", "short", "tgi_batch_next_size"),
            Panel(
                "Steps a second",
                "short",
                [
                    Query(rate_by("method", "tgi_batch_inference_count"), "{{method}}"),
                    Query(rate_by("method", "tgi_batch_inference_success"), "{{method}}, committed"),
                    Query(rate_by("method", "tgi_batch_inference_failure"), "{{method}}, failed", "red"),
                ],
            ),
            Panel(
                "Seconds a step",
                "s",
                [
                    Query(f"{rate('agentlm_step_seconds')} / {rate('agentlm_steps')}", "mean"),
                    Query(f"max({chosen('agentlm_last_step_seconds')})", "last, the slowest server"),
                ],
            ),
            Panel(
                "Share of time in steps",
                "percentunit",
                [Query(rate_by("instance", "agentlm_step_seconds"), "{{instance}}")],
            ),
            Panel("Batches merged", "short", [Query(rate_by("reason", "tgi_batch_concat"), "{{reason}}")]),
            Panel(
                "Requests in the engine",
                "short",
                [
                    total("tgi_batch_current_size", "running"),
                    total("tgi_queue_size", "waiting"),
                    total("agentlm_unfinished", "unfinished"),
                ],
            ),
        ),
    ),
    Row(
        "Memory and the server",
        (
            Panel(
                "KV blocks by place",
                "short",
                [Query(f"sum by (state) ({chosen('agentlm_blocks')})", "{{state}}")],
                stacked=True,
                help="free, cached (may be found again), held by running requests, in limbo until a step's fence.",
            ),
            Panel("KV positions held", "short", [total("tgi_batch_current_max_tokens", "positions")]),
            Panel(
                "Preemptions a second", "short", [Query(rate("agentlm_preemptions"), "preempted", "orange")]
            ),
            Panel("Age of the queue", "s", [Query(f"max({chosen('agentlm_queue_age_seconds')})", "oldest")]),
            Panel("Open connections", "short", [total("agentlm_open_connections", "connections")]),
            Panel(
                "What should not happen",
                "short",
                [
                    Query(rate("agentlm_failed"), "samples failed", "red"),
                    Query(rate("agentlm_log_lines_dropped"), "log lines dropped", "orange"),
                    Query(rate("agentlm_late_compilations"), "kernels compiled late", "yellow"),
                ],
            ),
        ),
    ),
)


def target(at: int, query: Query) -> dict[str, Any]:
    """A query as Grafana writes it."""
    return {
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": query.expression,
        "legendFormat": query.legend,
        "range": True,
        "refId": chr(ord("A") + at),
    }


def override(query: Query) -> dict[str, Any]:
    """A line's fixed color."""
    color = {"id": "color", "value": {"fixedColor": query.color, "mode": "fixed"}}
    return {"matcher": {"id": "byName", "options": query.legend}, "properties": [color]}


def drawn(panel: Panel) -> dict[str, Any]:
    """A panel as Grafana writes it, but for its place."""
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {}
    targets = [target(at, query) for at, query in enumerate(panel.queries)]
    if panel.kind == "timeseries":
        stacking = {"group": "A", "mode": "normal" if panel.stacked else "none"}
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": stacking,
        }
        options = {
            "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        options = {
            "colorMode": "value",
            "graphMode": "area",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        }
    elif panel.kind == "heatmap":
        for one in targets:
            one["format"] = "heatmap"
        options = {
            "calculate": False,
            "color": {"mode": "scheme", "scheme": "Blues"},
            "yAxis": {"unit": panel.unit},
        }
    return {
        "datasource": SOURCE,
        "description": panel.help,
        "fieldConfig": {
            "defaults": defaults,
            "overrides": [override(query) for query in panel.queries if query.color],
        },
        "options": options,
        "targets": targets,
        "title": panel.title,
        "type": panel.kind,
    }


def placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """All rows and panels, from left to right and top to bottom."""
    top = identity = 0
    for row in rows:
        identity += 1
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        yield {
            "collapsed": False,
            "gridPos": place,
            "id": identity,
            "panels": [],
            "title": row.title,
            "type": "row",
        }
        top += 1
        left = height = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top = 0, top + height
                height = 0
            identity += 1
            place = {"h": panel.height, "w": panel.width, "x": left, "y": top}
            yield {"gridPos": place, "id": identity, **drawn(panel)}
            left, height = left + panel.width, max(height, panel.height)
        top += height


def variable(name: str, query: str) -> dict[str, Any]:
    """A choice of some or all values of a label."""
    return {
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "datasource": SOURCE,
        "definition": query,
        "includeAll": True,
        "multi": True,
        "name": name,
        "query": {"qryType": 1, "query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "type": "query",
    }


def dashboard() -> dict[str, Any]:
    """The whole dashboard."""
    return {
        "description": "Servers of agentlm, or of TGI where only the tgi_ panels have data.",
        "editable": True,
        "graphTooltip": 1,
        "panels": list(placed(ROWS)),
        "refresh": "10s",
        "schemaVersion": 39,
        "tags": ["agentlm", "tgi"],
        "templating": {
            "list": [
                {"label": "Prometheus", "name": "datasource", "query": "prometheus", "type": "datasource"},
                variable("job", "label_values(tgi_request_count, job)"),
                variable("instance", 'label_values(tgi_request_count{job=~"$job"}, instance)'),
            ]
        },
        "time": {"from": "now-1h", "to": "now"},
        "title": "agentlm",
        "uid": "agentlm",
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=1)
    sys.stdout.write("\n")
