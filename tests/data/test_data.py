import json
import math
from itertools import combinations

import numpy as np
import pytest
import torch
import webdataset
from lightning.pytorch import LightningModule
from PIL import Image
from torch.utils.data import default_collate

from ftbc_pl.data import DigitsData, ImageData
from ftbc_pl.data.batches import evaluation_batches, random_shift
from ftbc_pl.data.parts import hold_out
from ftbc_pl.models import create_network
from tests.imagefolders import CLASSES, pack, write_digit_folder, write_folder, write_splits
from tests.pipeline import quiet_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",  # a few dozen images need none
    "ignore:.*isinstance.treespec, LeafSpec:FutureWarning",  # Lightning's own
)


def image_data(root, **kwargs):
    return ImageData(str(root), **({"input_size": 32, "batch_size": 8, "num_workers": 0, "pin_memory": False} | kwargs))


def rows(loader):
    """All images of a loader, as a set of byte strings."""
    return {image.numpy().tobytes() for images, _ in loader for image in images}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("folders"))


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    root = write_splits(tmp_path_factory.mktemp("tars"))
    for split in ("train", "test"):
        pack(root / split)
    return root


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_roles_are_disjoint_and_complete(folders, source):
    data = (
        DigitsData(shift=0, pin_memory=False)
        if source == "digits"
        else image_data(folders, random_crop="none", hflip=0.0)
    )
    roles = [data.images("train"), data.images("val"), data.images("test")]
    sets = [rows([images.__getitems__(range(len(images)))]) for images in roles]
    assert all(one.isdisjoint(other) for one, other in combinations(sets, 2))
    assert sum(map(len, roles)) == (1797 if source == "digits" else 52)
    assert sets[0] == rows([data.images("calibration").__getitems__(range(len(roles[0])))])


def test_digits():
    data = DigitsData(pin_memory=False)
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (64, *data.input_size)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert abs(images.mean()) < 0.2
    assert abs(images.std() - 1) < 0.2
    assert data.num_classes == 10
    assert len(data.images("test")) == 360
    assert torch.equal(data.images("test").labels, DigitsData(seed=1).images("test").labels)
    with pytest.raises(ValueError, match=r"data\.shift"):
        DigitsData(shift=-1)


def test_held_out_images_are_stratified_and_fixed():
    labels = torch.arange(10).repeat_interleave(50)
    kept, held_out = hold_out(labels, 0.1, seed=3)
    assert torch.equal(torch.bincount(labels[held_out]), torch.full((10,), 5))
    assert torch.equal(torch.cat([kept, held_out]).sort().values, torch.arange(500))
    assert all(
        torch.equal(one, other) for one, other in zip((kept, held_out), hold_out(labels, 50, seed=3), strict=True)
    )
    assert not torch.equal(held_out, hold_out(labels, 0.1, seed=4)[1])
    assert len(hold_out(labels, 0, seed=3)[1]) == 0
    assert len(hold_out(labels, 50.0, seed=3)[1]) == 50
    for amount in (-1, 500, 1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="val_split"):
            hold_out(labels, amount, seed=3)
    with pytest.raises(ValueError, match="every class in both parts"):
        hold_out(labels, 5, seed=3)


def test_no_validation():
    data = DigitsData(val_split=0, pin_memory=False)
    assert data.val_dataloader() == []
    assert len(data.images("train")) == 1437


def test_own_validation_split(tmp_path):
    write_splits(tmp_path)
    write_folder(tmp_path / "validation", 3, start=100)
    data = image_data(tmp_path, val_split_name="validation")
    assert (len(data.images("train")), len(data.images("val")), len(data.images("test"))) == (40, 6, 12)
    with pytest.raises(ValueError, match="different splits"):
        image_data(tmp_path, val_split_name="train")
    with pytest.raises(ValueError, match="different splits for validation and test when training"):
        image_data(tmp_path, val_split_name="test").setup("fit")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", [True, False])
def test_tar_equals_folder(folders, tars, workers, cache):
    batches = [
        list(image_data(folders, cache=cache).test_dataloader()),
        list(
            image_data(
                tars, train_split="train.tar", test_split="test.tar", cache=cache, num_workers=workers
            ).test_dataloader()
        ),
    ]
    for (one, labels), (other, same_labels) in zip(*batches, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(labels, same_labels)


def test_evaluation_images_are_exact(folders):
    data = image_data(folders, mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3], cache=True)
    images, labels = next(iter(data.test_dataloader()))
    pixels = np.asarray(Image.open(sorted((folders / "test" / CLASSES[0]).iterdir())[0])).astype(np.float32) / 255
    expected = (pixels - np.array([0.5, 0.4, 0.3])) / np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(images[0].permute(1, 2, 0), expected, atol=1e-5)
    assert labels[0] == 0
    uncached, _ = next(
        iter(image_data(folders, mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3], cache=False).test_dataloader())
    )
    torch.testing.assert_close(images, uncached)


def test_random_shift_is_pad_crop_and_flip():
    images = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5) + 1
    assert torch.equal(random_shift(images, 0, 0.0), images)
    assert torch.equal(random_shift(images, 0, 1.0), images.flip(-1))
    torch.manual_seed(0)
    shifted = random_shift(images.repeat(200, 1, 1, 1), 1, 0.5)
    assert shifted.dtype == images.dtype
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    mirrored = torch.nn.functional.pad(images.flip(-1), (1, 1, 1, 1))
    windows = [p[0, :, y : y + 4, x : x + 5] for p in (padded, mirrored) for y in range(3) for x in range(3)]
    found = [sum(torch.equal(image, window) for image in shifted[::2]) for window in windows]
    assert sum(found) == 200
    assert min(found) > 0


@pytest.mark.parametrize("cache", [True, False])
def test_training_augments_and_calibration_does_not(folders, cache):
    data = image_data(folders, cache=cache, re_prob=0.5)
    clean = rows(data.calibration_dataloader(36, 1))
    torch.manual_seed(0)
    train = data.train_dataloader()
    assert len(train) == 4  # 36 images in batches of 8, the rest dropped
    assert len(rows(train) - clean) > 20
    assert clean == rows(data.calibration_dataloader(9, 4))


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5", "original", "augmix-m3"])
@pytest.mark.parametrize("cache", [True, False])
def test_auto_augment(folders, policy, cache):
    """Nothing but the policy changes these images: it must change some, and no label."""
    exact = {"random_crop": "none", "hflip": 0.0, "cache": cache}
    everything = range(len(image_data(folders, **exact).images("train")))
    plain, labels = image_data(folders, **exact).images("train").__getitems__(everything)
    images, same_labels = image_data(folders, **exact, auto_augment=policy).images("train").__getitems__(everything)
    assert images.shape == plain.shape
    assert images.isfinite().all()
    assert torch.equal(labels, same_labels)
    changed = (images != plain).flatten(1).any(1)
    assert changed.float().mean() > 0.3


def test_large_images_are_cropped_and_resized(tmp_path):
    write_splits(tmp_path, train=6, size=120, test_name="val")
    data = image_data(tmp_path, input_size=96, test_split="val", val_split=0.2, color_jitter=0.4, num_workers=2)
    assert next(iter(data.train_dataloader()))[0].shape == (8, 3, 96, 96)
    assert next(iter(data.test_dataloader()))[0].shape == (12, 3, 96, 96)
    with pytest.raises(ValueError, match=r"data\.cache"):
        image_data(tmp_path, input_size=96, cache=True).images("train")


def test_calibration_order_is_fixed_by_the_seed(folders):
    one, same, other = (list(image_data(folders, seed=0).calibration_dataloader(size, 2)) for size in (6, 6, 3))
    assert [len(labels) for _, labels in one] == [6, 6]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, same, strict=True))
    assert torch.equal(torch.cat([images for images, _ in other]), one[0][0])
    reordered = image_data(folders, seed=0)
    reordered.seed = 1
    assert not torch.equal(next(iter(reordered.calibration_dataloader(6, 2)))[0], one[0][0])


def test_calibration_set_too_small(folders):
    data = image_data(folders)
    with pytest.raises(ValueError, match=r"36 training images that are not held out, got 2 batches of 20 = 40 images"):
        data.calibration_dataloader(20, 2)
    with pytest.raises(ValueError, match="at least 1 image"):
        data.calibration_dataloader(0, 2)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [8, 9, 31, 100])
def test_evaluation_batches_hold_every_image_once(count, world_size, batch_size):
    shares = [evaluation_batches(count, batch_size, rank, world_size) for rank in range(world_size)]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(count))
    assert len({len(share) for share in shares}) == 1
    assert all(1 <= len(batch) <= batch_size + (world_size > 1) for share in shares for batch in share)


def test_fewer_images_than_processes():
    with pytest.raises(ValueError, match="use fewer processes"):
        evaluation_batches(3, 2, 0, 4)


class Probe(LightningModule):
    """Keeps the batches it gets."""

    def __init__(self, network):
        super().__init__()
        self.network, self.train_labels, self.seen = network, [], []

    def training_step(self, batch, batch_idx):
        self.train_labels.append(batch[1])
        return self.network(batch[0]).mean()

    def validation_step(self, batch, batch_idx):
        self.seen.append(batch)

    def predict_step(self, batch, batch_idx):
        return batch[1]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer(tmp_path):
    return quiet_trainer(tmp_path, max_epochs=1)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_gives_soft_targets_while_training_only(folders, trainer, mixup, cutmix):
    probe = Probe(create_network("cifar_resnet20", num_classes=2))
    data = image_data(folders, batch_size=7, mixup_alpha=mixup, cutmix_alpha=cutmix)
    trainer.fit(probe, datamodule=data)
    assert all(labels.shape == (6, 2) for labels in probe.train_labels)  # pairs: the seventh image has no partner
    torch.testing.assert_close(torch.cat(probe.train_labels).sum(1), torch.ones(30))
    assert all(labels.dtype == torch.int64 for _, labels in probe.seen)
    labels = torch.cat(trainer.predict(probe, datamodule=data))
    assert torch.equal(labels, data.images("test").labels)


def test_settings_come_from_the_network_unless_given(folders, trainer):
    network = create_network("vit_tiny_patch16_224", num_classes=2, input_size=48)
    data = image_data(folders, input_size=None, std=[0.1, 0.2, 0.3])
    trainer.validate(Probe(network), datamodule=data, verbose=False)
    assert data.input_size == (3, 48, 48)
    assert data.mean == network.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert data.std == (0.1, 0.2, 0.3)
    assert next(iter(data.val_dataloader()))[0].shape[1:] == (3, 48, 48)
    data.resolve_from(torch.nn.Linear(1, 1))
    assert data.input_size == (3, 48, 48)


def test_defaults_without_a_network(tmp_path):
    assert ImageData(str(tmp_path)).input_size == (3, 224, 224)
    assert ImageData(str(tmp_path), "torch/cifar100").input_size == (3, 32, 32)
    assert ImageData(str(tmp_path), "torch/cifar100").num_classes == 100
    with pytest.raises(ValueError, match=r"data\.mean of 3 numbers"):
        ImageData(str(tmp_path), in_chans=3, mean=[0.5])


def test_grey_images(tmp_path):
    write_digit_folder(tmp_path / "train", 5)
    write_digit_folder(tmp_path / "test", 2, start=5)
    data = image_data(tmp_path, in_chans=1, val_split=10)
    data.resolve_from(create_network("resnet18", num_classes=10, in_chans=1))
    assert data.num_classes == 10
    assert data.mean == pytest.approx((np.mean([0.485, 0.456, 0.406]),))
    assert next(iter(data.test_dataloader()))[0].shape == (16, 1, 32, 32)


def test_classes_are_matched_by_name(tmp_path):
    write_folder(tmp_path / "train", 10, classes=("a", "b", "c"))
    write_folder(tmp_path / "test", 2, classes=("c",))
    data = image_data(tmp_path)
    assert data.num_classes == 3
    assert data.images("test").labels.tolist() == [2, 2]
    write_folder(tmp_path / "test", 2, classes=("d",))
    with pytest.raises(ValueError, match=r"got 1 others \(d\)"):
        image_data(tmp_path).images("test")
    with pytest.raises(ValueError, match=r"data\.num_classes"):
        image_data(tmp_path, num_classes=2).images("train")


def test_missing_data(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"correct data\.root"):
        image_data(tmp_path / "absent").num_classes  # noqa: B018  the property reads
    with pytest.raises(
        FileNotFoundError,
        match=r"'training' in .*, which holds test, train; name another, as in --data.train_split train",
    ):
        image_data(folders, train_split="training").images("train")
    with pytest.raises(FileNotFoundError, match=r"torch/cifar10, split train, in .*data\.download"):
        image_data(tmp_path, name="torch/cifar10").images("train")
    with pytest.raises(ValueError, match="torch/nonsense"):
        image_data(tmp_path, name="torch/nonsense").images("train")
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="Found 0 images"):
        image_data(tmp_path).images("train")


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("archive", [True, False])
def test_corrupt_image_is_named(tmp_path, cache, archive):
    write_splits(tmp_path)
    path = tmp_path / "test" / CLASSES[1] / "0022.png"
    path.write_bytes(path.read_bytes()[:500])
    if archive:
        pack(tmp_path / "test")
    data = image_data(tmp_path, test_split="test.tar" if archive else "test", cache=cache)
    with pytest.raises(RuntimeError, match=r"can't read image 8 \(flower/0022\.png\) of .*test.*; replace it"):
        list(data.test_dataloader())


def test_wrong_sizes(folders):
    with pytest.raises(ValueError, match=r"data\.batch_size of at least 1"):
        image_data(folders, batch_size=0)
    with pytest.raises(ValueError, match=r"data\.in_chans"):
        image_data(folders, in_chans=2)


def test_download_and_pickled_torchvision_sets(tmp_path):
    """A torchvision data set in its own format, as if downloaded."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 20)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            values = generator.integers(0, 255, shape) if len(shape) == 3 else np.arange(count) % 10
            header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
            (raw / f"{prefix}-{kind}-ubyte").write_bytes(header + values.astype(np.uint8).tobytes())
    data = image_data(tmp_path, name="torch/fashion_mnist", in_chans=1, val_split=10)
    assert len(data.images("train")) == 30
    images, labels = default_collate([data.images("test")[index] for index in range(20)])
    assert images.shape == (20, 1, 32, 32)
    assert labels.tolist() == [number % 10 for number in range(20)]
    assert math.isfinite(images.sum())


def test_workers_do_not_share_an_open_archive(tars):
    data = image_data(tars, cache=False, num_workers=2, eval_batch_size=1)
    images = data.images("test")
    expected = [images[index][0] for index in range(len(images))]  # opens the archive before the workers are forked
    for _ in range(3):
        for (image, _), same in zip(data.test_dataloader(), expected, strict=True):
            assert torch.equal(image[0], same)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its shards open
def test_webdataset(folders, tmp_path):
    """Streams are read into memory, with the same roles as any other data set."""
    splits = {}
    for split, count in (("train", 20), ("test", 6)):
        with webdataset.TarWriter(str(tmp_path / f"{split}.tar")) as writer:
            for path in sorted((folders / split).glob("*/*.png")):
                writer.write(
                    {
                        "__key__": f"{path.parent.name}{path.stem}",
                        "png": path.read_bytes(),
                        "cls": CLASSES.index(path.parent.name),
                    }
                )
        splits[split] = {
            "name": split,
            "filenames": [f"{split}.tar"],
            "shard_lengths": [2 * count],
            "num_samples": 2 * count,
        }
    (tmp_path / "_info.json").write_text(json.dumps({"splits": splits}))
    data = image_data(tmp_path, name="wds/photographs", num_classes=2)
    same = image_data(folders)
    for role in ("calibration", "val", "test"):
        everything = range(len(data.images(role)))
        for tensor, expected in zip(*(d.images(role).__getitems__(everything) for d in (data, same)), strict=True):
            assert torch.equal(tensor, expected)
    with pytest.raises(ValueError, match=r"data\.num_classes to be given"):
        image_data(tmp_path, name="wds/photographs").num_classes  # noqa: B018  the property reads
