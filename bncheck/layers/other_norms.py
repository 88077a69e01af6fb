"""Norms without running statistics, as a file's names tell: Spectral and Weight Norm, LayerNorms.

Spectral Norm divides a weight by its largest singular value, estimated with the vectors u and v;
Weight Norm keeps a direction v and a length g. Both spellings of torch are known, the old hooks'
(`weight_orig`, `weight_u`, `weight_g`, `weight_v`) and the parametrizations'.
https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.parametrizations.spectral_norm.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bncheck.layers.norm_layer import NormLayer, bare_layer
from bncheck.reading.checkpoint import Checkpoint
from bncheck.reading.kinds import NormKind
from bncheck.reading.roles import split_name
from bncheck.reading.tensors import LazyTensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bncheck.reading.tensors import Array

#: Bytes of weights that are read for these norms, the smallest first.
_MOST_BYTES: Final = 64 << 20
_OLD: Final = re.compile(r"(?:(?P<owner>.*)\.)?(?P<tensor>[^.]+)_(?P<role>orig|u|v|g)", re.DOTALL)
_NEW: Final = re.compile(
    r"(?:(?P<owner>.*)\.)?parametrizations\.(?P<tensor>[^.]+)\."
    r"(?P<role>original|original0|original1|0\._u|0\._v)", re.DOTALL,
)  # fmt: skip
_ENDINGS: Final = ("_orig", "_u", "_v", "_g", ".original", ".original0", ".original1")
_ROLES: Final = {"original": "orig", "original0": "g", "original1": "v", "0._u": "u", "0._v": "v"}
_SPECTRAL, _WEIGHT = frozenset(("orig", "u")), frozenset(("g", "v"))
#: ln_1, norm2, layer_norm, final_layernorm, rmsnorm: what a bare file calls its LayerNorms.
_NORM: Final = re.compile(r"(?:^|[._/]|[a-z])(?:norm|ln|rms)(?:_?[a-z]?\d*)?$", re.IGNORECASE)
_LONGEST_NAME: Final = 2000


@dataclass(frozen=True)
class OtherNorm:
    """One norm and its tensors by role: orig, u, v or g, v or weight, bias."""

    name: str
    kind: NormKind
    tensors: Mapping[str, Array]

    @property
    def layer(self) -> NormLayer:
        """As an entry of the table of layers."""
        size = self.tensors["weight"].size if self.kind is NormKind.BY_NAME else 0
        return bare_layer(self.name, self.kind, size)


def other_norms(checkpoint: Checkpoint, layers: Sequence[NormLayer]) -> tuple[OtherNorm, ...]:
    """Those whose tensors are read within the limit on bytes."""
    lazy = checkpoint.tensors.lazy
    taken = {name for layer in layers for name in layer.tensors.values()}
    groups = [*_reparametrised(lazy), *_affine(lazy, taken)]
    found, left = {}, _MOST_BYTES
    for place, (name, kind, roles) in sorted(
        enumerate(groups), key=lambda item: sum(lazy[t].cost for t in item[1][2].values())
    ):
        cost = sum(lazy[tensor].cost for tensor in roles.values())
        if cost > left:
            break
        left -= cost
        checkpoint.budget.read.take(cost)
        arrays = {role: checkpoint.tensors[tensor] for role, tensor in roles.items()}
        if all(array.dtype.kind in "fV" for array in arrays.values()):
            found[place] = OtherNorm(name, kind, arrays)
    return tuple(found[place] for place in sorted(found))


def _reparametrised(
    tensors: Mapping[str, LazyTensor],
) -> Iterator[tuple[str, NormKind, dict[str, str]]]:
    groups: dict[tuple[str, str, bool], dict[str, str]] = {}
    for name in tensors:
        if not name.endswith(_ENDINGS) or len(name) > _LONGEST_NAME:
            continue
        if match := _NEW.fullmatch(name):
            key = (match["owner"] or "", match["tensor"], True)
            groups.setdefault(key, {})[_ROLES[match["role"]]] = name
        elif match := _OLD.fullmatch(name):
            key = (match["owner"] or "", match["tensor"], False)
            groups.setdefault(key, {})[match["role"]] = name
    for (owner, tensor, _), roles in groups.items():
        named = owner if tensor == "weight" else f"{owner}.{tensor}".lstrip(".")
        if roles.keys() >= _SPECTRAL:
            yield named, NormKind.SPECTRAL, roles
        elif roles.keys() == _WEIGHT:
            yield named, NormKind.WEIGHT, roles


def _affine(
    tensors: Mapping[str, LazyTensor], taken: set[str]
) -> Iterator[tuple[str, NormKind, dict[str, str]]]:
    """One-dimensional weights, and biases, of what is called a norm."""
    for name, tensor in tensors.items():
        owner, own = split_name(name)
        if own != "weight" or name in taken or not _NORM.search(owner[-60:]):
            continue
        if tensor.shape is None or len(tensor.shape) != 1:
            continue
        bias = f"{name.removesuffix('weight')}bias"
        same = bias in tensors and bias not in taken and tensors[bias].shape == tensor.shape
        yield owner, NormKind.BY_NAME, {"weight": name, **({"bias": bias} if same else {})}


def matrices(weight: npt.NDArray[np.float64], size: int) -> Iterable[npt.NDArray[np.float64]]:
    """The weight as a matrix of `size` rows, for each axis that u may belong to."""
    import numpy as np

    for axis, length in enumerate(weight.shape):
        if length == size:
            yield np.moveaxis(weight, axis, 0).reshape(size, -1)
