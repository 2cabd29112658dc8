"""Models of an MLflow registry or run (`models:/NAME/VERSION`, `runs:/RUN/PATH`), through MLflow's own client."""

import importlib

from model_scorer.errors import MissingDependency
from model_scorer.fetch.digest import compute_file_digest
from model_scorer.fetch.fetched import Download
from model_scorer.fetch.location import Location
from model_scorer.fetch.options import FetchOptions
from model_scorer.fetch.progress import Progress
from model_scorer.fetch.store_errors import translate_store_error


def fetch_from_mlflow(
    location: Location, download: Download, options: FetchOptions, progress: Progress
) -> None:
    """Fetch a registered model or a run's artifacts into `download.folder`.

    The registry's address and credentials are MLflow's own variables (`MLFLOW_TRACKING_URI`, …).

    Raises:
        ScorerError: MissingDependency, ModelNotFound, ModelForbidden, ModelUnreachable.
    """
    try:
        artifacts = importlib.import_module("mlflow.artifacts")
    except ImportError as err:
        raise MissingDependency(
            f"{location.display} needs the Python module {err.name or 'mlflow'}, which this image has not.",
            hint="Use a scorer image with mlflow-skinny (spec.image), or name the storage behind the registry.",
        ) from err
    try:
        artifacts.download_artifacts(artifact_uri=location.target, dst_path=str(download.folder))
    except Exception as err:
        translated = translate_store_error(err, location.display)
        raise getattr(translated, "error", translated) from err
    download.single = False
    for path in sorted(download.folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            size = path.stat().st_size
            progress.expect(size)
            download.add(str(path.relative_to(download.folder)), compute_file_digest(path), size)
            progress.add(size)
