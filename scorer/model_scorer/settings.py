"""Every setting of the scorer: one frozen dataclass, read once from the environment, all problems reported together.

The table in `docs/architecture.md` is the contract with the operator; `SETTINGS` repeats it for `--help` and for the
command line flags, which mirror the environment (`--model-uri` is `SCORER_MODEL_URI`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from model_scorer.errors import InvalidSpec

FRAMEWORKS = ("sklearn", "pytorch", "tensorflow", "keras", "onnx", "python")
DEVICES = ("cpu", "gpu")
AUTH_MODES = ("APIKey", "None")
PRECISIONS = ("float32", "bfloat16", "float16")

Parser = Callable[[str], Any]

_MODEL_DIR = Path("/mnt/model")
_KEYS_DIR = Path("/etc/scorer/keys")
_TERMINATION_LOG = Path("/dev/termination-log")
_MAX_BODY_BYTES = 10 * 1024 * 1024


def _integer(minimum: int, maximum: int) -> Parser:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text):
            raise ValueError(f"must be a whole number, got {text!r}")
        value = int(text)
        if not minimum <= value <= maximum:
            raise ValueError(f"must be between {minimum} and {maximum}, got {value}")
        return value

    return parse


def _number(minimum: float, maximum: float) -> Parser:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"must be a number, got {text!r}") from None
        if not math.isfinite(value) or not minimum <= value <= maximum:
            raise ValueError(f"must be between {minimum:g} and {maximum:g}, got {text}")
        return value

    return parse


def _one_of(choices: tuple[str, ...]) -> Parser:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, got {text!r}")
        return text

    return parse


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise ValueError(f"must be true or false, got {text!r}")


def _digest(text: str) -> str:
    value = text.lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError(f"must be 64 hexadecimal digits, got {text!r}")
    return value


def _model_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", text):
        raise ValueError(f"must be letters, digits, '.', '_' and '-', got {text!r}")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """`spec.test`: a request that a new pod must answer before it gets traffic.

    Attributes:
        request: the JSON value that is posted to `/score`.
        expect: what the answer must hold, or None when any success will do.
    """

    request: Any
    expect: Any | None = None


def _sample(text: str) -> SampleRequest:
    try:
        value = json.loads(text)
    except ValueError as err:
        raise ValueError(f"must be JSON: {err}") from None
    if not isinstance(value, dict) or "request" not in value:
        raise ValueError('must be a JSON object with the key "request"')
    unknown = sorted(set(value) - {"request", "expect"})
    if unknown:
        raise ValueError(f"has unknown keys: {', '.join(unknown)}")
    return SampleRequest(request=value["request"], expect=value.get("expect"))


def _about(parse: Parser, help_text: str) -> dict[str, Any]:
    return {"parse": parse, "help": help_text}


@dataclass(frozen=True, slots=True)
class Settings:
    """The scorer's settings; attribute names are the variables' names without `SCORER_`, in lower case."""

    model_name: str = field(
        default="model", metadata=_about(_model_name, "the ScoringModel's name")
    )
    revision: str = field(default="", metadata=_about(str, "hash of what the pod serves"))
    model_uri: str = field(default="", metadata=_about(str, "what `fetch` fetches"))
    model_sha256: str = field(default="", metadata=_about(_digest, "refuse any other bytes"))
    framework: str = field(
        default="", metadata=_about(_one_of(FRAMEWORKS), f"one of {', '.join(FRAMEWORKS)}")
    )
    device: str = field(default="cpu", metadata=_about(_one_of(DEVICES), "cpu or gpu"))
    model_dir: Path = field(
        default=_MODEL_DIR, metadata=_about(Path, "the folder that `fetch` fills and `serve` reads")
    )
    address: str = field(default="0.0.0.0", metadata=_about(str, "address to listen on"))
    port: int = field(
        default=8080, metadata=_about(_integer(0, 65535), "scoring port; 0 picks a free one")
    )
    probe_port: int = field(
        default=8081,
        metadata=_about(_integer(0, 65535), "probes and metrics port; 0 picks a free one"),
    )
    auth_mode: str = field(default="APIKey", metadata=_about(_one_of(AUTH_MODES), "APIKey or None"))
    keys_dir: Path = field(default=_KEYS_DIR, metadata=_about(Path, "folder with one file a key"))
    max_body_bytes: int = field(
        default=_MAX_BODY_BYTES, metadata=_about(_integer(1, 2**31 - 1), "larger requests get 413")
    )
    timeout_seconds: float = field(
        default=60.0, metadata=_about(_number(0.001, 86400), "per-request deadline")
    )
    max_queued_requests: int = field(
        default=256, metadata=_about(_integer(1, 1_000_000), "beyond it 503 with Retry-After")
    )
    max_batch_size: int = field(
        default=32, metadata=_about(_integer(1, 100_000), "rows scored in one call at most")
    )
    max_batch_delay_ms: float = field(
        default=0.0, metadata=_about(_number(0, 10_000), "longest wait for a fuller batch")
    )
    precision: str = field(
        default="float32", metadata=_about(_one_of(PRECISIONS), f"one of {', '.join(PRECISIONS)}")
    )
    workers: int = field(
        default=0, metadata=_about(_integer(0, 256), "worker processes; 0: from the CPU quota")
    )
    sample: SampleRequest | None = field(
        default=None,
        metadata=_about(_sample, 'JSON {"request": …, "expect": …}, must succeed before ready'),
    )
    trust_pickle: bool = field(
        default=False, metadata=_about(_boolean, "unpickle without the import allow-list")
    )
    drain_seconds: float = field(
        default=5.0,
        metadata=_about(_number(0, 3600), "after SIGTERM: not ready, but still serving"),
    )
    termination_log: Path = field(
        default=_TERMINATION_LOG, metadata=_about(Path, "where the last words go")
    )
    access_log_sample: float = field(
        default=1.0, metadata=_about(_number(0, 1), "share of successful requests that are logged")
    )
    payload_log_sample: float = field(
        default=0.0,
        metadata=_about(_number(0, 1), "share of requests that are logged with their payloads"),
    )
    redact_fields: tuple[str, ...] = field(
        default=(),
        metadata=_about(_names, "names of fields and columns never logged, comma-separated"),
    )
    ui: bool = field(default=True, metadata=_about(_boolean, "serve the try-it page at /ui"))

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, required: tuple[str, ...] = ()) -> Settings:
        """Read the settings from an environment; empty variables count as absent.

        Args:
            environ: `os.environ`, or a copy with the command line's flags laid over it.
            required: attribute names that must be given (`framework` for `serve`, `model_uri` for `fetch`).

        Raises:
            InvalidSpec: names every variable that is wrong or missing, not just the first.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for item in fields(cls):
            variable = variable_of(item.name)
            text = environ.get(variable, "").strip()
            if not text:
                if item.name in required:
                    problems.append(f"{variable} is not set ({item.metadata['help']})")
                continue
            try:
                values[item.name] = item.metadata["parse"](text)
            except ValueError as err:
                problems.append(f"{variable} {err}")
        if problems:
            raise InvalidSpec(
                "; ".join(problems), "correct these settings; `--help` lists all of them"
            )
        return cls(**values)


def variable_of(attribute: str) -> str:
    """The environment variable of a settings attribute."""
    return f"SCORER_{attribute.upper()}"


def termination_log_of(environ: Mapping[str, str]) -> Path:
    """Where the last words go, readable even when the other settings are not."""
    return Path(environ.get("SCORER_TERMINATION_LOG", "").strip() or "/dev/termination-log")
