"""From a model file to an estimator: joblib, pickle or skops, checked before anything in it runs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from model_scorer.errors import LoadFailed, UnsafePickle

log = logging.getLogger(__name__)

SUFFIXES = (".joblib", ".pkl", ".pickle", ".skops")


def read_estimator(path: Path, *, trust: bool) -> Any:
    """Load what the file holds.

    Args:
        path: of the file.
        trust: unpickle without the import allow-list.

    Raises:
        UnsafePickle, VersionMismatch: see `model_scorer.verify`.
        LoadFailed: it names a class or function that is not there.
    """
    # Imported here, so that importing this module for its names costs nothing more.
    from model_scorer import verify

    if path.suffix == ".skops" or _is_zip(path):
        import skops.io

        untrusted = skops.io.get_untrusted_types(file=path)
        if untrusted and not trust:
            raise UnsafePickle(
                f"{path.name} holds types outside the allow-list: {', '.join(untrusted[:10])}",
                "if you trust the model's author, set SCORER_TRUST_PICKLE to true",
            )
        verify.check_versions(path, "sklearn")
        return skops.io.load(path, trusted=untrusted)
    verify.check_pickle(path, trust=trust)
    verify.check_versions(path, "sklearn")
    import joblib

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator = joblib.load(path)
        except AttributeError as err:
            raise LoadFailed(
                f"{path.name} refers to a class or function that is not there: {err}",
                "put the module that defines it into the model folder, and train with it imported from there",
            ) from err
    for warning in caught:
        log.warning("%s", warning.message)
    return estimator


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def limit_jobs(estimator: Any) -> None:
    """Set every `n_jobs` of an estimator to 1: the workers share the CPUs, a pool in each would fight for them."""
    try:
        parameters = estimator.get_params(deep=True)
        names = [n for n, v in parameters.items() if n.endswith("n_jobs") and v not in (None, 1)]
        if names:
            estimator.set_params(**dict.fromkeys(names, 1))
    except (AttributeError, TypeError, ValueError) as err:
        log.debug("n_jobs is left as it is: %s", err)
