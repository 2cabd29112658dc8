"""torchvision beside a CPU build of torch.

torchvision's usual wheel carries compiled operators that want CUDA's libraries. Beside a CPU build of torch they do not
load, and the import fails with `operator torchvision::nms does not exist`, though models, transforms and the metadata of
weights need none of them. Declaring the two operators that the import looks up makes it succeed.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache
def torchvision() -> Any:
    """Import torchvision, declaring its missing operators if they are missing.

    Raises:
        ImportError: torchvision or torch is not installed.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as err:
        if "torchvision::nms" not in str(err):
            raise
    torch: Any = importlib.import_module("torch")
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}{_SIGNATURE}")
    # The declarations live as long as the library object: keep it where the import below keeps everything else.
    module = importlib.import_module("torchvision")
    vars(module)["_declared_operators"] = library
    return module
