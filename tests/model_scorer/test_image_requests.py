"""Images posted to a running scorer in every form that clients send, and everything that can be wrong with them."""

import ast
import base64
import io
import json
import struct
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "image-classification"
LABELS = [f"n{number:08} {word}, number {number}" for number, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
)]  # fmt: skip


def train(seed: int = 0) -> Any:
    """The example's network, fitted for a few seconds."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        from network import DigitNet
    finally:
        sys.path.remove(str(EXAMPLE))
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    digits, labels = load_digits(return_X_y=True)
    rows = torch.from_numpy(digits.reshape(-1, 1, 8, 8).astype(np.float32) / 16)
    targets = torch.from_numpy(labels)
    network = DigitNet().train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(8):
        for picked in torch.randperm(len(rows)).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(rows[picked]), targets[picked]).backward()
            optimiser.step()
    torch.set_num_threads(threads)
    return network.eval()


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    save_file(train().state_dict(), folder / "model.safetensors")
    (folder / "network.py").write_bytes((EXAMPLE / "network.py").read_bytes())
    (folder / "labels.txt").write_text("\n".join(LABELS))
    config = {
        "architecture": "network:DigitNet",
        "preprocess": {"resize": [8, 8], "crop": None, "channelOrder": "L", "mean": 0, "std": 1},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def scorer(start_scorer: Callable[..., Any], digits_folder: Path) -> Any:
    return start_scorer(digits_folder, "pytorch", model_name="digits")


def png(digit: int) -> bytes:
    return (EXAMPLE / "samples" / f"digit-{digit}.png").read_bytes()


def encoded(digit: int, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png(digit))).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def text(digit: int) -> str:
    return base64.b64encode(png(digit)).decode()


def best(answer: Any) -> int:
    """The digit that an answer for one image says, after a look at its form."""
    assert len(answer) == 3
    assert all(label in LABELS and 0 <= score <= 1 for label, score in answer)
    assert answer == sorted(answer, key=lambda pair: -pair[1])
    return LABELS.index(answer[0][0])


def multipart(*parts: tuple[str, str, bytes]) -> tuple[bytes, str]:
    """A form of (field, file name, bytes), and its content type."""
    boundary = "cut-here"
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"'.encode()
        + (f'; filename="{name}"\r\nContent-Type: image/png'.encode() if name else b"")
        + b"\r\n\r\n"
        + data
        + b"\r\n"
        for field, name, data in parts
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


# ------------------------------------------------------------------------------------------------- raw and forms


@pytest.mark.parametrize(
    ("data", "media"),
    [
        (png(7), "image/png"),
        (encoded(7, "JPEG", quality=95), "image/jpeg"),
        (encoded(7, "WEBP", lossless=True), "image/webp"),
        (png(7), "application/octet-stream"),
        (png(7), "image/png; charset=binary"),
    ],
    ids=["png", "jpeg", "webp", "octet-stream", "parameter"],
)
@pytest.mark.parametrize("path", ["/score", "/predictions/digits", "/invocations"])
def test_a_raw_image_is_classified(scorer: Any, data: bytes, media: str, path: str) -> None:
    reply = scorer.post(path, data, headers={"Content-Type": media})

    assert reply.status == 200, reply.body
    answer = reply.json["predictions"] if path == "/invocations" else reply.json
    assert [best(image) for image in answer] == [7]


def test_a_form_brings_several_images_at_once(scorer: Any) -> None:
    body, media = multipart(("a", "3.png", png(3)), ("b", "8.png", png(8)), ("a", "", png(1)))

    reply = scorer.post("/score", body, headers={"Content-Type": media})

    assert reply.status == 200, reply.body
    assert [best(image) for image in reply.json] == [3, 8, 1]


def test_torchserves_form_is_read(scorer: Any) -> None:
    body, media = multipart(("data", "digit.png", png(4)))
    reply = scorer.post("/predictions/digits", body, headers={"Content-Type": media})
    assert (reply.status, best(reply.json[0])) == (200, 4)


@pytest.mark.parametrize(
    ("body", "media", "word"),
    [
        (b"nothing", "multipart/form-data", "boundary"),
        (b"nothing", "multipart/form-data; boundary=x", "form"),
        (multipart()[0], "multipart/form-data; boundary=cut-here", "no image"),
        (multipart(("a", "a.png", png(1)))[0][:-40], "multipart/form-data; boundary=cut-here", "form"),
    ],
    ids=["no-boundary", "no-parts", "empty", "truncated"],
)  # fmt: skip
def test_a_broken_form_is_refused(scorer: Any, body: bytes, media: str, word: str) -> None:
    reply = scorer.post("/score", body, headers={"Content-Type": media})
    assert reply.status == 400
    assert word in reply.json["message"]


# ------------------------------------------------------------------------------------ the reference's own clients


@pytest.mark.parametrize(
    "image",
    [
        f'"{text(5)}"',
        text(5),
        f"b'{text(5)}'",
        f"\"b'{text(5)}'\"",
        f"data:image/png;base64,{text(5)}",
        "\n".join(text(5)[i : i + 60] for i in range(0, len(text(5)), 60)),
        text(5).replace("+", "-").replace("/", "_").rstrip("="),
        {"b64": text(5)},
    ],
    ids=["quotes", "plain", "b", "quoted-b", "data-url", "lines", "url-safe", "b64"],
)
def test_the_reference_form_is_answered_in_the_reference_form(scorer: Any, image: Any) -> None:
    reply = scorer.post("/score", {"input": {"image": image}})

    assert reply.status == 200, reply.body
    [[answers, timing]] = reply.json.values()
    assert list(reply.json) == ["result"]
    assert list(answers) == ["image"]
    assert best(answers["image"]) == 5
    assert timing.startswith("Computed in ")
    assert timing.endswith(" ms")


def test_several_keys_are_several_images(scorer: Any) -> None:
    images = {f"picture {digit}": f'"{text(digit)}"' for digit in (9, 0, 6)}
    answers, _ = scorer.post("/score", {"input": images}).json["result"]
    assert {key: best(answer) for key, answer in answers.items()} == {
        "picture 9": 9,
        "picture 0": 0,
        "picture 6": 6,
    }


def test_the_keras_form_is_answered_by_the_repr_that_its_client_evaluates(scorer: Any) -> None:
    given = json.dumps({"image": text(2), "ignored": text(3)})

    reply = scorer.post("/score", {"input": given})

    assert reply.status == 200, reply.body
    answers, timing = ast.literal_eval(reply.json["result"])
    assert list(answers) == ["image"]
    code, word, score = answers["image"][0]
    assert (code, word) == ("n00000002", "two")
    assert 0 < score <= 1
    assert len(answers["image"]) == 3
    assert timing.startswith("Computed in ")


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/score", {"data": [text(1), text(2)]}, None),
        ("/score", [text(1), {"b64": text(2)}], None),
        ("/score", {"instances": [text(1), {"image": text(2)}]}, "predictions"),
        ("/v1/models/digits:predict", {"instances": [{"image": {"b64": text(1)}}, {"b64": text(2)}]}, "predictions"),
        ("/v1/models/digits:predict", {"instances": [{"image_bytes": {"b64": text(1)}}, text(2)]}, "predictions"),
        ("/invocations", {"instances": [text(1), text(2)]}, "predictions"),
        ("/invocations", {"inputs": [text(1), text(2)]}, "predictions"),
        ("/invocations", {"inputs": {"image": [text(1), text(2)]}}, "predictions"),
        ("/invocations", {"dataframe_records": [{"image": text(1)}, {"image": text(2)}]}, "predictions"),
        ("/invocations", {"dataframe_split": {"columns": ["image"], "data": [[text(1)], [text(2)]]}}, "predictions"),
        ("/predictions/digits", {"instances": [{"data": text(1)}, text(2)]}, None),
    ],
)  # fmt: skip
def test_every_dialect_takes_base64(scorer: Any, path: str, body: Any, key: str | None) -> None:
    reply = scorer.post(path, body)

    assert reply.status == 200, reply.body
    answer = reply.json[key] if key else reply.json
    assert [best(image) for image in answer] == [1, 2]


def test_v2_takes_images_as_bytes_and_answers_scores(scorer: Any) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [2], "data": [text(3), text(4)]}
    reply = scorer.post("/v2/models/digits/infer", {"inputs": [tensor]})
    assert reply.status == 200, reply.body
    [output] = reply.json["outputs"]
    assert output["shape"] == [2, 10]
    assert np.reshape(output["data"], (2, 10)).argmax(1).tolist() == [3, 4]


def test_v2_takes_raw_files_in_binary_tensors(scorer: Any) -> None:
    files = [png(3), encoded(4, "JPEG", quality=95), encoded(5, "WEBP", lossless=True)]
    raw = b"".join(struct.pack("<I", len(data)) + data for data in files)
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [3, 1],
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    reply = scorer.post("/v2/models/digits/infer", head + raw, headers=headers)
    assert reply.status == 200, reply.body
    assert np.reshape(reply.json["outputs"][0]["data"], (3, 10)).argmax(1).tolist() == [3, 4, 5]


def test_v2_takes_the_networks_own_numbers(scorer: Any) -> None:
    digits, labels = load_digits(return_X_y=True)
    rows = (digits[:5].reshape(-1, 1, 8, 8) / 16).tolist()
    tensor = {"name": "input", "datatype": "FP32", "shape": [5, 1, 8, 8], "data": rows}
    reply = scorer.post("/v2/models/digits/infer", {"inputs": [tensor]})
    assert reply.status == 200, reply.body
    assert (
        np.reshape(reply.json["outputs"][0]["data"], (5, 10)).argmax(1).tolist()
        == labels[:5].tolist()
    )


# ---------------------------------------------------------------------------------------------------- bad images


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header says any size, with the pixels of another."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def bomb() -> bytes:
    """Some kilobytes that unfold to 400 megapixels."""
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


BAD: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "text": (lambda: b"I am no picture", 400, "no JPEG, PNG or WebP"),
    "gif": (lambda: encoded(1, "GIF"), 400, "no JPEG, PNG or WebP"),
    "html": (lambda: b"<html><body>404</body></html>", 400, "no JPEG, PNG or WebP"),
    "truncated-png": (lambda: png(7)[:100], 422, "truncated or broken"),
    "truncated-jpeg": (lambda: encoded(7, "JPEG")[:400], 422, "truncated or broken"),
    "truncated-webp": (lambda: encoded(7, "WEBP")[:60], 422, "truncated or broken"),
    "head-only": (lambda: b"\xff\xd8\xff\xe0", 422, "truncated or broken"),
    "empty-picture": (lambda: png_of_size(0, 0), 422, "png"),
    "giant": (lambda: png_of_size(60_000, 60_000), 413, "too large"),
    "large": (lambda: png_of_size(8_000, 8_000), 413, "8000 x 8000"),
    "bomb": (bomb, 413, "too large"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("form", ["raw", "base64"])
def test_a_bad_image_is_refused_with_what_is_wrong(scorer: Any, case: str, form: str) -> None:
    make, status, word = BAD[case]
    if form == "raw":
        reply = scorer.post("/score", make(), headers={"Content-Type": "image/png"})
    else:
        reply = scorer.post("/score", {"input": {"image": base64.b64encode(make()).decode()}})

    assert reply.status == status, reply.body
    assert word in reply.json["message"]
    assert "Traceback" not in reply.json["message"]
    assert scorer.post("/score", {"data": [text(1)]}).status == 200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"input": {"image": 7}}, "base64"),
        ({"input": {"image": None}}, "base64"),
        ({"input": {"image": "https://example.com/cat.jpg"}}, "not fetched"),
        ({"input": {"image": "A"}}, "base64"),
        ({"input": {}}, "empty"),
        ({"input": "{broken"}, "JSON"),
        ({"input": "{}"}, "empty"),
        ({"input": []}, "empty"),
        ({"data": [{"a": "x", "b": "y"}]}, "keys"),
        ({"picture": text(1)}, "missing key"),
        ({"data": [[1.0, 2.0]]}, "shape"),
    ],
)
def test_json_without_an_image_is_refused(scorer: Any, body: Any, word: str) -> None:
    reply = scorer.post("/score", body)
    assert reply.status == 400, reply.body
    assert word in reply.json["message"]


def test_an_empty_body_and_an_unknown_type_are_refused(scorer: Any) -> None:
    assert scorer.post("/score", b"", headers={"Content-Type": "image/png"}).status == 400
    reply = scorer.post("/score", png(1), headers={"Content-Type": "video/mp4"})
    assert reply.status == 415
    assert "image/*" in reply.json["message"]


def test_of_several_images_the_bad_one_gets_its_error_and_the_others_their_answers(
    scorer: Any,
) -> None:
    broken = base64.b64encode(png(7)[:100]).decode()
    reply = scorer.post("/score", {"input": {"a": text(1), "b": broken, "c": "A", "d": text(4)}})

    assert reply.status == 200, reply.body
    answers, _ = reply.json["result"]
    assert (best(answers["a"]), best(answers["d"])) == (1, 4)
    assert "truncated or broken" in answers["b"]["error"]
    assert "base64" in answers["c"]["error"]

    body, media = multipart(("x", "1.png", png(1)), ("x", "t.txt", b"text"), ("x", "2.png", png(2)))
    one, two, three = scorer.post("/score", body, headers={"Content-Type": media}).json
    assert (best(one), best(three)) == (1, 2)
    assert "no JPEG" in two["error"]


def test_a_bad_image_does_not_touch_the_requests_beside_it(scorer: Any) -> None:
    bodies = [png(digit % 10) if digit % 3 else b"rubbish" for digit in range(30)]
    with ThreadPoolExecutor(10) as pool:
        replies = list(
            pool.map(
                lambda body: scorer.post("/score", body, headers={"Content-Type": "image/png"}),
                bodies,
            )
        )
    for digit, reply in enumerate(replies):
        if digit % 3:
            assert (reply.status, best(reply.json[0])) == (200, digit % 10)
        else:
            assert reply.status == 400


# ------------------------------------------------------------------------------------------------ how it is served


def test_a_network_is_served_by_one_process_that_computes_on_all_cores(scorer: Any) -> None:
    ready = [line for line in scorer.records() if line.get("message") == "worker ready"]
    assert len(ready) == 1


def test_more_images_in_one_request_than_fit_a_batch_are_all_answered(scorer: Any) -> None:
    digits = [number % 10 for number in range(70)]
    reply = scorer.post("/score", {"data": [text(digit) for digit in digits]})
    assert [best(answer) for answer in reply.json] == digits


def test_a_gpu_that_is_not_there_ends_in_the_termination_message(
    start_scorer: Callable[..., Any], digits_folder: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    scorer = start_scorer(digits_folder, "pytorch", device="gpu", wait=False)
    assert scorer.process.wait(timeout=60) != 0
    last_words = json.loads(scorer.termination_path.read_text())
    assert last_words["reason"] == "NoGPU"
    assert "gpu" in last_words["message"].lower()
    assert last_words["hint"]
