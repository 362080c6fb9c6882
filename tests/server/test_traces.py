"""`--otlp-endpoint`: a collector gets the spans of a served process, and one that is not there is no harm."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue

import pytest

from tests.model.small import make_small
from tests.server.live import SECONDS, free_port, served


@pytest.fixture
def collector():
    """Its endpoint, and the messages that come."""
    messages = Queue()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            messages.put((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", messages
        server.shutdown()


def test_a_collector_gets_the_spans_of_each_request(tmp_path, collector):
    endpoint, messages = collector
    flags = ("--otlp-endpoint", endpoint, "--otlp-service-name", "mine")
    with served("--model", make_small(tmp_path), "--backend", "mock", *flags) as live:
        assert live.generate("hello", max_new_tokens=2, ignore_eos=True)[0] == 200
        path, message = messages.get(timeout=SECONDS)
    (resource,) = message["resourceSpans"]
    name = {"key": "service.name", "value": {"stringValue": "mine"}}
    assert path == "/v1/traces"
    assert name in resource["resource"]["attributes"]
    spans = resource["scopeSpans"][0]["spans"]
    assert [span["name"] for span in spans] == ["POST /generate", "validation", "queue", "inference"]
    # Two steps of ten milliseconds.
    took = int(spans[3]["endTimeUnixNano"]) - int(spans[3]["startTimeUnixNano"])
    assert 0.02e9 <= took < SECONDS * 1e9


def test_a_collector_that_is_not_there_costs_its_spans_only(tmp_path):
    flags = ("--otlp-endpoint", f"http://127.0.0.1:{free_port()}")
    with served("--model", make_small(tmp_path), "--backend", "mock", *flags) as live:
        assert live.generate("hello", max_new_tokens=2)[0] == 200
        deadline = time.monotonic() + SECONDS
        while live.metric("agentlm_spans_dropped") != 4:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_port_of_tgis_collectors_is_pointed_out(tmp_path):
    model = make_small(tmp_path)
    for port, said in ((4317, True), (43170, False), (4318, False)):
        flags = ("--otlp-endpoint", f"http://127.0.0.1:{port}")
        with served("--model", model, "--backend", "mock", *flags) as live:
            assert any("4317 is for gRPC" in line for line in live.lines) == said, live.lines
