"""Post an image to a deployed classifier and show the categories with their scores as bars."""

from __future__ import annotations

import argparse
import http.client
import json
import mimetypes
import os
import socket
import ssl
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit


def classify(
    url: str, image: Path, *, key: str, cafile: str | None = None, connect: str | None = None
) -> tuple[list[list[object]], float]:
    """POST one image file.

    Args:
        url: `status.url` of the ScoringModel.
        image: JPEG, PNG or WebP.
        key: an API key.
        cafile: certificate to trust beside the system's.
        connect: host:port to connect to instead of the URL's, where no DNS knows it.

    Returns:
        The best [category, probability] pairs, and the round trip in ms.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    address, _, port = (connect or f"{host}:{parts.port or 443}").rpartition(":")
    began = time.perf_counter()
    connection = http.client.HTTPConnection(parts.netloc)
    raw = socket.create_connection((address, int(port)), timeout=60)
    connection.sock = ssl.create_default_context(cafile=cafile).wrap_socket(
        raw, server_hostname=host
    )
    media_type = mimetypes.guess_type(image.name)[0] or "application/octet-stream"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": media_type}
    connection.request("POST", f"{parts.path.rstrip('/')}/score", image.read_bytes(), headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {body.decode(errors='replace')}")
    return json.loads(body)[0], (time.perf_counter() - began) * 1000


def main() -> int:
    """Classify each image given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="status.url of the ScoringModel")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument(
        "--key", default=os.environ.get("SCORING_KEY"), help="API key ($SCORING_KEY)"
    )
    parser.add_argument("--cafile", help="certificate to trust, for self-signed hosts")
    parser.add_argument(
        "--connect", metavar="HOST:PORT", help="connect there, for hosts that no DNS knows"
    )
    options = parser.parse_args()
    if not options.key:
        parser.error("an API key is needed: --key, or SCORING_KEY in the environment")
    for image in options.images:
        try:
            matches, took_ms = classify(
                options.url,
                image,
                key=options.key,
                cafile=options.cafile,
                connect=options.connect,
            )
        except (RuntimeError, OSError) as err:
            print(f"{image.name}: {err}", file=sys.stderr)
            return 1
        print(f"{image.name}  ({took_ms:.0f} ms)")
        for category, score in matches:
            print(
                f"  {float(str(score)):6.1%}  {'█' * round(float(str(score)) * 40):<40}  {category}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
