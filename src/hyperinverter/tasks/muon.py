"""Muon: momentum whose every step is brought to an orthogonal matrix."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from hyperinverter.ops.precision import at_least_float32

# Quintic iteration that lifts singular values in (0, 1] to about 1 (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """Bring the singular values of ``(N, R, C)`` matrices to about 1 (0.7 to 1.2), keeping their singular vectors.

    Newton-Schulz iteration on the small Gram matrix: ``X_k = P_k X_0`` with square P_k, so the long side takes
    part in two products instead of in all of them.

    Args:
        matrices: Any shape, float; zero matrices stay zero.

    Returns:
        ``(N, R, C)``.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None]
    gram = x @ x.transpose(1, 2)
    product: Tensor | None = None  # P_k
    for left in reversed(range(_ROUNDS)):
        step = torch.baddbmm(_B * gram, gram, gram, beta=1, alpha=_C)  # b A + c A^2
        step.diagonal(dim1=1, dim2=2).add_(_A)
        product = step if product is None else step @ product
        if left:
            # Every step is a polynomial in the Gram matrix: symmetric, and they commute.
            gram = step @ gram @ step
    assert product is not None
    x = product @ x
    return x.transpose(1, 2) if tall else x


class Muon(Optimizer):
    """Momentum with orthogonal steps for matrices and kernels, Adam for vectors (Jordan et al. 2024, "Muon").

    Residuals to a generator's kernels are badly conditioned: a few directions change every image at once, the
    many that tell one photo from another have gradients hundreds of times smaller. Steps with equal singular
    values move along all of them. A step has the size Adam's would have (Liu et al. 2025, "Muon is scalable"),
    so learning rates and schedules carry over. Each operation runs once for all parameters of a kind.

    Args:
        params: As for every optimizer; kernels count as matrices ``(O, I k k)``.
        lr: Learning rate of both kinds.
        momentum: Of matrices and kernels, Nesterov's form.
        betas: Adam's, for biases and other vectors.
        eps: Adam's.

    Raises:
        ValueError: For a learning rate or momentum outside its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if lr < 0 or not 0 <= momentum < 1:
            raise ValueError(f"lr must be 0 or more and momentum in [0, 1), got {lr} and {momentum}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": tuple(betas), "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [p for p in group["params"] if p.grad is not None]
            self._step_matrices([p for p in trained if p.ndim >= 2], group)
            self._step_vectors([p for p in trained if p.ndim < 2], group)
        return loss

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        alike: dict[Any, list[Tensor]] = defaultdict(list)  # one batched product for all of a shape
        for parameter in parameters:
            alike[parameter.shape, parameter.dtype, parameter.device].append(parameter)
        for same in alike.values():
            gradients = _gradients(same)
            means = [self._state(p, "momentum")["momentum"] for p in same]
            torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, means, group["momentum"])
            with torch.autocast(
                same[0].device.type, enabled=False
            ):  # in bfloat16 the iteration on squares diverges
                flat = torch.stack([update.flatten(1) for update in updates])
                steps = orthogonalise(at_least_float32(flat))
            size = 0.2 * math.sqrt(max(steps.shape[1:]))  # 0.2: root mean square of Adam's steps
            steps = steps.view(len(same), *same[0].shape).to(same[0].dtype)
            torch._foreach_add_(same, [*steps.unbind()], alpha=-group["lr"] * size)

    def _step_vectors(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        alike: dict[Any, list[Tensor]] = defaultdict(list)  # one operation for all that made as many steps
        for parameter in parameters:
            state = self._state(parameter, "mean", "square")
            state["step"] = state.get("step", 0) + 1
            alike[state["step"], parameter.dtype, parameter.device].append(parameter)
        for (step, *_), same in alike.items():
            gradients = _gradients(same)
            means, squares = ([self.state[p][name] for p in same] for name in ("mean", "square"))
            torch._foreach_lerp_(means, gradients, 1 - first)
            torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - second)
            scales = torch._foreach_div(squares, 1 - second**step)
            torch._foreach_sqrt_(scales)
            torch._foreach_add_(scales, group["eps"])
            torch._foreach_addcdiv_(same, means, scales, -group["lr"] / (1 - first**step))

    def _state(self, parameter: Tensor, *names: str) -> dict[str, Any]:
        """The state of a parameter; what it has not yet is zero."""
        state: dict[str, Any] = self.state[parameter]
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        return state


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]  # all have one
