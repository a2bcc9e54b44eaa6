"""Triton kernels of ``ops.fused``. Imported only where they run: Triton comes with PyTorch for CUDA on Linux.

A program computes four rows of a block of columns and channels. A row is filtered along its columns once, and four
filtered rows make an output row: each number is read from memory about once, and seven times from the cache.
Features have any strides; blocks are chosen by ``ops.fused`` so that neighbouring threads read neighbouring numbers.

Letters as there; ``sb, sc, sh, sw`` are strides, the first letter says of what. Triton reads annotations as types of
its own, so there are none but those.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl

ROWS = 4  # of a program


@triton.jit
def _taps(fir, FLIP: tl.constexpr):
    """The filter's factors: four taps down and four along, or in reverse."""
    step: tl.constexpr = -1 if FLIP else 1
    last: tl.constexpr = 3 if FLIP else 0
    corner = tl.load(fir + last * 5)
    d0 = tl.load(fir + 4 * last + last)
    d1 = tl.load(fir + 4 * (last + step) + last)
    d2 = tl.load(fir + 4 * (last + 2 * step) + last)
    d3 = tl.load(fir + 4 * (last + 3 * step) + last)
    a1 = tl.load(fir + 4 * last + last + step) / corner
    a2 = tl.load(fir + 4 * last + last + 2 * step) / corner
    a3 = tl.load(fir + 4 * last + last + 3 * step) / corner
    return d0, d1, d2, d3, a1, a2, a3


@triton.jit
def _place(H, W, C, BW: tl.constexpr, BC: tl.constexpr):
    """Sample, first row, columns, channels and number of this program's block."""
    wide, deep, high = tl.cdiv(W, BW), tl.cdiv(C, BC), tl.cdiv(H, 4)
    p = tl.program_id(0)
    w, rest = p % wide, p // wide
    c, rest = rest % deep, rest // deep
    h, b = rest % high, rest // high
    columns = w * BW + tl.arange(0, BW)[:, None]
    channels = c * BC + tl.arange(0, BC)[None, :]
    return b.to(tl.int64), h * 4, columns, channels, h * wide + w


@triton.jit
def _read(start, j, W, stride, inside):
    return tl.load(start + j * stride, mask=inside & (j >= 0) & (j < W), other=0.0).to(tl.float32)


@triton.jit
def end_forward(
    x,
    out,
    fir,
    scale,
    bias,
    noise,
    strength,
    IH,
    IW,
    OH,
    OW,
    C,
    xsb,
    xsc,
    xsh,
    xsw,
    osb,
    osc,
    osh,
    osw,
    nsb,
    clamp,
    PADDING: tl.constexpr,
    FLIP: tl.constexpr,
    FIR: tl.constexpr,
    END: tl.constexpr,
    SCALE: tl.constexpr,
    NOISE: tl.constexpr,
    CLAMP: tl.constexpr,
    GAIN: tl.constexpr,
    SLOPE: tl.constexpr,
    BW: tl.constexpr,
    BC: tl.constexpr,
):
    """``out`` from ``x``: the filter if FIR; scale, noise, bias, leaky ReLU and clamp if END."""
    b, first, j, c, _ = _place(OH, OW, C, BW, BC)
    of_channel = c < C
    start, to = x + b * xsb + c * xsc, out + b * osb + c * osc
    if FIR:
        d0, d1, d2, d3, a1, a2, a3 = _taps(fir, FLIP)
    if END:
        offset = tl.load(bias + c, mask=of_channel, other=0.0).to(tl.float32) * GAIN
        if NOISE:
            loud = tl.load(strength).to(tl.float32) * GAIN
        if SCALE:
            factor = tl.load(scale + b * C + c, mask=of_channel, other=0.0).to(tl.float32)
    h0 = tl.zeros((BW, BC), tl.float32)
    h1 = h0
    h2 = h0
    last: tl.constexpr = 7 if FIR else 4
    for r in tl.static_range(last):
        i = first + r - PADDING if FIR else first + r
        inside = of_channel & (i >= 0) & (i < IH)
        row = start + i.to(tl.int64) * xsh
        if FIR:
            at = j - PADDING
            h3 = _read(row, at, IW, xsw, inside) + a1 * _read(row, at + 1, IW, xsw, inside)
            h3 += a2 * _read(row, at + 2, IW, xsw, inside) + a3 * _read(row, at + 3, IW, xsw, inside)
            value = d0 * h0 + d1 * h1 + d2 * h2 + d3 * h3
            h0 = h1
            h1 = h2
            h2 = h3
        else:
            value = _read(row, j, IW, xsw, inside)
        if not FIR or r >= 3:
            k = first + r - 3 if FIR else first + r
            there = (j < OW) & (k < OH)
            if END:
                if SCALE:
                    value = value * factor
                value += offset
                if NOISE:
                    value += loud * tl.load(noise + b * nsb + k * OW + j, mask=there, other=0.0).to(
                        tl.float32
                    )
                value = tl.where(value > 0, value, value * SLOPE)
                if CLAMP:
                    value = tl.minimum(tl.maximum(value, -clamp), clamp)
            tl.store(
                to + k.to(tl.int64) * osh + j * osw, value.to(out.dtype.element_ty), mask=there & of_channel
            )


@triton.jit
def _before(
    grad,
    out,
    j,
    W,
    gsw,
    osw,
    inside,
    clamp,
    CLAMP: tl.constexpr,
    SLOPE: tl.constexpr,
):
    """The gradient before clamp and leaky ReLU, from the one behind them and their result."""
    g, y = _read(grad, j, W, gsw, inside), _read(out, j, W, osw, inside)
    g = tl.where(y > 0, g, g * SLOPE)
    if CLAMP:
        g = tl.where(tl.abs(y) < clamp, g, 0.0)
    return g


@triton.jit
def end_backward(
    grad,
    out,
    x,
    fir,
    scale,
    grad_x,
    parts,
    IH,
    IW,
    OH,
    OW,
    C,
    B,
    gsb,
    gsc,
    gsh,
    gsw,
    osb,
    osc,
    osh,
    osw,
    xsb,
    xsc,
    xsh,
    xsw,
    clamp,
    PADDING: tl.constexpr,
    FIR: tl.constexpr,
    SCALE: tl.constexpr,
    PARTS: tl.constexpr,
    CLAMP: tl.constexpr,
    SLOPE: tl.constexpr,
    BW: tl.constexpr,
    BC: tl.constexpr,
):
    """``grad_x``, which has the strides of ``x``; with PARTS each block's share of the gradient by scale."""
    b, first, j, c, block = _place(IH, IW, C, BW, BC)
    of_channel = c < C
    from_grad, from_out = grad + b * gsb + c * gsc, out + b * osb + c * osc
    here = b * xsb + c * xsc
    if FIR:
        d0, d1, d2, d3, a1, a2, a3 = _taps(fir, True)
    if SCALE:
        factor = tl.load(scale + b * C + c, mask=of_channel, other=0.0).to(tl.float32)
    total = tl.zeros((BW, BC), tl.float32)
    h0 = total
    h1 = total
    h2 = total
    last: tl.constexpr = 7 if FIR else 4
    for r in tl.static_range(last):
        i = first + r - (3 - PADDING) if FIR else first + r
        inside = of_channel & (i >= 0) & (i < OH)
        g, y = from_grad + i.to(tl.int64) * gsh, from_out + i.to(tl.int64) * osh
        if FIR:
            at = j - (3 - PADDING)
            h3 = _before(g, y, at, OW, gsw, osw, inside, clamp, CLAMP, SLOPE)
            h3 += a1 * _before(g, y, at + 1, OW, gsw, osw, inside, clamp, CLAMP, SLOPE)
            h3 += a2 * _before(g, y, at + 2, OW, gsw, osw, inside, clamp, CLAMP, SLOPE)
            h3 += a3 * _before(g, y, at + 3, OW, gsw, osw, inside, clamp, CLAMP, SLOPE)
            value = d0 * h0 + d1 * h1 + d2 * h2 + d3 * h3
            h0 = h1
            h1 = h2
            h2 = h3
        else:
            value = _before(g, y, j, OW, gsw, osw, inside, clamp, CLAMP, SLOPE)
        if not FIR or r >= 3:
            k = first + r - 3 if FIR else first + r
            there = (j < IW) & (k < IH) & of_channel
            place = here + k.to(tl.int64) * xsh + j * xsw
            if PARTS:
                total += value * tl.load(x + place, mask=there, other=0.0).to(tl.float32)
            if SCALE:
                value = value * factor
            tl.store(grad_x + place, value.to(grad_x.dtype.element_ty), mask=there)
    if PARTS:  # (blocks, B, C)
        column = tl.sum(total, axis=0)[None, :]
        tl.store(parts + (block * B + b) * C + c, column, mask=of_channel)
