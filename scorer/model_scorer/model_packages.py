"""Packages of the model's own: where `fetch` installs them, and how `serve` comes to import them."""

from __future__ import annotations

import sys
from pathlib import Path

#: In the model folder; a wheel cannot bring a name that begins with a dot there, and model files are looked for beside it.
FOLDER_NAME = ".site-packages"


def add_model_packages(model_dir: Path) -> bool:
    """Put the model's packages first on the import path; before anything that they may replace is imported.

    They come before the image's own: whoever pins another scikit-learn than the image has wants that one. The fetcher made
    sure that they fit what the scorer itself needs.

    Args:
        model_dir: the folder that `fetch` filled.

    Returns:
        Whether the model has packages.
    """
    folder = model_dir / FOLDER_NAME
    if not folder.is_dir():
        return False
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return True
