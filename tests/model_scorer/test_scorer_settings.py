"""Settings, termination messages, logs, the command line, and the sample's comparison."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import fields
from pathlib import Path

import pytest

from model_scorer import errors, termination
from model_scorer.__main__ import build_parser, main, merge_flags
from model_scorer.errors import InvalidSpec, ScorerError
from model_scorer.logs import JsonFormatter, LineLogger, redact
from model_scorer.serve.cpus import count_cpus, derive_workers
from model_scorer.serve.sample import find_difference
from model_scorer.settings import Settings, variable_of

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_environment_table_of_the_architecture_page_is_what_settings_reads():
    documented = dict(
        re.findall(r"^\| `(SCORER_[A-Z0-9_]+)` \|.*\| ?([^|]*) \|$", ARCHITECTURE.read_text(), re.M)
    )
    defaults = Settings()
    for item in fields(Settings):
        assert variable_of(item.name) in documented
        told = re.fullmatch(r"`([^`]*)`", documented[variable_of(item.name)].strip())
        if told:
            parsed = Settings.from_env({variable_of(item.name): told[1]})
            assert getattr(parsed, item.name) == getattr(defaults, item.name)


def test_empty_variables_count_as_absent():
    assert Settings.from_env({"SCORER_PORT": " ", "SCORER_SAMPLE": ""}) == Settings()


def test_all_problems_are_reported_together():
    environ = {
        "SCORER_PORT": "99999",
        "SCORER_DEVICE": "tpu",
        "SCORER_MODEL_SHA256": "abc",
        "SCORER_SAMPLE": "{}",
        "SCORER_TIMEOUT_SECONDS": "nan",
        "SCORER_TRUST_PICKLE": "maybe",
    }
    with pytest.raises(InvalidSpec) as caught:
        Settings.from_env(environ, required=("model_uri",))
    for variable in (*environ, "SCORER_MODEL_URI"):
        assert variable in caught.value.message


def test_flags_lie_over_the_environment():
    flags = build_parser().parse_args(["serve", "--port", "7", "--framework", "python"])
    merged = merge_flags({"SCORER_PORT": "8", "SCORER_WORKERS": "3"}, flags)
    settings = Settings.from_env(merged)
    assert (settings.port, settings.workers, settings.framework) == (7, 3, "python")


def test_the_error_tree_has_the_closed_list_of_reasons():
    names = {kind.__name__ for kind in ScorerError.__subclasses__()}
    assert names >= set(
        [
            "ModelNotFound",
            "ModelForbidden",
            "ModelUnreachable",
            "DiskFull",
            "DigestMismatch",
            "UnsafePickle",
            "VersionMismatch",
            "MissingDependency",
            "LoadFailed",
            "ScriptFailed",
            "SampleFailed",
            "InvalidSpec",
            "NoGPU",
            "OutOfMemory",
        ]
    )
    assert all(getattr(errors, name).reason == name for name in names if hasattr(errors, name))


def test_termination_messages_are_one_short_line(tmp_path):
    path = tmp_path / "log"
    termination.write_failure(path, InvalidSpec("ü" * 10_000, "hint"))
    text = path.read_text()
    assert len(text) <= 4096
    assert text.count("\n") == 1
    assert json.loads(text)["reason"] == "InvalidSpec"


def test_wrong_settings_end_with_a_message_and_no_traceback(tmp_path, monkeypatch, capfd):
    path = tmp_path / "termination"
    monkeypatch.setenv("SCORER_TERMINATION_LOG", str(path))
    monkeypatch.setenv("SCORER_FRAMEWORK", "mxnet")
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        assert main(["serve"]) == 2
    finally:
        root.handlers[:], root.level = before
        logging.captureWarnings(False)
    assert "mxnet" in json.loads(path.read_text())["message"]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdef123456", "abcdef123456"),
        ("https://user:pa55w0rd@host/x", "pa55w0rd"),
        ("https://a.blob.core.windows.net/m?sv=1&sig=AbC%2B1&x=1", "AbC%2B1"),
    ],
)
def test_secrets_are_taken_out_of_logs(text, secret):
    assert secret not in redact(text)
    record = logging.LogRecord("n", logging.INFO, "", 1, "%s", (text,), None)
    record.api_key = "k3y"
    line = JsonFormatter().format(record)
    assert secret not in line
    assert "k3y" not in line


def test_printed_lines_become_records(caplog):
    stream = LineLogger(logging.getLogger("prints"))
    with caplog.at_level(logging.INFO, "prints"):
        stream.write("one\ntw")
        stream.write("o\n")
        stream.write("rest")
        stream.flush()
    assert [r.getMessage() for r in caplog.records] == ["one", "two", "rest"]


@pytest.mark.parametrize(
    ("expected", "actual", "difference"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, ""),
        ([1, 2.0], [1.0, 2.0001], ""),
        ([1, 2], [1, 2, 3], "answer: expected 2 items, got 3"),
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}, "answer.a.b[0]: expected 1, got 2"),
        ({"a": 1}, {}, "answer.a is missing"),
        ({"r": ["x", "Computed in 1.5 ms"]}, {"r": ["x", "Computed in 22 ms"]}, ""),
        (True, 1, "answer: expected true, got 1"),
        (None, None, ""),
    ],
)
def test_samples_are_compared_as_subsets_with_tolerance(expected, actual, difference):
    assert find_difference(expected, actual) == difference


def test_workers_come_from_the_quota(tmp_path):
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert count_cpus(tmp_path) == 1.0
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert count_cpus(tmp_path) >= 1
    assert [derive_workers(0, cpus, "cpu") for cpus in (0.5, 1, 1.75, 2.5, 4)] == [1, 1, 2, 2, 4]
    assert derive_workers(8, 16, "gpu") == 1
    assert derive_workers(3, 1, "cpu") == 3
