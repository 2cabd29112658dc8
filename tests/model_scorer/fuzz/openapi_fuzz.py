"""Schemathesis against `/openapi.json` of a running scorer: `make fuzz`; not part of `make test`.

Started with the number of examples for each operation (100 unless given); ends with schemathesis' own exit code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEY = "fuzz-key"
START_SECONDS = 60.0


def train(folder: Path) -> None:
    """A small classifier with column names, so that the document has all it can have."""
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    frame, classes = load_iris(return_X_y=True, as_frame=True)
    joblib.dump(LogisticRegression(max_iter=500).fit(frame, classes), folder / "model.joblib")


def wait_for_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The scoring port, once the scorer is ready."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        text = log.read_text()
        port = re.search(r'"port": (\d+)', text)
        if port and '"message": "ready"' in text:
            return int(port[1])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"the scorer did not start:\n{log.read_text()[-2000:]}")


def main(examples: int) -> int:
    """Start, try, stop."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, keys, log = folder / "model", folder / "keys", folder / "log"
        model.mkdir()
        keys.mkdir()
        (keys / "primary").write_text(KEY)
        train(model)
        environ = os.environ | {
            "SCORER_MODEL_DIR": str(model),
            "SCORER_FRAMEWORK": "sklearn",
            "SCORER_MODEL_NAME": "iris",
            "SCORER_ADDRESS": "127.0.0.1",
            "SCORER_PORT": "0",
            "SCORER_PROBE_PORT": "0",
            "SCORER_KEYS_DIR": str(keys),
            "SCORER_WORKERS": "1",
            "SCORER_ACCESS_LOG_SAMPLE": "0",
            "SCORER_DRAIN_SECONDS": "0",
            "SCORER_TERMINATION_LOG": str(folder / "termination"),
        }
        with log.open("wb") as output:
            scorer = subprocess.Popen(
                [sys.executable, "-m", "model_scorer", "serve"], env=environ, stdout=output
            )
        try:
            port = wait_for_port(scorer, log)
            command = [
                str(Path(sys.executable).with_name("schemathesis")),
                "run",
                f"http://127.0.0.1:{port}/openapi.json",
                "--header",
                f"Authorization: Bearer {KEY}",
                "--checks",
                "not_a_server_error,response_schema_conformance,content_type_conformance",
                "--max-examples",
                str(examples),
                "--phases",
                "examples,coverage,fuzzing",
                "--request-timeout",
                "10",
            ]
            return subprocess.run(command, check=False, cwd=folder).returncode
        finally:
            scorer.terminate()
            scorer.wait(30)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))
