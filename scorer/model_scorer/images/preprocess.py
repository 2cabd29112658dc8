"""What `model.yaml` says about preprocessing, and the resize and crop that it asks for.

Pixels leave this room as uint8: scaling and normalisation are a multiply and an add that the runtime does on the whole
batch, on the device that the model runs on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from model_scorer.errors import InvalidSpec, PayloadTooLarge
from model_scorer.images.decode import MAX_PIXELS

_INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_KEYS = {
    *("preset", "resize", "crop", "interpolation", "scale", "mean", "std"),
    *("channelOrder", "layout"),
}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How an RGB image becomes a row of the model's input.

    Attributes:
        resize: the length of the shorter side in pixels, or (height, width); None: as it is.
        crop: side of the square cut out of the middle, in pixels; None: no crop.
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`; all but nearest are antialiased.
        scale: what pixels 0..255 are multiplied by, before mean and std.
        mean: per channel, in the channel order, subtracted after scaling.
        std: per channel, divided by after subtracting the mean.
        channel_order: `RGB`, `BGR`, or `L` for one grey channel.
        layout: `NCHW` (PyTorch) or `NHWC` (TensorFlow, Keras).
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | None = 224
    interpolation: str = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: Literal["RGB", "BGR", "L"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"

    @property
    def channels(self) -> int:
        """Channels of the model's input: 1 or 3."""
        return 1 if self.channel_order == "L" else 3

    @property
    def target_side(self) -> int | None:
        """The shorter side after the resize, in pixels, which lets a decoder skip detail nobody will see."""
        if isinstance(self.resize, tuple):
            return min(self.resize)
        return self.resize

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of every row in pixels, or None when they are those of the image."""
        if self.crop is not None:
            return (self.crop, self.crop)
        return self.resize if isinstance(self.resize, tuple) else None

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale, mean and std as one `pixels * a + b`.

        Returns:
            a and b, each float32 of shape (channels,).
        """
        mean = np.asarray(self.mean, np.float64)
        std = np.asarray(self.std, np.float64)
        return (self.scale / std).astype(np.float32), (-mean / std).astype(np.float32)


def _numbers(value: Any, field: str, count: int) -> tuple[float, ...]:
    items = value if isinstance(value, list) else [value] * count
    if len(items) != count or not all(isinstance(item, int | float) for item in items):
        raise InvalidSpec(
            f"model.yaml: {field} must be one number or a list of {count}, got {value!r}",
            hint=f"write {field} with one number for each channel",
        )
    return tuple(float(item) for item in items)


def _side(value: Any, field: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 8192:
        raise InvalidSpec(
            f"model.yaml: {field} must be a number of pixels from 1 to 8192, got {value!r}",
            hint=f"set {field} to the side that the network was trained with, for example 224",
        )
    return value


def preset(name: str) -> tuple[Preprocess, list[str]]:
    """The preprocessing and the labels of a torchvision weight preset, without downloading its weights.

    Args:
        name: as torchvision writes it, for example `ResNet152_Weights.IMAGENET1K_V2`
            (https://docs.pytorch.org/vision/stable/models.html).

    Raises:
        InvalidSpec: torchvision is absent or knows no such preset.
    """
    try:
        from model_scorer.images.torchvision_ops import torchvision

        weights = torchvision().models.get_weight(name)
    except ImportError as err:
        raise InvalidSpec(
            f"model.yaml: preset {name} needs torchvision, which this image does not have",
            hint="write resize, crop, mean and std instead, or use an image with PyTorch",
        ) from err
    except (ValueError, AttributeError, KeyError) as err:
        raise InvalidSpec(
            f"model.yaml: torchvision has no weight preset {name!r}",
            hint="use a name such as ResNet152_Weights.IMAGENET1K_V2",
        ) from err
    transform = weights.transforms()
    return (
        Preprocess(
            resize=transform.resize_size[0],
            crop=transform.crop_size[0],
            interpolation=transform.interpolation.value,
            mean=tuple(transform.mean),
            std=tuple(transform.std),
        ),
        list(weights.meta["categories"]),
    )


def parse_preprocess(document: dict[str, Any]) -> tuple[Preprocess, list[str] | None]:
    """Read the `preprocess` mapping of `model.yaml`.

    Args:
        document: keys `preset`, `resize` (side, or [height, width]), `crop`, `interpolation`, `scale`, `mean`, `std`,
            `channelOrder` (RGB, BGR, L), `layout` (NCHW, NHWC); all optional, and what is given beside a preset
            replaces the preset's value.

    Returns:
        The preprocessing, and the preset's labels if there is a preset.

    Raises:
        InvalidSpec: an unknown key or a wrong value; the message names the key.
    """
    unknown = sorted(set(document) - _KEYS)
    if unknown:
        raise InvalidSpec(
            f"model.yaml: preprocess has no key {unknown[0]!r}",
            hint=f"known keys: {', '.join(sorted(_KEYS))}",
        )
    base, labels = Preprocess(), None
    if "preset" in document:
        base, labels = preset(str(document["preset"]))
    order = document.get("channelOrder", base.channel_order)
    layout = document.get("layout", base.layout)
    interpolation = document.get("interpolation", base.interpolation)
    for key, value, known in (
        ("channelOrder", order, ("RGB", "BGR", "L")),
        ("layout", layout, ("NCHW", "NHWC")),
        ("interpolation", interpolation, tuple(_INTERPOLATIONS)),
    ):
        if value not in known:
            raise InvalidSpec(
                f"model.yaml: preprocess.{key} is {value!r}", hint=f"use one of {', '.join(known)}"
            )
    resize: int | tuple[int, int] | None = base.resize
    if "resize" in document:
        wanted = document["resize"]
        if isinstance(wanted, list) and len(wanted) == 2:
            height, width = (_side(side, "preprocess.resize") for side in wanted)
            resize = (height or 1, width or 1)
        else:
            resize = _side(wanted, "preprocess.resize")
    channels = 1 if order == "L" else 3
    scale = document.get("scale", base.scale)
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise InvalidSpec(
            f"model.yaml: preprocess.scale must be a number, got {scale!r}",
            hint="1 leaves pixels at 0..255, 0.00392156862745098 makes them 0..1",
        )
    defaults = (list(base.mean), list(base.std)) if channels == 3 else (0.0, 1.0)
    std = _numbers(document.get("std", defaults[1]), "preprocess.std", channels)
    if not all(std):
        raise InvalidSpec(
            "model.yaml: preprocess.std holds a 0", hint="std divides: use 1 for none"
        )
    return (
        Preprocess(
            resize=resize,
            crop=_side(document.get("crop", base.crop), "preprocess.crop"),
            interpolation=interpolation,
            scale=float(scale),
            mean=_numbers(document.get("mean", defaults[0]), "preprocess.mean", channels),
            std=std,
            channel_order=order,
            layout=layout,
        ),
        labels,
    )


def _check_resized(size: tuple[int, int], resized: tuple[int, int]) -> None:
    """Keep a strip of some bytes, one pixel wide and very long, from becoming gigabytes when its shorter side grows."""
    if resized[0] * resized[1] > MAX_PIXELS:
        raise PayloadTooLarge(
            f"the image of {size[0]} x {size[1]} pixels would be resized to {resized[0]} x {resized[1]}; "
            f"at most {MAX_PIXELS:,} pixels are accepted"
        )


def fit_image(image: Image.Image, how: Preprocess) -> np.ndarray:
    """Resize and crop one image.

    Follows torchvision's Resize and CenterCrop: the shorter side becomes `resize` and the longer one is rounded down;
    an image smaller than the crop is padded with zeros.

    Args:
        image: RGB, upright.
        how: what the model wants.

    Returns:
        uint8 of shape (height, width, channels) in the channel order wanted, contiguous.
    """
    resample = _INTERPOLATIONS[how.interpolation]
    width, height = image.size
    if isinstance(how.resize, tuple):
        size = (how.resize[1], how.resize[0])
    elif how.resize is not None:
        short = how.resize
        size = (
            (short, max(1, int(short * height / width)))
            if width <= height
            else (max(1, int(short * width / height)), short)
        )
    else:
        size = (width, height)
    if how.channel_order == "L":
        image = image.convert("L")
    if how.crop is not None and size[0] >= how.crop <= size[1]:
        # One resize of the part that is kept costs less than a resize of everything and a crop, and gives the same pixels.
        left = round((size[0] - how.crop) / 2)
        top = round((size[1] - how.crop) / 2)
        across, down = width / size[0], height / size[1]
        box = (
            left * across,
            top * down,
            min(width, (left + how.crop) * across),
            min(height, (top + how.crop) * down),
        )
        image = image.resize((how.crop, how.crop), resample, box=box)
    else:
        if size != image.size:
            _check_resized(image.size, size)
            image = image.resize(size, resample)
        if how.crop is not None:
            padded = Image.new(image.mode, (max(size[0], how.crop), max(size[1], how.crop)))
            padded.paste(image, ((padded.width - size[0]) // 2, (padded.height - size[1]) // 2))
            left = round((padded.width - how.crop) / 2)
            top = round((padded.height - how.crop) / 2)
            image = padded.crop((left, top, left + how.crop, top + how.crop))
    # A copy, because frameworks want arrays that they may write to.
    pixels = np.array(image)
    if how.channel_order == "L":
        return np.ascontiguousarray(pixels[:, :, None])
    if how.channel_order == "BGR":
        return np.ascontiguousarray(pixels[:, :, ::-1])
    return np.ascontiguousarray(pixels)
