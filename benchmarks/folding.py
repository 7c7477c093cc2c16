"""What folding batch normalisation does to the accuracy of the kept networks, in points, on the same images.

python benchmarks/folding.py --data FOLDER --draws 1 2 3 --images 500
"""

import argparse
from collections.abc import Sequence

import torch
from tables import at, head, row
from torch import Tensor
from trained import Cifar10, accuracy, load

from ftbc_pl import calibrate_, convert, evaluate

NETWORKS = ("cifar10_r20_relu", "cifar10_r20_qcfs4")


@torch.no_grad()
def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.tar and test.tar of class folders")
    parser.add_argument("--num_steps", type=int, default=4)
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2, 3], help="of 200 calibration images each")
    parser.add_argument("--images", type=int, default=500, help="test images, spread evenly")
    parser.add_argument("--validation", type=int, default=5_000, help="validation images that were held out")
    given = parser.parse_args(args)
    data = Cifar10(given.data, validation=given.validation)
    test, all_points = data.batches("test", given.images), []
    print(head("network, draw", "", "ANN", *at(range(1, given.num_steps + 1))))
    for draw in given.draws:
        images = data.calibration(200, 1, draw)
        for name in NETWORKS:
            found: list[list[Tensor]] = []
            for fold in (False, True):
                snn = convert(load(name), given.num_steps, batches=images, fold_bn=fold)
                ann = torch.tensor([accuracy(snn.network, test)])
                with snn.uncalibrated():
                    before = evaluate(snn, test, progress=False)
                calibrate_(snn, images, progress=False)
                found.append([torch.cat([ann, x.cpu()]) for x in (before, evaluate(snn, test, progress=False))])
            for title, apart, folded in zip(("uncalibrated", "calibrated"), *found, strict=True):
                points = 100 * (folded - apart)
                print(row(f"{name}, {draw}", title, *(f"{value:+.1f}" for value in points.tolist())), flush=True)
            all_points.append(points[1:])
    print(f"\nIn the mean of all steps and draws, calibrated: {torch.cat(all_points).mean():+.2f} points.")


if __name__ == "__main__":
    main()
