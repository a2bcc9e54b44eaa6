"""The method written slowly: one image at a time, in float64, every kernel written out.

From the equations of the papers and the names of the published files; shares no code with the package.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from official import Shape, State
from torch import Tensor


def double(state: State) -> State:
    return {name: tensor.double() for name, tensor in state.items()}


# StyleGAN2 ---------------------------------------------------------------------------------------------------


def lrelu(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.2 * x, x) * math.sqrt(2)


def zero_stuffed(x: Tensor) -> Tensor:
    channels, height, width = x.shape
    out = x.new_zeros(channels, 2 * height, 2 * width)
    out[:, ::2, ::2] = x
    return out


def filtered(x: Tensor, gain: float) -> Tensor:
    """Every channel with the 4x4 filter of sum ``gain``, no padding."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.double)
    kernel = torch.outer(taps, taps) / 64 * gain
    return torch.cat([F.conv2d(channel[None, None], kernel[None, None])[0] for channel in x])


def modulated(x: Tensor, weight: Tensor, style: Tensor, *, up: bool, demodulate: bool) -> Tensor:
    kernel = weight * style[None, :, None, None]
    if demodulate:
        norms = torch.stack([(rows.square().sum() + 1e-8).sqrt() for rows in kernel])
        kernel = kernel / norms[:, None, None, None]
    if not up:
        return F.conv2d(x[None], kernel, padding=kernel.shape[-1] // 2)[0]
    # a transposed convolution is an ordinary one with the flipped kernel on the zero-stuffed picture
    stuffed = zero_stuffed(x)[:, :-1, :-1]
    wide = F.conv2d(F.pad(stuffed, (2, 2, 2, 2))[None], kernel.flip(2, 3))[0]  # 2h + 1
    return filtered(F.pad(wide, (1, 1, 1, 1)), 4.0)


def affine(state: State, layer: str, w: Tensor, delta: State) -> Tensor:
    name = f"{layer}.affine.weight"
    weight = state[f"synthesis.{name}"] + delta.get(name, 0)
    return weight @ w / math.sqrt(len(w)) + state[f"synthesis.{layer}.affine.bias"]


def synthesis(state: State, shape: Shape, w: Tensor, delta: State | None = None) -> Tensor:
    """One code ``(D,)`` -> image ``(3, R, R)``; ``delta`` holds what is added to stored weights."""
    delta = delta or {}

    def clamp(x: Tensor) -> Tensor:
        return x if shape.clamp is None else x.clamp(-shape.clamp, shape.clamp)

    def conv(x: Tensor, layer: str, up: bool) -> Tensor:
        full = f"synthesis.{layer}"
        weight = state[f"{full}.weight"] + delta.get(f"{layer}.weight", 0)
        x = modulated(x, weight, affine(state, layer, w, delta), up=up, demodulate=True)
        x = x + state[f"{full}.noise_const"] * state[f"{full}.noise_strength"]
        return clamp(lrelu(x + state[f"{full}.bias"][:, None, None]))

    x = state["synthesis.b4.const"]
    image: Tensor | None = None
    for resolution in shape.blocks:
        block = f"b{resolution}"
        if resolution > 4:
            x = conv(x, f"{block}.conv0", up=True)
        x = conv(x, f"{block}.conv1", up=False)
        layer = f"{block}.torgb"
        weight = state[f"synthesis.{layer}.weight"] + delta.get(f"{layer}.weight", 0)
        style = affine(state, layer, w, delta) / math.sqrt(weight.shape[1])
        colours = modulated(x, weight, style, up=False, demodulate=False)
        colours = clamp(colours + state[f"synthesis.{layer}.bias"][:, None, None])
        if image is not None:
            colours = filtered(F.pad(zero_stuffed(image), (2, 1, 2, 1)), 4.0) + colours
        image = colours
    assert image is not None
    return image


def mapping(state: State, shape: Shape, z: Tensor) -> Tensor:
    x = z / (z.square().mean() + 1e-8).sqrt()
    for i in range(shape.layers):
        weight, bias = state[f"mapping.fc{i}.weight"], state[f"mapping.fc{i}.bias"]
        x = lrelu(0.01 / math.sqrt(len(x)) * weight @ x + 0.01 * bias)
    return x


def discriminator(state: State, shape: Shape, images: Tensor, group: int) -> Tensor:
    """Logits ``(N,)`` of images ``(N, 3, R, R)``; the minibatch statistic needs all of them."""

    def clamp(x: Tensor, scale: float = 1.0) -> Tensor:
        return x if shape.clamp is None else x.clamp(-shape.clamp * scale, shape.clamp * scale)

    def weight(layer: str) -> Tensor:
        tensor = state[f"{layer}.weight"]
        return tensor / math.sqrt(tensor[0].numel())

    def bias(layer: str) -> Tensor:
        return state[f"{layer}.bias"][:, None, None]

    def features(x: Tensor) -> Tensor:
        top = f"b{shape.resolution}.fromrgb"
        x = clamp(lrelu(F.conv2d(x[None], weight(top))[0] + bias(top)))
        for resolution in shape.blocks[:0:-1]:
            block = f"b{resolution}"
            shortcut = filtered(F.pad(x, (1, 1, 1, 1)), 1.0)[:, ::2, ::2]
            shortcut = F.conv2d(shortcut[None], weight(f"{block}.skip"))[0] * math.sqrt(0.5)
            x = clamp(
                lrelu(F.conv2d(x[None], weight(f"{block}.conv0"), padding=1)[0] + bias(f"{block}.conv0"))
            )
            x = filtered(F.pad(x, (2, 2, 2, 2)), 1.0)
            x = F.conv2d(x[None], weight(f"{block}.conv1"), stride=2)[0] + bias(f"{block}.conv1")
            x = clamp(lrelu(x) * math.sqrt(0.5), math.sqrt(0.5)) + shortcut
        return x

    maps = torch.stack([features(image) for image in images])
    count = len(images)
    group = min(group, count)
    spreads = maps.new_zeros(count)
    for start in range(
        count // group
    ):  # image n belongs to the group of all images with the same n mod (N / G)
        members = list(range(start, count, count // group))
        variance = maps[members].var(dim=0, unbiased=False)
        spreads[members] = (variance + 1e-8).sqrt().mean()
    logits = []
    for x, spread in zip(maps, spreads, strict=True):
        x = torch.cat([x, spread.expand(1, 4, 4)])
        x = clamp(lrelu(F.conv2d(x[None], weight("b4.conv"), padding=1)[0] + bias("b4.conv"))).flatten()
        x = lrelu(state["b4.fc.weight"] @ x / math.sqrt(len(x)) + state["b4.fc.bias"])
        logits.append(state["b4.out.weight"] @ x / math.sqrt(len(x)) + state["b4.out.bias"])
    return torch.cat(logits)


# Encoders and hypernetwork -----------------------------------------------------------------------------------


def resized(x: Tensor, size: int) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing: written as two interpolation matrices."""

    def matrix(length: int) -> Tensor:
        rows = x.new_zeros(size, length)
        for i in range(size):
            centre = min(max((i + 0.5) * length / size - 0.5, 0.0), length - 1.0)
            low = min(int(centre), length - 1)
            high = min(low + 1, length - 1)
            rows[i, low] += 1 - (centre - low)
            rows[i, high] += centre - low
        return rows

    return torch.einsum("yh,chw,xw->cyx", matrix(x.shape[1]), x, matrix(x.shape[2]))


def upsampled(x: Tensor) -> Tensor:
    """Twice as many pixels, corners onto corners."""
    height = x.shape[-1]
    positions = torch.arange(2 * height, dtype=torch.double) * (height - 1) / (2 * height - 1)
    low = positions.floor().long().clamp(max=height - 2)
    rows = x.new_zeros(2 * height, height)
    rows[torch.arange(2 * height), low] = 1 - (positions - low)
    rows[torch.arange(2 * height), low + 1] = positions - low
    return torch.einsum("yh,chw,xw->cyx", rows, x, rows)


def backbone(state: State, kind: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x[None], weight, stride=stride, padding=weight.shape[-1] // 2)[0]

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        scale = state[f"{name}.weight"] / (variance + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]

    def prelu(x: Tensor, name: str) -> Tensor:
        return torch.where(x < 0, state[f"{name}.weight"][:, None, None] * x, x)

    taps, unit = [], 0
    if kind == "ir_se50":
        x = prelu(norm(conv(x, "input_layer.0"), "input_layer.1"), "input_layer.2")
        for count in (3, 4, 14, 3):
            for index in range(count):
                name, stride = f"body.{unit}", 2 if index == 0 else 1
                inner = prelu(
                    conv(norm(x, f"{name}.res_layer.0"), f"{name}.res_layer.1"), f"{name}.res_layer.2"
                )
                inner = norm(conv(inner, f"{name}.res_layer.3", stride), f"{name}.res_layer.4")
                means = inner.mean(dim=(1, 2))
                squeezed = torch.relu(state[f"{name}.res_layer.5.fc1.weight"][:, :, 0, 0] @ means)
                gates = torch.sigmoid(state[f"{name}.res_layer.5.fc2.weight"][:, :, 0, 0] @ squeezed)
                shortcut = x[:, ::stride, ::stride]
                if f"{name}.shortcut_layer.0.weight" in state:
                    shortcut = norm(conv(x, f"{name}.shortcut_layer.0", stride), f"{name}.shortcut_layer.1")
                x = inner * gates[:, None, None] + shortcut
                if unit in (6, 20, 23):
                    taps.append(x)
                unit += 1
    else:
        x = prelu(norm(conv(x, "conv1", 2), "bn1"), "relu")
        for stage, count in enumerate((3, 4, 6, 3)):
            for index in range(count):
                name, stride = f"body.{unit}", 2 if stage > 0 and index == 0 else 1
                inner = torch.relu(norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
                inner = norm(conv(inner, f"{name}.conv2"), f"{name}.bn2")
                shortcut = x
                if f"{name}.downsample.0.weight" in state:
                    shortcut = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
                x = torch.relu(inner + shortcut)
                if unit in (6, 12, 15):
                    taps.append(x)
                unit += 1
    return taps[0], taps[1], taps[2]


def w_offset(state: State, kind: str, photo: Tensor) -> Tensor:
    c3 = backbone(state, kind, resized(photo, 256))[2]
    return state["linear.weight"] @ c3.mean(dim=(1, 2)) / math.sqrt(512) + state["linear.bias"]


def features(state: State, kind: str, image: Tensor, num_styles: int) -> list[Tensor]:
    c1, c2, c3 = backbone(state, kind, resized(image, 256))

    def lateral(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x[None], state[f"{name}.weight"], state[f"{name}.bias"])[0]

    p2 = upsampled(c3) + lateral(c2, "latlayer1")
    p1 = upsampled(p2) + lateral(c1, "latlayer2")
    maps = []
    for index in range(num_styles):
        x, convs = (c3, 1) if index < 3 else (p2, 2) if index < 7 else (p1, 3)
        for i in range(convs):
            name = f"styles.{index}.convs.{2 * i}"
            x = F.conv2d(x[None], state[f"{name}.weight"], state[f"{name}.bias"], stride=2, padding=1)[0]
            x = torch.where(x < 0, 0.01 * x, x)
        maps.append(x)
    return maps


def feature_index(layer: str) -> int:
    """Which feature map the regressor of a layer reads (the official table's third column)."""
    block, conv = layer.split(".")[:2]
    k = int(math.log2(int(block[1:])))
    if k == 2:
        return {"conv1": 0, "torgb": 1}[conv]
    return {"conv0": 2 * k - 4, "conv1": 2 * k - 3, "torgb": 2 * k - 3}[conv]


def regress(state: State, layer: str, shape: tuple[int, ...], initial: Tensor, photo: Tensor) -> Tensor:
    name = f"weight_regressors.{layer.replace('.', '_')}"
    both = torch.cat([initial, photo])
    weight, bias = state[f"{name}.fusion.0.weight"], state[f"{name}.fusion.0.bias"]
    x = F.conv2d(both[None], weight, bias)[0]
    mean, variance = x.mean(dim=(1, 2), keepdim=True), x.var(dim=(1, 2), unbiased=False, keepdim=True)
    x = torch.relu((x - mean) / (variance + 1e-5).sqrt())
    for i, stride in ((0, 1), (2, 2), (4, 2), (6, 2)):
        part = f"{name}.feature_extractor.{i}"
        x = F.conv2d(x[None], state[f"{part}.weight"], state[f"{part}.bias"], stride=stride, padding=1)[0]
        x = torch.relu(x)
    h = x.flatten()
    u = h @ state[f"{name}.w1"] + state[f"{name}.b1"]
    rows = torch.stack([u[i * len(h) : (i + 1) * len(h)] for i in range(shape[1])])
    m = rows @ state[f"{name}.w2"] + state[f"{name}.b2"]
    columns, delta = m.shape[1], m.new_empty(math.prod(shape))
    for row in range(len(m)):  # the numbers of M, row after row, are the kernel's in memory order
        delta[row * columns : (row + 1) * columns] = m[row]
    return delta.reshape(shape)


def invert(
    generator: State,
    shape: Shape,
    w_encoder: State,
    feature_encoder: State,
    hypernet: State,
    kind: str,
    layers: dict[str, tuple[int, ...]],
    photo: Tensor,
) -> tuple[Tensor, Tensor, State, Tensor]:
    """w, initial image, residuals and final image of one photo ``(3, H, W)``."""
    w = generator["mapping.w_avg"] + w_offset(w_encoder, kind, photo)
    initial = synthesis(generator, shape, w)
    of_photo = features(feature_encoder, kind, photo, shape.num_ws)
    of_initial = features(feature_encoder, kind, initial, shape.num_ws)
    delta = {}
    for layer, dimensions in layers.items():
        index = feature_index(layer)
        delta[layer] = regress(hypernet, layer, dimensions, of_initial[index], of_photo[index])
    return w, initial, delta, synthesis(generator, shape, w, delta)
