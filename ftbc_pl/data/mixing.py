"""Mixup and CutMix of whole batches, by timm."""

from timm.data.mixup import Mixup

from ftbc_pl.data.batches import Batch


class Mixing:
    """Mixes the images of a batch in pairs, and their labels, where any is asked for."""

    def __init__(self, mixup_alpha: float, cutmix_alpha: float) -> None:
        """Take the strength of Mixup and of CutMix, 0 for none."""
        self.strengths = mixup_alpha, cutmix_alpha
        self._mixup: Mixup | None = None

    @property
    def asked_for(self) -> bool:
        """Whether any of the two is."""
        return any(self.strengths)

    def __call__(self, batch: Batch, num_classes: int) -> Batch:
        """Return the mixed batch, labels as probabilities (B, num_classes); an odd image is left out."""
        if self._mixup is None:
            self._mixup = Mixup(*self.strengths, label_smoothing=0.0, num_classes=num_classes)
        images, labels = batch
        even = len(images) // 2 * 2  # timm mixes pairs
        return self._mixup(images[:even], labels[:even]) if even else batch
