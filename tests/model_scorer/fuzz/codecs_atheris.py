"""Coverage-guided fuzzing of the codecs: bytes in, a call or a RequestError out, in bounded time and memory. `make fuzz`.

Atheris is libFuzzer for Python; it needs an environment of its own, with the scorer and its image codecs. Any other
exception, an input that takes seconds, or memory that grows ends the run with the input in a file `crash-…`.

    python tests/model_scorer/fuzz/codecs_atheris.py RUNS [libFuzzer's options and corpus folders]
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["model_scorer"]):
    from model_scorer.dialects.azureml import ScoreDialect
    from model_scorer.dialects.kserve_v1 import KServeV1Dialect
    from model_scorer.dialects.mlflow_invocations import InvocationsDialect
    from model_scorer.dialects.open_inference import OpenInferenceDialect
    from model_scorer.dialects.protocol import Dialect, HttpRequest, Target
    from model_scorer.dialects.torchserve import PredictionsDialect
    from model_scorer.errors import RequestError
    from model_scorer.images import decode_image
    from model_scorer.runtimes.protocol import RuntimeInfo, Signature, TensorSpec

# Larger than a seed, smaller than what takes long to mutate.
MAX_INPUT_BYTES = 2048
SECONDS_A_CASE = 5
MAX_PIXELS = 1_000_000
SETTLED_AFTER_RUNS = 20_000
MAX_GROWTH_BYTES = 128 * 1024 * 1024
PAGE_BYTES = 4096

SIGNATURE = Signature(
    (TensorSpec("X", "FP64", (-1, 2)),),
    (TensorSpec("predict", "INT64", (-1,)), TensorSpec("predict_proba", "FP64", (-1, 2))),
    columns=("a", "b"),
    row_width=2,
)
ROWS = Target("m", "1", RuntimeInfo("sklearn", "1", "sklearn"), SIGNATURE)
IMAGES = Target("m", "1", RuntimeInfo("pytorch", "1", "torch", media=("image/*",)), Signature())
JSON = b"application/json"

Check = Callable[[bytes], None]


def decode(dialect: Dialect, target: Target, body: bytes, **headers: bytes) -> None:
    """Decode as the server does; a refusal must be a 4xx that the dialect can tell."""
    sent = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    error = refusal(lambda: dialect.decode(HttpRequest("POST", "/", "", sent, body), target))
    if error is not None:
        json.loads(dialect.error(error).body)


def refusal(call: Callable[[], object]) -> RequestError | None:
    """What a call says against its input, which must be a 4xx; None when it takes it."""
    try:
        call()
    except RequestError as err:
        if not 400 <= err.status < 500:
            raise
        return err
    return None


def check_json(dialect: Dialect) -> Check:
    """A dialect's JSON, for a model of rows and for one of images."""

    def check(body: bytes) -> None:
        decode(dialect, ROWS, body, content_type=JSON)
        decode(dialect, IMAGES, body, content_type=JSON)

    return check


def check_binary(data: bytes) -> None:
    """V2's binary extension: two bytes say how long the JSON in front is."""
    if len(data) < 2:
        return
    (length,) = struct.unpack_from("<H", data)
    told = str(length).encode()
    kind = b"application/octet-stream"
    decode(
        OpenInferenceDialect(),
        ROWS,
        data[2:],
        content_type=kind,
        inference_header_content_length=told,
    )


def check_csv(body: bytes) -> None:
    """MLflow's CSV."""
    decode(InvocationsDialect(), ROWS, body, content_type=b"text/csv")


def check_form(body: bytes) -> None:
    """Files in a form, and raw bodies that say they are an image."""
    form = b"multipart/form-data; boundary=x"
    for dialect in (PredictionsDialect(), ScoreDialect()):
        decode(dialect, IMAGES, body, content_type=form)
        decode(dialect, IMAGES, body, content_type=b"image/png")


def check_image(data: bytes) -> None:
    """Headers and pixels of the three image formats."""
    refusal(lambda: decode_image(data, target_side=8, max_pixels=MAX_PIXELS))


CHECKS: tuple[Check, ...] = (
    check_json(ScoreDialect()),
    check_json(KServeV1Dialect()),
    check_json(OpenInferenceDialect()),
    check_json(InvocationsDialect()),
    check_json(PredictionsDialect()),
    check_binary,
    check_csv,
    check_form,
    check_image,
)


class Fuzzed:
    """The function that libFuzzer calls: an input's first byte chooses the codec.

    Args:
        runs: after so many it stops by itself.
    """

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._done = 0
        self._settled = 0

    def __call__(self, data: bytes) -> None:
        if data:
            CHECKS[data[0] % len(CHECKS)](data[1:])
        self._done += 1
        if self._done == min(SETTLED_AFTER_RUNS, self._runs // 2):
            self._settled = read_memory()
        elif self._settled and (self._done % SETTLED_AFTER_RUNS == 0 or self._done == self._runs):
            grown = read_memory() - self._settled
            print(f"{self._done:,} cases, memory {grown / 2**20:+.1f} MiB", flush=True)
            assert grown < MAX_GROWTH_BYTES, f"memory grew by {grown:,} bytes"


def read_memory() -> int:
    """The resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def make_seeds() -> Iterator[bytes]:
    """One good request for each codec: libFuzzer starts from these."""
    from PIL import Image

    tensor = {"name": "X", "shape": [1, 2], "datatype": "FP32"}
    bodies = (
        {"data": [[1, 2.5]]},
        {"instances": [{"a": 1, "b": None}]},
        {"id": "1", "inputs": [{**tensor, "data": [1, 2]}], "outputs": [{"name": "predict"}]},
        {"dataframe_split": {"index": [0], "columns": ["a", "b"], "data": [[1, 2]]}, "params": {}},
        [{"b64": "aGVsbG8="}],
    )
    for number, body in enumerate(bodies):
        yield bytes([number]) + json.dumps(body).encode()
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 8}}]}).encode()
    yield b"\x05" + struct.pack("<H", len(head)) + head + struct.pack("<2f", 1, 2)
    texts = {"name": "X", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 9}}
    head = json.dumps({"inputs": [texts]}).encode()
    yield b"\x05" + struct.pack("<H", len(head)) + head + struct.pack("<IcI", 1, b"a", 0)
    yield b'\x06a,b\r\n1,"2"\r\n'
    yield b'\x07--x\r\nContent-Disposition: form-data; name="data"\r\n\r\nfile\r\n--x--\r\n'
    for kind in ("JPEG", "PNG", "WEBP"):
        file = io.BytesIO()
        Image.new("RGB", (9, 5), "teal").save(file, kind)
        yield b"\x08" + file.getvalue()


def main(runs: int, options: list[str]) -> None:
    """Fuzz; ends the process."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(make_seeds()):
            (Path(corpus) / str(number)).write_bytes(seed)
        limits = [f"-runs={runs}", f"-max_len={MAX_INPUT_BYTES}", f"-timeout={SECONDS_A_CASE}"]
        atheris.Setup([sys.argv[0], *limits, *options, corpus], Fuzzed(runs))
        atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000, sys.argv[2:])
