"""Turn a checkpoint of `ftbc-pl fit` into trained weights for the benchmarks, with a JSON that says what they are.

    python benchmarks/export.py cifar10_r20_qcfs4 --checkpoint best.ckpt --data FOLDER --made_by "COMMAND; HARDWARE"

Measures the accuracy on the 5,000 validation and, once, on the 10,000 test images.
"""

import argparse
import json

import torch
import trained
from safetensors.torch import save_file

from ftbc_pl.models import read_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="name below benchmarks/weights")
    parser.add_argument("--checkpoint", required=True, help="checkpoint of `ftbc-pl fit`")
    parser.add_argument("--data", required=True, help="folder with train.tar and test.tar of CIFAR-10")
    parser.add_argument("--made_by", required=True, help="commands and hardware of the training")
    parser.add_argument("--device", default="cpu", help="where to measure, such as cuda")
    args = parser.parse_args()
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    model = {key: saved["hyper_parameters"][key] for key in ("network", "activation", "levels")}
    state = read_weights(args.checkpoint).items()
    weights = {key.removeprefix("network."): value.contiguous() for key, value in state if key.startswith("network.")}
    trained.WEIGHTS.mkdir(exist_ok=True)
    save_file(weights, trained.WEIGHTS / f"{args.name}.safetensors")
    path = trained.WEIGHTS / f"{args.name}.json"
    about = {"model": model, "made_by": args.made_by, "epoch": saved["epoch"], "steps": saved["global_step"]}
    path.write_text(json.dumps(about, indent=2))
    ann, data = trained.load(args.name).to(args.device), trained.Cifar10(args.data, device=args.device)
    about["accuracy"] = {
        "validation": trained.accuracy(ann, data.batches("val", 5000)),
        "test": trained.accuracy(ann, data.batches("test", 10_000)),
    }
    path.write_text(json.dumps(about, indent=2) + "\n")
    print(json.dumps(about, indent=2))


if __name__ == "__main__":
    main()
