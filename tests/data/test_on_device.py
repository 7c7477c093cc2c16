"""Images that live in a device's memory; here the device is the CPU, on which the same code runs."""

from functools import partial

import pytest
import torch
from timm.data.random_erasing import RandomErasing

from ftbc_pl.data.batches import TensorImages, random_shift
from ftbc_pl.data.on_device import DeviceMemory, erase_rectangles, shift_and_mirror

PIXELS = torch.arange(2 * 3 * 5 * 4, dtype=torch.uint8).view(2, 3, 5, 4)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_mirror_is_that_of_the_cpu(flip):
    assert torch.equal(shift_and_mirror(PIXELS, 0, flip), random_shift(PIXELS, 0, flip))


def test_every_shift_is_a_window_of_the_padded_image_and_all_come_as_often():
    torch.manual_seed(0)
    image = torch.arange(1, 13, dtype=torch.uint8).view(1, 1, 3, 4)
    padded = torch.nn.functional.pad(image, (1,) * 4)[0, 0]
    windows = [padded[top : top + 3, left : left + 4] for top in range(3) for left in range(3)]
    windows += [window.flip(-1) for window in windows]
    counts = torch.zeros(len(windows))
    for shifted in shift_and_mirror(image.expand(3600, -1, -1, -1), 1, 0.5)[:, 0]:
        (found,) = [number for number, window in enumerate(windows) if torch.equal(window, shifted)]
        counts[found] += 1
    # 18 kinds, 200 of each expected: a chi-square of 17 degrees exceeds 45 once in 4,000 times.
    assert ((counts - 200).square() / 200).sum() < 45


def test_a_rectangle_is_erased_as_by_timm():
    torch.manual_seed(0)
    images = torch.full((4000, 1, 16, 12), 100.0)
    erased = [erase_rectangles(images, 0.5), RandomErasing(0.5, mode="pixel", device="cpu")(images.clone())]
    ours, theirs = ((result < 50).squeeze(1) for result in erased)
    for part in ours[ours.any(2).any(1)]:  # one whole rectangle
        rows, columns = part.any(1), part.any(0)
        assert torch.equal(part, rows[:, None] & columns)
        assert rows.diff().sum() <= 2
        assert columns.diff().sum() <= 2
    # How many images, and how often each place, within five standard deviations of a mean of 4,000.
    assert abs(ours.any(2).any(1).float().mean() - theirs.any(2).any(1).float().mean()) < 5 * (0.5 / 4000) ** 0.5
    assert (ours.float().mean(0) - theirs.float().mean(0)).abs().max() < 5 * (0.3 / 4000) ** 0.5
    for size in (lambda part: part.any(2).sum(1), lambda part: part.any(1).sum(1)):
        assert abs(size(ours).float().mean() - size(theirs).float().mean()) < 0.3


def test_nothing_and_everything_is_erased():
    images = torch.zeros(50, 3, 8, 8)
    assert torch.equal(erase_rectangles(images, 0.0), images)
    assert erase_rectangles(images, 1.0).flatten(1).any(1).float().mean() > 0.9


def test_batches_are_those_of_the_cpu():
    labels, indices = torch.tensor([3, 1]), torch.tensor([1, 0])
    source = TensorImages(PIXELS, labels, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4], indices=indices)
    memory = DeviceMemory()
    placed = memory.take(source, torch.device("cpu"), 1, 0.5, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(placed.__getitems__([1, 0]), source.__getitems__([1, 0]), strict=True))
    assert len(placed) == 2
    # Another role of the same images shares their memory; only what is augmented is augmented.
    augment = partial(random_shift, padding=1, flip=1.0)
    training = memory.take(TensorImages(PIXELS, labels, [0.0] * 3, [1.0] * 3, augment=augment), *_OTHERS)
    assert training.images is placed.images
    assert training.erase is None
    expected = (PIXELS.flip(-1).float()) * (1 / 255)
    torch.testing.assert_close(training.__getitems__([0, 1])[0], expected)


_OTHERS = (torch.device("cpu"), 0, 1.0, 0.0)
