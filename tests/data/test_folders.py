"""Which files of a folder are images, of which class, in which order: as timm has it where timm is right."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.readers.reader_image_folder import ReaderImageFolder

from ftbc_pl.data import ImageData
from ftbc_pl.data.folders import FolderFiles
from ftbc_pl.data.sources import FileSource
from tests.imagefolders import write_splits

PIXELS = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


def write(path, size=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIXELS.resize((size, size)).save(path)
    return path


def source_of(folder):
    return FileSource(FolderFiles(folder), "RGB")


def image_data(root, **kwargs):
    return ImageData(str(root), **({"input_size": 32, "batch_size": 8, "num_workers": 0, "pin_memory": False} | kwargs))


def write_tiny_imagenet(root, per_class=4):
    """The layout of Tiny-ImageNet as it is downloaded, but for the boxes."""
    names = ("n01443537", "n01629819", "n01641577")
    for name in names:
        for number in range(per_class):
            write(root / "train" / name / "images" / f"{name}_{number}.JPEG")
    lines = []
    for number in range(6):
        write(root / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{names[(number + 1) % 3]}\t0\t0\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    for number in range(3):
        write(root / "test" / "images" / f"test_{number}.JPEG")
    return names


@pytest.mark.parametrize(
    "classes",
    [
        ["n10", "n2", "n1", "N3"],
        ["0", "1", "2", "10", "11"],
        ["a", "a-b", "a b", "a_b", "a.b", "ä"],
        ["Zebra", "apple", "Apple pie", "1st", "21st", "3rd"],
    ],
)
def test_images_and_classes_are_in_the_order_of_timm(tmp_path, classes):
    for name in classes:
        for file in ("10.png", "9.jpg", "a1.jpeg", "a01b.PNG", "B.Jpg", "c d.png", "x-1.png", "x1.png"):
            write(tmp_path / name / file)
    (tmp_path / "empty").mkdir()
    expected = ReaderImageFolder(str(tmp_path))
    with pytest.warns(UserWarning, match=r"1 folders without an image \(such as empty\)"):
        source = source_of(tmp_path)
    assert source.class_to_idx == expected.class_to_idx
    assert list(source.names) == [os.path.relpath(path, tmp_path) for path, _ in expected.samples]
    assert source.labels.tolist() == [label for _, label in expected.samples]


def test_names_that_differ_in_spelling_only_have_one_order(tmp_path):
    for name in ("b01", "B1", "b1", "B01"):
        write(tmp_path / name / "²1.png")
    assert source_of(tmp_path).class_to_idx == {"B01": 0, "B1": 1, "b01": 2, "b1": 3}


def test_the_first_folder_is_the_class(tmp_path):
    for name in ("cat", "dog"):
        for sub in ("indoor", "outdoor/day"):
            write(tmp_path / name / sub / "1.png")
    source = source_of(tmp_path)
    assert source.class_to_idx == {"cat": 0, "dog": 1}
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_tiny_imagenet_as_downloaded(tmp_path):
    names = write_tiny_imagenet(tmp_path)
    data = image_data(tmp_path, test_split="val", num_classes=3, val_split=3)
    assert data.class_names == list(names)
    assert len(data.images("train")) == 9
    assert data.images("test").labels.tolist() == [1, 2, 0, 1, 2, 0]
    with pytest.raises(ValueError, match=r"got 1 others \(images\)"):
        image_data(tmp_path).images("test")  # whose classes are not published
    assert len(image_data(tmp_path).images_to_predict()) == 3


def test_annotations_of_another_kind(tmp_path):
    write_tiny_imagenet(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG n01443537\n")
    with pytest.raises(
        ValueError, match=r"a tab and a class in line 1 of val_annotations\.txt .*'val_0.JPEG n01443537'"
    ):
        image_data(tmp_path, test_split="val").images("test")
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01443537\n")
    with pytest.warns(UserWarning, match="read 1 images in .* left out 5 images without a class"):
        assert image_data(tmp_path, test_split="val").images("test").labels.tolist() == [0]


@pytest.mark.parametrize("given_classes", [1, 3, 200])
def test_wrong_number_of_classes(tmp_path, given_classes):
    write_splits(tmp_path)
    with pytest.raises(ValueError, match=rf"expected {given_classes} classes .*, got 2 \(china, flower\)"):
        image_data(tmp_path, num_classes=given_classes).setup("test")


def test_a_single_class(tmp_path):
    write_splits(tmp_path / "train")
    (tmp_path / "train" / "test").rename(tmp_path / "test")
    with pytest.raises(ValueError, match=r"each of several classes in .*, got one \(train\); .* data\.train_split"):
        image_data(tmp_path).num_classes  # noqa: B018  the property reads
    assert image_data(tmp_path, train_split="train/train").num_classes == 2


def test_every_ending_that_pillow_reads(tmp_path):
    endings = ("bmp", "BMP", "dib", "gif", "ico", "jfif", "jp2", "jpg", "pcx", "png", "ppm", "qoi", "sgi", "tga", "tif")
    for ending in (*endings, "tiff", "webp"):
        write(tmp_path / ending[0] / f"image.{ending}", size=16)
    source = source_of(tmp_path)
    assert len(source) == len(endings) + 2
    assert {source.image(index).size for index in range(len(source))} == {(16, 16)}


def test_what_is_left_out_is_counted(tmp_path):
    write(tmp_path / "a" / "1.png")
    write(tmp_path / "b" / "1.png")
    write(tmp_path / "loose.png")
    for name in ("a/boxes.txt", "b/boxes.txt", "b/scan.dcm", "README"):
        (tmp_path / name).write_text("text")
    with pytest.warns(UserWarning, match="read 2 images") as caught:
        source = source_of(tmp_path)
    message = str(caught[0].message)
    assert source.names == ["a/1.png", "b/1.png"]
    for part in (
        r"2 .txt files (such as ",
        "1 .dcm files (such as b/scan.dcm)",
        "1 files without an ending (such as README)",
    ):
        assert part in message
    assert "1 images without a class (such as loose.png)" in message


def test_hidden_entries_never_count(tmp_path):
    write_splits(tmp_path)
    expected = image_data(tmp_path)
    count = len(expected.images("train"))
    for name in (
        ".cache/1.png",
        "__MACOSX/china/._0000.png",
        "china/._0000.png",
        "china/.thumbs/1.png",
        ".DS_Store.png",
    ):
        write(tmp_path / "train" / name)
    data = image_data(tmp_path)
    assert len(data.images("train")) == count
    assert data.class_names == ["china", "flower"]


def test_images_without_folders(tmp_path):
    write(tmp_path / "train" / "1.png")
    with pytest.raises(ValueError, match=r"a folder for each class in .*, got 1 images in none \(such as 1\.png\)"):
        image_data(tmp_path).num_classes  # noqa: B018  the property reads


def test_no_images_at_all(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.npy").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"Found 0 images in .*train but 1 \.npy files .*\.webp"):
        image_data(tmp_path).num_classes  # noqa: B018  the property reads


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
class TestLinks:
    """Every image once, in one role."""

    @pytest.mark.parametrize("target", [".", "..", "../china", "../.."])
    def test_that_lead_back(self, tmp_path, target):
        write_splits(tmp_path)
        (tmp_path / "train" / "china" / "loop").symlink_to(target, target_is_directory=True)
        (tmp_path / "train" / "china" / "deep").mkdir()
        (tmp_path / "train" / "china" / "deep" / "loop").symlink_to("..", target_is_directory=True)
        with pytest.warns(UserWarning, match="left out 2 links to folders that are read already"):
            source = image_data(tmp_path)._source("train")
        assert torch.bincount(source.labels).tolist() == [20, 20]

    def test_to_images_count_once(self, tmp_path):
        write_splits(tmp_path)
        china = tmp_path / "train" / "china"
        (china / "again.png").symlink_to("0000.png")
        (china / "other.png").symlink_to("../flower/0000.png")
        (china / "nowhere.png").symlink_to("absent.png")
        (china / "self.png").symlink_to("self.png")
        with pytest.warns(
            UserWarning, match=r"2 symbolic links that lead nowhere .*; 2 links to images that are read already"
        ):
            source = image_data(tmp_path)._source("train")
        assert torch.bincount(source.labels).tolist() == [20, 20]

    def test_to_a_store_are_followed(self, tmp_path):
        write_splits(tmp_path / "real")
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "china").symlink_to("../real/train/china", target_is_directory=True)
        (tmp_path / "train" / "flower").mkdir()
        for path in (tmp_path / "real" / "train" / "flower").iterdir():
            (tmp_path / "train" / "flower" / path.name).symlink_to(path)
        (tmp_path / "test").symlink_to("real/test", target_is_directory=True)
        data, same = image_data(tmp_path), image_data(tmp_path / "real")
        for role in ("calibration", "val", "test"):
            (images, labels), (expected, others) = (
                d.images(role).__getitems__(range(len(d.images(role)))) for d in (data, same)
            )
            assert torch.equal(images, expected)
            assert torch.equal(labels, others)

    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_into_another_split(self, tmp_path, kind):
        write_splits(tmp_path)
        target = tmp_path / "test" / "flower"
        name, target = ("x", target) if kind == "folder" else ("x.png", next(target.iterdir()))
        (tmp_path / "train" / "flower" / name).symlink_to(target)
        with pytest.raises(ValueError, match=r"every image in one split only, got the link .*flower/x"):
            image_data(tmp_path)._source("train")

    def test_of_two_splits_to_the_same_image(self, tmp_path):
        write_splits(tmp_path)
        stored = write(tmp_path / "store" / "1.png")
        for split in ("train", "test"):
            (tmp_path / split / "china" / f"{split}.png").symlink_to(stored)
        data = image_data(tmp_path)
        data.images("train")
        with pytest.raises(ValueError, match=r"got 1 that both .*train and .*test link to .*china/train\.png"):
            data.images("test")

    def test_that_are_the_split(self, tmp_path):
        write_splits(tmp_path)
        (tmp_path / "val").symlink_to("train", target_is_directory=True)
        with pytest.raises(ValueError, match="splits that share no image"):
            image_data(tmp_path, val_split_name="val").images("val")
        with pytest.raises(ValueError, match="one of which is or holds the other"):
            image_data(tmp_path, train_split=".").images("train")


def test_pipes_are_not_waited_for(tmp_path):
    write_splits(tmp_path)
    os.mkfifo(tmp_path / "train" / "china" / "pipe.png")
    with pytest.warns(UserWarning, match="1 pipes, sockets or devices"):
        assert len(image_data(tmp_path)._source("train")) == 40


names = st.sampled_from(["a", "b", "B", "c1", "c10", "c2", ".hid", "__MACOSX", "images", "x y", "ü"])
files = st.sampled_from(["1.png", "2.jpg", "10.PNG", "._1.png", ".png", "t.txt", "u.tif", "none", "v.webp"])
trees = st.sets(
    st.tuples(st.lists(names, max_size=3), files).map(lambda item: "/".join([*item[0], item[1]])), max_size=25
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
@pytest.mark.filterwarnings("ignore:read .* images")
def test_any_tree_has_the_classes_and_counts_of_its_paths(tree):
    """A reference on the paths alone: visible, an image's ending, the first folder is the class."""
    visible = [path for path in tree if not any(p.startswith(".") or p == "__MACOSX" for p in path.split("/"))]
    images = [path for path in visible if path.lower().endswith((".png", ".jpg", ".tif", ".webp"))]
    expected = {path: path.split("/")[0] for path in images if "/" in path}
    with tempfile.TemporaryDirectory() as folder:
        for path in tree:
            Path(folder, path).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, path).touch()
        if not expected:
            with pytest.raises((FileNotFoundError, ValueError), match=r"0 images|got \d+ images in none"):
                source_of(Path(folder))
            return
        source = source_of(Path(folder))
    of_label = {label: name for name, label in source.class_to_idx.items()}
    assert dict(zip(source.names, (of_label[label] for label in source.labels.tolist()), strict=True)) == expected
    tops = {path.split("/")[0] for path in tree if "/" in path}
    empty = {top for top in tops if not top.startswith(".") and top != "__MACOSX"} - set(expected.values())
    assert len(source.files.left_out) == len(visible) - len(expected) + len(empty)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"std": [0.0, 0.2, 0.3]}, r"data\.std of numbers above 0, got \[0\.0, 0\.2, 0\.3\]"),
        ({"std": [0.1, float("nan"), 0.3]}, r"data\.std of numbers above 0"),
        ({"mean": [0.1, float("inf"), 0.3]}, r"data\.mean of finite numbers"),
        ({"crop_pct": 0.0}, r"data\.crop_pct above 0 and up to 1"),
        ({"crop_pct": 2.0}, r"data\.crop_pct above 0 and up to 1, the part of an image to keep, got 2\.0"),
    ],
)
def test_what_makes_no_image_is_refused(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        ImageData(str(tmp_path), **given)
