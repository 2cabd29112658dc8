"""JPEG, PNG and WebP bytes to upright RGB images, with every malformed file ending in a 4xx that says what was wrong.

Runs on threads: both decoders let go of the interpreter lock while they work.
"""

from __future__ import annotations

import io
import struct

import simplejpeg
from PIL import ExifTags, Image, ImageOps

from model_scorer.errors import BadRequest, PayloadTooLarge, Unprocessable

# 50 megapixels: larger than what cameras of phones make, and 150 MB once decoded.
MAX_PIXELS = 50_000_000
_FORMATS = ("JPEG", "PNG", "WEBP")
_ORIENTATION = ExifTags.Base.Orientation
# A decoder that scales while decoding stays this far above the side wanted, so that the antialiased resize after it
# still sees more detail than it keeps.
_SCALED_DECODE_MARGIN = 2


def sniff_image(data: bytes) -> str | None:
    """The image format by its first bytes.

    Returns:
        `jpeg`, `png`, `webp`, or None for anything else.
    """
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def decode_image(
    data: bytes, *, target_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode one image, turn it upright by its EXIF orientation, and make it RGB.

    Grey, palette, CMYK and 16-bit images are converted; transparent pixels are put on white.

    Args:
        data: a JPEG, PNG or WebP file.
        target_side: the shorter side in pixels after the resize to come; a large JPEG is then decoded at a fraction of its
            size, which must stay at least twice as large as this.
        max_pixels: images with more pixels are refused before they are decoded.

    Raises:
        BadRequest: not an image of these formats.
        PayloadTooLarge: more pixels than `max_pixels`.
        Unprocessable: an image that is truncated or broken.
    """
    kind = sniff_image(data)
    if kind is None:
        raise BadRequest(
            f"the data is no JPEG, PNG or WebP image: it begins with {data[:8].hex(' ') or 'nothing'}"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        _check_size(image.size, max_pixels)
        orientation = image.getexif().get(_ORIENTATION, 1)
        if kind == "jpeg" and image.mode in ("RGB", "L"):
            upright = _decode_jpeg(data, target_side)
        else:
            image.load()
            upright = _to_rgb(image)
        if orientation in (2, 3, 4, 5, 6, 7, 8):
            upright.getexif()[_ORIENTATION] = orientation
            upright = ImageOps.exif_transpose(upright)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        raise PayloadTooLarge(
            f"the image is too large: {err}; at most {max_pixels:,} pixels are accepted"
        ) from err
    except (OSError, ValueError, SyntaxError, struct.error, EOFError, IndexError, KeyError) as err:
        raise Unprocessable(f"the {kind} image is truncated or broken: {err}") from err
    return upright


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise Unprocessable(f"the image is empty: {width} x {height} pixels")
    if width * height > max_pixels:
        raise PayloadTooLarge(
            f"the image has {width} x {height} pixels; at most {max_pixels:,} are accepted"
        )


def _decode_jpeg(data: bytes, target_side: int | None) -> Image.Image:
    least = (target_side or 0) * _SCALED_DECODE_MARGIN
    pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least)
    return Image.fromarray(pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        # Sixteen-bit grey: Pillow's own conversion clips to 255 instead of scaling.
        return image.point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")
