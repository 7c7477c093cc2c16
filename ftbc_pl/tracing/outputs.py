"""What the outputs of a network are, as the operations say that made them."""

from collections.abc import Sequence

from torch import Tensor

# Nodes of autograd that leave every value as it is.
_REARRANGING = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice", "Alias", "Clone",
                "Permute", "Transpose", "T", "ToCopy", "Contiguous", "Expand", "Split", "Unbind")  # fmt: skip


def is_one_probability(outputs: Sequence[Tensor]) -> bool:
    """Whether the only output is one number (B,) or (B, 1, ...) for each image or position, made by a sigmoid."""
    if len(outputs) != 1 or (outputs[0].ndim > 1 and outputs[0].shape[1] != 1):
        return False
    node = outputs[0].grad_fn
    while node is not None and node.next_functions and _name(node.name()) in _REARRANGING:
        node = node.next_functions[0][0]
    return node is not None and _name(node.name()) in ("Sigmoid", "Hardsigmoid")


def _name(node: str) -> str:
    return node.partition("Backward")[0]
