"""Whether running means follow from the affine before a layer and the weights between.

A BatchNorm gives N(beta, gamma^2) in each channel. Behind an activation f its mean is E[f(z)], and
a linear map of weights W and bias b makes W E + b of it: the mean that the next BatchNorm must have
stored, if its statistics were taken with these weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.limits import MAX_PREDICTING_BYTES
from bncheck.layers.facts import median
from bncheck.layers.norm_layer import NormLayer
from bncheck.reading.roles import split_name

if TYPE_CHECKING:
    from bncheck.layers.norm_layer import Floats
    from bncheck.reading.tensors import Array, LazyTensor

#: The order in which torch and Keras save the tensors of a layer; a sorted file has another.
_AS_DEFINED: Final = ("weight", "bias", "running_mean", "running_var")
#: With fewer channels a correlation is chance.
_FEWEST_CHANNELS: Final = 8
#: Numbers that are alike to this share of the largest tell nothing.
_ROUNDING: Final = 1e-6
#: A median correlation that is no chance, and of how many chains.
_MANY: Final = 0.5
_FEWEST_CHAINS: Final = 4


@dataclass(frozen=True, slots=True)
class Chain:
    """A layer whose means are predicted: `norms` and `maps` are what the prediction rests on.

    `correlation` of predicted and stored means over channels; `deviation` is the root of their mean
    squared difference in standard deviations of the channels.
    """

    layer: str
    norms: tuple[str, ...]
    maps: tuple[str, ...]
    channels: int
    correlation: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Chains:
    """The chains of a model that were looked at, and the number of all.

    `certain` where a graph says what is connected; otherwise tensors that lie next to each other
    in the file are taken to be.
    """

    found: tuple[Chain, ...] = ()
    number: int = 0
    certain: bool = False


def rectified_mean(mean: Floats, sd: Floats) -> Floats:
    """E[max(z, 0)] of z ~ N(mean, sd^2): mean Phi(mean/sd) + sd phi(mean/sd).

    Elementwise. https://en.wikipedia.org/wiki/Rectified_Gaussian_distribution
    """
    sd = np.maximum(np.abs(sd), 1e-30)
    ratio = np.clip(mean / sd, -40.0, 40.0)
    share = 0.5 * np.array([math.erfc(-x / math.sqrt(2)) for x in ratio.ravel()])
    density = np.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    return np.asarray(mean * share.reshape(ratio.shape) + sd * density)


def compared(
    layer: str,
    predicted: Floats,
    stored: tuple[Floats, Floats],
    eps: float,
    norms: Sequence[str],
    maps: Sequence[str],
) -> Chain | None:
    """A chain, or None where the channels are too few or alike to tell.

    `stored` are mean and variance; all have shape (channels,). The better of two correlations is
    taken, that of the means and that of the means in standard deviations: one channel of another
    scale would decide either.
    """
    mean, var = stored
    sd = np.sqrt(var + eps)
    numbers = np.stack([predicted, mean, sd])
    if mean.size < _FEWEST_CHANNELS or not np.isfinite(numbers).all() or not (sd > 0).all():
        return None
    pairs = ((predicted, mean), (predicted / sd, mean / sd))
    found = [r for r in (_correlation(x, y) for x, y in pairs) if r is not None]
    if len(found) < len(pairs):
        return None
    deviation = float(np.sqrt(np.mean(((predicted - mean) / sd) ** 2)))
    return Chain(layer, tuple(norms), tuple(maps), mean.size, max(found), deviation)


def _correlation(x: Floats, y: Floats) -> float | None:
    """None where channels differ by no more than rounding: kernels are summed in float32."""
    around = []
    for numbers in (x, y):
        differing = numbers - numbers.sum() / numbers.size
        widest = float(np.abs(differing).max())
        if widest <= _ROUNDING * float(np.abs(numbers).max()):
            return None
        around.append(differing / widest)
    x, y = around
    return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))


def summed_kernel(weight: Array, shares: Floats | None = None) -> Floats:
    """Weights [a, b, places...] of a convolution or linear layer, summed over the places: [a, b].

    `shares` has a factor for each place.
    As a product in single precision, which takes a fifth of the time of a sum along a short axis.
    """
    flat = weight.astype(np.float32, copy=False).reshape(*weight.shape[:2], -1)
    places = flat.shape[2]
    factors = np.ones(places) if shares is None else shares
    summed = flat[:, :, 0] if places == 1 else flat @ factors.astype(np.float32)
    return np.asarray(summed.astype(np.float64))


def affordable(costs: Mapping[str, int]) -> frozenset[str]:
    """The smallest of some tensors, together no more than MAX_PREDICTING_BYTES."""
    left, found = MAX_PREDICTING_BYTES, set()
    for name in sorted(costs, key=lambda name: costs[name]):
        left -= costs[name]
        if left < 0:
            break
        found.add(name)
    return frozenset(found)


class _Link(NamedTuple):
    """Two layers and the tensor of weights that lies between them."""

    before: NormLayer
    weight: str
    after: NormLayer


def adjacent_chains(layers: Sequence[NormLayer], tensors: Mapping[str, LazyTensor]) -> Chains:
    """The chains of a file without a graph: two layers with one tensor of weights between them.

    The activation is taken to be ReLU. Where few means follow, each layer may be defined before the
    weights that run before it: the chains of that order are given if more of them do.
    """
    chains = _chains(_links(layers, tensors), tensors)
    if not chains.found or _agreement(chains) >= _MANY:
        return chains
    others = _chains(_links(layers, tensors, behind=True), tensors)
    return others if _agreement(others) >= _MANY else chains


def _agreement(chains: Chains) -> float:
    """The median correlation; 0 where there are too few to tell."""
    found = [chain.correlation for chain in chains.found]
    return median(np.array(found)) if len(found) >= _FEWEST_CHAINS else 0.0


def _chains(links: Iterable[_Link], tensors: Mapping[str, LazyTensor]) -> Chains:
    links = list(links)
    chosen = affordable({link.weight: _cost(tensors[link.weight]) for link in links})
    found = (_chain(link, tensors) for link in links if link.weight in chosen)
    return Chains(tuple(chain for chain in found if chain), len(links))


def _links(
    layers: Sequence[NormLayer], tensors: Mapping[str, LazyTensor], behind: bool = False
) -> Iterator[_Link]:
    """Layers with the weights between them, or with those behind the second of them."""
    place = {name: index for index, name in enumerate(tensors)}
    usable = {layer.name: layer for layer in layers if _as_defined(layer, place)}
    owned = {name for layer in layers for name in layer.tensors.values()}
    owners = {name: layer for layer in usable.values() for name in layer.tensors.values()}
    order: list[NormLayer | str] = []  # layers, and between them the names of weights
    for name, tensor in tensors.items():
        if name in owned:
            layer = owners.get(name)
            if layer is None:
                order.append("")
            elif not order or order[-1] is not layer:
                order.append(layer)
        elif tensor.shape is not None and len(tensor.shape) > 1:
            order.append(name)
    for run in _runs(order):
        before, weights, after, following = run
        chosen = following if behind else weights
        if len(chosen) == 1 and chosen[0] and _fits(before, tensors[chosen[0]].shape, after):
            yield _Link(before, chosen[0], after)


_Run = tuple[NormLayer, list[str], NormLayer, list[str]]


def _runs(order: Sequence[NormLayer | str]) -> Iterator[_Run]:
    """Neighbouring layers with the weights between them and behind the second."""
    places = [i for i, item in enumerate(order) if not isinstance(item, str)]
    for i, j, k in zip(places, places[1:], [*places[2:], len(order)], strict=False):
        between = [item for item in order[i + 1 : j] if isinstance(item, str)]
        behind = [item for item in order[j + 1 : k] if isinstance(item, str)]
        before, after = order[i], order[j]
        assert isinstance(before, NormLayer)
        assert isinstance(after, NormLayer)
        yield before, between, after, behind


def _as_defined(layer: NormLayer, place: Mapping[str, int]) -> bool:
    """Whether it has statistics, and its tensors the order of a module's own."""
    places = [place[layer.tensors[role]] for role in _AS_DEFINED if role in layer.tensors]
    return places == sorted(places) and layer.statistics is not None


def _fits(before: NormLayer, shape: tuple[int, ...] | None, after: NormLayer) -> bool:
    if not shape or 0 in shape:
        return False
    inputs, outputs = before.channels, after.channels
    if shape[:2] == (inputs, outputs):  # also a transposed convolution's
        return True
    return shape[0] == outputs and inputs % shape[1] == 0 and outputs % (inputs // shape[1]) == 0


def _cost(tensor: LazyTensor) -> int:
    """That of a tensor whose file cannot be opened is beyond all limits."""
    try:
        return tensor.cost
    except BncheckError:
        return MAX_PREDICTING_BYTES + 1


def _read(tensor: LazyTensor | None) -> Array | None:
    """The numbers; None where they are damaged, which is for whoever needs them to say."""
    try:
        return None if tensor is None else tensor.read()
    except BncheckError:
        return None


def _read_summed(tensor: LazyTensor) -> Floats | None:
    """The kernel; None where it is damaged or holds no floats."""
    try:
        rows = [summed_kernel(p) if p.dtype.kind in "fV" else None for p in tensor.pieces()]
    except BncheckError:
        return None
    kernels = [kernel for kernel in rows if kernel is not None]
    return np.concatenate(kernels) if len(kernels) == len(rows) else None


def _chain(link: _Link, tensors: Mapping[str, LazyTensor]) -> Chain | None:
    before, weight, after = link
    assert after.statistics is not None
    owner = split_name(weight)[0]
    kernel, bias = _read_summed(tensors[weight]), _read(tensors.get(f"{owner}.bias"))
    if kernel is None:
        return None
    zeros = np.zeros(before.channels)
    beta = zeros if before.bias is None else before.bias.astype(np.float64)
    gamma = zeros + 1 if before.weight is None else before.weight.astype(np.float64)
    if beta.size != before.channels or gamma.size != before.channels:
        return None
    given = rectified_mean(beta, gamma)
    shift: Floats = np.zeros(after.channels)
    if bias is not None and bias.shape == shift.shape:
        shift = bias.astype(np.float64)
    made = [
        compared(
            after.name, _mapped(matrix, given) + shift, after.statistics,
            after.eps.value or 0.0, [before.name], [owner],
        )
        for matrix in _matrices(kernel, before.channels, after.channels)
    ]  # fmt: skip
    return max(
        (chain for chain in made if chain), key=lambda chain: chain.correlation, default=None
    )


def _matrices(kernel: Floats, inputs: int, outputs: int) -> Iterator[Floats]:
    """As a convolution's or linear layer's, and as a transposed convolution's, where it fits."""
    if len(kernel) == outputs and inputs % kernel.shape[1] == 0:
        yield kernel
    if kernel.shape == (inputs, outputs):
        yield kernel.T


def _mapped(matrix: Floats, given: Floats) -> Floats:
    """matrix [out, in per group] of what is given, shape (in,)."""
    groups = given.size // matrix.shape[1]
    parts = matrix.reshape(groups, -1, matrix.shape[1]) @ given.reshape(groups, -1, 1)
    return np.asarray(parts.ravel())
