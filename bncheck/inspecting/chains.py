"""The layers of a file whose means follow from others, by its graph or the order of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.layers.means import Chain, Chains, adjacent_chains, affordable, compared
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.keeping import kept
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.reading.tensors import PIECE_BYTES
from bncheck.rules.static.bn117_other_weights import is_settled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bncheck.graph.dataflow import Floats, Graph
    from bncheck.graph.means.spread import InPieces
    from bncheck.reading.tensors import Array, LazyTensor


#: A pickled module tells the order of a part: it must not hide what all the tensors say.
_MOST: Final = 0.5
#: Means that do not follow may be of images that have shrunk to one position or two, as those of a
#: network for ImageNet on CIFAR.
_SMALL: Final = (1, 2)
_FITS: Final = 0.7
#: The kinds of dtypes that weights have; V is that of small floats.
_NUMBERS: Final = "fiuV"


def chains_of(checkpoint: Checkpoint, layers: tuple[NormLayer, ...]) -> Chains:
    """What is known without running anything; no chains where nothing says what is connected."""
    if sum(layer.statistics is not None for layer in layers) < 2:
        return Chains()
    try:
        graph = _graph(checkpoint)
        known = (
            graph_chains(graph, _weights(graph, checkpoint.tensors.lazy), layers)
            if graph
            else Chains()
        )
    except Exception:  # a model that contradicts itself has no graph: the other rules judge it
        known = Chains()
    whole = known.found and len(known.found) >= _MOST * known.number
    if checkpoint.container is Container.ONNX or whole:  # whose tensors have no such order
        return known
    neighbours = adjacent_chains(layers, checkpoint.tensors.lazy)
    return neighbours if len(known.found) < _MOST * len(neighbours.found) else known


def _graph(checkpoint: Checkpoint) -> Graph | None:
    """What the file says of the model's calls."""
    if checkpoint.program is not None:
        from bncheck.graph.onnx.thin import main_graph

        return main_graph(checkpoint.program)
    if checkpoint.listing is not None:
        from bncheck.graph.listed.read import read_listing

        return read_listing(checkpoint.listing(), checkpoint.tensors.lazy)
    return None


def module_chains(
    model: nn.Module, inputs: tuple[Any, ...], layers: tuple[NormLayer, ...], prefix: str = ""
) -> Chains | None:
    """By the graph of a module in eval mode; None where torch.export makes none of it.

    `prefix` stands before the module's names in those of the layers.
    """
    from bncheck.graph.program.from_module import graph_of_module

    try:
        graph = graph_of_module(model, inputs)
    except Exception:  # what cannot be exported can be measured all the same
        return None

    def read(name: str) -> Floats | None:
        stored = graph.stored(name)
        numbers = graph.constant(name) if stored is None else stored
        return None if numbers is None else _in_precision(numbers)

    return graph_chains(graph, read, layers, prefix)


def traced_chains(
    model: nn.Module, layers: tuple[NormLayer, ...], prefix: str = ""
) -> Chains | None:
    """The same without inputs, as far as torch.fx can follow the module's forward."""
    from bncheck.graph.listed.read import read_listing
    from bncheck.graph.program.traced import traced_listing
    from bncheck.reading.tensors import LoadedTensor

    try:
        held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        lazy = {
            name: LoadedTensor(partial(_numbers, tensor), tuple(tensor.shape))
            for name, tensor in held.items()
        }
        with kept(model):  # a forward may leave a tracer in a buffer
            listing = traced_listing(model)
        graph = read_listing(listing, lazy)
        return graph_chains(graph, _weights(graph, lazy), layers, prefix)
    except Exception:  # its forward asks for numbers, or for what it was not given
        return None


def _numbers(tensor: Tensor) -> Array:
    """In the precision that is wanted of them, so that weights need not be copied."""
    wanted = tensor.detach().cpu()
    return np.asarray((wanted.float() if wanted.ndim > 1 else wanted.double()).numpy())


def _in_precision(numbers: Array) -> Floats:
    """Weights in single precision, which is enough for them, and vectors in double."""
    return numbers.astype(np.float32 if numbers.ndim > 1 else np.float64, copy=False)


def graph_chains(
    graph: Graph,
    weights: Callable[[str], Floats | InPieces | None],
    layers: tuple[NormLayer, ...],
    prefix: str = "",
) -> Chains:
    """The chains of a graph whose normalisations are among the layers.

    `weights` gives the numbers of a fixed value of the graph by its name.
    """
    found = _compared(graph, weights, layers, prefix)
    number = sum(1 for _ in graph.norms())
    for side in _SMALL if _pads(graph) else ():
        if is_settled(Chains(tuple(found.values()), number, certain=True)):
            break
        for name, chain in _compared(graph, weights, layers, prefix, side).items():
            if name in found and chain.correlation > _FITS:
                found[name] = _better(found[name], chain)
    return Chains(tuple(found.values()), number, certain=True)


def _pads(graph: Graph) -> bool:
    """Whether some convolution pads with zeros: only then does the size of images matter."""
    from bncheck.graph.specs import Conv

    return any(isinstance(op.spec, Conv) and op.spec.pads_with_zeros for op in graph.ops)


def _better(first: Chain, second: Chain) -> Chain:
    """What speaks for the layer in either."""
    return replace(
        first,
        correlation=max(first.correlation, second.correlation),
        deviation=min(first.deviation, second.deviation),
    )


def _compared(
    graph: Graph,
    weights: Callable[[str], Floats | InPieces | None],
    layers: tuple[NormLayer, ...],
    prefix: str,
    side: int | None = None,
) -> dict[str, Chain]:
    from bncheck.graph.means.predict import predicted_means

    by_name = {layer.name: layer for layer in layers}
    by_mean = {layer.tensors.get("running_mean"): layer for layer in layers}
    found: dict[str, Chain] = {}
    for prediction in predicted_means(graph, weights, side):
        layer = by_mean.get(prediction.stored) or by_name.get(prefix + prediction.label)
        if layer is None or layer.statistics is None or layer.channels != prediction.mean.size:
            continue
        eps = layer.eps.value or 0.0
        names = (prediction.norms, prediction.maps)
        chain = compared(layer.name, prediction.mean, layer.statistics, eps, *names)
        if chain is not None and layer.name not in found:  # a layer called twice is another matter
            found[layer.name] = chain
    return found


def _weights(
    graph: Graph, lazy: Mapping[str, LazyTensor]
) -> Callable[[str], Floats | InPieces | None]:
    """The numbers of values: those of the file, as far as they are few enough, or computed ones."""
    from bncheck.graph.linear import Linear
    from bncheck.graph.means.spread import InPieces
    from bncheck.graph.specs import Conv, ConvTranspose

    maps = [
        op.input(1) or "" for op in graph.ops if isinstance(op.spec, Conv | ConvTranspose | Linear)
    ]
    chosen = affordable({name: lazy[name].cost for name in maps if name in lazy})
    refused = set(maps).intersection(lazy) - chosen

    def read(name: str) -> Floats | InPieces | None:
        if name in refused:
            return None
        tensor = lazy.get(name)
        if name in chosen and tensor is not None and tensor.shape and tensor.cost > PIECE_BYTES:
            return InPieces(tensor.shape, partial(_pieces, tensor))
        try:
            numbers = tensor.read() if tensor is not None else graph.constant(name)
        except (BncheckError, ValueError):  # numbers that are computed from what was left out
            return None
        if numbers is None or numbers.dtype.kind not in _NUMBERS:
            return None
        return _in_precision(numbers)

    return read


def _pieces(tensor: LazyTensor) -> Iterator[Floats]:
    from bncheck.graph.means.spread import UnknownError

    try:
        for numbers in tensor.pieces():
            if numbers.dtype.kind not in _NUMBERS:
                raise UnknownError
            yield _in_precision(numbers)
    except (BncheckError, ValueError):
        raise UnknownError from None
