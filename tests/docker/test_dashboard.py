"""The dashboard is what its code says, and each of its queries asks for a metric that a live server has."""

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from tests.model.small import make_small
from tests.server.live import served

DOCKER = Path(__file__).parents[2] / "docker"
TGI = """
    tgi_request_count tgi_request_success tgi_request_failure tgi_request_duration tgi_request_validation_duration
    tgi_request_queue_duration tgi_request_inference_duration tgi_request_mean_time_per_token_duration
    tgi_request_input_length tgi_request_max_new_tokens tgi_request_generated_tokens tgi_request_skipped_tokens
    tgi_batch_inference_count tgi_batch_inference_success tgi_batch_inference_failure tgi_batch_inference_duration
    tgi_batch_forward_duration tgi_batch_decode_duration tgi_batch_filter_duration tgi_batch_concat_duration
    tgi_batch_concat tgi_batch_next_size tgi_batch_current_size tgi_batch_current_max_tokens tgi_queue_size
"""


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((DOCKER / "grafana.json").read_text(encoding="utf-8"))


def asked(dashboard) -> list[tuple[str, dict[str, str]]]:
    """Each metric that a query names, with the labels that it is asked by."""
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            for name, labels in re.findall(r"((?:tgi|agentlm)_\w+)\{([^}]*)\}", target["expr"]):
                found.append((name, dict(re.findall(r'(\w+)="([^"]*)"', labels))))
    return found


def test_the_file_is_what_the_code_makes(dashboard):
    made = subprocess.run([sys.executable, DOCKER / "grafana.py"], capture_output=True, text=True, check=True)
    assert json.loads(made.stdout) == dashboard, "python docker/grafana.py > docker/grafana.json"


def test_panels_have_names_of_their_own_and_do_not_overlap(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_every_metric_of_tgi_is_shown(dashboard):
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in asked(dashboard)}
    shown |= {name for name, _ in asked(dashboard)}
    assert set(TGI.split()) <= shown


def test_a_live_server_has_every_metric_that_is_asked_for(dashboard, tmp_path):
    with served("--model", make_small(tmp_path), "--backend", "mock", "--mock-step-time", "0.001") as live:
        assert live.generate("count me", max_new_tokens=3)[0] == 200
        assert live.generate("count me not", max_new_tokens=0)[0] == 422
        text = live.call("GET", "/metrics")[1]
    series = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? \S+", line).groups()
            series.setdefault(name, []).append(dict(re.findall(r'(\w+)="([^"]*)"', labels or "")))
    for name, labels in asked(dashboard):
        # Whoever scrapes a server says its job and its instance.
        own = {label: value for label, value in labels.items() if label not in ("job", "instance")}
        assert any(own.items() <= found.items() for found in series.get(name, ())), (name, own)
