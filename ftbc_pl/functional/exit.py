"""Early exit: an image stops at the first step whose prediction is confident enough.

Thresholds of the confidence are chosen on images without labels, for a stated share of decisions that differ from those
at the last step. Errors are counted on images without a part in the thresholds, and one more is assumed than was
found, as in conformal risk control (Angelopoulos et al., ICLR 2024), so that the share on new images keeps to it.
"""

import torch
from torch import Tensor

NEVER = float("inf")  # the threshold of a step at which no image stops
_LEVELS = 200
_ITERATIONS = 30
_RIDGE = 1e-2  # keeps the regression finite where no decision is wrong


def with_both_classes(logits: Tensor) -> Tensor:
    """Logits (..., K) as they are; those of a binary classifier with one output (..., 1) as (..., 2)."""
    return torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def decisions(logits: Tensor) -> Tensor:
    """The class that logits (..., K) decide for; with one output, class 1 above 0."""
    return with_both_classes(logits).argmax(-1)


def confidence(logits: Tensor) -> Tensor:
    """Margin: logit of the first class less that of the second, 0 or more, of logits (..., K).

    It is the logarithm of how many times more probable the first class is.
    """
    first, second = with_both_classes(logits).double().topk(2).values.unbind(-1)
    return first - second


def exit_steps(confidences: Tensor, thresholds: Tensor) -> Tensor:
    """Step, 1 … T, at which each image stops: the first with a confidence at or above its threshold, at last T.

    Args:
        confidences: Confidence of the prediction at each step, (T, N).
        thresholds: Of each step, (T,); that of step T has no effect.

    Returns:
        (N,) int64.
    """
    stops = confidences >= thresholds.to(confidences).unsqueeze(1)
    stops[-1] = True
    return stops.to(torch.uint8).argmax(0) + 1


def choose_thresholds(confidences: Tensor, agrees: Tensor, loss: float) -> Tensor:
    """Choose the lowest thresholds that keep to the stated loss.

    An image may stop where it is wrong with a probability of at most one level, the same for all steps. How probable
    that is at a confidence, a logistic regression says for each step (Platt, 1999). The highest level is taken that
    keeps to the loss where each half of the images is judged by regressions on the other half. With regressions that
    have seen the images, the loss on new ones would be larger than the one that was counted.

    Args:
        confidences: Confidence of the prediction at each step, (T, N).
        agrees: Whether that prediction decides as the one at T, (T, N).
        loss: Largest expected share of decisions that differ from those at T.

    Returns:
        Thresholds, (T,) float64; infinite where no image may stop.
    """
    levels = torch.logspace(-3, 2, _LEVELS, dtype=torch.float64, device=confidences.device).mul(loss).clamp(max=0.9)
    wrong = torch.zeros(_LEVELS, dtype=torch.int64, device=confidences.device)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    for fitted, judged in ((even, odd), (odd, even)):
        candidates = _thresholds(confidences[:, fitted], agrees[:, fitted], levels)
        wrong += _wrong_decisions(confidences[:, judged], agrees[:, judged], candidates)
    keeps = wrong + 1 <= loss * (confidences.shape[1] + 1)
    count = int(keeps.long().cumprod(0).sum())  # levels up to the first that does not
    if not count:
        return torch.full_like(confidences[:, 0], NEVER, dtype=torch.float64)
    return _thresholds(confidences, agrees, levels)[count - 1]


def _wrong_decisions(confidences: Tensor, agrees: Tensor, candidates: Tensor) -> Tensor:
    """Number of images that stop at a decision that is not that at T, (K,), for thresholds (K, T)."""
    steps = torch.stack([exit_steps(confidences, thresholds) for thresholds in candidates])
    return (~agrees).gather(0, steps - 1).sum(1)


def _thresholds(confidences: Tensor, agrees: Tensor, levels: Tensor) -> Tensor:
    """For each level (K,) the confidence at each step at which a decision is wrong with that probability, (K, T)."""
    last = torch.full_like(levels, NEVER)
    steps = [_step_thresholds(*step, levels) for step in zip(confidences[:-1], agrees[:-1], strict=True)]
    return torch.stack([*steps, last], 1)


def _step_thresholds(confidences: Tensor, agrees: Tensor, levels: Tensor) -> Tensor:
    """The same at one step, of confidences and agreements (N,); (K,), infinite where confidence says nothing."""
    spread, mean = torch.std_mean(confidences.double())
    wrong = (~agrees).double()
    features = torch.stack([torch.ones_like(wrong), (confidences - mean) / spread], 1)
    weights = features.new_zeros(2)
    ridge = _RIDGE * torch.eye(2, dtype=torch.float64, device=features.device)
    for _ in range(_ITERATIONS if bool(spread > 0) else 0):  # Newton's
        probability = (features @ weights).sigmoid()
        gradient = features.T @ (probability - wrong) + ridge @ weights
        curvature = (features.T * (probability * (1 - probability))) @ features + ridge
        weights = weights - torch.linalg.solve(curvature, gradient)
    if not (bool(weights.isfinite().all()) and weights[1] < 0):
        return torch.full_like(levels, NEVER)
    return mean + spread * (torch.logit(levels) - weights[0]) / weights[1]
