"""What is called like running statistics, and belongs to no layer that is judged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bncheck.core.errors import BncheckError, OtherFileError, quoted
from bncheck.core.limits import MAX_LAYERS
from bncheck.layers.norm_layer import NormLayer, check_size
from bncheck.layers.normalisers import is_input_normaliser
from bncheck.reading.checkpoint import Checkpoint
from bncheck.reading.roles import is_unnamed, looks_like_a_statistic

if TYPE_CHECKING:
    from bncheck.reading.tensors import Array

#: mean and var, bn_mean and bn_variance, MATLAB's TrainedMean, Flux' Greek mu and sigma squared.
_MOMENT: Final = re.compile(
    r"(?P<stem>|_|(?:bn|batch|pop|population|trained|global|ema|avg|run|saved|stats?)_?)"
    r"(?:(?P<mean>mean|\u03bc)|var|variance|\u03c3\u00b2|\u03c32)",
    re.IGNORECASE,
)
#: Caffe2's running mean and (inverse) variance, whose layers share an owner.
_CAFFE2: Final = re.compile(r"(?P<stem>.{1,200}_)(?:(?P<mean>rm)|riv)")
#: `modelbnrunning_var`, as averages are kept whose names lose their dots, and `bn_running_var`.
_ENDS_LIKE_A_STATISTIC: Final = re.compile(r"(?:running|moving)_?(?:mean|var(?:iance)?)\Z", re.I)
_MOST_NAMED: Final = 4


@dataclass(frozen=True, slots=True)
class Unjudged:
    """Tensors of one owner; `normaliser` where they are an input normaliser's."""

    owner: str
    names: tuple[str, ...]
    finite: bool
    normaliser: bool = False

    @property
    def named(self) -> str:
        """The first of its tensors, as a sentence names them."""
        more = ", ..." if len(self.names) > _MOST_NAMED else ""
        return ", ".join(quoted(name) for name in self.names[:_MOST_NAMED]) + more


def unjudged(checkpoint: Checkpoint, layers: Iterable[NormLayer]) -> tuple[Unjudged, ...]:
    """What is called like a statistic and belongs to none of the layers, by its owner."""
    layers = [*layers]
    judged = {name for layer in layers for name in layer.tensors.values()}
    lacking = {layer.name: layer.channels for layer in layers if len(layer.missing) > 1}
    judged = judged.union(*(module.sources for module in checkpoint.modules.values()))
    found: dict[str, tuple[str, ...]] = {}
    normalisers: set[str] = set()
    for owner, named in checkpoint.tensors.owners.items():
        left = [(own, name) for own, name in named if name not in judged]
        if is_input_normaliser(owner, (own for own, _ in left)):
            normalisers.add(owner)
            found[owner] = tuple(name for _, name in left)
        elif statistics := tuple(_statistics(left, checkpoint)):
            found[owner] = statistics
        elif len(vectors := _vectors(left, checkpoint, lacking.get(owner, 0))) > 1:
            found[owner] = vectors
    if len(found) > MAX_LAYERS:
        raise BncheckError(
            f"holds more than {MAX_LAYERS:,} groups of running statistics (limit MAX_LAYERS)",
            "take a part of it with --key",
        )
    check_size(checkpoint, (name for names in found.values() for name in names))
    return tuple(
        Unjudged(
            owner,
            names,
            all(_finite(checkpoint.tensors[name]) for name in names),
            owner in normalisers,
        )
        for owner, names in found.items()
    )


def refuse_unread(checkpoint: Checkpoint, layers: Iterable[NormLayer]) -> None:
    """Raise BncheckError where nothing in a file can be judged that should be.

    Either there are no tensors at all, or statistics of a framework that is not known, all finite:
    a file that was not understood is not healthy.
    """
    if not checkpoint.tensors and not checkpoint.modules:
        raise OtherFileError("holds no tensors", "give bncheck the file that the weights are in")
    if checkpoint.tensors and all(map(is_unnamed, checkpoint.tensors)):
        raise BncheckError(
            "holds tensors without names, so nothing says what they are",
            "save a state dict, in which each has its name",
        )
    if any(layer.tracked for layer in layers):
        return
    groups = [group for group in unjudged(checkpoint, layers) if not group.normaliser]
    if groups and all(group.finite for group in groups):
        raise BncheckError(
            f"holds what looks like running statistics of {quoted(groups[0].owner or 'a layer')} "
            f"({groups[0].named}), which bncheck does not read",
            "name them running_mean and running_var, beside weight and bias, in a safetensors "
            "file, or convert the model to ONNX",
        )


def _statistics(named: Sequence[tuple[str, str]], checkpoint: Checkpoint) -> Iterator[str]:
    """Those with a name that speaks of it, and pairs of a mean and a variance of one shape."""
    pairs: dict[str, dict[bool, str]] = {}
    for own, name in named:
        if looks_like_a_statistic(own) or _ENDS_LIKE_A_STATISTIC.search(own):
            yield name
        elif match := _MOMENT.fullmatch(own) or _CAFFE2.fullmatch(own):
            pairs.setdefault(match["stem"], {})[match["mean"] is not None] = name
    for pair in pairs.values():
        shapes = [checkpoint.tensors.lazy[name].shape for name in pair.values()]
        if len(pair) == 2 and shapes[0] == shapes[1] and shapes[0] is not None and any(shapes):
            yield from pair.values()


def _vectors(
    named: Sequence[tuple[str, str]], checkpoint: Checkpoint, size: int
) -> tuple[str, ...]:
    """What a layer that counts its batches and has no statistics holds for each channel instead."""
    lazy = checkpoint.tensors.lazy
    return tuple(name for _, name in named if size and lazy[name].shape == (size,))


def _finite(array: Array) -> bool:
    import numpy as np

    if array.dtype.kind == "V":
        array = array.astype(np.float64)
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())
