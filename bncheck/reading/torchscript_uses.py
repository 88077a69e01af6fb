"""What TorchScript code does with running statistics in eval mode, by the calls of its forward.

A file may hold sound statistics and not normalise by them: `batch_norm` may be told to take those
of the batch, or the code subtracts and divides by hand. The second is believed where it says
(x - mean) / sqrt(var + eps), or x * scale + (bias - mean * scale) with scale = weight / sqrt(var +
eps), in whatever order it reshapes; all else that is made of a statistic is not understood.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from bncheck.core.errors import BncheckError
from bncheck.reading.listing import BETWEEN, ListedCall, Listing, Ref
from bncheck.reading.roles import AFFINE, STATISTICS, split_name

_NORMS: Final = frozenset(
    ("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit",
     "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_impl_index")
)  # fmt: skip
#: torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, ...).
_MEAN, _VAR, _TRAINING, _EPS = 3, 4, 5, 7
#: The same numbers in another shape, dtype or place.
_VIEWS: Final = frozenset(
    ("view", "reshape", "unsqueeze", "squeeze", "to", "expand", "expand_as", "type_as", "detach",
     "contiguous", "alias", "clone", "float", "double", "half", "reshape_as", "view_as", "flatten",
     "_unsafe_view", "transpose", "permute", "movedim", "cpu", "cuda")
)  # fmt: skip
_ASKS: Final = frozenset(
    ("size", "dim", "numel", "len", "dtype", "prim.dtype", "device", "is_cuda", "sym_size",
     "__is__", "__isnot__", "format", "is_floating_point", "requires_grad")
)  # fmt: skip
_NONE: Final[Mapping[str, float]] = {}
_END: Final = 1 << 30
_ROOTS: Final = {0.5: "sqrt", -0.5: "rsqrt"}


class _Is(Enum):
    """What a tensor is, as far as it is made of statistics."""

    MEAN = "the running mean"
    VAR = "the running variance, with or without eps"
    SQRT = "its root"
    RSQRT = "the reciprocal of that"
    SCALE = "that times a weight"
    SHIFT = "the mean times a scale"
    NEGATED = "the negative of the mean, or of a shift"
    CENTRED = "something less the mean"
    REST = "something that needs no further look"


@dataclass(frozen=True, slots=True)
class _Made:
    kind: _Is
    owner: str


@dataclass(slots=True)
class Uses:
    """The modules that normalise by their statistics, and those that do so by each batch's.

    `eps` is what they are called with, where it is known.
    """

    normalises: set[str] = field(default_factory=set)
    in_training: set[str] = field(default_factory=set)
    eps: dict[str, float] = field(default_factory=dict)

    def add(self, other: Uses) -> None:
        """Take in those of other calls."""
        self.normalises |= other.normalises
        self.in_training |= other.in_training
        self.eps |= other.eps


def uses_in(
    listing: Listing, owners: Collection[str], numbers: Mapping[str, float] = _NONE
) -> Uses:
    """What calls do with the statistics of some modules.

    `numbers` are the constants of one number, as a trace has them.
    Raises BncheckError where that is not understood, or not normalising by them.
    """
    following = _Following(owners, numbers)
    for call in (*listing.calls, *listing.repeated):
        following.call(call)
    return following.finished(listing.whole)


class _Following:
    def __init__(self, owners: Collection[str], numbers: Mapping[str, float]) -> None:
        self.owners, self.numbers = owners, numbers
        self.made: dict[str, _Made] = {}
        self.by_hand: dict[str, set[_Is]] = {}
        self.affine: set[str] = set()
        self.from_weights: set[str] = set()
        self.by_batch = False
        self.uses = Uses()

    def call(self, call: ListedCall) -> None:
        operator = call.operator.removesuffix("_")
        self._note_weights(call)
        if operator in _NORMS or call.operator in _NORMS:
            self._norm(call)
            return
        args = (*call.args, *call.named.values())
        held = [made for made in map(self._made, _refs(args)) if made is not None]
        if not held or operator in _ASKS or call.operator in _ASKS:
            return
        if len({made.owner for made in held}) > 1:
            raise _refusal(held[0].owner)
        result = self._result(operator, call)
        if result is None:
            if all(made.kind in (_Is.CENTRED, _Is.SCALE, _Is.REST) for made in held):
                return
            raise _refusal(held[0].owner)
        for name in call.outputs:
            self.made[name] = _Made(result, held[0].owner)

    def finished(self, whole: bool) -> Uses:
        """What was found. Where all calls are known, parts of a module that is not used tell."""
        for owner, kinds in self.by_hand.items():
            if not {_Is.MEAN, _Is.VAR} <= kinds:
                raise _refusal(owner)
            self.uses.normalises.add(owner)
        unused = {*self.owners} - self.uses.normalises - self.uses.in_training
        for owner in sorted(unused & self.affine):
            raise _refusal(owner)
        if whole and self.by_batch and unused:
            raise _refusal(min(unused))
        return self.uses

    def _note_weights(self, call: ListedCall) -> None:
        """Whose weight and bias are used, and which results have nothing of the input in them."""
        refs = [*_refs((*call.args, *call.named.values()))]
        names = [ref.name for ref in refs]
        stored = [name for name in names if not name.startswith(BETWEEN)]
        self.affine.update(owner for owner, own in map(split_name, stored) if own in AFFINE)
        if names and all(map(self._is_weight, refs)):
            self.from_weights.update(call.outputs)

    def _is_weight(self, value: Any) -> bool:
        """Whether a tensor is stored, or made of stored ones alone."""
        stored = isinstance(value, Ref) and not value.name.startswith(BETWEEN)
        return stored or (isinstance(value, Ref) and value.name in self.from_weights)

    def _norm(self, call: ListedCall) -> None:
        args = (*call.args, *[call.named.get(n, "?") for n in ("training",)][: len(call.args) == 5])
        if len(args) <= _VAR:
            raise _refusal("")
        weight, mean, var = args[1], args[_MEAN], args[_VAR]
        training = args[_TRAINING] if len(args) > _TRAINING else "?"
        if call.operator == "_native_batch_norm_legit_no_training":
            training = False
        if mean is None and var is None:
            self._by_batch(args[0], weight)
            return
        constant = [isinstance(r, Ref) and r.name.startswith("CONSTANTS.") for r in (mean, var)]
        if all(constant) and isinstance(training, bool):
            return
        first, second = self._made(mean), self._made(var)
        kinds = [made and made.kind for made in (first, second)]
        if kinds != [_Is.MEAN, _Is.VAR] or first is None or second is None:
            raise _refusal("" if first is None else first.owner)
        if first.owner != second.owner or not isinstance(training, bool):
            raise _refusal(first.owner)
        (self.uses.in_training if training else self.uses.normalises).add(first.owner)
        if call.operator in ("batch_norm", "instance_norm"):
            self._eps(first.owner, args[_EPS:])

    def _eps(self, owner: str, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], (int, float)):
            self.uses.eps[owner] = float(args[0])

    def _by_batch(self, given: Any, weight: Any) -> None:
        """A call without statistics: nobody's, unless it has the weight of a module with some."""
        owner = split_name(weight.name)[0] if isinstance(weight, Ref) else ""
        if isinstance(weight, Ref) and owner in self.owners:
            self.uses.in_training.add(owner)
        elif not self._is_weight(given):
            self.by_batch = True  # the others standardise a weight

    def _made(self, value: Any) -> _Made | None:
        if not isinstance(value, Ref):
            return None
        if value.name in self.made:
            return self.made[value.name]
        owner, own = split_name(value.name)
        role = None if value.name.startswith((BETWEEN, "CONSTANTS.")) else STATISTICS.get(own)
        if role is None or owner not in self.owners:
            return None
        return _Made(_Is.MEAN if role == "running_mean" else _Is.VAR, owner)

    def _result(self, operator: str, call: ListedCall) -> _Is | None:
        """What a call makes of statistics; None where that is not one of the known steps."""
        args = call.args
        made = [self._made(value) for value in args[:2]]
        first, second = (None if one is None else one.kind for one in [*made, None, None][:2])
        number = self._number(args[1]) if len(args) > 1 else None
        if first is not None and (operator in _VIEWS or _is_whole_slice(operator, args)):
            return first
        result = self._step(operator, (first, second), number, call)
        if result in (_Is.CENTRED, _Is.SHIFT):
            self._used(made, _Is.MEAN)
        if result in (_Is.SCALE, _Is.REST) and {_Is.SQRT, _Is.RSQRT} & {first, second}:
            self._used(made, _Is.VAR)
        return result

    def _number(self, value: Any) -> float | None:
        if isinstance(value, Ref):
            return self.numbers.get(value.name)
        return float(value) if isinstance(value, (int, float)) else None

    def _used(self, made: list[_Made | None], kind: _Is) -> None:
        owner = next(one.owner for one in made if one is not None)
        self.by_hand.setdefault(owner, set()).add(kind)

    def _step(
        self,
        operator: str,
        kinds: tuple[_Is | None, _Is | None],
        number: float | None,
        call: ListedCall,
    ) -> _Is | None:
        if operator in ("add", "sub") and _alpha(call) != 1:
            return None
        if number is not None or len(call.args) == 1 or operator.startswith("clamp"):
            return _with_number(operator, kinds[0], number, call)
        return _STEPS.get((operator, *kinds))


def _with_number(
    operator: str, kind: _Is | None, number: float | None, call: ListedCall
) -> _Is | None:
    if kind is _Is.VAR and operator in ("sqrt", "rsqrt"):
        return _Is.SQRT if operator == "sqrt" else _Is.RSQRT
    if kind is _Is.VAR and operator == "pow" and number in _ROOTS:
        return _Is.SQRT if number > 0 else _Is.RSQRT
    if kind is _Is.SQRT and operator == "reciprocal":
        return _Is.RSQRT
    if kind in (_Is.MEAN, _Is.SHIFT) and operator == "neg":
        return _Is.NEGATED
    if kind in (_Is.VAR, _Is.SQRT) and operator == "add" and number is not None and number >= 0:
        return kind
    if kind in (_Is.VAR, _Is.SQRT) and operator in ("clamp", "clamp_min"):
        most = call.args[2] if len(call.args) > 2 else call.named.get("max")
        return kind if number is not None and number >= 0 and most is None else None
    return kind if number == 1 and operator in ("mul", "div") else None


#: What becomes of two tensors, None being one without statistics.
_STEPS: Final[dict[tuple[str, _Is | None, _Is | None], _Is]] = {
    ("sub", None, _Is.MEAN): _Is.CENTRED,
    ("add", None, _Is.NEGATED): _Is.CENTRED,
    ("add", _Is.NEGATED, None): _Is.CENTRED,
    ("sub", None, _Is.SHIFT): _Is.REST,
    ("div", None, _Is.SQRT): _Is.SCALE,
    ("div", _Is.CENTRED, _Is.SQRT): _Is.REST,
    ("mul", None, _Is.RSQRT): _Is.SCALE,
    ("mul", _Is.RSQRT, None): _Is.SCALE,
    ("mul", _Is.CENTRED, _Is.RSQRT): _Is.REST,
    ("mul", _Is.RSQRT, _Is.CENTRED): _Is.REST,
    ("mul", _Is.MEAN, _Is.SCALE): _Is.SHIFT,
    ("mul", _Is.SCALE, _Is.MEAN): _Is.SHIFT,
    ("mul", _Is.MEAN, _Is.RSQRT): _Is.SHIFT,
    ("mul", _Is.RSQRT, _Is.MEAN): _Is.SHIFT,
    ("div", _Is.MEAN, _Is.SQRT): _Is.SHIFT,
    ("mul", _Is.NEGATED, _Is.SCALE): _Is.NEGATED,
    ("mul", _Is.SCALE, _Is.NEGATED): _Is.NEGATED,
}


def _is_whole_slice(operator: str, args: tuple[Any, ...]) -> bool:
    start, end, step = (args[n] if len(args) > n else None for n in (2, 3, 4))
    whole = start in (None, 0) and (end is None or (isinstance(end, int) and end >= _END))
    return operator == "slice" and whole and step in (None, 1)


def _alpha(call: ListedCall) -> Any:
    return call.args[2] if len(call.args) > 2 else call.named.get("alpha", 1)


def _refs(values: Any) -> Iterator[Ref]:
    for value in values:
        if isinstance(value, Ref):
            yield value
        elif isinstance(value, tuple):
            yield from _refs(value)


def _refusal(owner: str) -> BncheckError:
    whose = f" of {owner[:60]!r}" if owner else ""
    return BncheckError(
        f"has code whose use of the running statistics{whose} is not plain normalising by them, "
        "so nothing is certain of the layer",
        "export the model with torch.export, or save its state dict",
    )
