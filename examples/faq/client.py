"""Asks a running ScoringModel which known question a new one repeats.

    python client.py --url https://faq.models.example.com --key "$KEY" "why is this undefined"

Takes the address, an API key and, for a self-signed certificate, the CA file; prints the best
five questions with the first line of their answers. It checks the certificate always, and needs
the standard library only.
"""

import argparse
import csv
import http.client
import json
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
TIMEOUT_SECONDS = 30


class ClientError(Exception):
    """The question could not be asked or was not answered; the message says why."""


def post_json(
    url: str, body: Any, *, key: str | None, ca_file: Path | None, connect_to: str | None = None
) -> Any:
    """Post JSON over HTTPS and return the JSON of the answer.

    Args:
        url: `https://host[:port][/path]`; without a path, /score.
        body: what is sent, as JSON.
        key: API key, sent as a bearer token.
        ca_file: certificates to trust in place of the system's.
        connect_to: `host:port` to connect to while the certificate and the Host header stay those
            of the URL, for a host that no DNS server knows yet.

    Raises:
        ClientError: not HTTPS, no connection, an untrusted certificate, or a status other than 200.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ClientError(f"--url must look like https://host, got {url!r}")
    host, _, port = (connect_to or "").rpartition(":")
    address = (host or parts.hostname, int(port) if port else parts.port or 443)
    headers = {"Content-Type": "application/json", "Host": parts.netloc}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection(parts.hostname, timeout=TIMEOUT_SECONDS)
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        plain = socket.create_connection(address, timeout=TIMEOUT_SECONDS)
        connection.sock = context.wrap_socket(plain, server_hostname=parts.hostname)
        path = parts.path if parts.path not in {"", "/"} else "/score"
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as err:
        raise ClientError(f"{url} via {address[0]}:{address[1]}: {err}") from err
    finally:
        connection.close()
    if response.status != 200:
        raise ClientError(f"{url} answered {response.status} {response.reason}: {text[:300]}")
    return json.loads(text)


def read_triples(answer: Any) -> list[tuple[str, str, float]]:
    """Take the triples out of an answer.

    Args:
        answer: `[[id, answer id, p], …]`, or `{"result": [[[id, answer id, p], …], "…"]}`.

    Raises:
        ClientError: the answer has another form.
    """
    triples = answer["result"][0] if isinstance(answer, dict) and "result" in answer else answer
    try:
        return [(str(question), str(key), float(p)) for question, key, p in triples]
    except (TypeError, ValueError) as err:
        raise ClientError(f"not an answer of the FAQ model: {str(answer)[:300]}") from err


def read_questions(path: Path) -> dict[str, tuple[str, str]]:
    """Read the model folder's questions.tsv: id to title and first line of the answer."""
    if not path.is_file():
        raise ClientError(f"{path} does not exist; run train.py, or pass --questions")
    with path.open(encoding="utf8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["Id"]: (row["Title"], _first_line(row["Answer"])) for row in rows}


def _first_line(answer: str, width: int = 110) -> str:
    line = answer.split("\n", 1)[0]
    return line if len(line) <= width else line[: width - 1].rsplit(" ", 1)[0] + " …"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("question", help="what you want to know")
    add("--url", required=True, help="the url that kubectl get scoringmodels shows")
    add("--key", default=os.environ.get("SCORING_KEY"), help="API key (default: $SCORING_KEY)")
    add("--cacert", type=Path, metavar="FILE", help="CA or self-signed certificate to trust")
    add("--connect-to", metavar="HOST:PORT", help="connect there instead of to the URL's host")
    add("--questions", type=Path, default=HERE / "model" / "questions.tsv", metavar="FILE",
        help="questions.tsv of the model folder (default: %(default)s)")  # fmt: skip
    add("--top", type=int, default=5, help="how many to print (default: 5)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask and print."""
    options = parse_arguments(arguments)
    try:
        known = read_questions(options.questions)
        answer = post_json(options.url, {"input": options.question}, key=options.key,
                           ca_file=options.cacert, connect_to=options.connect_to)  # fmt: skip
        for question, _, probability in read_triples(answer)[: options.top]:
            title, line = known.get(question, (f"question {question}", ""))
            print(f"{probability:6.1%}  {title}\n        {line}")
    except ClientError as err:
        print(f"client.py: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
