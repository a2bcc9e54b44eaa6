"""The kernels of ``ops.fused`` against plain PyTorch, interpreted on a processor: run by ``test_finishing`` in a process of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from hyperinverter.ops import fused
from hyperinverter.ops.finishing import finish
from hyperinverter.ops.resample import fir_filter, fir_kernel

B, C, SIDE = 2, 3, 4
LAYOUTS = {"channels_last": torch.channels_last, "by channel": torch.contiguous_format}


def given(layout: str, *, up: bool, own_noise: bool = False, side: int = SIDE) -> dict[str, Tensor | None]:
    """Arguments of ``finish``, each of which is differentiated."""
    size = side + up
    inputs = {
        "x": torch.randn(B, C, size, size + 2).to(memory_format=LAYOUTS[layout]),
        "scale": torch.rand(B, C, 1, 1) + 0.5,
        "bias": torch.randn(C),
        "noise": torch.randn(*[B] * own_noise, side, side + 2),
        "strength": torch.tensor(0.7),
    }
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    return {**leaves, "fir": fir_kernel(4.0) if up else None}


def gradients(out: Tensor, inputs: dict[str, Tensor | None]) -> dict[str, Tensor]:
    leaves = {name: x for name, x in inputs.items() if x is not None and x.requires_grad}
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return dict(zip(leaves, torch.autograd.grad((out * weights).sum(), list(leaves.values())), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize(("own_noise", "clamp"), [(False, None), (True, 1.0)])
def test_values_and_all_gradients(layout: str, up: bool, own_noise: bool, clamp: float | None) -> None:
    inputs = given(layout, up=up, own_noise=own_noise)
    found = fused.fused_finish(**inputs, clamp=clamp)  # type: ignore[arg-type]
    plainly = {name: x.double() if x is not None else None for name, x in inputs.items()}
    wanted = finish(**{**plainly, "x": plainly["x"] * 1}, clamp=clamp)  # type: ignore[arg-type, operator]
    assert_close(found, wanted.float(), rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(found, inputs), gradients(wanted.float(), inputs)
    assert ours.keys() == theirs.keys() == inputs.keys() - {"fir"}
    for name in ours:
        assert_close(
            ours[name], theirs[name], rtol=1e-4, atol=1e-4, msg=lambda said, name=name: f"{name}: {said}"
        )
    assert found.is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("missing", ["scale", "noise"])
def test_what_may_be_missing(missing: str, up: bool) -> None:
    inputs = given("channels_last", up=up)
    del inputs["strength" if missing == "strength" else missing]
    inputs[missing] = None
    found = fused.fused_finish(**inputs)  # type: ignore[arg-type]
    x = inputs["x"]
    assert x is not None
    wanted = finish(**{**inputs, "x": x * 1})  # type: ignore[arg-type]
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    leaves = [x, inputs["bias"]]
    ours, theirs = (torch.autograd.grad(y.square().sum(), leaves) for y in (found, wanted))  # type: ignore[arg-type]
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_only_what_is_wanted_is_kept() -> None:
    inputs = given("channels_last", up=True)
    inputs["scale"] = inputs["scale"].detach()  # type: ignore[union-attr]
    out = fused.fused_finish(**inputs)  # type: ignore[arg-type]
    kept = [x for x in out.grad_fn.saved_tensors if x is not None]  # type: ignore[union-attr]
    assert inputs["x"].data_ptr() not in [x.data_ptr() for x in kept]  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type_and_sums_in_float32(dtype: torch.dtype) -> None:
    inputs = {name: x if x is None else x.detach() for name, x in given("channels_last", up=True).items()}
    x = inputs.pop("x")
    assert x is not None
    found = fused.fused_finish(x.to(dtype), **inputs)  # type: ignore[arg-type]
    wanted = finish(x.to(dtype).double(), **inputs).to(dtype)  # type: ignore[arg-type]
    assert found.dtype == dtype
    assert_close(found, wanted, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_filter_and_two_gradients(layout: str, padding: int) -> None:
    x = torch.randn(B, C, SIDE, SIDE + 3).to(memory_format=LAYOUTS[layout]).requires_grad_()
    kernel = fir_kernel(2.0)
    kernel = kernel * torch.tensor([1.0, 2.0, 0.5, 3.0])[:, None]  # not the same from both sides
    results = []
    for filtered in (fused.fused_filter(x, kernel, padding), fir_filter(x, kernel, padding)):
        (first,) = torch.autograd.grad(filtered.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        results.append((filtered, first, second))
    assert_close(*results, rtol=1e-4, atol=1e-4)


def test_gradients_of_gradients() -> None:
    inputs = given("by channel", up=True)
    leaves = [inputs["x"], inputs["scale"]]
    results = []
    for function in (fused.fused_finish, finish):
        out = function(**{**inputs, "x": inputs["x"] * 1})  # type: ignore[arg-type, operator]
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)  # type: ignore[arg-type]
        total = sum(part.square().sum() for part in first)
        results.append(torch.autograd.grad(total, leaves))  # type: ignore[arg-type]
    assert_close(*results, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 6, 5), (2, 5, 5, 1)])
def test_sizes_that_fit_no_block(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_BLOCK", 16)
    x = torch.randn(shape)
    for layout in LAYOUTS.values():
        given = (None, torch.rand(*shape[:2], 1, 1), torch.randn(shape[1]), None, torch.ones(()))
        found = fused.fused_finish(x.to(memory_format=layout), *given)
        assert_close(found, finish(x.clone(), *given), rtol=1e-5, atol=1e-5)


def test_shapes_and_layouts_are_known_without_content() -> None:
    for layout in LAYOUTS:
        inputs = given(layout, up=True)
        real = fused.fused_finish(**inputs)  # type: ignore[arg-type]
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = fused.fused_finish(
                **{name: x if x is None else mode.from_tensor(x) for name, x in inputs.items()}  # type: ignore[arg-type]
            )
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


def test_compilers_take_the_kernel_as_it_is() -> None:
    inputs = given("channels_last", up=True)
    compiled = torch.compile(fused.fused_finish, fullgraph=True, backend="aot_eager")
    found, wanted = (function(**inputs) for function in (compiled, fused.fused_finish))
    assert_close(found, wanted)
    assert_close(gradients(found, inputs), gradients(wanted, inputs))
