"""From logits to classes, and labels in every form that fits them; whatever does not fit is an error, never broadcast.

A network of one output decides between two classes by the sign of its logit. Networks whose outputs are maps predict a
class for every position: the classes are in the second dimension of (B, C, ...), as in `torch`'s cross-entropy.
"""

from typing import Any

from torch import Tensor

from ftbc_pl.simulation import SpikingNetwork

_ROUNDING = 1e-2  # of soft labels in 16 bits, which should add up to 1


def single_output(outputs: Any, snn: SpikingNetwork | None = None) -> Tensor:
    """The outputs of a classifier, of the ANN or at each step.

    Args:
        outputs: What a forward has returned.
        snn: The spiking network, where it is there already: it knows what its forward ends in.

    Raises:
        ValueError: They are no single tensor, or one probability for each image, which no sign decides.
    """
    if isinstance(outputs, Tensor):
        if snn is not None and snn.trace.probability:
            raise ValueError(
                "The one output of this network is a probability, since its forward ends in a sigmoid, and the sign of "
                "a logit decides between two classes: leave the sigmoid out of the forward (it belongs to the loss, "
                "binary_cross_entropy_with_logits)."
            )
        return outputs
    raise ValueError(
        f"Accuracy needs one output (T, B, classes), the network gives a {type(outputs).__name__}: call the network "
        "itself and measure what you need."
    )


def predicted_classes(logits: Tensor) -> Tensor:
    """Class of each image at each step.

    Args:
        logits: (T, B, C) or (T, B, C, ...); of a network of one output (T, B, 1) or (T, B).

    Returns:
        (T, B) or (T, B, ...), int64.
    """
    logits = with_classes(logits)
    return (logits > 0).squeeze(2).long() if logits.shape[2] == 1 else logits.argmax(2)


def with_classes(logits: Tensor) -> Tensor:
    """Logits (T, B, C, ...), with the dimension of the classes that a network of one output may have dropped."""
    return logits.unsqueeze(2) if logits.ndim == 2 else logits


def class_indices(labels: Tensor, logits: Tensor) -> Tensor:
    """Class of each image as its label tells it.

    Args:
        labels: Class indices (B,) or (B, 1); one-hot or soft labels (B, C) that add up to 1; for one output 0 or 1, or
            probabilities of class 1. For outputs (B, C, ...) the same with these dimensions behind.
        logits: (T, B, C, ...), as `with_classes` gives them.

    Returns:
        (B,) or (B, ...), int64.

    Raises:
        ValueError: Labels and outputs don't fit, in shape or in values.
    """
    _, count, classes, *space = logits.shape
    shape = tuple(labels.shape)
    if shape == (count, 1, *space):
        labels = labels.squeeze(1)
    elif shape == (count, classes, *space) and shape != (count, *space):
        _check_values((labels.sum(1) - 1).abs() < _ROUNDING, labels, "one-hot or soft labels that add up to 1")
        _check_values(labels >= 0, labels, "one-hot or soft labels in 0..1")
        return labels.float().argmax(1)
    elif shape != (count, *space):
        extra = "".join(f", {size}" for size in space)
        soft = f" or soft labels ({count}, {classes}{extra})" if classes > 1 else ""
        raise ValueError(
            f"Expected class indices ({count}{extra or ','}){soft} for outputs of shape {tuple(logits.shape[1:])}, got "
            f"labels of shape {shape}: bring labels and outputs into one of these shapes."
        )
    if classes == 1:
        _check_values((labels >= 0) & (labels <= 1), labels, "labels 0 and 1, or in between, for one output")
        return (labels >= 0.5).long()
    fits = (labels >= 0) & (labels < classes)
    if labels.is_floating_point():
        fits &= labels == labels.floor()
    _check_values(fits, labels, f"classes 0 to {classes - 1} for outputs of shape {tuple(logits.shape[1:])}")
    return labels.long()


def _check_values(fits: Tensor, labels: Tensor, expected: str) -> None:
    if not bool(fits.all()):
        values = labels[~fits] if fits.shape == labels.shape else labels.movedim(1, -1)[~fits][0]
        shown = ", ".join(f"{value:g}" for value in values.flatten()[:3].tolist())
        raise ValueError(f"Expected {expected}, got labels of shape {tuple(labels.shape)} that hold {shown}.")
