"""StyleGAN2's generator: mapping and synthesis, with per-sample weight residuals.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN". Tensor names and the order of
operations are those of the StyleGAN2-ADA files, so their weights load without renaming; the constant FIR
filters are not stored.

Letters in shapes: B samples, L style layers (``num_ws``), D width of w, Z of z, C channels (I into a layer, O out
of it), H and W sides of a feature map, R side of the image.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hyperinverter.contracts import KernelSpec
from hyperinverter.networks.features import CONST, NOISE
from hyperinverter.networks.styled import Block, GeneratorConfig, MappingNetwork, StyledConv
from hyperinverter.ops.factored import (
    Residual,
    materialised,
)
from hyperinverter.ops.placing import placed
from hyperinverter.ops.policy import policy_of
from hyperinverter.ops.precision import at_least_float32
from hyperinverter.ops.resample import upsample_image

Residuals = Mapping[str, Residual]
STYLE = ".affine.bias"  # ends the name of a shift of styles


class Synthesis(nn.Module):
    """w -> image. Calling it with residuals draws every sample with its own weights."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.resolutions = config.resolutions
        self.num_ws, self.w_dim = config.num_ws, config.w_dim
        self.largest_map = max(config.channels(side) * side**2 for side in self.resolutions)  # of one sample
        self.checkpointing = (
            False  # keep each layer's input only; compute the layer again in the backward pass
        )
        self.low_precision = False  # draw in bfloat16 where no gradient is wanted
        for resolution in self.resolutions:
            self.add_module(f"b{resolution}", Block(config, resolution))

    def forward(
        self,
        ws: Tensor,
        residuals: Residuals | None = None,
        noise_mode: str = "const",
        drawn: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Draw images.

        Args:
            ws: One code per sample, ``(B, D)``, or one per style layer, ``(B, L, D)``.
            residuals: ``KernelSpec.name`` -> ``(B, *shape)``, added to the stored weights before gain,
                modulation and demodulation (HyperInverter, Eq. 4: theta + delta theta). Those of convolutions
                may be factored. ``b8.conv1.features`` -> ``(B, C, 8, 8)`` is added to what that layer gives, before
                torgb and the next layer read it. ``b8.conv1.affine.bias`` -> ``(B, C)`` moves that layer's style
                (see ``styles``). ``b4.const`` -> ``(B, C, 4, 4)`` is added to the constant, ``b8.conv1.noise`` ->
                ``(B, 8, 8)`` to that layer's noise times its strength (see ``own_maps``).
            noise_mode: "const" (stored noise), "random" or "none".
            drawn: Maps of the first convolutions, which are not computed again: what ``maps_to`` gives for the same
                codes and residuals of weights.

        Returns:
            RGB, ``(B, 3, R, R)``, in about [-1, 1], not clamped.

        Raises:
            ValueError: For an unknown noise mode, codes of another shape or number, or residuals for tensors that do
                not exist or have another shape.
        """
        residuals, drawn = residuals or {}, drawn or {}
        ws = self._checked(ws, residuals, noise_mode)
        if self._in_bfloat16(ws.device.type):
            with torch.autocast(ws.device.type, torch.bfloat16):
                return self._draw_in_parts(ws, residuals, noise_mode, drawn)
        return self._draw_in_parts(ws, residuals, noise_mode, drawn)

    def _checked(self, ws: Tensor, residuals: Residuals, noise_mode: str) -> Tensor:
        """Check what ``forward`` is given; return a code for every style layer, ``(B, L, D)``."""
        if noise_mode not in ("const", "random", "none"):
            raise ValueError(f"noise_mode must be const, random or none, got {noise_mode!r}")
        if ws.ndim == 2:
            ws = ws[:, None].expand(-1, self.num_ws, -1)  # (B, D) -> (B, L, D)
        elif ws.ndim == 3 and ws.shape[1] != self.num_ws:
            raise ValueError(f"expected {self.num_ws} codes per sample, got {ws.shape[1]}")
        if ws.ndim != 3 or ws.shape[2] != self.w_dim:
            raise ValueError(
                f"expected codes (B, {self.w_dim}) or (B, L, {self.w_dim}), got {tuple(ws.shape)}"
            )
        if residuals:
            _check_residuals(residuals, self._shapes(), len(ws))
        return ws

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of all that can receive a residual, without the batch axis."""
        weights = {
            name: tuple(p.shape) for name, p in self.named_parameters() if name.endswith((".weight", STYLE))
        }
        features = self.feature_maps()
        noise = {f"{place}{NOISE}": shape[1:] for place, shape in features.items()}
        maps = {f"{place}.features": shape for place, shape in features.items()}
        return weights | {CONST: tuple(self._const().shape)} | noise | maps

    def feature_maps(self) -> dict[str, tuple[int, int, int]]:
        """Layers that can receive a feature residual, ``b4.conv1``, ``b8.conv0`` ...: shape of their map, (C, S, S)."""
        return {
            name: (len(layer.bias), *layer.noise_const.shape)
            for name, layer in self.named_modules()
            if isinstance(layer, StyledConv)
        }

    def own_maps(self) -> dict[str, tuple[int, int, int]]:
        """Maps among the generator's own tensors, ``b4.const``, ``b4.conv1.noise``, ``b8.conv0.noise`` ...: (C, S, S).

        They have a place for every detail, as feature maps do, and are part of every StyleGAN2 file: the constant that
        all images start from, and the stored noise of each convolution, one number per position for all channels.
        """
        noise = {f"{name}{NOISE}": (1, *shape[1:]) for name, shape in self.feature_maps().items()}
        channels, height, width = self._const().shape
        return {CONST: (channels, height, width), **noise}

    def styles(self) -> dict[str, int]:
        """Layers in the order of StyleSpace, ``b4.conv1``, ``b4.torgb``, ``b8.conv0`` ...: channels of their style.

        A style is what a layer's affine makes of w, before torgb's gain: S of Wu et al. 2021, "StyleSpace Analysis".
        The order and the numbers of layers are theirs.
        """
        kinds = [(side, kind) for side in self.resolutions for kind in ("conv0", "conv1", "torgb")]
        names = [f"b{side}.{kind}" for side, kind in kinds if (side, kind) != (4, "conv0")]
        return {name: len(self.get_parameter(f"{name}{STYLE}")) for name in names}

    def _in_bfloat16(self, device: str) -> bool:
        """Whether to draw in bfloat16; a precision that the caller chose is kept."""
        return self.low_precision and not torch.is_grad_enabled() and not torch.is_autocast_enabled(device)

    def _draw_in_parts(
        self, ws: Tensor, residuals: Residuals, noise_mode: str, drawn: Mapping[str, Tensor]
    ) -> Tensor:
        """Draw a batch at once, or some samples at a time where maps are large and no gradient is wanted."""
        limit = policy_of(ws).largest_map
        if limit is None or torch.is_grad_enabled() or len(ws) * self.largest_map <= limit or len(ws) < 2:
            return self._draw(ws, residuals, noise_mode, drawn)
        size = max(1, limit // self.largest_map)
        parts = [slice(first, first + size) for first in range(0, len(ws), size)]
        images = []
        for part in parts:
            own = {name: residual[part] for name, residual in residuals.items()}
            maps = {name: x[part] for name, x in drawn.items()}
            images.append(self._draw(ws[part], own, noise_mode, maps))
        return torch.cat(images)

    def _draw(self, ws: Tensor, residuals: Residuals, noise_mode: str, drawn: Mapping[str, Tensor]) -> Tensor:
        """``(B, L, D)`` -> ``(B, 3, R, R)``: every block doubles the features' side and adds its colours."""
        codes = ws.unbind(dim=1)  # L times (B, D)
        x = self._first(len(ws), residuals)  # (B, C, 4, 4)
        image: Tensor | None = None
        for k, side in enumerate(self.resolutions):
            code = 2 * k  # of conv1; a block's torgb shares its code with the next block's conv0
            if k > 0:
                name = f"b{side}.conv0"  # twice the side
                x = self._convolve(name, x, codes[code - 1], residuals, noise_mode, drawn)
            name = f"b{side}.conv1"
            x = self._convolve(name, x, codes[code], residuals, noise_mode, drawn)  # (B, C, side, side)
            colours = self._colours(f"b{side}.torgb", x, codes[code + 1], residuals)  # (B, 3, side, side)
            image = colours if image is None else upsample_image(image) + colours
        assert image is not None
        return image

    def map_of(self, ws: Tensor, name: str, residuals: Residuals | None = None) -> Tensor:
        """The map that a convolution such as ``b8.conv1`` gives, ``(B, C, S, S)``: the last of ``maps_to``."""
        return self.maps_to(ws, name, residuals)[name]

    def maps_to(self, ws: Tensor, name: str, residuals: Residuals | None = None) -> dict[str, Tensor]:
        """What each convolution gives, up to one such as ``b8.conv1``; later layers are not drawn.

        Returns:
            Name -> ``(B, C, S, S)`` in the order of the layers, before a feature residual is added there.

        Raises:
            ValueError: As in ``forward``, or for a layer that does not exist.
        """
        residuals, maps = residuals or {}, {}
        codes = self._checked(ws, residuals, "const").unbind(dim=1)
        x = self._first(len(ws), residuals)
        for code in range(0, 2 * len(self.resolutions) - 1):  # b4.conv1, b8.conv0, b8.conv1, ...
            layer = f"b{self.resolutions[(code + 1) // 2]}.conv{(code + 1) % 2}"
            maps[layer] = self._convolved(layer, x, codes[code], residuals, "const")
            if layer == name:
                return maps
            x = self._with_features(layer, maps[layer], residuals)
        raise ValueError(f"no convolution is called {name!r}")

    def _convolve(
        self,
        name: str,
        x: Tensor,
        w: Tensor,
        residuals: Residuals,
        noise_mode: str,
        drawn: Mapping[str, Tensor],
    ) -> Tensor:
        """What the convolution of this name gives to the next layer, with its feature residuals."""
        x = drawn[name] if name in drawn else self._convolved(name, x, w, residuals, noise_mode)
        return self._with_features(name, x, residuals)

    def _convolved(self, name: str, x: Tensor, w: Tensor, residuals: Residuals, noise_mode: str) -> Tensor:
        """Run the convolution of this name on ``(B, I, H, W)``, with ``w`` ``(B, D)`` and its residuals."""
        layer = self._layer(name)
        affine, shift = _made(residuals, f"{name}.affine.weight"), _made(residuals, f"{name}{STYLE}")
        noise = _made(residuals, f"{name}{NOISE}")
        given = (x, w, residuals.get(f"{name}.weight"), affine, noise_mode, shift, noise)
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *given, use_reentrant=False)
        return layer(*given)

    def _with_features(self, name: str, x: Tensor, residuals: Residuals) -> Tensor:
        """Add the feature residuals of a convolution to its map ``(B, C, S, S)``."""
        layer = self._layer(name)
        assert isinstance(layer, StyledConv)
        of_this_call = _made(residuals, f"{name}.features")
        for added in (of_this_call, layer.features):  # the second: of ``with_residuals``
            x = x if added is None else x + added.to(x.dtype)
        return x

    def _colours(self, name: str, x: Tensor, w: Tensor, residuals: Residuals) -> Tensor:
        """What the torgb layer of this name adds to the image, ``(B, 3, H, W)`` in float32 (or float64 as given)."""
        tensors = (f"{name}.weight", f"{name}.affine.weight", f"{name}{STYLE}")
        colours = self._layer(name)(x, w, *(_made(residuals, tensor) for tensor in tensors))
        return at_least_float32(colours)

    def _layer(self, name: str) -> nn.Module:
        """``b8.conv1`` -> that layer; plain attributes, because export of torch 2.6 follows no ``get_submodule``."""
        block, _, kind = name.partition(".")
        layer: nn.Module = getattr(getattr(self, block), kind)
        return layer

    def _const(self) -> Tensor:
        """The learned map that every image starts from, ``(C, 4, 4)``."""
        first = self.b4
        assert isinstance(first, Block)
        return first.const

    def _first(self, count: int, residuals: Residuals) -> Tensor:
        """What the first convolution reads, ``(B, C, 4, 4)``."""
        const, added = self._const().expand(count, -1, -1, -1), _made(residuals, CONST)
        return const if added is None else const + added.to(const.dtype)

    def with_residuals(self, residuals: Residuals) -> Synthesis:
        """Return a synthesis network whose weights are theta + delta; what has no residual is shared, not copied.

        Args:
            residuals: Of one photo, as in ``forward``, ``(1, *shape)`` each.

        Raises:
            ValueError: For residuals of several photos, or for tensors that do not exist or have another shape.
        """
        _check_residuals(residuals, self._shapes(), 1, "one photo's residual")
        weights = dict(self.named_parameters())
        tensors = [*weights.values(), *self.buffers()]
        other = copy.deepcopy(self, {id(tensor): tensor for tensor in tensors})  # modules only
        for name, residual in residuals.items():
            owner, _, kind = name.rpartition(".")
            layer, delta = other.get_submodule(owner), materialised(residual).detach()
            if isinstance(layer, StyledConv) and kind == "features":
                layer.features = delta if layer.features is None else layer.features + delta
            elif isinstance(layer, StyledConv) and kind == NOISE[1:]:
                layer.noise_const, strength = layer.with_noise(layer.noise_const, delta[0])
                layer.noise_strength = nn.Parameter(strength.detach(), requires_grad=False)
            else:
                setattr(layer, kind, nn.Parameter(weights[name] + delta[0], requires_grad=False))
        return other


def _made(residuals: Residuals, name: str) -> Tensor | None:
    """The residual of a weight as a tensor, if there is one."""
    residual = residuals.get(name)
    return None if residual is None else materialised(residual)


def _check_residuals(
    residuals: Residuals, shapes: Mapping[str, tuple[int, ...]], batch: int, what: str = "residual"
) -> None:
    """Raise ``ValueError`` unless every residual has its place, and the shape ``(batch, *shape)``."""
    unknown = sorted(name for name in residuals if name not in shapes)
    if unknown:
        raise ValueError(f"residuals for tensors the generator does not have: {', '.join(unknown)}")
    for name, residual in residuals.items():
        expected = (batch, *shapes[name])
        if residual.shape != expected:  # broadcasting would hide it
            raise ValueError(f"{what} for {name} must be {expected}, got {tuple(residual.shape)}")


class Generator(nn.Module):
    """StyleGAN2: ``mapping`` and ``synthesis``.

    Args:
        config: Shapes; keyword arguments of ``GeneratorConfig`` are accepted instead.
    """

    def __init__(self, config: GeneratorConfig | None = None, **kwargs: Any) -> None:
        super().__init__()
        self.config = config or GeneratorConfig(**kwargs)
        self.source = ""  # packaged name or file the weights came from; empty for random weights
        self.sha256 = ""  # of that file
        self.synthesis = Synthesis(self.config)
        self.mapping = MappingNetwork(self.config)

    @property
    def z_dim(self) -> int:
        return self.config.z_dim

    @property
    def w_dim(self) -> int:
        return self.config.w_dim

    @property
    def img_resolution(self) -> int:
        return self.config.img_resolution

    @property
    def num_ws(self) -> int:
        return self.config.num_ws

    @property
    def w_avg(self) -> Tensor:
        """Mean of w, ``(D,)``."""
        return self.mapping.w_avg

    def metadata(self) -> dict[str, object]:
        """The configuration as plain values, for a file's header."""
        plain = asdict(self.config)
        if plain["widths"] is None:  # left out of files of generators with ordinary widths
            del plain["widths"]
        else:
            plain["widths"] = list(plain["widths"])
        return plain

    def forward(self, z: Tensor, truncation_psi: float = 1.0, noise_mode: str = "const") -> Tensor:
        """Draw images ``(B, 3, R, R)`` from ``z`` ``(B, Z)``."""
        return self.synthesis(self.mapping(z, truncation_psi), noise_mode=noise_mode)

    @torch.no_grad()
    def sample_codes(self, count: int = 10_000, seed: int = 0) -> Tensor:
        """Codes of random images, ``(count, D)``: z through the mapping network, without truncation."""
        draw = torch.Generator().manual_seed(seed)
        parts = (min(1000, count - first) for first in range(0, count, 1000))
        noise = (torch.randn(n, self.z_dim, generator=draw) for n in parts)
        return torch.cat([self.mapping(placed(z, self.w_avg))[:, 0] for z in noise])

    def kernels(self) -> list[KernelSpec]:
        """List every weight that can receive residuals: convolutions and torgb by resolution, then affines.

        ``style_index`` follows the official table (facts of the released checkpoints): from the second block
        on, a convolution reads the feature map one after the code that modulates it.
        """
        weights: list[KernelSpec] = []
        affines: list[KernelSpec] = []
        for k, resolution in enumerate(self.config.resolutions):
            block = self.synthesis.get_submodule(f"b{resolution}")
            indices = (
                {"conv1": 0, "torgb": 1}
                if k == 0
                else {"conv0": 2 * k, "conv1": 2 * k + 1, "torgb": 2 * k + 1}
            )
            for layer, index in indices.items():
                module = block.get_submodule(layer)
                name = f"b{resolution}.{layer}"
                shape = tuple(module.get_parameter("weight").shape)
                weights.append(KernelSpec(f"{name}.weight", shape, index))
                shape = tuple(module.get_parameter("affine.weight").shape)
                affines.append(KernelSpec(f"{name}.affine.weight", shape, index))
        return weights + affines
