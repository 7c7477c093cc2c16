"""Small image data sets of real pictures, written as class folders or as a tar file of them."""

import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

CLASSES = ("china", "flower")


def write_folder(
    folder: Path, per_class: int, *, size: int = 32, classes: tuple[str, ...] = CLASSES, start: int = 0
) -> Path:
    """Write crops of scikit-learn's two photographs to `folder/<class>/<number>.png`, and return the folder.

    `start` is the number of the first crop: other numbers are other crops, for disjoint splits.
    """
    photographs = load_sample_images().images
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        photograph = photographs[label % len(photographs)]
        for number in range(start, start + per_class):
            top, left = np.random.default_rng((label, number)).integers(0, (427 - size, 640 - size))
            Image.fromarray(photograph[top : top + size, left : left + size]).save(folder / name / f"{number:04d}.png")
    return folder


def write_splits(root: Path, *, train: int = 20, test: int = 6, size: int = 32, test_name: str = "test") -> Path:
    """Write `train` and `test` images a class to `root/train` and `root/<test_name>`, and return the root."""
    write_folder(root / "train", train, size=size)
    write_folder(root / test_name, test, size=size, start=train)
    return root


def write_digit_folder(folder: Path, per_class: int, *, start: int = 0) -> Path:
    """Write `per_class` of scikit-learn's digits a class, at 32×32 pixels and 10 classes, and return the folder."""
    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for number in np.flatnonzero(digits.target == label)[start : start + per_class]:
            pixels = (digits.images[number] * 255 / 16).astype(np.uint8)
            Image.fromarray(pixels).resize((32, 32)).convert("RGB").save(folder / str(label) / f"{number:04d}.png")
    return folder


def pack(folder: Path) -> Path:
    """Pack the class folders in `folder` into `<folder>.tar`, and return its path; the folder stays."""
    path = folder.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for child in sorted(folder.iterdir()):
            tar.add(child, arcname=child.name)
    return path
