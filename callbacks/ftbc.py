"""Convert and calibrate the network when training ends."""

import copy
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from ftbc_pl.calibration import CalibrationOptions, CalibrationReport, calibrate_
from ftbc_pl.conversion import SpikingNetwork, convert
from ftbc_pl.conversion.measure import check_threshold
from ftbc_pl.functional.fused import check_compiler
from ftbc_pl.io import save_snn
from ftbc_pl.task import network_of

_RESULTS = ("results.json", "snn.json", "snn.safetensors")


class FTBC(Callback):
    """Forward Temporal Bias Correction at the end of ``fit``.

    Takes the weights of the best checkpoint (the last ones if there is none), converts the network, calibrates it in
    one forward a batch of training images, and saves ``snn.safetensors`` and ``snn.json``. Afterwards :attr:`snn`,
    :attr:`report` and :attr:`folder` hold the network, what the calibration did, and where it was saved.

    The datamodule must have ``calibration_dataloader(batch_size, num_batches)``, as those of :mod:`ftbc_pl.data` do.
    """

    def __init__(
        self,
        enabled: bool = True,
        num_steps: int = 8,
        solver: Literal["heuristic", "exact", "balanced"] = "exact",
        granularity: Literal["channel", "layer"] = "channel",
        alpha: float = 0.5,
        mean_weight: float | None = None,
        horizon: int | None = None,
        passes: int = 1,
        num_batches: int = 1,
        batch_size: int = 128,
        readout: Literal["least_squares", "mean"] = "least_squares",
        threshold: str | float = "mse",
        v0: float = 0.5,
        smooth: Literal["error", "rate"] = "error",
        fold_bn: bool = False,
        time_chunk: int | None = None,
        compile: bool = False,
        output_dir: str | None = None,
        overwrite: bool = False,
        network: str = "network",
    ) -> None:
        """Create the callback.

        Args:
            enabled: Switch off to train the ANN only.
            num_steps: Timesteps T to convert and calibrate for; accuracy is reported at every t up to T.
            solver: exact makes every channel fire as often as the ANN demands: good at every step. balanced keeps the
                output of single neurons close to the ANN's as well: better at its horizon on networks that were not
                trained for few steps, at the cost of the steps before it. heuristic is the paper's rule.
            granularity: One bias a channel, or one for the whole layer.
            alpha: Step size of heuristic, in (0, 1].
            mean_weight: How much more an error of a channel's mean counts in balanced than one of a neuron, 0 or more;
                left out: by horizon.
            horizon: Timestep whose accuracy matters to balanced; left out: num_steps.
            passes: How often heuristic goes over the batches.
            num_batches: Batches of training images to calibrate with.
            batch_size: Images in each of them, counted over all processes.
            readout: What the prediction at t is made of. least_squares weighs the outputs of the steps up to t so that
                they come closest to the ANN's output; mean is their plain mean, as in the papers.
            threshold: mse, max or a percentile: how the thresholds of ReLU and clipped ReLU are measured; QCFS has its
                own.
            v0: Membrane at the start as a fraction of the threshold.
            smooth: rate runs GELU and the like without spikes; error refuses them.
            fold_bn: Whether batch normalisation is folded into the layers before it: faster, same outputs to rounding.
            time_chunk: Timesteps simulated at once; less needs less memory, the result is the same. Left out: all on a
                GPU, few on a CPU, where that is faster.
            compile: Whether torch.compile makes a kernel of the neurons for the evaluation; the result is the same.
            output_dir: Folder for the results; left out: a new one below runs/.
            overwrite: Whether output_dir may hold the results of an earlier run.
            network: Attribute of the LightningModule that holds the network.

        Raises:
            ValueError: A value is out of range.
        """
        super().__init__()
        if num_steps < 1:
            raise ValueError(f"ftbc.num_steps must be at least 1, got {num_steps}.")
        if horizon is not None and horizon > num_steps:
            raise ValueError(f"ftbc.horizon must be one of the {num_steps} timesteps, got {horizon}.")
        if batch_size < 1:
            raise ValueError(f"ftbc.batch_size must be at least 1, got {batch_size}.")
        if time_chunk is not None and time_chunk < 1:
            raise ValueError(f"ftbc.time_chunk must be at least 1, got {time_chunk}.")
        self.enabled = enabled
        self.num_steps = num_steps
        self.options = CalibrationOptions(
            solver, granularity, alpha, mean_weight, horizon, passes, num_batches, readout
        )
        self.batch_size = batch_size
        self.conversion: dict[str, Any] = {
            "threshold": check_threshold(threshold), "v0": v0, "smooth": smooth, "fold_bn": fold_bn
        }  # fmt: skip
        self.time_chunk = time_chunk
        self.compile = compile
        self.output_dir = output_dir
        self.overwrite = overwrite
        self.network = network
        self.snn: SpikingNetwork | None = None
        self.report: CalibrationReport | None = None
        self.folder: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the output folder before the training, not after it."""
        if self.enabled and stage == "fit":
            self.claim_folder(trainer)
            self._calibration_loader(trainer)
            if self.compile:
                check_compiler(self.device(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Convert, calibrate and save; the last hook of fit, so weight averaging and checkpoints are done."""
        if self.enabled:
            ann = copy.deepcopy(network_of(pl_module, self.network))
            self._load_best_weights(trainer, ann)
            self.calibrate(trainer, ann)

    def calibrate(self, trainer: Trainer, ann: nn.Module) -> SpikingNetwork:
        """Convert and calibrate ``ann`` in 32 bits on the trainer's device, and save the result."""
        folder = self.claim_folder(trainer)
        loader = self._calibration_loader(trainer)
        ann = ann.float().to(self.device(trainer))
        snn = convert(ann, self.num_steps, batches=loader, num_batches=self.options.num_batches, **self.conversion)
        rank_zero_info(f"\n{snn.report}\n")
        snn.time_chunk = self.time_chunk
        if self.compile:
            snn.compile()
        self.report = calibrate_(snn, loader, **vars(self.options), progress=trainer.progress_bar_callback is not None)
        rank_zero_info(str(self.report))
        if trainer.is_global_zero:
            save_snn(snn, folder / "snn", report=self.report)
        self.snn = snn
        return snn

    def device(self, trainer: Trainer) -> torch.device:
        """Where the spiking network runs: the trainer's device, but no MPS."""
        device: torch.device = trainer.strategy.root_device
        # MPS has no float64, in which means are summed.
        return torch.device("cpu") if device.type == "mps" else device

    def claim_folder(self, trainer: Trainer) -> Path:
        """Choose and make the output folder; the same one for all processes.

        Raises:
            FileExistsError: The given folder holds another run's results.
        """
        if self.folder is None:
            chosen = self.output_dir or f"runs/{datetime.now():%Y%m%d-%H%M%S-%f}"
            folder = Path(trainer.strategy.broadcast(str(chosen)))
            earlier = [name for name in _RESULTS if (folder / name).exists()]
            if earlier and not self.overwrite:
                raise FileExistsError(
                    f"{folder} holds {earlier[0]} of another run: choose another ftbc.output_dir, leave it out to get "
                    "a new one, or pass --ftbc.overwrite true."
                )
            trainer.strategy.barrier()
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
            self.folder = folder
        return self.folder

    def _calibration_loader(self, trainer: Trainer) -> Any:
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "calibration_dataloader"):
            raise TypeError(
                "FTBC takes calibration images from the datamodule's calibration_dataloader(batch_size, num_batches), "
                f"which {type(data).__name__} has not: use a ftbc_pl.data module or add the method."
            )
        return data.calibration_dataloader(self.batch_size, self.options.num_batches)

    def _load_best_weights(self, trainer: Trainer, ann: nn.Module) -> None:
        path = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if not path or not Path(path).is_file():
            rank_zero_info("FTBC converts the last weights: no best checkpoint was kept.")
            return
        prefix = f"{self.network}."
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        ann.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        rank_zero_info(f"FTBC converts the weights of the best checkpoint, {path}.")
