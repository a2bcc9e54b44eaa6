"""Hypernetwork: feature maps -> residuals to the generator's kernels.

Letters in shapes: B samples, L style layers, C channels of the feature maps, D width of the hidden vector; a kernel has
O output channels, I input channels and side k. Features of the photo and of the phase-I image (``w_image``) are given
in this order, by keyword.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hyperinverter.contracts import KernelSpec
from hyperinverter.networks.fusion import ConcatFusion
from hyperinverter.ops.factored import FactoredResidual, Residual, all_materialised
from hyperinverter.ops.policy import policy_of
from hyperinverter.ops.products import affine_of_all

Init = Literal["paper", "fan_in"]
Activation = Literal["relu", "leaky_relu"]
Weights = dict[str, Tensor]
_SLOPE = 0.2  # of the leaky ReLU


class KernelRegressor(nn.Module):
    """Two feature maps -> the residual of one kernel (HyperInverter, section 3.3).

    The fused map shrinks to a vector ``h`` of D numbers; two small matrices turn it into a kernel of shape
    (O, I, k, k) as ``M = (h w1 + b1).view(I, D) w2 + b2``, which is I rows of O k k numbers. M's numbers are
    taken **in memory order** as (O, I, k, k): published weights depend on that. Rows of M are therefore
    output channels where O = I, although w1's layout suggests input channels.

    Args:
        spec: The kernel. An affine weight (O, I) counts as k = 1.
        channels: C of the feature maps, which are ``(B, C, 8, 8)``.
        hidden_dim: D, width of the hidden vector; w1 has I D^2 numbers.
        fusion: Makes the module that merges two maps of C channels into one.
        extractor_channels: Width of the convolutions between map and vector.
        init: "paper": PyTorch's defaults for convolutions and tiny w1, w2, so that residuals stay near zero for the
            first thousands of steps. "fan_in": every product keeps the size of its input, so that the first
            residuals are about ``residual_scale`` times as large as the kernels.
        activation: Of the convolutions. "relu" is the paper's; at large learning rates most units of h die, and all
            photos get one residual. "leaky_relu" (0.2) keeps them alive, and h has no activation.
        residual_scale: Factor of the residual; 1 in the paper. A kernel has to change by only about a thousandth of
            its size, so 0.01 allows learning rates that are large enough for the rest of the network.

    Raises:
        ValueError: For an unknown ``init`` or ``activation``, or a ``residual_scale`` that is not above 0.
    """

    def __init__(
        self,
        spec: KernelSpec,
        channels: int,
        hidden_dim: int,
        fusion: Callable[[int], nn.Module] = ConcatFusion,
        extractor_channels: int = 64,
        init: Init = "paper",
        activation: Activation = "relu",
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if activation not in ("relu", "leaky_relu"):
            raise ValueError(f"activation must be relu or leaky_relu, got {activation!r}")
        if not 0 < residual_scale < math.inf:
            raise ValueError(f"residual_scale must be above 0, got {residual_scale}")
        self.shape = spec.shape
        self.activation, self.residual_scale = activation, residual_scale
        self.hidden_dim, self.extractor_channels = hidden_dim, extractor_channels
        self.in_channels = spec.shape[1]
        columns = math.prod(spec.shape) // self.in_channels  # O k k
        width = extractor_channels
        self.fusion = fusion(channels)

        def act() -> nn.Module:
            return nn.ReLU() if activation == "relu" else nn.LeakyReLU(_SLOPE)

        self.feature_extractor = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            act(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),  # 8 -> 4
            act(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),  # 4 -> 2
            act(),
            nn.Conv2d(width, hidden_dim, 4, stride=2, padding=1),  # 2 -> 1
            nn.ReLU() if activation == "relu" else nn.Identity(),
        )
        self.w1 = nn.Parameter(torch.empty(hidden_dim, self.in_channels * hidden_dim))
        self.b1 = nn.Parameter(torch.zeros(self.in_channels * hidden_dim))
        self.w2 = nn.Parameter(torch.empty(hidden_dim, columns))
        self.b2 = nn.Parameter(torch.zeros(columns))
        self._reset(init)

    def _reset(self, init: Init) -> None:
        if init == "paper":
            for matrix in (self.w1, self.w2):  # std sqrt(2 / columns): tiny first residuals
                nn.init.normal_(matrix, std=math.sqrt(2 / matrix.shape[1]))
        elif init == "fan_in":
            for layer in self.feature_extractor:
                if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # 2 % off for leaky ReLU
                    nn.init.zeros_(layer.bias)
            nn.init.normal_(self.w1, std=1 / math.sqrt(self.hidden_dim))
            nn.init.normal_(self.w2, std=1 / math.sqrt(self.hidden_dim))
        else:
            raise ValueError(f"init must be paper or fan_in, got {init!r}")

    def forward(self, *, photo: Tensor, w_image: Tensor) -> Tensor:
        """Return the residual, ``(B, *spec.shape)``, from two maps ``(B, C, 8, 8)``."""
        # delta = residual_scale (U w2 + b2), read in memory order as (O, I, k, k)
        return self.factors(photo=photo, w_image=w_image).materialise()

    def factors(self, *, photo: Tensor, w_image: Tensor) -> FactoredResidual:
        """Return the residual as the factors of its last product, from two maps ``(B, C, 8, 8)``."""
        # h = extractor(fusion(photo, w_image))
        fused = self.fusion(photo=photo, w_image=w_image)  # (B, C, 8, 8)
        return self.factors_of(self.feature_extractor(fused).flatten(1))  # (B, D, 1, 1) -> (B, D)

    def factors_of(self, h: Tensor) -> FactoredResidual:
        """Return the residual from the hidden vector h, ``(B, D)``."""
        # U = h w1 + b1
        return self.with_rows(torch.addmm(self.b1, h, self.w1))

    def with_rows(self, u: Tensor) -> FactoredResidual:
        """Return the residual from U in one row for each sample, ``(B, I D)``."""
        u = u.view(-1, self.in_channels, self.hidden_dim)  # (B, I, D)
        w2: Tensor = self.w2  # (D, O k k)
        b2: Tensor = self.b2  # (O k k,)
        if self.residual_scale != 1:  # on the factor that the batch shares
            w2, b2 = w2 * self.residual_scale, b2 * self.residual_scale
        return FactoredResidual(u, w2, b2, self.shape)


class HyperNetwork(nn.Module):
    """One ``KernelRegressor`` per kernel.

    Args:
        kernels: Which kernels receive residuals; see ``coverage.select``.
        channels: C of the feature maps.
        hidden_dim: D of every regressor; the paper's is 256, its light version's 128.
        fusion: Makes the module that merges two maps of the given number of channels, one per kernel.
        options: Further arguments of every ``KernelRegressor``: ``init``, ``activation`` and so on.

    Raises:
        ValueError: Without kernels, or for two of the same name.
    """

    def __init__(
        self,
        kernels: Sequence[KernelSpec],
        channels: int = 512,
        hidden_dim: int = 128,
        fusion: Callable[[int], nn.Module] = ConcatFusion,
        **options: Any,
    ) -> None:
        super().__init__()
        if not kernels:
            raise ValueError("a hypernetwork needs at least one kernel")
        self.kernels = list(kernels)
        # Module names must not contain dots; published files replace them the same way.
        self.weight_regressors = nn.ModuleDict(
            {
                spec.name.replace(".", "_"): KernelRegressor(spec, channels, hidden_dim, fusion, **options)
                for spec in self.kernels
            }
        )
        if len(self.weight_regressors) != len(self.kernels):
            raise ValueError("two kernels have the same name")

    @property
    def used_styles(self) -> set[int]:
        """Indices of the feature maps that are read."""
        return {spec.style_index for spec in self.kernels}

    def factors(self, *, photo: Tensor, w_image: Tensor) -> dict[str, Residual]:
        """As ``forward``, but residuals of 3x3 kernels stay factors: memory grows with D, not with O k k.

        Those of torgb and of affine layers are small and come as tensors.
        """
        found = {spec.name: factors for spec, factors in self._each(photo, w_image)}
        small = {spec.name: found[spec.name] for spec in self.kernels if spec.shape[2:] != (3, 3)}
        return {**found, **all_materialised(small)}

    def forward(self, *, photo: Tensor, w_image: Tensor) -> dict[str, Tensor]:
        """Predict all residuals.

        Args:
            photo: Features of the photo, ``(B, L, C, 8, 8)``.
            w_image: Features of the phase-I image, ``(B, L, C, 8, 8)``.

        Returns:
            ``KernelSpec.name`` -> ``(B, *KernelSpec.shape)``, to be added to the generator's stored weights.
        """
        return all_materialised({spec.name: factors for spec, factors in self._each(photo, w_image)})

    def _each(self, photo: Tensor, w_image: Tensor) -> Iterator[tuple[KernelSpec, FactoredResidual]]:
        """Every kernel with its residual, one after the other, or all at once as far as that pays."""
        regressors = cast(list[KernelRegressor], [*self.weight_regressors.values()])
        # Taken apart once: the gradient is then put together once, not summed up from one tensor per kernel.
        photo_maps, w_image_maps = photo.unbind(1), w_image.unbind(1)
        pairs = [(photo_maps[spec.style_index], w_image_maps[spec.style_index]) for spec in self.kernels]
        if policy_of(photo).regressors == "together":
            hidden = _hidden_of_all(regressors, pairs)
            rows = affine_of_all([(one.b1, h, one.w1) for one, h in zip(regressors, hidden, strict=True)])
            yield from (
                (spec, one.with_rows(u)) for spec, one, u in zip(self.kernels, regressors, rows, strict=True)
            )
            return
        for spec, one, (ours, theirs) in zip(self.kernels, regressors, pairs, strict=True):
            yield spec, one.factors(photo=ours, w_image=theirs)


def _hidden_of_all(
    regressors: Sequence[KernelRegressor], pairs: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, ...]:
    """The hidden vectors ``(B, D)`` of regressors, each from its own two maps ``(B, C, 8, 8)``.

    Up to there all regressors are networks of one shape, so each of their operations runs once for all N of them, on
    weights put together: a convolution in N groups. What follows differs in shape, see ``affine_of_all``.
    """
    fusion, extractor = regressors[0].fusion, regressors[0].feature_extractor

    def hidden(merging: Weights, extracting: Weights, photo: Tensor, w_image: Tensor) -> Tensor:
        fused = functional_call(fusion, merging, (), {"photo": photo, "w_image": w_image})
        return functional_call(extractor, extracting, (fused,)).flatten(1)

    parts = [one.fusion for one in regressors], [one.feature_extractor for one in regressors]
    photo, w_image = (torch.stack(maps) for maps in zip(*pairs, strict=True))  # (N, B, C, 8, 8)
    kind, dtype = photo.device.type, photo.dtype
    if torch.is_autocast_enabled(kind):  # vmap does not pass it on
        dtype = torch.get_autocast_dtype(kind)
    merging, extracting = (_together(modules, dtype) for modules in parts)
    with torch.autocast(kind, enabled=False):
        every = torch.vmap(hidden)(merging, extracting, photo.to(dtype), w_image.to(dtype))  # (N, B, D)
    return every.unbind()


def _together(modules: Sequence[nn.Module], dtype: torch.dtype) -> Weights:
    """Parameters of modules of one shape: name -> ``(N, *shape)``, with gradients to each."""
    own = [dict(module.named_parameters()) for module in modules]
    return {name: torch.stack([weights[name] for weights in own]).to(dtype) for name in own[0]}
