"""Tar files of images: the order and labels that timm gives them, and one sentence for each that is broken."""

import gzip
import io
import pickle
import tarfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from ftbc_pl.data import ImageData
from ftbc_pl.data.sources import FileSource
from ftbc_pl.data.tars import TarFiles
from tests.imagefolders import CLASSES, pack, write_splits


def image_data(root, **kwargs):
    return ImageData(str(root), **({"input_size": 32, "batch_size": 8, "num_workers": 0, "pin_memory": False} | kwargs))


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 2 * value, 3 * value)).save(file, "PNG")
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def source_of(path):
    return FileSource(TarFiles(path), "RGB")


def check_as_timm(path):
    expected, source = ReaderImageInTar(str(path)), source_of(path)
    assert source.class_to_idx == expected.class_name_to_idx
    assert source.labels.tolist() == expected.targets.tolist()
    for index in range(len(source)):
        assert source.image(index).tobytes() == Image.open(expected[index][0]).convert("RGB").tobytes()
    expected.tar_state.tf.close()
    for child in expected.tar_state.children.values():
        if child.tf is not None:
            child.tf.close()


@pytest.fixture
def root(tmp_path):
    write_splits(tmp_path)
    for split in ("train", "test"):
        pack(tmp_path / split)
    return tmp_path


@pytest.mark.parametrize("prefix", ["", "./", "train/"])
def test_class_folders_are_as_timm_has_them(tmp_path, prefix):
    names = ["n10/2.png", "n10/10.png", "n2/a1.jpg", "n2/A01.png", "n2/x-1.png", "N3/b.jpeg", "a b/1.png", "a-b/1.png"]
    path = write_tar(tmp_path / "t.tar", [(prefix + name, png(index)) for index, name in enumerate(names)])
    check_as_timm(path)


def test_a_tar_file_for_each_class_is_as_timm_has_it(tmp_path):
    """As the training images of ImageNet are."""
    inner = []
    for place, name in enumerate(("n01443537", "n01440764", "n01530575")):
        members = [(f"{name}_{number}.JPEG", png(10 * place + number)) for number in (10, 9, 1)]
        inner.append((f"{name}.tar", write_tar(tmp_path / f"{name}.tar", members).read_bytes()))
    check_as_timm(write_tar(tmp_path / "train.tar", inner))


def test_the_first_folder_is_the_class(tmp_path):
    members = [(f"data/train/{name}/images/{n}.png", png(n)) for name in ("cat", "dog") for n in range(2)]
    path = write_tar(tmp_path / "t.tar", members)
    assert source_of(path).class_to_idx == {"cat": 0, "dog": 1}
    one = write_tar(tmp_path / "one.tar", [("cat/images/1.png", png(1))])
    assert FileSource(TarFiles(one), "RGB", ["cat", "dog"]).class_to_idx == {"cat": 0}


@pytest.mark.parametrize("prefix", ["", "val/"])
def test_tiny_imagenet(tmp_path, prefix):
    members = [(f"{prefix}images/val_{n}.JPEG", png(n)) for n in range(3)]
    members.append((f"{prefix}val_annotations.txt", b"val_0.JPEG\tb\t0\nval_1.JPEG\ta\t0\nval_2.JPEG\tb\t0\n"))
    assert source_of(write_tar(tmp_path / "val.tar", members)).labels.tolist() == [1, 0, 1]


def test_hidden_members_and_others(tmp_path):
    members = [
        ("a/1.png", png(1)),
        ("b/1.png", png(2)),
        ("b/._1.png", b"x"),
        ("__MACOSX/b/1.png", b"x"),
        ("b/c.txt", b""),
    ]
    path = write_tar(tmp_path / "t.tar", members)
    with tarfile.open(path, "a") as tar:
        for name, kind, target in (("b/2.png", tarfile.LNKTYPE, "a/1.png"), ("b/3.png", tarfile.SYMTYPE, "1.png")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    with pytest.warns(UserWarning, match=r"read 3 images .* 1 \.txt files .*; 1 symbolic links \(such as b/3\.png\)"):
        source = source_of(path)
    assert source.names == ["a/1.png", "b/1.png", "b/2.png"]
    assert source.image(2).tobytes() == source.image(0).tobytes()


def test_the_last_of_two_members_of_a_name_counts(tmp_path):
    path = write_tar(tmp_path / "t.tar", [("a/1.png", png(1)), ("b/1.png", png(2)), ("a/1.png", png(3))])
    source = source_of(path)
    assert len(source) == 2
    assert source.image(0).getpixel((0, 0)) == (3, 6, 9)


def test_wrong_number_of_classes(root):
    with pytest.raises(ValueError, match=r"expected 10 classes .*train\.tar, got 2 \(china, flower\)"):
        image_data(root, train_split="train.tar", test_split="test.tar", num_classes=10).setup("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: gzip.compress(content), "got a gzip file; unpack it"),
        (lambda content: b"PK\x03\x04" + content, "got a zip file"),
        (lambda content: b"", "got an empty file"),
        (lambda content: b"text" * 1000, "got a file that can't be read as one"),
        (lambda content: content[: len(content) // 2], "copy or pack it again"),
        (lambda content: content[:100], "copy or pack it again"),
        (lambda content: content.rstrip(b"\0"), "copy or pack it again"),
    ],
    ids=["gzip", "zip", "empty", "text", "half", "beginning", "no end"],
)
def test_broken_files(root, change, message):
    path = root / "train.tar"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        image_data(root, train_split="train.tar", test_split="test.tar").num_classes  # noqa: B018  reads
    assert str(path) in str(caught.value)


def test_cut_off_between_two_members(root):
    """Nothing but the missing closing mark tells it."""
    path = root / "train.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[30].offset
    path.write_bytes(path.read_bytes()[:offset])
    with pytest.raises(
        ValueError, match=rf"can't be read from byte {offset} on \(it ends there, without its closing mark\)"
    ):
        TarFiles(path)


def test_a_damaged_header_in_the_middle(root):
    path = root / "train.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[30].offset
    content = bytearray(path.read_bytes())
    content[offset + 150] ^= 0x55  # its checksum
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"can't be read from byte {offset} on \(a damaged header\)"):
        TarFiles(path)


def test_without_images(tmp_path):
    path = write_tar(tmp_path / "t.tar", [])
    with pytest.raises(FileNotFoundError, match=r"Found 0 images in .*t\.tar"):
        source_of(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.filterwarnings("ignore:read .* images")
def test_any_changed_byte_is_harmless_or_a_sentence(tmp_path, data):
    path = write_tar(tmp_path / "t.tar", [(f"{name}/1.png", png(3)) for name in ("a", "b", "c")])
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, 3 * 1024 + 600))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        source = source_of(path)
        for index in range(len(source)):
            source.image(index)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        assert str(path) in str(error)  # noqa: PT017  any of the three


def test_processes_share_no_open_file(root):
    """A file opened before a process is forked shares its position with it."""
    source = source_of(root / "test.tar")
    expected = [source.image(index).tobytes() for index in range(len(source))]
    loader = torch.utils.data.DataLoader(
        range(len(source)), batch_size=None, num_workers=2, collate_fn=lambda index: source.image(index).tobytes()
    )
    for _ in range(3):
        assert list(loader) == expected
    spawned = pickle.loads(pickle.dumps(source))  # how a process that is not forked gets it
    assert [spawned.image(index).tobytes() for index in range(len(source))] == expected


def test_empty_class_folders_are_told(root):
    (root / "train" / "fox").mkdir()
    (root / "train" / "fox" / "deeper").mkdir()
    with pytest.warns(UserWarning, match=r"left out 1 folders without an image \(such as fox\)"):
        assert len(source_of(pack(root / "train")).class_to_idx) == len(CLASSES)


def test_empty_class_folders_count_where_the_number_of_classes_says_so(root):
    """Networks know ImageNet's 1,000 classes, also where there are images of a few."""
    (root / "train" / "fox").mkdir()
    (root / "train" / "dog").mkdir()
    pack(root / "train")
    for split, ending in (("train", ".tar"), ("train", "")):
        data = image_data(root, train_split=split + ending, test_split="test" + ending, num_classes=4, val_split=10)
        assert data.class_names == ["china", "dog", "flower", "fox"]
        assert data.images("train").labels.unique().tolist() == [0, 2]
        assert data.images("test").labels.unique().tolist() == [0, 2]


def test_nothing_is_ever_written(tmp_path):
    """Images are read where they lie in the tar: names that lead out of it, links and devices write nothing."""
    inside = tmp_path / "inside"
    inside.mkdir()
    path = inside / "t.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a/1.png", "b/1.png", "../../out.png", "a/../../../out.png", str(tmp_path / "absolute.png")):
            member = tarfile.TarInfo(name)
            member.size = len(png(1))
            tar.addfile(member, io.BytesIO(png(1)))
        for kind, name in (
            (tarfile.SYMTYPE, "a/link.png"),
            (tarfile.LNKTYPE, "a/hard.png"),
            (tarfile.CHRTYPE, "a/d.png"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../../../outside.png"
            tar.addfile(member)
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="left out"):
        source = source_of(path)
    assert [source.image(index).size for index in range(len(source))]
    assert {found.relative_to(tmp_path) for found in tmp_path.rglob("*")} == {
        path.parent.relative_to(tmp_path),
        path.relative_to(tmp_path),
    }
    assert path.read_bytes() == before
