"""Images in: from the bytes of a file to uint8 rows that fit a network's input.

`decode` takes untrusted JPEG, PNG and WebP bytes and gives upright RGB images; `preprocess` reads `model.yaml`'s
`preprocess` and resizes and crops. Nothing here knows HTTP, a framework or a device.
"""

from model_scorer.images.decode import MAX_PIXELS, decode_image, sniff_image
from model_scorer.images.preprocess import Preprocess, fit_image, parse_preprocess

__all__ = [
    "MAX_PIXELS",
    "Preprocess",
    "decode_image",
    "fit_image",
    "parse_preprocess",
    "sniff_image",
]
