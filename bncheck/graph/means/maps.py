"""Normalisations, and what mixes channels by weights: means pass, variances add."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from bncheck.graph import specs
from bncheck.graph.dataflow import Floats
from bncheck.graph.linear import Linear
from bncheck.graph.means.spread import Spread, Step, UnknownError, along, gaussian
from bncheck.layers.means import summed_kernel


def norm(step: Step) -> Spread:
    """N(beta, gamma^2) in each channel, whatever it was before."""
    rank = len(step.sizes(step.op.inputs[0]))
    if rank < 2:
        raise UnknownError
    weight = step.weight(1) if step.has(1) else np.ones(1)
    bias = step.weight(2) if step.has(2) else np.zeros(1)
    mean, var = (np.broadcast_to(x.ravel(), max(weight.size, bias.size)) for x in (bias, weight**2))
    shape = (1, -1, *[1] * (rank - 2))
    quantiles = gaussian(mean.reshape(shape), var.reshape(shape))
    return Spread(quantiles, object(), (step.op.label,))


def _linear_map(
    step: Step, axis: int, matrices: Iterable[Floats], inputs: int, bias: Floats | float
) -> Spread:
    """y = matrix x + bias along an axis; matrix [groups, out per group, in per group].

    It may come in pieces of [groups, some outputs, in per group] where there is one group. `inputs`
    are all of x along the axis.
    """
    x = step.spread()
    moments = [along(m, axis, inputs) for m in (x.mean, x.var)]
    if moments[0] is None or moments[1] is None:
        raise UnknownError
    means, variances = [], []
    for matrix in matrices:
        first, second = (m.reshape(len(matrix), -1, 1) for m in moments if m is not None)
        means.append((matrix @ first).ravel())
        variances.append((matrix**2 @ second).ravel())
    mean, var = np.concatenate(means) + bias, np.concatenate(variances)
    shape = [1] * x.rank
    shape[axis] = mean.size
    maps = tuple(dict.fromkeys((*x.maps, step.op.label)))
    return Spread(gaussian(mean.reshape(shape), var.reshape(shape)), object(), x.norms, maps, True)


def convolution(step: Step) -> Spread:
    """The kernel summed over its places; borders are left out of account."""
    spec = step.op.spec
    assert isinstance(spec, specs.Conv)
    weight = step.in_pieces(1)
    shape, groups = weight.shape, spec.groups
    if len(shape) < 3 or not weight.size or shape[0] % groups:
        raise UnknownError
    small = step.side is not None and spec.pads_with_zeros
    shares = _reached(shape[2:], step.side or 1) if small else None
    pieces = weight.pieces() if groups == 1 else [weight.whole()]
    kernels = (summed_kernel(piece, shares).reshape(groups, -1, shape[1]) for piece in pieces)
    return _linear_map(step, 1 - len(shape), kernels, groups * shape[1], _bias(step))


def _reached(sizes: tuple[int, ...], side: int) -> Floats:
    """For each part of a kernel the share of `side` positions at which it sees no padding."""
    shares = np.ones(1)
    for size in sizes:
        share = np.maximum(0, 1 - np.abs(np.arange(size) - size // 2) / side)
        shares = np.outer(shares, share).ravel()
    return shares


def transposed_convolution(step: Step) -> Spread:
    """Each output is reached by a share of the kernel: one of as many as the steps are large."""
    spec = step.op.spec
    assert isinstance(spec, specs.ConvTranspose)
    weight = step.weight(1)
    if weight.ndim < 3 or not weight.size or len(weight) % spec.groups:
        raise UnknownError
    kernel = summed_kernel(weight) / max(1, math.prod(spec.stride))
    matrix = kernel.reshape(spec.groups, -1, kernel.shape[1]).transpose(0, 2, 1)
    return _linear_map(step, 1 - weight.ndim, [matrix], len(weight), _bias(step))


def linear(step: Step) -> Spread:
    """alpha * x @ weight + beta * bias along the last axis."""
    spec = step.op.spec
    assert isinstance(spec, Linear)
    weight = step.in_pieces(1)
    if len(weight.shape) != len(spec.sides) or spec.axis != -1:
        raise UnknownError
    groups, _, inputs = spec.sizes(weight.shape)
    if groups > 1:
        raise UnknownError
    outputs_first = spec.order[0] == 0
    pieces = weight.pieces() if outputs_first else [weight.whole()]
    matrices = (spec.alpha * p.transpose(spec.order).reshape(1, -1, inputs) for p in pieces)
    return _linear_map(step, -1, matrices, inputs, spec.beta * _bias(step))


def _bias(step: Step) -> Floats | float:
    return step.weight(2).ravel() if step.has(2) else 0.0
