"""`python -m model_scorer fetch` and `python -m model_scorer serve`.

Settings come from the environment; flags of the same names override them. Whatever ends a command early becomes one
line of JSON in the termination log and an exit code other than 0; tracebacks go to the log only.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields

from model_scorer import termination
from model_scorer.errors import LoadFailed, OutOfMemory, ScorerError
from model_scorer.logs import configure_logs, redact
from model_scorer.model_packages import add_model_packages
from model_scorer.settings import Settings, termination_log_of, variable_of

log = logging.getLogger("model_scorer")

EXIT_FAILED = 1
EXIT_USAGE = 2


def build_parser() -> argparse.ArgumentParser:
    """The command line: two commands, one flag for each environment variable."""
    parser = argparse.ArgumentParser(
        prog="python -m model_scorer",
        description="Fetches a model, proves that it works, and serves it over HTTP.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in (
        ("fetch", "copy the model behind SCORER_MODEL_URI to SCORER_MODEL_DIR, digest checked"),
        ("serve", "load the model in SCORER_MODEL_DIR and serve it over HTTP"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        for item in fields(Settings):
            default = "" if item.default in (None, "", MISSING) else f" (default: {item.default})"
            command.add_argument(
                f"--{item.name.replace('_', '-')}",
                metavar="VALUE",
                help=f"{item.metadata['help']}; {variable_of(item.name)}{default}".replace(
                    "%", "%%"
                ),
            )
    return parser


def merge_flags(environ: Mapping[str, str], flags: argparse.Namespace) -> dict[str, str]:
    """An environment with the flags that were given laid over it."""
    merged = dict(environ)
    for item in fields(Settings):
        value = getattr(flags, item.name)
        if value is not None:
            merged[variable_of(item.name)] = value
    return merged


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit code."""
    flags = build_parser().parse_args(argv)
    environ = merge_flags(os.environ, flags)
    configure_logs(level=environ.get("SCORER_LOG_LEVEL", "INFO").upper())
    try:
        if flags.command == "fetch":
            # The operator names the port; elsewhere nobody asks.
            told = bool(environ.get("SCORER_PROBE_PORT"))
            return _fetch(Settings.from_env(environ, required=("model_uri",)), tell_progress=told)
        return _serve(Settings.from_env(environ, required=("framework",)))
    except ScorerError as err:
        failure = err
        usage = err.reason == "InvalidSpec"
        log.error("%s", err.message, extra={"reason": err.reason, "hint": err.hint})
        log.debug("where it came from", exc_info=True)
    except MemoryError:
        usage = False
        failure = OutOfMemory("the process ran out of memory", "raise spec.resources.limits.memory")
        log.exception("%s", failure.message, extra={"reason": failure.reason})
    except Exception as err:
        usage = False
        failure = LoadFailed(
            f"{flags.command} failed unexpectedly: {type(err).__name__}: {redact(str(err))}",
            "the log has the details",
        )
        log.exception("%s", failure.message, extra={"reason": failure.reason})
    termination.write_failure(termination_log_of(environ), failure)
    return EXIT_USAGE if usage else EXIT_FAILED


def _fetch(settings: Settings, *, tell_progress: bool) -> int:
    # Imported here: each command loads only what it needs.
    from model_scorer.fetch import fetch_model

    fetched = fetch_model(settings, tell_progress=tell_progress)
    termination.write_fetched(
        settings.termination_log,
        message=fetched.message,
        digest=fetched.digest,
        size_bytes=fetched.size_bytes,
    )
    log.info("%s", fetched.message, extra={"digest": fetched.digest, "bytes": fetched.size_bytes})
    return 0


def _serve(settings: Settings) -> int:
    add_model_packages(settings.model_dir)
    from model_scorer.serve import serve

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
