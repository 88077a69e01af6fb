"""What a rule is, and what the rules about one file are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bncheck.findings import Evidence, Finding, Severity
from bncheck.layers import NormLayer, split_name


@dataclass(frozen=True)
class Network:
    """All that one file says: its normalisation layers and, by name, its tensors' shapes.

    `knows_modules` is true where the file keeps its modules, so that nothing need be guessed from
    names. `counts_batches` is false for formats without num_batches_tracked. `eps` and
    `train_batch_size` are what the user says of deployment and training.
    """

    layers: tuple[NormLayer, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    knows_modules: bool = False
    counts_batches: bool = True
    is_program: bool = False
    eps: float | None = None
    train_batch_size: int | None = None

    @property
    def weights(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor called weight: its owner's name and its shape."""
        for name, shape in self.shapes.items():
            owner, role = split_name(name)
            if role == "weight":
                yield owner, shape

    @property
    def tracked(self) -> list[NormLayer]:
        """The layers with running statistics."""
        return [layer for layer in self.layers if layer.tracked]


Check = Callable[["Rule", Network], Iterable[Finding]]


def _no_check(_rule: Rule, _network: Network) -> Iterable[Finding]:
    """Nothing: this rule's findings come from a command, not from a file alone."""
    return ()


@dataclass(frozen=True)
class Rule:
    """A code, a name and a check of one file.

    `bncheck rule CODE` prints the check's docstring, or `text` for a rule whose findings come from
    a command and that has no check.
    """

    code: str
    name: str
    severities: tuple[Severity, ...]
    check: Check = _no_check
    text: str = ""

    @property
    def explanation(self) -> str:
        """What it finds, why that matters, how to mend it, and the criterion with its source."""
        return self.text or inspect.getdoc(self.check) or ""

    @property
    def summary(self) -> str:
        """The first sentence of the explanation."""
        return self.explanation.partition("\n\n")[0].replace("\n", " ")

    def finding(
        self, severity: Severity, layer: str | None, message: str, fix: str, **evidence: Evidence
    ) -> Finding:
        """A finding of this rule."""
        return Finding(self.code, self.name, severity, layer, message, fix, evidence)


def rule(code: str, name: str, *severities: Severity) -> Callable[[Check], Rule]:
    """Make a check function a rule."""
    return lambda check: Rule(code, name, severities, check)


def count(number: int, noun: str) -> str:
    """1 channel, 3 channels."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
