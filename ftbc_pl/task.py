"""The LightningModule that trains the ANN."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ftbc_pl.conversion import prepare
from ftbc_pl.conversion.batch import images_and_labels, to_images
from ftbc_pl.conversion.prepare import measure_start_thresholds_
from ftbc_pl.layers import Activation
from ftbc_pl.models import assign_weights, create_network
from ftbc_pl.models.images import CLASSES, IMAGES, checked, remember_images, remembered
from ftbc_pl.models.weights import read_trained
from ftbc_pl.schedules import Cosine, OneCycle, announce_length

_KEEPS_RELU = (
    "The network starts from trained weights and keeps its ReLU (activation: relu); activation: qcfs with threshold: "
    "measured would train on with QCFS."
)
# Looking at the loss makes a GPU wait, so not at every step.
_CHECK_EVERY = 20
# Images on which start thresholds are measured, over all processes.
_MEASURED_IMAGES = 128
# Where a checkpoint says what its training started from: history, with which no network is built again.
STARTED_FROM = "started_from"
# Learning rates of the default optimizer, for random and for trained weights.
TRAINING_RATE, FINE_TUNING_RATE = 0.1, 0.01
FEW_CLASSES = 5  # of which all would be among the first five


def default_optimizer(parameters: Any, lr: float = TRAINING_RATE) -> Optimizer:
    """SGD as in the QCFS paper: learning rate 0.1, momentum 0.9, weight decay 5e-4."""
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)


class ImageClassifier(LightningModule):
    """Trains an image classifier with activations that convert well."""

    def __init__(
        self,
        network: str = "cifar_resnet20",
        num_classes: int = 10,
        in_chans: int = 3,
        pretrained: bool = False,
        weights: str | None = None,
        reset_head: bool = False,
        pooling: Literal["max", "avg"] | None = None,
        network_args: dict[str, Any] | None = None,
        activation: str | None = None,
        levels: int = 8,
        threshold: float | Literal["measured"] | None = None,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
        optimizer: Callable[[Any], Optimizer] = default_optimizer,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = Cosine,
    ) -> None:
        """Create network and metrics.

        Args:
            network: A name of timm's registry, such as resnet34; cifar_resnet20 and cifar_vgg16 are this package's.
            num_classes: Number of classes; on the command line taken from the data.
            in_chans: Channels of the images: 3 for colour, 1 for grey.
            pretrained: Start from timm's pretrained weights, downloading them where needed.
            weights: Start from this file: safetensors, a PyTorch state dict or a Lightning checkpoint; those of a ReLU
                network are taken for qcfs and rts too.
            reset_head: Whether weights for another number of classes are taken all the same, but for the last layer.
            pooling: max or avg for ResNets and VGGs; left out: as the network is.
            network_args: Whatever else the network's constructor takes.
            activation: relu leaves the network as it is; qcfs trains with quantised activations and one learnable
                threshold per layer; rts with ReLU clipped at a fixed threshold. One of your own is named as
                module:name. Left out: relu for a network that starts from trained weights of ReLU, without a threshold
                being given, else qcfs.
            levels: Quantisation levels L of qcfs.
            threshold: θ at the start, in activation units; measured: from the activations of training images when fit
                begins, for networks that start from trained weights; left out: 8 for qcfs, 1 for rts.
            label_smoothing: Weight of the uniform distribution in the targets, in [0, 1).
            channels_last: Keep images and weights with channels last; faster for convolutions in 16 bits.
            compile: Compile the network with torch.compile.
            optimizer: The optimizer; on the command line the section optimizer. Left out: SGD with a learning rate of
                0.1, and 0.01 from trained weights.
            lr_scheduler: The schedule; on the command line the section lr_scheduler.

        Raises:
            ValueError: The network is unknown, or weights do not fit it.
        """
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler", "weights", "pretrained"])
        self.started_from: dict[str, Any] = {"weights": weights, "pretrained": pretrained}
        trained, trained_images = (None, {}) if weights is None else read_trained(weights)
        has_thresholds = trained is not None and any(key.endswith("threshold") for key in trained)
        if activation is None:
            keeps = (pretrained or trained is not None) and not has_thresholds and threshold is None
            activation = "relu" if keeps else "qcfs"
            if keeps:
                rank_zero_info(_KEEPS_RELU)
        self.save_hyperparameters({"activation": activation})
        created = create_network(
            network, num_classes=num_classes, in_chans=in_chans, pretrained=pretrained, pooling=pooling,
            **(network_args or {}),
        )  # fmt: skip
        if trained is not None and not has_thresholds:
            assign_weights(created, trained, str(weights), reset_head=reset_head)
        self.measure_thresholds = threshold == "measured"
        start = None if threshold == "measured" else threshold
        self.network = prepare(created, activation, levels=levels, threshold=start)
        if trained is not None and has_thresholds:
            assign_weights(self.network, trained, str(weights), reset_head=reset_head)
        if len(trained_images.get(CLASSES, ())) != num_classes:  # those of the head that is not taken
            trained_images.pop(CLASSES, None)
        remember_images(self.network, trained_images)
        if channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.compiles = compile
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        chosen: dict[str, Metric | MetricCollection] = {"accuracy": MulticlassAccuracy(num_classes, average="micro")}
        if num_classes > FEW_CLASSES:
            chosen["top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
        metrics = MetricCollection(chosen)
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, C, H, W)."""
        return self.network(images.contiguous(memory_format=self.memory_format))  # type: ignore[no-any-return]

    def setup(self, stage: str) -> None:
        """Check that network and data have the same classes, and measure the thresholds to start from if asked to."""
        self.check_classes(self.trainer)
        if stage == "fit" and self.measure_thresholds:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            # In several processes each sees its own share; DDP hands on what the first one has measured.
            images = min(_MEASURED_IMAGES, len(data.images("calibration")))
            measure_start_thresholds_(self.network, data.calibration_dataloader(images, 1))
        if self.compiles:
            # Not before: the measurement would be compiled too, for a CPU and in pieces, which takes minutes.
            self.network.compile()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the training started from, and how the images looked."""
        checkpoint[STARTED_FROM] = self.started_from
        checkpoint[IMAGES] = remembered(self.network)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on saying what the training started from."""
        self.started_from = checkpoint.get(STARTED_FROM, self.started_from)
        remember_images(self.network, checked(checkpoint.get(IMAGES)))

    def check_classes(self, trainer: Trainer) -> None:
        """Check that the network and the trainer's data have the same classes.

        Raises:
            ValueError: They have not.
        """
        found = getattr(getattr(trainer, "datamodule", None), "num_classes", self.num_classes)
        if found != self.num_classes:
            raise ValueError(
                f"The network has {self.num_classes} classes, the data {found}: set num_classes of the model to that."
            )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy of class indices (B,) or soft targets (B, num_classes)."""
        images, targets = images_and_labels(batch)
        loss = F.cross_entropy(self(images), targets, label_smoothing=self.label_smoothing)
        if batch_idx % _CHECK_EVERY == 0 and not bool(loss.isfinite()):
            raise ValueError(
                f"The training loss is {loss.item()} at step {self.global_step}: lower the learning rate, set "
                "trainer.gradient_clip_val, or train in 32 bits."
            )
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update loss, accuracy and, where there are more than five classes, top-5 accuracy."""
        self._evaluate(batch, self.val_metrics, "val/loss")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Update loss, accuracy and, where there are more than five classes, top-5 accuracy."""
        self._evaluate(batch, self.test_metrics, "test/loss")

    def _evaluate(self, batch: Any, metrics: MetricCollection, loss_name: str) -> None:
        images, labels = images_and_labels(batch)
        logits = self(images)
        metrics.update(logits, labels)
        self.log(loss_name, F.cross_entropy(logits, labels), batch_size=len(labels), sync_dist=True)
        self.log_dict(metrics, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(labels))

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Class (1, B) and its probability (B,)."""
        probability, predicted = self(to_images(batch)).float().softmax(-1).max(-1)
        return {"predicted": predicted.unsqueeze(0), "probability": probability}

    def configure_optimizers(self) -> Any:
        """Optimizer without weight decay on thresholds, and the schedule."""
        thresholds = [
            p for m in self.network.modules() if isinstance(m, Activation) for p in m.parameters(recurse=False)
        ]
        known = {id(p) for p in thresholds}
        others = [p for p in self.network.parameters() if p.requires_grad and id(p) not in known]
        groups: list[dict[str, Any]] = [{"params": others}]
        if thresholds:
            groups.append({"params": thresholds, "weight_decay": 0.0})
        make = self.optimizer
        if make is default_optimizer and any(self.started_from.values()):
            rank_zero_info(f"From trained weights, the learning rate is {FINE_TUNING_RATE} instead of {TRAINING_RATE}.")
            make = partial(default_optimizer, lr=FINE_TUNING_RATE)
        optimizer = make(groups)
        if self.lr_scheduler is None:
            return optimizer
        announce_length(optimizer, int(self.trainer.estimated_stepping_batches))
        schedule = self.lr_scheduler(optimizer)
        interval = "step" if isinstance(schedule, Cosine | OneCycle | OneCycleLR) else "epoch"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}
