"""What a rule is, and what the rules about one file are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np

from bncheck.core.findings import Evidence, Finding, Severity
from bncheck.core.thresholds import DEFAULT, Thresholds
from bncheck.layers.channels import Channels, is_regular
from bncheck.layers.means import Chains
from bncheck.layers.norm_layer import NormLayer
from bncheck.layers.other_norms import OtherNorm
from bncheck.layers.unjudged import Unjudged
from bncheck.reading.roles import split_name

if TYPE_CHECKING:
    from bncheck.layers.channels import Flags


@dataclass(frozen=True)
class Network:
    """All that one file says: its normalisation layers and, by name, its tensors' shapes.

    `unjudged` are tensors that only look like a layer's. `knows_modules` is true where the file
    keeps its modules, so that nothing need be guessed from names. `counts_batches` is false for
    formats without num_batches_tracked. `eps` and `train_batch_size` are what the user says of
    deployment and training. `other_norms` have no running statistics. `chains` are the layers
    whose means are predicted from others.
    """

    layers: tuple[NormLayer, ...]
    unjudged: tuple[Unjudged, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    knows_modules: bool = False
    counts_batches: bool = True
    is_program: bool = False
    eps: float | None = None
    train_batch_size: int | None = None
    thresholds: Thresholds = DEFAULT
    chains: Chains = field(default_factory=Chains)
    other_norms: tuple[OtherNorm, ...] = ()

    @property
    def weights(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor called weight: its owner's name and its shape."""
        for name, shape in self.shapes.items():
            if "weight" not in name:
                continue
            owner, role = split_name(name)
            if role == "weight":
                yield owner, shape

    @cached_property
    def tracked(self) -> tuple[NormLayer, ...]:
        """The layers with running statistics."""
        return tuple(layer for layer in self.layers if layer.tracked)

    @cached_property
    def _channels(self) -> Channels:
        return Channels(tuple(layer for layer in self.tracked if is_regular(layer)))

    def suspects(
        self, question: Callable[[Channels], Flags], among: Iterable[NormLayer] | None = None
    ) -> Iterator[NormLayer]:
        """The layers that a rule has to look at, of those with statistics or `among` others.

        `question` is asked of all regular layers at once, and clears those of which it is not
        true: most of thousands. Any other layer is never cleared.
        """
        channels = self._channels
        if channels.layers:
            with np.errstate(all="ignore"):  # what is not finite is for rules to say
                flags = question(channels).tolist()
        else:
            flags = []
        cleared = {
            id(layer) for layer, flag in zip(channels.layers, flags, strict=True) if not flag
        }
        layers = self.tracked if among is None else among
        return (layer for layer in layers if id(layer) not in cleared)


Given = TypeVar("Given")
Found = TypeVar("Found")
Check = Callable[["Rule[Given, Found]", Given], Iterable[Found]]


def nothing(_rule: Rule[Given, Found], _given: Given) -> Iterable[Found]:
    """What a rule finds whose findings come from elsewhere."""
    return ()


@dataclass(frozen=True)
class Rule(Generic[Given, Found]):
    """A code, a name, what `bncheck rule CODE` prints, and a check of what it is given.

    `Given` is a Network (one file), a MeasuredNetwork (a model and data) or a Movement (several
    snapshots). `Found` is a Finding, or a Claim where explanations compete.

    The explanation says what it finds, why that matters, how to fix it, and the criterion with
    its source.
    """

    code: str
    name: str
    severities: tuple[Severity, ...]
    explanation: str
    find: Check[Given, Found] = nothing

    def check(self, given: Given) -> Iterable[Found]:
        """What this rule finds."""
        return self.find(self, given)

    def made(self, finding: Finding) -> bool:
        """Whether the finding is of this rule."""
        return finding.rule == self.code

    @property
    def summary(self) -> str:
        """The first sentence of the explanation."""
        return self.explanation.partition("\n\n")[0].replace("\n", " ")

    @property
    def fix(self) -> str:
        """What the explanation says to do, as a finding has it; empty where it says nothing."""
        _, _, rest = self.explanation.partition("\n\nFix: ")
        return rest.partition("\n\n")[0].replace("\n", " ").rstrip(".")

    def finding(
        self,
        severity: Severity,
        layer: str | None,
        message: str,
        fix: str,
        instead: str | None = None,
        **evidence: Evidence,
    ) -> Finding:
        """A finding of this rule; `instead` is its fix without recalibrating."""
        return Finding(self.code, self.name, severity, layer, message, fix, evidence, instead)

    def to_dict(self) -> dict[str, object]:
        """The rule as plain data."""
        return {
            "code": self.code,
            "name": self.name,
            "severities": [severity.value for severity in self.severities],
            "summary": self.summary,
            "explanation": self.explanation,
        }


#: A rule of whatever kind.
AnyRule: TypeAlias = Rule[Any, Any]


def rule(
    code: str, name: str, *severities: Severity
) -> Callable[[Check[Given, Found]], Rule[Given, Found]]:
    """Make a check function a rule; its docstring is the explanation."""
    return lambda find: Rule(code, name, severities, inspect.getdoc(find) or "", find)
