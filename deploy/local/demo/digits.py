"""Image classification: pictures of digits in, digits with their probabilities out."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from deployed import ROOT, Request, Scorer
from stages import run, stage

FOLDER = ROOT / "examples" / "image-classification"
MODEL = FOLDER / "model"
TITLE = "digits"
_SAMPLES = FOLDER / "samples"
_BEST = re.compile(r"^(digit-\d\.png).*\n +[\d.]+% +\S* +(\d)$", re.MULTILINE)


def training_command(out: Path) -> list[str]:
    """What trains the example into a model folder."""
    return [sys.executable, str(FOLDER / "train_digits.py"), "--out", str(out)]


def sample_request() -> Request:
    """A picture of a seven."""
    return Request((_SAMPLES / "digit-7.png").read_bytes(), "image/png")


def ask(scorer: Scorer) -> list[str]:
    """Post a picture of each digit with the example's client; returns which of them were not recognised."""
    certificate = scorer.cluster.state_dir / f"{scorer.name}.crt"
    certificate.write_text(scorer.certificate)
    pictures = sorted(str(path) for path in _SAMPLES.glob("*.png"))
    with stage(f"Posting {len(pictures)} pictures over HTTPS: POST {scorer.url}/score"):
        shown = run(
            [
                *(sys.executable, str(FOLDER / "client.py"), scorer.url, *pictures),
                *("--key", scorer.key, "--cafile", str(certificate)),
                *("--connect", f"127.0.0.1:{scorer.cluster.https_port}"),
            ],
            "posting the pictures",
        )
    print("\n" + "".join(f"  {line}\n" for line in shown.splitlines()))
    best = dict(_BEST.findall(shown))
    wrong = [
        f"{Path(picture).name} was taken for {best.get(Path(picture).name, 'nothing')}"
        for picture in pictures
        if f"digit-{best.get(Path(picture).name)}.png" != Path(picture).name
    ]
    print(f"  {len(pictures) - len(wrong)} of {len(pictures)} digits recognised\n")
    return wrong


def next_command(scorer: Scorer) -> str:
    """One more request, as a shell command for a terminal that has KEY and the certificate."""
    picture = _SAMPLES / "digit-3.png"
    return f"""curl --cacert {scorer.name}.crt --resolve {scorer.host}:{scorer.cluster.https_port}:127.0.0.1 {scorer.url}/score \\
    -H "Authorization: Bearer $KEY" -H 'Content-Type: image/png' --data-binary @{picture}"""
