"""Energy and early exit of a trained network on CIFAR-10, as the table of docs/energy.md has them.

python benchmarks/energy.py --data FOLDER --network cifar10_r20_qcfs4 --images 1000
"""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from trained import Cifar10, accuracy, load, names

from ftbc_pl import calibrate_, convert, diagnose, measure_energy
from ftbc_pl.energy import CONVENTIONS, EnergyCost, EnergyMeter
from ftbc_pl.evaluation.exit import ExitMeter, ExitResult
from ftbc_pl.functional.exit import choose_thresholds, confidence, decisions
from ftbc_pl.reports.terminal import table_steps
from ftbc_pl.simulation import SpikingNetwork


def predict(snn: SpikingNetwork, batches: Iterable[Any], run: Any) -> Tensor:
    """Logits of the prediction at each step, (T, N, classes)."""
    return torch.cat([snn.readout(run(images)).clone() for images, _ in batches], 1)


def exits(held_out: Tensor, test: Tensor, labels: Tensor, loss: float) -> ExitResult:
    """What early exit with thresholds from held-out images does on test images."""
    chosen = decisions(held_out)
    meter = ExitMeter(choose_thresholds(confidence(held_out), chosen == chosen[-1], loss))
    meter.update(test, labels)
    return meter.compute()


def row(name: str, share: float, steps: str, sops: float, macs: float, ratios: Iterable[float], more: str = "") -> str:
    shown = [f"{100 * ratio:.1f} %" for ratio in ratios]
    counts = [f"{sops / 1e6:.1f} M" if sops else "", f"{macs / 1e6:.2f} M"]
    return f"| {' | '.join([name, f'{100 * share:.1f}', steps, *counts, *shown, more])} |"


def table(ann: float, cost: EnergyCost, test: Tensor, labels: Tensor, held_out: Tensor, losses: list[float]) -> str:
    """Accuracy beside steps, operations and energy: of the ANN, at fixed steps and with early exit."""
    right = (decisions(test) == labels).double().mean(1)
    lines = [
        "| | accuracy | steps, mean (90 % within) | synaptic operations | MACs | energy, 45 nm | energy, neuromorphic "
        "| decisions that differ from T |",
        "|---|---|---|---|---|---|---|---|",
        row("ANN", ann, "", 0, cost.ann_macs, [1.0] * len(CONVENTIONS)),
    ]
    for step in table_steps(cost.num_steps):
        t = step - 1
        ratios = [cost.ratio(name)[t].item() for name in CONVENTIONS]
        differ = f"{100 * (decisions(test)[t] != decisions(test)[-1]).double().mean().item():.2f} %"
        figures = (cost.sops[t].item(), cost.macs[t].item(), ratios)
        lines.append(row(f"T = {step}", right[t].item(), str(step), *figures, differ))
    for loss in losses:
        found = exits(held_out, test, labels, loss)
        at = found.steps - 1
        ratios = [cost.ratio(name)[at].mean().item() for name in CONVENTIONS]
        steps = f"{found.mean_steps:.2f} ({found.percentile_90})"
        figures = (cost.sops[at].mean().item(), cost.macs[at].mean().item(), ratios)
        lines.append(row(f"early exit, loss {loss}", found.accuracy, steps, *figures, f"{100 * found.loss:.2f} %"))
    return "\n".join(lines)


@torch.no_grad()
def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with train.tar and test.tar of class folders")
    parser.add_argument("--network", default="cifar10_r20_qcfs4", choices=names())
    parser.add_argument("--num_steps", type=int, default=8)
    parser.add_argument("--losses", type=float, nargs="+", default=[0.01, 0.005, 0.0025])
    parser.add_argument("--images", type=int, default=10_000, help="test images, spread evenly")
    parser.add_argument("--exit_images", type=int, default=4_000, help="validation images that early exit is set on")
    parser.add_argument("--validation", type=int, default=5_000, help="validation images that were held out")
    given = parser.parse_args(args)
    data = Cifar10(given.data, validation=given.validation)
    calibration = data.calibration(200, 1, 0)
    ann = load(given.network)
    snn = convert(ann, given.num_steps, batches=calibration, fold_bn=False)  # as docs/energy.md was measured
    snn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    test = data.batches("test", given.images)
    before = measure_energy(snn, test, progress=False)
    calibrate_(snn, calibration, progress=False)
    meter = EnergyMeter(snn)
    predicted, cost = predict(snn, test, meter), meter.compute()
    held_out = predict(snn, data.batches("val", given.exit_images), snn)
    labels = torch.cat([labels for _, labels in test])
    print(f"{given.network}, {given.images:,} test images, early exit set on {given.exit_images:,} validation images\n")
    print(table(accuracy(ann, test), cost, predicted, labels, held_out, given.losses))
    change = 100 * (cost.sops / before.sops - 1)
    print("\nSynaptic operations up to t, calibrated against not calibrated, in %:", end=" ")
    print(", ".join(f"{value:+.1f}" for value in change.tolist()))
    print(f"\n{cost}\n\n{diagnose(snn, [images for images, _ in test[:2]], progress=False)}")


if __name__ == "__main__":
    main()
