"""The Hugging Face Hub: which commit a revision is at the moment, so that one fetch brings files of one commit."""

import importlib
import logging
import re
from dataclasses import replace

from model_scorer.errors import MissingDependency
from model_scorer.fetch.location import Location
from model_scorer.fetch.options import FetchOptions
from model_scorer.fetch.retry import run_with_retries
from model_scorer.fetch.store_errors import translate_store_error

log = logging.getLogger(__name__)

_TARGET = re.compile(
    r"(?:(?P<kind>models|datasets|spaces)/)?(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?P<path>/.*)?"
)


def resolve_hf(location: Location, options: FetchOptions) -> Location:
    """Return a location with its branch or tag replaced by the commit that it names now.

    Args:
        location: of kind `hf`.
        options: patience, `HF_ENDPOINT` and `HF_TOKEN`.

    Raises:
        ScorerError: ModelNotFound, ModelForbidden, ModelUnreachable, MissingDependency.
    """
    match = _TARGET.fullmatch(location.target)
    if match is None:
        return location
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as err:
        raise MissingDependency(
            f"{location.display} needs the Python module {err.name or 'huggingface_hub'}, which this image has not.",
            hint="Use a scorer image with the extra 'hf' (spec.image).",
        ) from err
    environ = options.environ
    api = hub.HfApi(
        endpoint=environ.get("HF_ENDPOINT") or None, token=environ.get("HF_TOKEN") or False
    )
    kind = (match["kind"] or "models").removesuffix("s")

    def ask() -> str:
        try:
            # A slash in a revision is written %2F in the URI, and the client quotes it again.
            revision = (match["revision"] or "main").replace("%2F", "/").replace("%2f", "/")
            info = api.repo_info(match["repository"], revision=revision, repo_type=kind)
            return str(info.sha)
        except Exception as err:
            raise translate_store_error(err, location.display) from err

    commit = run_with_retries(ask, options.retry)
    log.info("revision resolved", extra={"uri": location.display, "commit": commit})
    prefix = f"{match['kind']}/" if match["kind"] else ""
    return replace(location, target=f"{prefix}{match['repository']}@{commit}{match['path'] or ''}")
