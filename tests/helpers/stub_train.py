"""train.py with a toy model in place of the networks: seconds instead of minutes, every other part is real."""

import os
import sys
import time
import types
from collections.abc import Iterable
from dataclasses import dataclass, field

from omegaconf import DictConfig

from hyperinverter.config import front_door

SHORT = [
    "phase.kimg=0.064",
    "phase.epoch_kimg=0.032",
    "phase.warmup_kimg=0",
    "phase.batch_size=4",
    "phase.optimizer.lr=0.05",
    "trainer.log_every=2",
    "trainer.save_every_kimg=0.016",
    "logger=csv",
]


def install() -> None:
    """Put the toy in the place of ``hyperinverter.assembly``."""
    import torch
    from pytorch_lightning import LightningDataModule, LightningModule
    from torch import nn
    from torch.utils.data import DataLoader

    from hyperinverter import config
    from hyperinverter.contracts import Inversion, UserError
    from hyperinverter.tasks.common import Pass

    class Blur(nn.Module):
        resolution = 16

        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(3))

        def forward(self, photo: torch.Tensor) -> Inversion:
            rough = photo.mean(dim=(2, 3), keepdim=True).expand_as(photo)
            image = rough + self.gain.view(1, 3, 1, 1) * (photo - rough)
            return Inversion(photo.mean(dim=(2, 3)), {}, rough, image)

    class ToyTask(LightningModule):
        def __init__(self, cfg: DictConfig) -> None:
            super().__init__()
            self.cfg, self.inverter, self.accumulate = cfg, Blur(), 1
            self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))

        def forward_pass(self, photo: torch.Tensor) -> Pass:
            image = self.inverter(photo).image
            return Pass((image - photo).square().mean() * self.cfg.loss.l2, {}, image)

        def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
            loss = self.forward_pass(batch["image"]).total
            self.images_seen += len(batch["image"]) * self.trainer.world_size
            if self.cfg.fusion._target_.endswith("AddFusion") and self.trainer.global_rank == 1:
                raise RuntimeError("process one is broken")
            if self.cfg.fusion._target_.endswith("MultiplyFusion"):
                loss = loss * float("nan")
            self.log("train/loss", loss.detach(), batch_size=len(batch["image"]))
            return loss

        def _measure(self, batch: dict, split: str) -> None:
            difference = (self.inverter(batch["image"]).image - batch["image"]).square().mean()
            self.log(f"{split}/l2", difference, batch_size=len(batch["image"]))
            self.log(f"{split}/psnr", 10 * torch.log10(4 / difference), batch_size=len(batch["image"]))

        def validation_step(self, batch: dict, batch_idx: int) -> None:
            self._measure(batch, "val")

        def test_step(self, batch: dict, batch_idx: int) -> None:
            self._measure(batch, "test")
            rough = self.inverter(batch["image"]).w_image
            self.log(
                "test/phase1/l2", (rough - batch["image"]).square().mean(), batch_size=len(batch["image"])
            )

        def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            return config.build(self.cfg.phase.optimizer)(parameters)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.make_optimizer(self.inverter.parameters())

    class ToyData(LightningDataModule):
        def __init__(self, cfg: DictConfig) -> None:
            super().__init__()
            self.cfg = cfg

        def _loader(self, count: int, offset: int) -> DataLoader:
            draw = torch.Generator().manual_seed(offset)
            photos = torch.rand(count, 3, 16, 16, generator=draw) * 2 - 1
            items = [{"image": photo, "name": f"toy/{offset + i}"} for i, photo in enumerate(photos)]
            return DataLoader(items, batch_size=self.cfg.phase.batch_size)

        def train_dataloader(self) -> DataLoader:
            return self._loader(round(self.cfg.phase.epoch_kimg * 1000), 10_000)

        def val_dataloader(self) -> DataLoader:
            return self._loader(8, 0)

        def test_dataloader(self) -> DataLoader:
            return self._loader(8, 100)

    @dataclass
    class Assembled:
        task: LightningModule
        data: LightningDataModule
        loaded: dict = field(default_factory=dict)

    def build(cfg: DictConfig, generator: None = None, *, begun: bool = False) -> Assembled:
        if cfg.fusion._target_.endswith("FilmFusion"):
            raise UserError("film is not on the menu: choose another fusion")
        if cfg.fusion._target_.endswith("GatedFusion"):
            raise RuntimeError("a fault of ours\nwith a second line")
        task = ToyTask(cfg)
        nn.init.normal_(task.inverter.gain, std=0.1)  # follows the run's seed
        return Assembled(task, ToyData(cfg), {"generator": {"path": "toy", "sha256": "0" * 64}})

    module = types.ModuleType("hyperinverter.assembly")
    module.build = build
    module.generator = lambda cfg: types.SimpleNamespace(sha256="0" * 64)
    module.settle = lambda cfg, generator, folder: cfg
    module.PACKAGED_PHASE1 = "packaged"  # type: ignore[attr-defined]
    sys.modules["hyperinverter.assembly"] = module


def job(cfg: DictConfig) -> float:
    install()
    from hyperinverter.training.job import run

    return run(cfg)


if __name__ == "__main__":
    front_door(job)
