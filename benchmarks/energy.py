"""Energy and early exit of a trained network on CIFAR-10: synaptic operations, MACs, mean steps.

python benchmarks/energy.py --data FOLDER --network cifar10_r20_qcfs4
"""

import argparse
from collections.abc import Sequence

import torch
from trained import Cifar10, load, names

from ftbc_pl import calibrate_, choose_exit_, convert, evaluate_exit, measure_energy


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with train.tar and test.tar of class folders")
    parser.add_argument("--network", default="cifar10_r20_qcfs4", choices=names())
    parser.add_argument("--num_steps", type=int, default=8)
    parser.add_argument("--loss", type=float, default=0.005)
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--exit_images", type=int, default=2_000, help="validation images that early exit is set on")
    given = parser.parse_args(args)
    data = Cifar10(given.data)
    calibration = data.calibration(200, 1, 0)
    snn = convert(load(given.network), given.num_steps, batches=calibration)
    snn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    test = data.batches("test", given.images)
    print(f"before calibration\n{measure_energy(snn, test)}\n")
    calibrate_(snn, calibration)
    cost = measure_energy(snn, test)
    print(f"calibrated\n{cost}\n")
    print(choose_exit_(snn, data.batches("val", given.exit_images), loss=given.loss))
    result = evaluate_exit(snn, test)
    print(result)
    for name in ("45nm", "neuromorphic"):
        mean = cost.joules(name)[result.steps - 1].mean().item()
        print(f"{name}: {100 * mean / cost.ann_joules(name):.1f} % of the ANN's energy with early exit")


if __name__ == "__main__":
    main()
