from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import make_generator
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from hyperinverter.contracts import KernelSpec
from hyperinverter.networks.coverage import select
from hyperinverter.networks.fusion import FUSIONS, ConcatFusion, Fusion
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.hypernets import HyperNetwork, KernelRegressor
from hyperinverter.ops import products
from hyperinverter.ops.factored import FactoredResidual, materialised
from hyperinverter.ops.policy import policy

SHAPES = [(6, 6, 3, 3), (4, 8, 3, 3), (3, 10, 1, 1), (10, 7)]


def regressor(shape: tuple[int, ...], **kwargs: object) -> KernelRegressor:
    return KernelRegressor(KernelSpec("k", shape, 0), channels=12, hidden_dim=5, **kwargs)  # type: ignore[arg-type]


def both(*shape: int) -> dict[str, torch.Tensor]:
    """Features of the photo and of the phase-I image."""
    photo, w_image = torch.randn(2, *shape)
    return {"photo": photo, "w_image": w_image}


@pytest.mark.parametrize("shape", SHAPES)
def test_regressor_equals_the_slow_way(shape: tuple[int, ...]) -> None:
    module = regressor(shape, extractor_channels=9).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    p = dict(module.named_parameters())
    photo, w_image = torch.randn(2, 2, 12, 8, 8, dtype=torch.double)
    delta = module(photo=photo, w_image=w_image)
    assert delta.shape == (2, *shape)

    size = [*shape, 1, 1]
    O, I, k = size[0], size[1], size[2]  # noqa: E741
    for n in range(2):
        x = torch.cat([w_image[n], photo[n]])  # the phase-I image's first
        x = (
            torch.einsum("oi,ihw->ohw", p["fusion.0.weight"][:, :, 0, 0], x)
            + p["fusion.0.bias"][:, None, None]
        )
        variance, mean = torch.var_mean(x, dim=(1, 2), unbiased=False, keepdim=True)
        x = ((x - mean) / torch.sqrt(variance + 1e-5)).relu()
        for layer, stride in ((0, 1), (2, 2), (4, 2), (6, 2)):
            weight, bias = p[f"feature_extractor.{layer}.weight"], p[f"feature_extractor.{layer}.bias"]
            x = F.conv2d(x[None], weight, bias, stride=stride, padding=1)[0].relu()
        h = x[:, 0, 0]
        u = h @ p["w1"] + p["b1"]
        rows = [u[i * 5 : (i + 1) * 5] @ p["w2"] + p["b2"] for i in range(I)]
        flat = torch.stack(rows).flatten()
        for o in range(O):
            for i in range(I):
                for y in range(k):
                    for z in range(k):
                        position = (o, i, y, z)[: len(shape)]
                        assert_close(delta[(n, *position)], flat[((o * I + i) * k + y) * k + z])


@pytest.mark.parametrize(
    ("shape", "position", "row", "column"),
    [
        ((256, 512, 3, 3), (1, 256, 2, 0), 3, 6),
        ((3, 512, 1, 1), (1, 0, 0, 0), 170, 2),
        ((512, 512, 3, 3), (1, 256, 2, 0), 1, 2310),
    ],
)
def test_raw_view_of_published_weights(
    shape: tuple[int, ...], position: tuple[int, ...], row: int, column: int
) -> None:
    module = regressor(shape)
    seen = {}
    original = torch.addmm

    def spy(*args: torch.Tensor) -> torch.Tensor:
        seen["m"] = original(*args)
        return seen["m"]

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("hyperinverter.networks.hypernets.torch.addmm", spy)
        delta = module(**both(1, 12, 8, 8))
    assert delta[(0, *position)] == seen["m"][row, column]


@pytest.mark.parametrize(
    ("resolution", "layers", "values", "light", "large"),
    [
        (32, 11, 16_521_216, 109_062_092, 392_180_556),
        (64, 14, 21_241_344, 138_860_303, 499_246_479),
        (256, 20, 23_454_336, 171_608_213, 609_361_173),
        (1024, 26, 23_592_864, 184_665_563, 642_351_195),
    ],
)
def test_parameter_counts_of_the_published_models(
    resolution: int, layers: int, values: int, light: int, large: int
) -> None:
    with torch.device("meta"):
        kernels = select(Generator(img_resolution=resolution).kernels(), ["convs_torgb"])
        assert len(kernels) == layers
        assert sum(math.prod(spec.shape) for spec in kernels) == values
        for hidden_dim, expected in ((128, light), (256, large)):
            hypernet = HyperNetwork(kernels, hidden_dim=hidden_dim)
            assert sum(p.numel() for p in hypernet.parameters()) == expected


def test_published_tensor_names() -> None:
    with torch.device("meta"):
        kernels = select(Generator(img_resolution=1024).kernels(), ["convs_torgb"])
        state = HyperNetwork(kernels, hidden_dim=128).state_dict()
    prefix = "weight_regressors.b128_conv0_weight."
    shapes = {n.removeprefix(prefix): tuple(t.shape) for n, t in state.items() if n.startswith(prefix)}
    assert shapes == {
        "fusion.0.weight": (512, 1024, 1, 1),
        "fusion.0.bias": (512,),
        "feature_extractor.0.weight": (64, 512, 3, 3),
        "feature_extractor.0.bias": (64,),
        "feature_extractor.2.weight": (64, 64, 4, 4),
        "feature_extractor.2.bias": (64,),
        "feature_extractor.4.weight": (64, 64, 4, 4),
        "feature_extractor.4.bias": (64,),
        "feature_extractor.6.weight": (128, 64, 4, 4),
        "feature_extractor.6.bias": (128,),
        "w1": (128, 512 * 128),
        "b1": (512 * 128,),
        "w2": (128, 256 * 9),
        "b2": (256 * 9,),
    }
    order = list(dict.fromkeys(name.split(".")[1] for name in state))
    assert order[:3] == ["b4_conv1_weight", "b4_torgb_weight", "b8_conv0_weight"]


def test_paper_init() -> None:
    module = KernelRegressor(KernelSpec("k", (64, 48, 3, 3), 0), channels=8, hidden_dim=32)
    assert not module.b1.any()
    assert not module.b2.any()
    assert module.w1.std().item() == pytest.approx(math.sqrt(2 / (48 * 32)), rel=0.05)
    assert module.w2.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.05)


def test_first_residuals_are_small_under_either_init() -> None:
    spec = KernelSpec("k", (128, 128, 3, 3), 0)
    maps = both(8, 64, 8, 8)
    paper = KernelRegressor(spec, channels=64, hidden_dim=32)
    assert 0 < paper(**maps).std().item() < 1e-3
    for activation in ("relu", "leaky_relu"):
        module = KernelRegressor(
            spec,
            64,
            32,
            init="fan_in",
            activation=activation,
            residual_scale=0.01,  # type: ignore[arg-type]
        )
        assert 1e-3 < module(**maps).std().item() < 3e-2


def test_residual_scale_multiplies_the_residual() -> None:
    spec = KernelSpec("k", (6, 5, 3, 3), 0)
    maps = both(4, 8, 8, 8)
    whole = KernelRegressor(spec, 8, 4, init="fan_in")
    scaled = KernelRegressor(spec, 8, 4, residual_scale=0.25)
    nn.init.normal_(whole.b2)
    scaled.load_state_dict(whole.state_dict())
    assert_close(scaled(**maps), whole(**maps) * 0.25)


def test_leaky_hidden_vector_has_both_signs_and_learns_everywhere() -> None:
    spec = KernelSpec("k", (6, 5, 3, 3), 0)
    maps = both(32, 8, 8, 8)
    hidden = {}
    for activation in ("relu", "leaky_relu"):
        module = KernelRegressor(spec, 8, 16, init="fan_in", activation=activation)  # type: ignore[arg-type]
        hidden[activation] = module.feature_extractor(module.fusion(**maps)).flatten(1)
    assert hidden["relu"].min() == 0
    assert hidden["leaky_relu"].min() < 0 < hidden["leaky_relu"].max()


def test_every_residual_reads_its_own_feature_maps() -> None:
    kernels = make_generator().kernels()
    hypernet = HyperNetwork(kernels, channels=8, hidden_dim=4, extractor_channels=8, init="fan_in")
    photo, w_image = torch.randn(2, 2, 6, 8, 8, 8)
    before = hypernet(photo=photo, w_image=w_image)
    assert {name: tuple(delta.shape) for name, delta in before.items()} == {
        s.name: (2, *s.shape) for s in kernels
    }
    for index in range(6):
        changed = photo.clone()
        changed[:, index] = torch.randn(2, 8, 8, 8)
        after = hypernet(photo=changed, w_image=w_image)
        moved = {name for name, delta in before.items() if not torch.equal(delta, after[name])}
        assert moved == {spec.name for spec in kernels if spec.style_index == index}
    assert hypernet.used_styles == {spec.style_index for spec in kernels}


def test_batch_equals_one_by_one() -> None:
    hypernet = HyperNetwork(make_generator().kernels(), channels=8, hidden_dim=4, init="fan_in").train()
    photo, w_image = torch.randn(2, 3, 6, 8, 8, 8)
    together = hypernet(photo=photo, w_image=w_image)
    alone = [hypernet(photo=photo[i : i + 1], w_image=w_image[i : i + 1]) for i in range(3)]
    for name, delta in together.items():
        assert_close(delta, torch.cat([one[name] for one in alone]), rtol=1e-4, atol=1e-6)


def test_impossible_hypernetworks_are_refused() -> None:
    spec = KernelSpec("b4.conv1.weight", (4, 4, 3, 3), 0)
    with pytest.raises(ValueError, match="at least one kernel"):
        HyperNetwork([])
    with pytest.raises(ValueError, match="same name"):
        HyperNetwork([spec, spec], channels=8, hidden_dim=4)
    with pytest.raises(ValueError, match="paper or fan_in"):
        HyperNetwork([spec], channels=8, hidden_dim=4, init="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="relu or leaky_relu"):
        HyperNetwork([spec], channels=8, hidden_dim=4, activation="gelu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="residual_scale must be above 0"):
        HyperNetwork([spec], channels=8, hidden_dim=4, residual_scale=0)


def test_works_under_bfloat16_autocast() -> None:
    module = regressor((6, 6, 3, 3), fusion=ConcatFusion)
    with torch.autocast("cpu", torch.bfloat16):
        delta = module(**both(2, 12, 8, 8))
    assert delta.isfinite().all()


def test_factors_multiply_to_the_residuals() -> None:
    kernels = make_generator().kernels()
    hypernet = HyperNetwork(
        kernels, channels=8, hidden_dim=4, extractor_channels=8, init="fan_in", residual_scale=0.5
    )
    maps = both(2, 6, 8, 8, 8)
    whole, factored = hypernet(**maps), hypernet.factors(**maps)
    assert list(whole) == list(factored)
    for spec in kernels:
        residual = factored[spec.name]
        is_factored = isinstance(residual, FactoredResidual)
        assert is_factored is (spec.shape[2:] == (3, 3))
        assert_close(residual.materialise() if is_factored else residual, whole[spec.name])


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
def test_all_at_once_gives_the_same_residuals_and_gradients(fusion: type[Fusion]) -> None:
    kernels = make_generator().kernels()
    hypernet = HyperNetwork(kernels, 8, 4, fusion, extractor_channels=8, init="fan_in").double()
    maps = {name: x.double().requires_grad_() for name, x in both(2, 6, 8, 8, 8).items()}
    inputs = [maps["photo"], *hypernet.parameters()]
    results = []
    for way, equal in (("loop", "each"), ("together", "together")):
        with policy(regressors=way, equal_products=equal):
            residuals = hypernet(**maps)
        total = torch.stack([delta.square().sum() for delta in residuals.values()]).sum()
        results.append([*residuals.values(), *torch.autograd.grad(total, inputs)])
    for one, other in zip(*results, strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_all_at_once_is_computed_in_half_precision_and_in_fewer_operations() -> None:
    hypernet = HyperNetwork(make_generator().kernels(), 8, 4, extractor_channels=8, init="fan_in")
    maps, counts = both(2, 6, 8, 8, 8), {}
    exact = hypernet(**maps)
    for way in ("loop", "together"):
        with policy(regressors=way), torch.autocast("cpu", torch.bfloat16), Convolutions() as seen:
            residuals = hypernet(**maps)
        counts[way] = seen.types
        apart = torch.cat([(residuals[name] - delta).flatten() for name, delta in exact.items()]).norm()
        assert 1e-4 < apart / torch.cat([delta.flatten() for delta in exact.values()]).norm() < 5e-2
    assert counts["loop"] == [torch.bfloat16] * 5 * len(hypernet.kernels)
    assert counts["together"] == [torch.bfloat16] * 5


@pytest.mark.parametrize("factored", [False, True])
def test_layers_of_one_shape_are_one_product(factored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = make_generator().kernels()
    hypernet = HyperNetwork(kernels, 8, 4, extractor_channels=8, init="fan_in")
    maps = both(2, 6, 8, 8, 8)
    shapes = [spec.shape for spec in kernels if not factored or spec.shape[2:] != (3, 3)]
    widths = [spec.shape[1] for spec in kernels]
    wanted = {
        "each": len(widths) + len(shapes),
        "cheapest": len(widths) + sum(1 if n > products.FEW else n for n in Counter(shapes).values()),
        "together": len(set(widths)) + len(set(shapes)),
    }
    assert wanted["together"] < wanted["cheapest"] < wanted["each"]
    # as at full width, where the first matrices are large and the last are not
    monkeypatch.setattr(
        products, "copying_pays", lambda count, weight: count > products.FEW and weight.shape[1] != 64
    )
    results = []
    for way, count in wanted.items():
        with policy(regressors="together", equal_products=way), Products() as seen:
            found = hypernet.factors(**maps) if factored else hypernet(**maps)
        assert seen.total == count, way
        results.append([materialised(residual) for residual in found.values()])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert_close(one, two, rtol=1e-6, atol=1e-6)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        self.total += function in (torch.ops.aten.addmm.default, torch.ops.aten.baddbmm.default)
        return function(*given, **(named or {}))


class Convolutions(TorchDispatchMode):
    """Types of what is convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default:
            self.types.append(given[0].dtype)
        return function(*given, **(named or {}))
