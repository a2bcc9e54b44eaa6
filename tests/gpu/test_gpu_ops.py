"""Every function of ``ops`` on the device: values and gradients against float64 on the processor."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from place import compared
from torch import Tensor

from hyperinverter import ops
from hyperinverter.ops import (
    activation,
    convolution,
    factored,
    finishing,
    modconv,
    per_sample,
    precision,
    products,
    resample,
    winograd,
)
from hyperinverter.ops.factored import FactoredResidual
from hyperinverter.ops.policy import policy


class Case(NamedTuple):
    function: Callable[..., Any]
    inputs: dict[str, tuple[int, ...]]  # name -> shape
    options: dict[str, Any] = {}  # noqa: RUF012  # never written to


B, I, O, D, S = 3, 8, 8, 4, 8  # noqa: E741
X, SHARED, OWN, STYLE = (B, I, S, S), (O, I, 3, 3), (B, O, I, 3, 3), (B, I)
FACTORS = {"u": (B, I, D), "w2": (D, O * 9), "b2": (O * 9,)}


def with_factors(
    x: Tensor, weight: Tensor, u: Tensor, w2: Tensor, b2: Tensor, style: Tensor, **options: Any
) -> Any:
    how = options.pop("how")
    with policy(factored=how):
        return factored.residual_conv2d(x, weight, FactoredResidual(u, w2, b2, SHARED), style, **options)


def each_alone(x: Tensor, kernels: Tensor, style: Tensor, **options: Any) -> Any:
    return modconv.sample_by_sample(x, kernels.unbind(), style, **options)


def by_hand(
    x: Tensor, weight: Tensor, u: Tensor, w2: Tensor, b2: Tensor, style: Tensor, **options: Any
) -> Any:
    def plain(*inputs: Tensor) -> Tensor:
        raise AssertionError("only for gradients of gradients")

    with torch.autocast(x.device.type, enabled=False):  # it takes tensors of one type only
        return per_sample.per_sample_conv2d(x, weight, u, w2, b2, style, plain, **options)


def finished(x: Tensor, *, up: bool = False, **options: Any) -> Tensor:
    return finishing.finish(x, resample.fir_kernel(4.0).to(x) if up else None, **options)


def filtered(x: Tensor, **options: Any) -> Tensor:
    return resample.fir_filter(x, resample.fir_kernel(4.0).to(x), **options)


def penalised(x: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a network by its input, which is differentiated again."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.requires_grad_(True) if x.is_leaf else x
        y = convolution.conv2d(x, weight.to(x.dtype), padding=1)
        with convolution.without_kernel_gradients():
            return torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]


def exactly(x: Tensor) -> Tensor:
    torch.use_deterministic_algorithms(x.dtype == torch.float32)
    try:
        return resample.shrink(resample.reflected(x, 2), 5)
    finally:
        torch.use_deterministic_algorithms(False)


def prepared(x: Tensor, weight: Tensor) -> Tensor:
    return winograd.conv3x3_by(x, winograd.transformed(weight))


def kept(x: Tensor) -> Tensor:
    return factored.materialised(x)


def made(u: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return factored.materialised(FactoredResidual(u, w2, b2, SHARED))


def of_all(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """Three products, two of which have one shape."""
    with policy(equal_products=options["how"]):
        one, two, three = products.affine_of_all(
            [(bias, x, weight), (bias[:2], x, weight[:, :2]), (2 * bias, -x, weight.flip(0))]
        )
    return torch.cat([one, two, three], dim=1)


def together(u: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    one, two = FactoredResidual(u, w2, b2, SHARED), FactoredResidual(-u, 2 * w2, b2, SHARED)
    return torch.cat([*factored.all_materialised({"one": one, "kept": u, "two": two}).values()][::2])


def precise(x: Tensor) -> Tensor:
    return precision.at_least_float32(x) * 2


BIASED = {"x": X, "scale": (B, O, 1, 1), "bias": (O,), "noise": (S, S), "strength": ()}
CASES = {
    "demodulation, shared": Case(modconv.demodulation, {"weight": SHARED, "style": STYLE}),
    "demodulation, own": Case(modconv.demodulation, {"weight": OWN, "style": STYLE}),
    **{
        f"modulated_conv2d, {kind}, up={up}": Case(
            modconv.modulated_conv2d, {"x": X, "weight": shape, "style": STYLE}, {"up": up, "gain": 1.4}
        )
        for kind, shape in (("shared", SHARED), ("own", OWN))
        for up in (False, True)
    },
    **{
        f"modulated_conv2d, own, one by one, up={up}": Case(
            modconv.modulated_conv2d,
            {"x": (B, I, 32, 32), "weight": OWN, "style": STYLE},
            {"up": up, "gain": 1.4},
        )
        for up in (False, True)
    },
    "modulated_conv2d, one photo": Case(
        modconv.modulated_conv2d, {"x": (1, I, 16, 16), "weight": SHARED, "style": (1, I)}
    ),
    "modulated_conv2d, plain": Case(
        modconv.modulated_conv2d,
        {"x": X, "weight": SHARED, "style": STYLE},
        {"demodulate": False, "gain": 2.0},
    ),
    "sample_by_sample": Case(each_alone, {"x": X, "kernels": OWN, "style": STYLE}, {"up": True}),
    **{
        f"convolve, up={up}, groups={groups}": Case(
            modconv.convolve, {"x": X, "weight": (O, I // groups, 3, 3)}, {"up": up, "groups": groups}
        )
        for up in (False, True)
        for groups in (1, 2)
    },
    **{
        f"residual_conv2d, {how}, up={up}": Case(
            with_factors, {"x": X, "weight": SHARED, **FACTORS, "style": STYLE}, {"up": up, "how": how}
        )
        for how in ("mixing", "kernels")
        for up in (False, True)
    },
    **{
        f"per_sample_conv2d, up={up}": Case(
            by_hand, {"x": X, "weight": SHARED, **FACTORS, "style": STYLE}, {"up": up, "gain": 1.4}
        )
        for up in (False, True)
    },
    "delta_conv2d": Case(factored.delta_conv2d, {"x": X, "weight": SHARED, "delta": OWN, "style": STYLE}),
    "materialised": Case(made, FACTORS),
    "materialised, a tensor": Case(kept, {"x": OWN}),
    "all_materialised": Case(together, FACTORS),
    **{
        f"affine_of_all, {how}": Case(of_all, {"x": (B, D), "weight": (D, O), "bias": (O,)}, {"how": how})
        for how in ("each", "cheapest", "together")
    },
    "at_least_float32": Case(precise, {"x": X}),
    "leaky_relu": Case(activation.leaky_relu, {"x": X}),
    "scale_bias_leaky_relu": Case(activation.scale_bias_leaky_relu, BIASED, {"clamp": 2.0}),
    "scale_bias_leaky_relu, noise of each": Case(
        activation.scale_bias_leaky_relu, {**BIASED, "noise": (B, S, S)}
    ),
    "scale_bias_leaky_relu, no factor": Case(
        activation.scale_bias_leaky_relu, {k: v for k, v in BIASED.items() if k != "scale"}, {"scale": None}
    ),
    **{
        f"finish, fused_finish, up={up}, clamp={clamp}": Case(
            finished, {**BIASED, "x": (B, I, S + up, S + up)}, {"up": up, "clamp": clamp}
        )
        for up in (False, True)
        for clamp in (None, 2.0)
    },
    "finish, noise of each": Case(
        finished, {**BIASED, "x": (B, I, S + 1, S + 1), "noise": (B, S, S)}, {"up": True}
    ),
    "finish, no factor": Case(finished, {k: v for k, v in BIASED.items() if k != "scale"}, {"scale": None}),
    "fir_filter, fused_filter": Case(filtered, {"x": X}, {"padding": 1}),
    "fir_filter, smaller": Case(filtered, {"x": X}, {"padding": 1, "stride": 2}),
    "upsample_image": Case(resample.upsample_image, {"x": (B, 3, S, S)}),
    "shrink": Case(resample.shrink, {"x": X}, {"side": 4}),
    "shrink, not by whole pixels": Case(resample.shrink, {"x": X}, {"side": 5}),
    "reflected": Case(resample.reflected, {"x": X}, {"border": 2}),
    "repeatable": Case(exactly, {"x": X}),
    "conv2d": Case(convolution.conv2d, {"x": X, "weight": SHARED}, {"padding": 1}),
    "conv2d, smaller": Case(convolution.conv2d, {"x": X, "weight": SHARED}, {"stride": 2}),
    "without_kernel_gradients": Case(penalised, {"x": X, "weight": SHARED}),
    "conv3x3": Case(winograd.conv3x3, {"x": X, "weight": SHARED}),
    "conv3x3_by, transformed": Case(prepared, {"x": X, "weight": SHARED}),
    "winograd.gradients": Case(winograd.conv3x3, {"x": X, "weight": SHARED}),
}
# What gives no number that is learned from, or is called by what is tested.
ELSEWHERE = {
    "fir_kernel",
    "pays",
    "on_kernel",
    "policy",
    "policy_of",
    "fast_layout",
    "one_by_one_pays",
    "can_fuse",
    "no_autocast",
    "all_finite",
    "replayed",
    "copying_pays",
    "placed",
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, precision: str) -> None:
    function, shapes, options = CASES[name]
    torch.manual_seed(0)
    inputs = {key: torch.randn(shape) for key, shape in shapes.items()}
    compared(function, inputs, precision, options)


@pytest.mark.anywhere
def test_every_function_of_ops_is_tested() -> None:
    public = {
        name
        for module in pkgutil.iter_modules(ops.__path__, f"{ops.__name__}.")
        for name, found in vars(importlib.import_module(module.name)).items()
        if inspect.isfunction(found) and found.__module__ == module.name and not name.startswith("_")
    }
    tested = " ".join(CASES) + " " + " ".join(ELSEWHERE)
    assert [name for name in sorted(public) if name not in tested] == []


def rough(x: Tensor) -> Tensor:
    out = activation.leaky_relu(x)
    return out.bfloat16().to(out) if x.dtype == torch.float32 else out


def cut(x: Tensor) -> Tensor:
    return activation.leaky_relu(x.detach() if x.dtype == torch.float32 else x) + 0 * x


@pytest.mark.parametrize("fault", [rough, cut])
def test_a_planted_fault_is_caught(fault: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError, match="apart in fp32"):
        compared(fault, {"x": torch.randn(X)}, "fp32", {})
