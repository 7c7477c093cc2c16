"""Asks a solver for the bias of one site at one step, as a calibration does."""

import torch

from ftbc_pl.calibration.solvers import SOLVERS, SiteStep
from ftbc_pl.functional.merge import ALONE
from ftbc_pl.functional.targets import Target
from ftbc_pl.options import CalibrationOptions


def solve(name, membrane, threshold, channel_dim=1, target=None, bias=None, error=None, merge=ALONE, **options):
    solver = SOLVERS[name](CalibrationOptions(solver=name, **options), num_steps=4)
    if target is None:
        target = Target(torch.zeros_like(threshold), torch.zeros_like(threshold), 1)
    step = SiteStep(
        current=torch.zeros_like(membrane),
        membrane=membrane,
        bias=torch.zeros_like(threshold) if bias is None else bias,
        threshold=threshold,
        channel_dim=channel_dim,
        target=target,
        out=torch.empty_like(membrane),
        counts=torch.zeros(1, dtype=torch.int64),
        error=error,
        merge=merge,
    )
    return solver.solve(step)


def exact_bias(membrane, target, threshold, channel_dim, granularity="channel", merge=ALONE):
    return solve("exact", membrane, threshold, channel_dim, target, merge=merge, granularity=granularity)


def heuristic_bias(membrane, bias, target, threshold, channel_dim, alpha, granularity="channel", merge=ALONE):
    options = {"alpha": alpha, "granularity": granularity}
    return solve("heuristic", membrane, threshold, channel_dim, target, bias, merge=merge, **options)


def balanced_bias(membrane, error, threshold, channel_dim, mean_weight, granularity="channel", merge=ALONE):
    options = {"mean_weight": mean_weight, "granularity": granularity}
    return solve("balanced", membrane, threshold, channel_dim, error=error, merge=merge, **options)
