"""What a program does with running statistics in eval mode, by its calls.

The calls of TorchScript's code, of a `.pt2` and of an ONNX graph are told in torch's words. A file
may hold sound statistics and not normalise by them: `batch_norm` may be told to take those of the
batch or of another layer, a call may write into them, or they are subtracted and divided by, by
hand. That is believed where it says (x - mean) / sqrt(var + eps), or x * scale + (bias - mean *
scale) with scale = weight / sqrt(var + eps), in whatever order it reshapes; all else that is made
of a statistic is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final

from bncheck.core.errors import BncheckError
from bncheck.reading.checkpoint import NormModule, as_number
from bncheck.reading.listing import BETWEEN, CONSTANTS, ListedCall, Ref
from bncheck.reading.pickle_values import Value
from bncheck.reading.roles import AFFINE, STATISTICS, split_name
from bncheck.reading.statistic_steps import (
    ASKS,
    HARMLESS,
    SHARES,
    VIEWS,
    Is,
    is_whole_slice,
    step,
    takes_root,
)
from bncheck.reading.torchscript_states import storages_of

_NORMS: Final = frozenset(
    ("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit",
     "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_impl_index")
)  # fmt: skip
#: torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, ...).
_MEAN, _VAR, _TRAINING, _EPS = 3, 4, 5, 7
_SPEAKS: Final = re.compile("batch_norm|instance_norm")
_IN_PLACE: Final = re.compile(r"\w*[a-zA-Z0-9]_")
_NONE: Final[Mapping[str, float]] = {}
_NOWHERE: Final[Mapping[str, Set[str]]] = {}


@dataclass(frozen=True, slots=True)
class _Made:
    """`shares` is whether writing into it may change a statistic."""

    kind: Is
    owner: str
    shares: bool = False


@dataclass(slots=True)
class Uses:
    """The modules that normalise by their statistics, and those that do so by each batch's.

    `eps` is what they are called with, None where that is not known; `frozen` are the calls of a
    frozen module, which has its tensors as constants; `takes_roots` is whether it takes the root of
    one, as a norm by hand does.
    """

    normalises: set[str] = field(default_factory=set)
    in_training: set[str] = field(default_factory=set)
    eps: dict[str, float | None] = field(default_factory=dict)
    frozen: dict[str, NormModule] = field(default_factory=dict)
    takes_roots: bool = False


class Statistics:
    """What becomes of the statistics of some modules, call by call.

    `numbers` are the constants of one number, as a trace has them; `storages` the statistics in
    each storage of the file. What is not understood, or is not normalising by them, raises
    BncheckError.
    """

    def __init__(
        self,
        owners: Collection[str] = (),
        numbers: Mapping[str, float] = _NONE,
        storages: Mapping[str, Set[str]] = _NOWHERE,
        uses: Uses | None = None,
    ) -> None:
        self.owners, self.numbers, self.storages = owners, numbers, storages
        self.made: dict[str, _Made] = {}
        self.viewed: set[str] = set()
        #: What a call in place gives back is the tensor of that other name.
        self.same: dict[str, str] = {}
        self.by_hand: dict[str, set[Is]] = {}
        self.affine: set[str] = set()
        self.from_weights: set[str] = set()
        self.by_batch = False
        self.norms = 0
        self.uses = uses or Uses()

    def concerns(self, ref: Ref) -> bool:
        """Whether a tensor is a statistic or made of some, as far as it is not normalised."""
        made = self._made(ref)
        return made is not None and made.kind not in HARMLESS

    def must_follow(self, ref: Ref) -> bool:
        """Whether it is lost where it is not known what is done with it."""
        made = self._made(ref)
        return self.concerns(ref) and made is not None and made.kind is not Is.SHARED

    def read(self, name: str, value: Value) -> None:
        """Note a tensor of the file by its name, which may share memory with a statistic."""
        if self.storages and self._made(Ref(name)) is None and self.within(value):
            self.made[name] = _Made(Is.SHARED, "", shares=True)

    def within(self, value: Value) -> Set[Ref]:
        """The statistics that lie in the same memory as something in the file."""
        keys = storages_of(value) if self.storages else ()
        return {Ref(name) for key in keys for name in self.storages.get(key, ())}

    def call(self, name: str, call: ListedCall, unclear: Collection[Ref] = ()) -> None:
        """Take in a call of torch.`name`; `unclear` are what may be in arguments not known."""
        space, _, name = name.rpartition(".")
        self._note_weights(call)
        if _SPEAKS.search(name):
            self._norm(name, call, space == "quantized")
            return
        refs = [*refs_of((*call.args, *call.named.values()))]
        held = [made for made in map(self._made, (*refs, *unclear)) if made is not None]
        if not self.owners and call.args and self._is_weight(call.args[0]):
            power = self._number(call.args[1]) if len(call.args) > 1 else None
            self.uses.takes_roots |= takes_root(name.removesuffix("_"), power)
        if name in ASKS or not held:
            return
        changed = _changed(name, call)
        if any(made is not None and made.shares for made in map(self._made, changed)):
            raise written()
        owners = {made.owner for made in held if made.kind is not Is.SHARED}
        if unclear and (owners or _IN_PLACE.fullmatch(name)):
            raise refusal("")
        if len(owners) > 1:
            raise refusal(min(owners))
        if owners:
            self._steps(name.removesuffix("_"), call, changed, held)
        elif name in SHARES - {"clone"} or not call.operator:
            self.made.update(dict.fromkeys(call.outputs, held[0]))

    def _steps(
        self, operator: str, call: ListedCall, changed: list[Ref], held: list[_Made]
    ) -> None:
        """What comes of a call that is given statistics of a module, or what is made of them."""
        own = [made for made in held if made.kind is not Is.SHARED]
        result = self._result(operator, call)
        if result is None and any(made.kind not in HARMLESS for made in own):
            raise refusal(own[0].owner)
        names = {self._same(ref.name) for ref in changed}
        if changed:
            self.same.update(dict.fromkeys(call.outputs, self._same(changed[-1].name)))
        names.update(map(self._same, call.outputs))
        if changed and not names.isdisjoint(self.viewed):
            raise refusal(own[0].owner)
        first = call.args[0] if call.args else None
        view = isinstance(first, Ref) and operator in (*VIEWS - {"clone"}, "slice")
        before = self._made(first) if view else None
        if isinstance(first, Ref) and view:
            self.viewed.update(map(self._same, (first.name, *call.outputs)))
        for name in names:
            self.made.pop(name, None)
            if result is not None:
                self.made[name] = _Made(result, own[0].owner, before is not None and before.shares)

    def finish(self, whole: bool) -> None:
        """Judge what is half done. Where all calls are known, parts of an unused module tell."""
        for owner, kinds in self.by_hand.items():
            if not {Is.MEAN, Is.VAR} <= kinds:
                raise refusal(owner)
            self.uses.normalises.add(owner)
        unused = {*self.owners} - self.uses.normalises - self.uses.in_training
        for owner in sorted(unused & self.affine):
            raise refusal(owner)
        if whole and self.by_batch and unused:
            raise refusal(min(unused))

    def _note_weights(self, call: ListedCall) -> None:
        """Whose weight and bias are used, and which results have nothing of the input in them."""
        refs = [*refs_of((*call.args, *call.named.values()))]
        names = [ref.name for ref in refs]
        stored = [name for name in names if not name.startswith(BETWEEN)]
        self.affine.update(owner for owner, own in map(split_name, stored) if own in AFFINE)
        if names and all(map(self._is_weight, refs)):
            self.from_weights.update(call.outputs)

    def _is_weight(self, value: Any) -> bool:
        """Whether a tensor is stored, or made of stored ones alone."""
        stored = isinstance(value, Ref) and not value.name.startswith(BETWEEN)
        return stored or (isinstance(value, Ref) and value.name in self.from_weights)

    def _norm(self, name: str, call: ListedCall, quantized: bool) -> None:
        self.norms += 1
        args = (*call.args, *[call.named.get(n, "?") for n in ("training",)][: len(call.args) == 5])
        if len(args) <= _VAR or not (quantized or name in _NORMS):
            raise refusal("")
        weight, mean, var = args[1], args[_MEAN], args[_VAR]
        training = args[_TRAINING] if len(args) > _TRAINING else "?"
        if quantized or name == "_native_batch_norm_legit_no_training":
            training = False
        if mean is None and var is None:
            self._by_batch(args[0], weight)
            return
        if all(map(_is_constant, (mean, var))) and isinstance(training, bool):
            self._frozen(name, args, training)
            return
        first, second = self._made(mean), self._made(var)
        if first is None or second is None:
            raise BncheckError(
                "normalises by what is not known to be running statistics",
                "export the model with torch.export, or save its state dict",
            )
        if (first.kind, second.kind) != (Is.MEAN, Is.VAR):
            raise refusal(first.owner)
        if first.owner != second.owner or not isinstance(training, bool):
            raise refusal(first.owner)
        (self.uses.in_training if training else self.uses.normalises).add(first.owner)
        if name in ("batch_norm", "instance_norm") and len(args) > _EPS:
            self.uses.eps[first.owner] = as_number(args[_EPS])

    def _frozen(self, name: str, args: tuple[Any, ...], training: bool) -> None:
        roles = zip(("weight", "bias", "running_mean", "running_var"), args[1:5], strict=True)
        self.uses.frozen[f"{name}_{self.norms - 1}"] = NormModule(
            name,
            {role: arg.name for role, arg in roles if _is_constant(arg)},
            eps=as_number(args[_EPS]) if len(args) > _EPS else None,
            momentum=as_number(args[_EPS - 1]) if len(args) > _EPS else None,
            momentum_known=True,
            training=training,
            tracks_statistics=True,
        )

    def _by_batch(self, given: Any, weight: Any) -> None:
        """A call without statistics: nobody's, unless it has the weight of a module with some."""
        owner = split_name(weight.name)[0] if isinstance(weight, Ref) else ""
        if isinstance(weight, Ref) and owner in self.owners:
            self.uses.in_training.add(owner)
        elif not self._is_weight(given):
            self.by_batch = True  # the others standardise a weight

    def _same(self, name: str) -> str:
        return self.same.get(name, name)

    def _made(self, value: Any) -> _Made | None:
        if not isinstance(value, Ref):
            return None
        if (name := self._same(value.name)) in self.made:
            return self.made[name]
        if _is_constant(value) and value.name not in self.numbers:
            return _Made(Is.SHARED, "", shares=True)
        owner, own = split_name(value.name)
        role = None if value.name.startswith(BETWEEN) else STATISTICS.get(own)
        if role is None or owner not in self.owners:
            return None
        return _Made(Is.MEAN if role == "running_mean" else Is.VAR, owner, shares=True)

    def _result(self, operator: str, call: ListedCall) -> Is | None:
        """What a call makes of statistics; None where that is not one of the known steps."""
        args = call.args
        made = [self._made(value) for value in args[:2]]
        made = [None if one is None or one.kind is Is.SHARED else one for one in made]
        first, second = (None if one is None else one.kind for one in [*made, None, None][:2])
        number = self._number(args[1]) if len(args) > 1 else None
        if first is not None and (operator in VIEWS or is_whole_slice(operator, args)):
            return first
        result = step(operator, (first, second), number, call)
        if result in (Is.CENTRED, Is.SHIFT):
            self._used(made, Is.MEAN)
        if result in (Is.SCALE, Is.REST) and {Is.SQRT, Is.RSQRT} & {first, second}:
            self._used(made, Is.VAR)
        return result

    def _number(self, value: Any) -> float | None:
        if isinstance(value, Ref):
            return self.numbers.get(value.name)
        return float(value) if isinstance(value, (int, float)) else None

    def _used(self, made: list[_Made | None], kind: Is) -> None:
        owner = next(one.owner for one in made if one is not None)
        self.by_hand.setdefault(owner, set()).add(kind)


def refs_of(values: Any) -> Iterator[Ref]:
    """The tensors in the arguments of a call."""
    for value in values:
        if isinstance(value, Ref):
            yield value
        elif isinstance(value, tuple):
            yield from refs_of(value)


def _changed(name: str, call: ListedCall) -> list[Ref]:
    """What a call in place writes into (the first of its arguments), or one with `out`."""
    into: tuple[Any, ...] = call.args[:1] if _IN_PLACE.fullmatch(name) else ()
    if into and name.startswith(("_", "set_")):  # several at once, or the memory of another
        into = (*call.args, *call.named.values())
    return [*refs_of((*into, *(v for k, v in call.named.items() if k.startswith("out"))))]


def _is_constant(value: Any) -> bool:
    return isinstance(value, Ref) and value.name.startswith(CONSTANTS)


def written() -> BncheckError:
    """Of code that changes a statistic before it is used."""
    return BncheckError(
        "writes into running statistics when it is run",
        "export the model with torch.export, or save its state dict",
    )


def refusal(owner: str) -> BncheckError:
    """Of code that does with the statistics of a module what is not understood."""
    whose = f" of {owner[:60]!r}" if owner else ""
    return BncheckError(
        f"does with the running statistics{whose} what is not plain normalising by them, so "
        "nothing is certain of the layer",
        "export the model with torch.export, or save its state dict",
    )
