"""Post an image to a deployed classifier and show the categories with their scores as bars."""

from __future__ import annotations

import argparse
import json
import mimetypes
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def classify(
    url: str, image: Path, key: str, cafile: str | None
) -> tuple[list[list[object]], float]:
    """POST one image file; the best [category, probability] pairs, and the round trip in ms."""
    request = urllib.request.Request(
        f"{url.rstrip('/')}/score",
        data=image.read_bytes(),
        headers={
            "Authorization": f"Bearer {key}",
            "Content-Type": mimetypes.guess_type(image.name)[0] or "application/octet-stream",
        },
    )
    context = ssl.create_default_context(cafile=cafile)
    began = time.perf_counter()
    with urllib.request.urlopen(request, context=context, timeout=60) as answer:
        body = json.load(answer)
    return body[0], (time.perf_counter() - began) * 1000


def main() -> int:
    """Classify each image given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="status.url of the ScoringModel")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument(
        "--key", default=os.environ.get("SCORING_KEY"), help="API key ($SCORING_KEY)"
    )
    parser.add_argument("--cafile", help="certificate to trust, for self-signed hosts")
    options = parser.parse_args()
    if not options.key:
        parser.error("an API key is needed: --key, or SCORING_KEY in the environment")
    for image in options.images:
        try:
            matches, took_ms = classify(options.url, image, options.key, options.cafile)
        except urllib.error.HTTPError as err:
            print(
                f"{image.name}: {err.code} {err.read().decode(errors='replace')}", file=sys.stderr
            )
            return 1
        except urllib.error.URLError as err:
            print(f"{options.url}: {err.reason}", file=sys.stderr)
            return 1
        print(f"{image.name}  ({took_ms:.0f} ms)")
        for category, score in matches:
            print(
                f"  {float(str(score)):6.1%}  {'█' * round(float(str(score)) * 40):<40}  {category}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
