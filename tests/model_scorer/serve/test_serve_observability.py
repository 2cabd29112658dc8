"""Traces and the payload log: off unless asked for, and never more than asked for."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from model_scorer.serve.payload_log import PayloadLog
from model_scorer.settings import Settings

ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture
def collector():
    """An OTLP/HTTP collector: the requests that reached it."""
    bodies: list[bytes] = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args): ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collect)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_requests_are_traced_with_the_clients_context(
    start_scorer, iris_folder, collector, monkeypatch
):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    endpoint, bodies = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    scorer = start_scorer(iris_folder, "sklearn", model_name="iris", workers="1")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    reply = scorer.post("/score", {"data": [ROW]}, headers={"traceparent": parent})
    assert reply.json == [0]
    assert reply.headers["traceparent"].split("-")[1] == parent.split("-")[1]
    bad = scorer.post("/v2/models/iris/infer", {"inputs": []}, headers={"traceparent": "nonsense"})
    assert bad.status == 400
    assert scorer.stop() == 0  # sends what is not sent yet
    spans, services = [], set()
    for body in bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            services |= {
                a.value.string_value
                for a in resource.resource.attributes
                if a.key == "service.name"
            }
            for scope in resource.scope_spans:
                spans += scope.spans
    assert services == {"iris"}
    scored, refused = spans
    attributes = {a.key: a.value for a in scored.attributes}
    assert scored.trace_id.hex() == parent.split("-")[1]
    assert scored.parent_span_id.hex() == parent.split("-")[2]
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["mlscoring.dialect"].string_value == "score"
    assert attributes["mlscoring.queue_ms"].double_value >= 0
    assert attributes["mlscoring.compute_ms"].double_value > 0
    assert not refused.parent_span_id
    assert {a.key: a.value.string_value for a in refused.attributes}["error.type"] == "bad_request"


def test_payloads_are_logged_only_when_asked_for_and_without_redacted_fields(
    start_scorer, iris_folder
):
    quiet = start_scorer(iris_folder, "sklearn", workers="1")
    quiet.post("/score", {"data": [ROW], "patient": "secret-name"})
    quiet.stop()
    assert "secret-name" not in quiet.log()
    loud = start_scorer(
        iris_folder, "sklearn", workers="1", payload_log_sample="1", redact_fields="patient, SSN"
    )
    loud.post("/score", {"data": [ROW], "patient": "secret-name", "deep": [{"ssn": 12345}]})
    loud.stop()
    (record,) = [r for r in loud.records() if r["logger"] == "payload"]
    assert record["request"] == {"data": [ROW], "patient": "***", "deep": [{"ssn": "***"}]}
    assert (record["response"], record["status"], record["dialect"]) == ([0], 200, "score")
    assert "secret-name" not in loud.log()
    assert "test-key-1" not in loud.log()


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            {"columns": ["a", "ssn"], "data": [[1, 2]]},
            {"columns": ["a", "ssn"], "data": [[1, "***"]]},
        ),
        ({"data": [[1, 2]]}, {"data": [["***", 2]]}),
        ({"instances": [{"SSN": 1, "b": 2}]}, {"instances": [{"SSN": "***", "b": 2}]}),
        (
            {"inputs": [{"name": "ssn", "data": [7]}, {"name": "b", "data": [8]}]},
            {"inputs": [{"name": "ssn", "data": "***"}, {"name": "b", "data": [8]}]},
        ),
    ],
)
def test_redaction_finds_fields_columns_positions_and_tensors(body, shown):
    payloads = PayloadLog(1.0, ("ssn",), columns=("ssn", "b"))
    assert payloads.show(json.dumps(body).encode()) == shown


def test_what_cannot_be_redacted_is_told_by_its_size_alone():
    payloads = PayloadLog(1.0, ("ssn",))
    assert payloads.show(b"ssn=123") == "7 bytes that are no JSON"
    assert payloads.show(b"[" + b"1," * 20_000 + b"1]") == "40003 bytes"


def test_settings_of_the_payload_log_are_read():
    settings = Settings.from_env(
        {"SCORER_PAYLOAD_LOG_SAMPLE": "0.5", "SCORER_REDACT_FIELDS": " a, b ,,c"}
    )
    assert (settings.payload_log_sample, settings.redact_fields) == (0.5, ("a", "b", "c"))
