"""The readout: how much the output of each step counts in the prediction.

The first outputs are made before deep layers know what their input is, so their mean is not the best guess. The
weights that add up to 1 and whose weighted sum of outputs comes closest to the ANN's output have a closed form, known
from combining forecasts (Bates and Granger, 1969): E⁻¹1 / 1ᵀE⁻¹1 with the T×T matrix E of products of the errors.
"""

import torch
from torch import Tensor

_RIDGE = 1e-2  # more squared error of each step than was found, so that few images do not tell too much
_LEAST = 1e-30  # and at least that much, for steps without an error


def mean_readout(num_steps: int) -> Tensor:
    """Weights of the plain mean of the outputs up to each step, (T, T) float64, row t − 1 for the prediction at t."""
    steps = torch.arange(1, num_steps + 1, dtype=torch.float64)
    return steps.reciprocal().unsqueeze(1).expand(num_steps, num_steps).tril()


def weigh(outputs: Tensor, weights: Tensor) -> Tensor:
    """Combine the outputs of the steps, (T, B, ...), by weights (T, T) into the predictions, (T, B, ...)."""
    return torch.tensordot(weights.to(outputs), outputs, 1)


def error_products(outputs: Tensor, target: Tensor) -> Tensor:
    """Sum the products of the errors of each two steps; sums of several batches or processes add up.

    Args:
        outputs: Output of each step, (T, B, ...).
        target: Output of the ANN, (B, ...).

    Returns:
        E, (T, T) float64.
    """
    errors = (outputs.double() - target.double()).flatten(1)
    return errors @ errors.T


def least_squares_readout(products: Tensor) -> Tensor:
    """Choose weights that minimise the squared error of the prediction at every step, adding up to 1.

    Weights for t depend on no later step: one calibration at T serves every t ≤ T.

    Args:
        products: E, (T, T), as `error_products` sums it.

    Returns:
        Weights, (T, T) on the CPU: row t − 1 holds those of the steps 1 … t in the prediction at t, and zeros.

    Raises:
        ValueError: E has NaN or infinite values.
    """
    products = products.cpu()  # a small matrix: a GPU would be waited for at each t
    if not bool(products.isfinite().all()):
        raise ValueError("The output has NaN or infinite values during calibration: check the weights and the images.")
    ridge = (_RIDGE * products.diagonal()).clamp(min=_LEAST)
    # A leading block of the factor is the factor of the leading block.
    factor = torch.linalg.cholesky(products + torch.diag(ridge))
    weights = torch.zeros_like(products)
    for t in range(1, len(products) + 1):
        solution = torch.cholesky_solve(torch.ones_like(products[:t, :1]), factor[:t, :t]).squeeze(1)
        weights[t - 1, :t] = solution / solution.sum()
    return weights
