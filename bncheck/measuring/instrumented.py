"""A model with the places where it is measured, found once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from bncheck.core.errors import BncheckError
from bncheck.measuring.norms import TrackingNorm, norms_of, untracked_norms
from bncheck.measuring.own_update import OwnUpdate

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Instrumented:
    """A model, its normalisation layers, and what a file calls them.

    `prefix` stands before their names in the file; `renamed` has those that are called otherwise.

    Within a measurement layers have the model's own names; layers, findings and statistics of a
    file have the file's. Layers in `own` are measured by their own update; `unmeasured` ones, which
    are not among `norms`, have a reason.
    """

    model: nn.Module
    norms: tuple[TrackingNorm, ...]
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, OwnUpdate] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: nn.Module, prefix: str = "", renamed: Mapping[str, str] | None = None
    ) -> Instrumented:
        """The model with all its layers that keep running statistics, which may be none."""
        return cls(model, tuple(norms_of(model)), prefix, renamed or {})

    def require_norms(self) -> None:
        """Raise BncheckError where there is nothing to measure."""
        if not self.norms:
            untracked = untracked_norms(self.model)
            why = ": its BatchNorms track none (BN116)" if untracked else ""
            raise BncheckError(
                f"has no normalisation layer with running statistics{why}",
                "there is nothing to measure", f"the model {type(self.model).__name__}",
            )  # fmt: skip

    def file_name(self, name: str) -> str:
        """What the file calls a layer of the model."""
        return self.renamed.get(name, self.prefix + name)

    def by_file_name(self) -> dict[str, TrackingNorm]:
        """The layers by the file's names."""
        return {self.file_name(norm.name): norm for norm in self.norms}

    def in_file(self, found: Mapping[str, T]) -> dict[str, T]:
        """What was found by the model's names, by the file's."""
        return {self.file_name(name): value for name, value in found.items()}

    def in_model(self, found: Mapping[str, T]) -> dict[str, T]:
        """What is known by the file's names, by the model's; without what is not part of it."""
        start, ours = self.prefix, {theirs: name for name, theirs in self.renamed.items()}
        return {
            ours.get(name, name[len(start) :]): value
            for name, value in found.items()
            if name in ours or name.startswith(start)
        }
