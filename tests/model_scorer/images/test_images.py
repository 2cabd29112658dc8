import contextlib
import importlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from model_scorer.errors import (
    BadRequest,
    InvalidSpec,
    PayloadTooLarge,
    Unprocessable,
)
from model_scorer.images import Preprocess, decode_image, fit_image, parse_preprocess, sniff_image
from model_scorer.images.torchvision_ops import torchvision


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    """Red grows to the right, green downwards, blue is constant."""
    across = np.tile(np.linspace(0, 255, width), (height, 1))
    down = np.tile(np.linspace(0, 255, height)[:, None], (1, width))
    return Image.fromarray(np.stack([across, down, np.full_like(across, 64)], -1).astype(np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "name"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp")])
def test_the_format_is_known_by_the_first_bytes(kind: str, name: str) -> None:
    assert sniff_image(encode(gradient(), kind)) == name
    assert sniff_image(b"GIF89a") is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_format_decodes_to_the_same_picture(kind: str) -> None:
    options = {"quality": 95} if kind != "PNG" else {}
    decoded = decode_image(encode(gradient(), kind, **options))

    assert decoded.mode == "RGB"
    difference = np.abs(np.asarray(decoded).astype(int) - np.asarray(gradient()).astype(int))
    assert difference.mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = gradient().transpose(turns[orientation]) if orientation > 1 else gradient()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}

    decoded = decode_image(encode(stored, kind, exif=exif, **options))

    assert decoded.size == gradient().size
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(gradient())).mean() < 4


def test_grey_palette_and_sixteen_bit_images_become_rgb() -> None:
    grey = gradient().convert("L")
    assert np.asarray(decode_image(encode(grey)))[..., 0].tolist() == np.asarray(grey).tolist()
    assert decode_image(encode(grey, "JPEG")).mode == "RGB"
    assert decode_image(encode(gradient().convert("P"))).mode == "RGB"
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    back = np.asarray(decode_image(encode(deep)))[..., 0].astype(int)
    assert np.abs(back - np.asarray(grey)).max() <= 1


def test_cmyk_jpegs_become_rgb() -> None:
    red = Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK")
    pixel = np.asarray(decode_image(encode(red, "JPEG", quality=95)))[8, 8].astype(int)
    assert pixel[0] > 200
    assert pixel[1] < 60


def test_transparent_pixels_are_put_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert np.asarray(decode_image(encode(clear))).min() == 255


def test_icc_profiles_and_comments_do_no_harm() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode_image(encode(gradient(), "JPEG", icc_profile=profile)).size == (60, 40)


@pytest.mark.parametrize("data", [b"", b"no image", b"GIF89a" + bytes(20), b"<svg/>"])
def test_what_is_no_image_is_the_clients_mistake(data: bytes) -> None:
    with pytest.raises(BadRequest, match="no JPEG, PNG or WebP"):
        decode_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_truncated_images_are_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = encode(noise, kind)
    for length in (12, len(data) // 4, len(data) // 2):
        with pytest.raises(Unprocessable, match="truncated or broken"):
            decode_image(data[:length])


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data = b"IDAT" + zlib.compress(bytes(16))
    end = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return b"\x89PNG\r\n\x1a\n" + chunk + end


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(PayloadTooLarge):
        decode_image(png_header(20_000, 20_000))
    with pytest.raises(PayloadTooLarge):
        decode_image(png_header(2**31 - 1, 2**31 - 1))
    with pytest.raises(PayloadTooLarge, match="60 x 40 pixels; at most 1,000"):
        decode_image(encode(gradient()), max_pixels=1000)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(Unprocessable):
        decode_image(png_header(0, 0))


def test_no_mutation_of_a_real_file_ends_in_anything_but_an_answer_or_a_4xx() -> None:
    random = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WEBP"):
        original = encode(gradient(), kind)
        for _ in range(150):
            data = bytearray(original)
            for place in random.integers(0, len(data), 3):
                data[place] = int(random.integers(0, 256))
            # Nothing but the answer and the 4xx errors of this room may come out.
            with contextlib.suppress(BadRequest, PayloadTooLarge, Unprocessable):
                decode_image(bytes(data))


def test_scaled_decoding_gives_nearly_the_same_row() -> None:
    big = encode(gradient(1600, 1200), "JPEG", quality=90)
    how = Preprocess(resize=232, crop=224)
    full = fit_image(decode_image(big), how).astype(int)
    scaled = fit_image(decode_image(big, target_side=how.target_side), how).astype(int)
    assert decode_image(big, target_side=232).size[1] >= 464
    assert np.abs(full - scaled).max() <= 3


def test_resize_and_crop_follow_torchvision() -> None:
    torchvision()
    transforms = importlib.import_module("torchvision.transforms.v2")
    reference = transforms.Compose([transforms.Resize(232), transforms.CenterCrop(224)])
    for size in [(300, 400), (640, 480), (232, 500), (250, 240)]:
        image = gradient(*size)
        wanted = np.asarray(reference(image)).astype(int)
        got = fit_image(image, Preprocess(resize=232, crop=224)).astype(int)
        assert got.shape == (224, 224, 3)
        assert np.abs(wanted - got).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (100, 100), (223, 225)])
def test_any_size_fits(size: tuple[int, int]) -> None:
    for how in (Preprocess(), Preprocess(resize=None), Preprocess(resize=(224, 224), crop=None)):
        assert fit_image(gradient(*size), how).shape == (224, 224, 3)


@pytest.mark.parametrize("how", [Preprocess(crop=None), Preprocess(resize=100)])
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_strip_that_would_grow_to_gigabytes_is_refused(
    how: Preprocess, size: tuple[int, int]
) -> None:
    strip = decode_image(encode(Image.new("RGB", size)))
    with pytest.raises(PayloadTooLarge, match="resized to"):
        fit_image(strip, how)


def test_channel_order_and_grey() -> None:
    rgb = fit_image(gradient(), Preprocess(resize=None, crop=None))
    bgr = fit_image(gradient(), Preprocess(resize=None, crop=None, channel_order="BGR"))
    grey = fit_image(gradient(), Preprocess(resize=(8, 8), crop=None, channel_order="L"))
    assert (rgb[..., ::-1] == bgr).all()
    assert grey.shape == (8, 8, 1)


def test_scale_mean_and_std_become_one_multiply_and_add() -> None:
    a, b = Preprocess().affine()
    pixels = np.array([10, 128, 255], np.float32)
    wanted = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(pixels * a + b, wanted, atol=1e-5)


def test_a_preset_brings_sizes_and_labels() -> None:
    how, labels = parse_preprocess({"preset": "ResNet152_Weights.IMAGENET1K_V2"})
    assert (how.resize, how.crop, how.interpolation) == (232, 224, "bilinear")
    assert labels is not None
    assert len(labels) == 1000
    assert (
        parse_preprocess({"preset": "ResNet152_Weights.IMAGENET1K_V1", "crop": 200})[0].crop == 200
    )


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({"resise": 3}, "resise"),
        ({"crop": 0}, "crop"),
        ({"crop": True}, "crop"),
        ({"resize": "big"}, "resize"),
        ({"mean": [1, 2]}, "mean"),
        ({"std": [0, 1, 1]}, "std"),
        ({"scale": "x"}, "scale"),
        ({"channelOrder": "RBG"}, "channelOrder"),
        ({"layout": "CHW"}, "layout"),
        ({"interpolation": "sinc"}, "interpolation"),
        ({"preset": "ResNet1_Weights.X"}, "ResNet1_Weights"),
    ],
)
def test_a_wrong_preprocess_names_the_key(document: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidSpec, match=word):
        parse_preprocess(document)
