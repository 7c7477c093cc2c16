"""Every mode of Pillow comes out with the right grey or colour, or names the file."""

import io
import json

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from ftbc_pl.data import ImageData
from ftbc_pl.data.batches import TensorImages
from ftbc_pl.data.decode import decode

RAMP = np.arange(0, 65536, 16).reshape(64, 64)
GREY = (RAMP * 255 + 32767) // 65535
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], -1).astype(np.uint8)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_grey_of_16_bits_is_scaled(kind, mode):
    options = {"irreversible": False} if kind == "JPEG2000" else {}
    image = decode(saved(Image.fromarray(RAMP.astype(np.uint16)), kind, **options), mode)
    assert image.mode == mode
    pixels = np.asarray(image).astype(int)
    assert np.array_equal(pixels, GREY if mode == "L" else np.stack([GREY] * 3, -1))


def test_tiff_of_16_bits_and_either_order_of_bytes_and_meaning_of_zero():
    pixels = RAMP.astype(np.uint16)
    assert np.array_equal(
        np.asarray(decode(saved(Image.fromarray(pixels), "TIFF", tiffinfo={262: 0}), "L")), 255 - GREY
    )
    big = Image.frombytes("I;16B", (64, 64), pixels.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(decode(saved(big, "TIFF"), "L")), GREY)


@pytest.mark.parametrize(
    ("mode", "kind"), [("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("1", "PNG"), ("CMYK", "TIFF")]
)
@pytest.mark.parametrize("target", ["L", "RGB"])
def test_other_modes(mode, kind, target):
    original = Image.fromarray(COLOUR).convert(mode)
    image = decode(saved(original, kind), target)
    assert image.mode == target
    assert np.array_equal(np.asarray(image), np.asarray(original.convert(target)))


def test_palettes_with_transparency_need_no_word():
    palette = Image.fromarray(COLOUR).convert("P")
    file = saved(palette, "PNG", transparency=bytes([0, 128] * 8))
    assert np.array_equal(np.asarray(decode(file, "RGB")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_a_range_name_the_file(tmp_path, dtype):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(RAMP.astype(dtype)).save(tmp_path / split / name / "1.tif")
    data = ImageData(str(tmp_path), input_size=32, val_split=0, num_workers=0)
    with pytest.raises(RuntimeError, match=r"can't read image 0 \(a/1\.tif\) of .*8 or 16 bits, got .*save it with 8"):
        data.images("test")


def test_ramp_of_16_bits_reaches_the_network(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(RAMP.astype(np.uint16)).save(tmp_path / split / name / "1.png")
    data = ImageData(str(tmp_path), input_size=64, in_chans=1, mean=[0.0], std=[1.0], val_split=0, num_workers=0)
    image, _ = data.images("test")[0]
    torch.testing.assert_close(image[0], torch.tensor(RAMP / 65535, dtype=torch.float32), atol=0.5 / 255, rtol=0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its shards open
def test_streams_are_scaled_too(tmp_path):
    pixels = saved(Image.fromarray(RAMP.astype(np.uint16)), "PNG").getvalue()
    splits = {}
    for split in ("train", "test"):
        with webdataset.TarWriter(str(tmp_path / f"{split}.tar")) as writer:
            for label in range(2):
                writer.write({"__key__": str(label), "png": pixels, "cls": label})
        splits[split] = {"name": split, "filenames": [f"{split}.tar"], "shard_lengths": [2], "num_samples": 2}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    data = ImageData(
        str(tmp_path), "wds/ramps", num_classes=2, input_size=64, in_chans=1, mean=[0.0], std=[1.0], num_workers=0
    )
    image, _ = data.images("test")[0]
    torch.testing.assert_close(image[0], torch.tensor(GREY / 255, dtype=torch.float32))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite(value):
    images = torch.zeros(5, 1, 2, 2)
    images[3, 0, 1, 1] = value
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 5 .*the first is image 3"):
        TensorImages(images, torch.zeros(5, dtype=torch.int64), (0.0,), (1.0,))
