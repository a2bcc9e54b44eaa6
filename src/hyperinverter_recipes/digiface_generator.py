"""Train the StyleGAN2 generator of the digiface domain; resumable.

    python -m hyperinverter_recipes.digiface_generator --out outputs/digiface_generator --kimg 60

Two demands on one generator. An encoder maps a face x to w and the generator must draw x again (L1 and a
perceptual term), which keeps every face reachable. And what it draws must pass for real in front of small
heads on frozen EfficientNet-lite0 features (Sauer et al. 2021, "Projected GANs"), which keeps it sharp. The
faces come from a sampler, so the latent z behind each of them is known: at the end the mapping network
learns z -> w by regression on the encoder's codes, and samples therefore cover all of the data instead of a
few looks.
"""

import argparse
import copy
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torchvision.utils import save_image
from tqdm import tqdm

from hyperinverter.data.digiface import Z_DIM, accepted_indices, sample_faces
from hyperinverter.judges.efficientnet import EfficientNetLite0Features
from hyperinverter.networks.generator import Generator, GeneratorConfig
from hyperinverter.system.files import replacing
from hyperinverter_recipes.running import said

CONFIG = GeneratorConfig(
    z_dim=Z_DIM,
    w_dim=128,
    img_resolution=64,
    mapping_layers=4,
    mapping_lr_multiplier=0.1,
    channel_base=2048,
    channel_max=128,
)
ENLARGE = 2  # EfficientNet expects larger faces; 128 px is the best its cost allows on two cores
EMA_KIMG = 2.0  # half-life of the averaged generator, in thousands of images


def latents(indices: np.ndarray) -> Tensor:
    """The sampler's own z of each face, ``(N, 100)``."""
    draws = [torch.randn(Z_DIM, generator=torch.Generator().manual_seed(int(i))) for i in indices]
    return torch.stack(draws)


class AutoEncoderHead(nn.Module):
    """Small residual encoder, 64 px photo -> offset from w_avg; only used while the generator is made."""

    def __init__(self, w_dim: int) -> None:
        super().__init__()
        widths = (32, 64, 128, 192, 256)
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        stages = []
        for inside, outside in itertools.pairwise(widths):
            stages.append(
                nn.ModuleList(
                    [
                        nn.Conv2d(inside, outside, 4, 2, 1),
                        nn.Conv2d(outside, outside, 3, padding=1),
                    ]
                )
            )
        self.stages = nn.ModuleList(stages)
        self.out = nn.Linear(widths[-1] * 16, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for stage in self.stages:
            down, conv = stage.children()
            x = F.leaky_relu(down(x), 0.2)
            x = x + F.leaky_relu(conv(x), 0.2)
        return self.out(x.flatten(1))


class Heads(nn.Module):
    """Realness from frozen features: per tap one fixed random mixing and a few strided convolutions."""

    def __init__(self, channels: tuple[int, ...], sizes: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        self.mixing = nn.ModuleList(
            nn.Conv2d(c, width, 1, bias=False).requires_grad_(False) for c in channels
        )
        self.heads = nn.ModuleList()
        for size in sizes:
            layers: list[nn.Module] = []
            while size > 4:
                layers += [spectral_norm(nn.Conv2d(width, width, 4, 2, 1)), nn.LeakyReLU(0.2)]
                size //= 2
            layers.append(spectral_norm(nn.Conv2d(width, 1, 4)))
            self.heads.append(nn.Sequential(*layers))

    def forward(self, taps: list[Tensor]) -> Tensor:
        """Return one logit per image and tap, ``(B, taps)``."""
        scores = [head(mix(tap)) for tap, mix, head in zip(taps, self.mixing, self.heads, strict=True)]
        return torch.stack([score.flatten(1).mean(1) for score in scores], dim=1)


class Features(nn.Module):
    """EfficientNet-lite0 taps of the enlarged image, each scaled to unit spread."""

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.net = EfficientNetLite0Features()
        self.gains = [1.0] * len(self.net.channels)
        with torch.no_grad():
            self.gains = [1 / float(tap.std()) for tap in self(reference)]

    def forward(self, image: Tensor) -> list[Tensor]:
        large = F.interpolate(image, scale_factor=ENLARGE, mode="bilinear", align_corners=False)
        taps = self.net(large.contiguous(memory_format=torch.channels_last))
        return [tap * gain for tap, gain in zip(taps, self.gains, strict=True)]


def perceptual(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Squared distance of unit-length features, mean over places, summed over taps."""
    pairs = zip(a, b, strict=True)
    return torch.stack(
        [(F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean() for x, y in pairs]
    ).sum()


class Faces:
    """The training faces in memory, with the latent of each."""

    def __init__(self, count: int, first: int) -> None:
        self.indices = accepted_indices()[first : first + count]
        chunks = np.array_split(self.indices, max(1, len(self.indices) // 512))
        self.pixels = torch.from_numpy(
            np.concatenate([sample_faces(chunk) for chunk in tqdm(chunks, desc="drawing faces")])
        )
        self.z = latents(self.indices)

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images ``(B, 3, 64, 64)`` in [-1, 1], randomly mirrored where no latent is needed, and z."""
        pick = torch.randint(len(self.indices), (size,), generator=generator)
        return self.pixels[pick].permute(0, 3, 1, 2).float() / 127.5 - 1, self.z[pick]


class Training:
    """Networks, their optimizers and the count of images; begins with ``state.pt`` of its folder if there is one."""

    def __init__(self, args: argparse.Namespace, faces: Faces) -> None:
        torch.manual_seed(args.seed)
        self.args, self.faces = args, faces
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.features = Features(faces.pixels[:256].permute(0, 3, 1, 2).float() / 127.5 - 1)
        self.generator = Generator(CONFIG)
        if args.start:
            _start_from(self.generator, args.start)
        self.encoder = AutoEncoderHead(CONFIG.w_dim)
        sizes = tuple(64 * ENLARGE // stride for stride in self.features.net.strides)
        self.heads = Heads(self.features.net.channels, sizes)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.encoder.to(memory_format=torch.channels_last)
        groups = [
            {"params": list(self.generator.synthesis.parameters()), "speed": 1.0},
            {"params": list(self.encoder.parameters()), "speed": 0.5, "betas": (0.9, 0.99)},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=args.lr, betas=(0.0, 0.99))
        self.heads_optimizer = torch.optim.Adam(
            [p for p in self.heads.parameters() if p.requires_grad], lr=args.lr_heads, betas=(0.0, 0.99)
        )
        self.seen = 0
        if self._state_file.exists():
            self._resume()

    def run(self) -> None:
        """Train up to ``--kimg``; every ``--every`` steps save the state, a grid of pictures and a line of numbers."""
        args, total = self.args, int(self.args.kimg * 1000)
        draws = torch.Generator().manual_seed(args.seed + self.seen)
        numbers: dict[str, float] = {}
        bar = tqdm(total=total, initial=self.seen, unit="img", mininterval=10)
        step, started = 0, time.monotonic()
        while self.seen < total:
            self._set_rates(total)
            photo, _ = self.faces.batch(args.batch, draws)
            w, image, now = self._step(photo)
            self._average(w)
            self.seen += args.batch
            step += 1
            numbers = {k: 0.98 * numbers.get(k, v) + 0.02 * v for k, v in now.items()}
            bar.update(args.batch)
            if step % 20 == 0:
                bar.set_postfix({k: f"{v:.3f}" for k, v in numbers.items()})
            if step % args.every == 0 or self.seen >= total:
                self._save()
                self._draw(photo[:8], image[:8], w[:8])
                self._log(numbers, time.monotonic() - started)

    def _set_rates(self, total: int) -> None:
        """A short warm-up, then a long fade."""
        left = 1 - self.seen / total
        for group in self.optimizer.param_groups:
            rate = min(1.0, self.seen / 1000 + 0.01, left / 0.4 + 0.02)
            # A generator that has learnt is not led astray by an encoder that has not.
            held = self.seen < self.args.hold and group is self.optimizer.param_groups[0]
            group["lr"] = 0.0 if held else self.args.lr * group["speed"] * rate
        for group in self.heads_optimizer.param_groups:
            group["lr"] = self.args.lr_heads * min(1.0, left / 0.4 + 0.02)

    def _step(self, photo: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
        """One step of generator and encoder, then one of the heads: codes, images and the losses."""
        # Until the autoencoder draws faces, the heads would win at once and teach nothing.
        judged = self.seen >= self.args.adv_from
        w = self.generator.w_avg + self.encoder(photo)
        image = self.generator.synthesis(w)
        with torch.no_grad():
            real = self.features(photo)
        fake = self.features(image)
        self.heads.requires_grad_(False)
        l1 = (
            F.l1_loss(image, photo)
            + sum(F.l1_loss(F.avg_pool2d(image, k), F.avg_pool2d(photo, k)) for k in (4, 16)) / 2
        )
        lp = perceptual(fake, real)
        fool = -self.heads(fake).mean() if judged else l1.new_zeros(())
        loss = self.args.l1 * l1 + self.args.lp * lp + self.args.adv * fool
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.heads.heads.requires_grad_(True)
        hinge = self._step_of_heads(real, [tap.detach() for tap in fake]) if judged else 0.0
        return w.detach(), image, {"l1": float(l1), "lp": float(lp), "fool": float(fool), "hinge": hinge}

    def _step_of_heads(self, real: list[Tensor], fake: list[Tensor]) -> float:
        hinge = F.relu(1 - self.heads(real)).mean() + F.relu(1 + self.heads(fake)).mean()
        self.heads_optimizer.zero_grad(set_to_none=True)
        hinge.backward()
        self.heads_optimizer.step()
        return float(hinge)

    @torch.no_grad()
    def _average(self, w: Tensor) -> None:
        """The averaged generator, and the mean of the codes in both."""
        decay = 0.5 ** (self.args.batch / min(EMA_KIMG * 1000, max(self.seen, 1) * 0.2 + 200))
        for mean, new in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)
        self.generator.w_avg.lerp_(w.mean(0), 0.01)
        self.averaged.mapping.w_avg.copy_(self.generator.w_avg)

    @property
    def _state_file(self) -> Path:
        return self.out / "state.pt"

    @property
    def _saved(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What a state file holds, by its name there."""
        return {
            "generator": self.generator,
            "averaged": self.averaged,
            "encoder": self.encoder,
            "heads": self.heads,
            "optimizer": self.optimizer,
            "critic": self.heads_optimizer,  # its name in earlier files
        }

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._saved.items()}
        with replacing(self._state_file, sole=True) as file:
            torch.save(state | {"seen": self.seen, "rng": torch.get_rng_state()}, file)

    def _resume(self) -> None:
        state = torch.load(self._state_file, weights_only=True)
        for name, part in self._saved.items():
            part.load_state_dict(state[name])
        self.seen = state["seen"]
        torch.set_rng_state(state["rng"])

    @torch.no_grad()
    def _draw(self, photo: Tensor, image: Tensor, w: Tensor) -> None:
        """Photos, what is drawn of them, and what the averaged generator draws: a row each."""
        rows = torch.cat([photo, image, self.averaged.synthesis(w)])
        save_image(rows.clamp(-1, 1) / 2 + 0.5, self.out / f"grid_{self.seen:06d}.png", nrow=8)

    def _log(self, numbers: dict[str, float], seconds: float) -> None:
        line = {"seen": self.seen, "seconds": round(seconds), **{k: round(v, 4) for k, v in numbers.items()}}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _start_from(generator: Generator, path: str) -> None:
    """Give a generator the synthesis network and the mean code of a file."""
    weights = {name: tensor.float() for name, tensor in load_file(path).items()}
    kept = {k.removeprefix("synthesis."): v for k, v in weights.items() if k.startswith("synthesis.")}
    generator.synthesis.load_state_dict(kept)
    generator.mapping.w_avg.copy_(weights["mapping.w_avg"])


def train(args: argparse.Namespace) -> None:
    """Train the generator, fit its mapping network, and write samples and the file that ships."""
    faces = Faces(args.faces, first=1512)  # test and validation faces come first and are never seen
    training = Training(args, faces)
    training.run()
    averaged = training.averaged
    fit_mapping(averaged, training.encoder, faces)
    with torch.no_grad():
        save_image(averaged(faces.z[:64]).clamp(-1, 1) / 2 + 0.5, training.out / "samples.png", nrow=8)
    export(averaged, faces, args, training.out / "digiface_generator.safetensors")


def fit_mapping(generator: Generator, encoder: nn.Module, faces: Faces, steps: int = 6000) -> None:
    """Regress the encoder's code of each face on the latent the face was drawn from.

    What regression cannot explain is lost variety, so the share explained is printed.
    """
    with torch.no_grad():
        photos = faces.pixels.permute(0, 3, 1, 2)
        codes = torch.cat([encoder(chunk.float() / 127.5 - 1) for chunk in photos.split(256)])
        codes = codes + generator.mapping.w_avg
    mapping = generator.mapping.requires_grad_(True)
    held_out = len(codes) // 20
    optimizer = torch.optim.Adam(mapping.parameters(), lr=1e-2, betas=(0.9, 0.99))
    spread = codes.var(dim=0).mean()
    for step in tqdm(range(steps), desc="fitting the mapping network"):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        pick = torch.randint(held_out, len(codes), (512,))
        loss = (mapping(faces.z[pick])[:, 0] - codes[pick]).square().mean() / spread
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    mapping.requires_grad_(False)
    with torch.no_grad():
        left = (mapping(faces.z[:held_out])[:, 0] - codes[:held_out]).square().mean() / spread
    print(f"mapping network explains {1 - float(left):.1%} of the codes of held-out faces")


@torch.no_grad()
def export(generator: Generator, faces: Faces, args: argparse.Namespace, path: Path) -> None:
    """Write the averaged generator in float16 with its recipe; w_avg becomes the mean of mapped latents."""
    generator.mapping.w_avg.copy_(generator.mapping(faces.z)[:, 0].mean(0))
    recipe = {k: v for k, v in vars(args).items() if k not in ("out", "start")} | {
        "start": Path(args.start).name if args.start else None
    }
    header = {"config": json.dumps(generator.metadata()), "recipe": json.dumps(recipe)}
    tensors = {name: tensor.half().contiguous() for name, tensor in generator.state_dict().items()}
    with replacing(path) as unfinished:
        save_file(tensors, unfinished, header)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digiface generator.")
    parser.add_argument("--out", default="outputs/digiface_generator")
    parser.add_argument("--start", default=None, help="safetensors file whose synthesis network is the start")
    parser.add_argument("--kimg", type=float, default=60)
    parser.add_argument("--faces", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--lr-heads", type=float, default=2e-4)
    parser.add_argument("--l1", type=float, default=2.0)
    parser.add_argument("--lp", type=float, default=1.0)
    parser.add_argument("--adv", type=float, default=0.15)
    parser.add_argument("--adv-from", type=int, default=4000, help="images before the heads join")
    parser.add_argument("--hold", type=int, default=0, help="images during which only the encoder learns")
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    said(main)
