"""The handwritten digits that scikit-learn ships."""

from functools import partial

import torch
from sklearn.datasets import load_digits

from ftbc_pl.data.base import ClassificationData, Role
from ftbc_pl.data.batches import Images, TensorImages, random_shift
from ftbc_pl.data.parts import hold_out

TEST_IMAGES = 360
TEST_SEED = 0

__all__ = ["DigitsData"]


class DigitsData(ClassificationData):
    """1,797 grey images of handwritten digits, 8×8 pixels, 10 classes. Nothing is downloaded.

    360 images are the test set, the same ones whatever the seed. Training images are shifted at random by up to `shift`
    pixels.
    """

    input_size = (1, 8, 8)
    mean = (0.305,)
    std = (0.376,)

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        seed: int = 0,
        val_split: int | float = 0.1,
        shift: int = 1,
    ) -> None:
        """Create the data module.

        Args:
            batch_size: Images in a training batch of each process.
            eval_batch_size: Images in a batch of each process when validating, testing and predicting; left out: twice
                `batch_size`.
            num_workers: Processes that load images; the images are so small that 0, none, is fastest.
            pin_memory: Load into page-locked memory, from which copies to the GPU are fast; left out: where there is a
                GPU.
            seed: Seed of the split into training and validation images and of the order of calibration images.
            val_split: Fraction (0.1) or number (100) of training images to hold out for validation; 0 for no
                validation.
            shift: Largest random shift of a training image, in pixels; 0 for none.
        """
        super().__init__(batch_size, eval_batch_size, num_workers, pin_memory, seed, val_split)
        if shift < 0:
            raise ValueError(f"expected data.shift of at least 0 pixels, got {shift}")
        self.shift = shift

    @property
    def num_classes(self) -> int:
        """Number of classes: 10."""
        return 10

    @property
    def class_names(self) -> list[str]:
        """The digits."""
        return [str(digit) for digit in range(10)]

    def build(self, role: Role) -> Images:
        """Return the images of a role, scaled from 0..16 to 0..1 and normalised."""
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target, dtype=torch.int64)
        kept, indices = hold_out(labels, TEST_IMAGES, TEST_SEED)
        if role != "test":
            train, val = hold_out(labels[kept], self.val_split, self.seed)
            indices = kept[val if role == "val" else train]
        augment = partial(random_shift, padding=self.shift, flip=0.0) if role == "train" and self.shift else None
        return TensorImages(images, labels, self.mean, self.std, augment=augment, indices=indices)
