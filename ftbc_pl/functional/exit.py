"""Early exit: an image stops at the first step whose prediction is confident enough.

Thresholds of the confidence are chosen on images without labels, for a stated share of decisions that differ from those
at the last step. One error more than was counted, on images without a part in the thresholds, keeps the expected share
on new images below the stated one: conformal risk control (Angelopoulos et al., ICLR 2024).
"""

import torch
from torch import Tensor

NEVER = float("inf")  # the threshold of a step at which no image stops
_LEVELS = 200
_ITERATIONS = 30
_RIDGE = 1e-2  # keeps the regression finite where no decision is wrong
_ROUNDING = 1e-9  # of confidences at 0 and 1


def with_both_classes(logits: Tensor) -> Tensor:
    """Logits (..., K) as they are; those of a binary classifier with one output (..., 1) as (..., 2)."""
    return torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def decisions(logits: Tensor) -> Tensor:
    """The class that logits (..., K) decide for; with one output, class 1 above 0."""
    return with_both_classes(logits).argmax(-1)


def confidence(logits: Tensor) -> Tensor:
    """Margin: probability of the first class less that of the second, in 0..1, of logits (..., K)."""
    first, second = with_both_classes(logits).double().softmax(-1).topk(2).values.unbind(-1)
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
    that is at a confidence, a logistic regression says for each step (Platt, 1999), found on one half of the images.
    The other half, which has no part in it, tells the highest level that keeps to the loss. With one half for both,
    the loss on new images would be larger than the one that was counted.

    Args:
        confidences: Confidence of the prediction at each step, (T, N).
        agrees: Whether that prediction decides as the one at T, (T, N).
        loss: Largest expected share of decisions that differ from those at T.

    Returns:
        Thresholds, (T,) float64; infinite where no image may stop.
    """
    levels = torch.logspace(-3, 2, _LEVELS, dtype=torch.float64, device=confidences.device).mul(loss).clamp(max=0.9)
    thresholds = torch.full((_LEVELS, len(confidences)), NEVER, dtype=torch.float64, device=confidences.device)
    for step in range(len(confidences) - 1):
        thresholds[:, step] = _thresholds(confidences[step, ::2], agrees[step, ::2], levels)
    best = torch.full_like(thresholds[0], NEVER)
    for candidate in thresholds:
        steps = exit_steps(confidences[:, 1::2], candidate)
        wrong = int((~agrees[:, 1::2].gather(0, (steps - 1).unsqueeze(0))).sum())
        if wrong + 1 > loss * (len(steps) + 1):
            break
        best = candidate
    return best


def _thresholds(confidences: Tensor, agrees: Tensor, levels: Tensor) -> Tensor:
    """For each level, the confidence at which a decision is wrong with that probability.

    Args:
        confidences: Of one step, (N,), in 0..1.
        agrees: Whether the decision is that at T, (N,).
        levels: Probabilities, (K,).

    Returns:
        (K,), infinite where confidence says nothing.
    """
    features = torch.stack([torch.ones_like(confidences).double(), _log_odds(confidences)], 1)
    wrong, weights = (~agrees).double(), features.new_zeros(2)
    ridge = _RIDGE * torch.eye(2, dtype=torch.float64, device=features.device)
    for _ in range(_ITERATIONS):  # Newton's
        probability = (features @ weights).sigmoid()
        gradient = features.T @ (probability - wrong) + ridge @ weights
        curvature = (features.T * (probability * (1 - probability))) @ features + ridge
        weights = weights - torch.linalg.solve(curvature, gradient)
    if not (bool(weights.isfinite().all()) and weights[1] < 0):
        return torch.full_like(levels, NEVER)
    return ((torch.logit(levels) - weights[0]) / weights[1]).sigmoid()


def _log_odds(confidences: Tensor) -> Tensor:
    return torch.logit(confidences.double(), eps=_ROUNDING)
