"""What ranks send one another: a line of JSON, then arrays as safetensors; never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from bncheck.core.errors import BncheckError

if TYPE_CHECKING:
    import numpy as np

Parts: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"

Counts: TypeAlias = "np.ndarray[Any, Any]"

#: Values of facts are shown if both take no more than this.
_SHOWN: Final = 80
_ALIKE: Final = "start all ranks with the same command, files and code"


class LostRankError(BncheckError):
    """A rank ended, failed or is silent: nothing more can be exchanged."""


class SharedError(BncheckError):
    """An error that every rank raises in the same place: it need not be told again."""

    def about(self, subject: str) -> SharedError:
        """The same error with its subject, still shared."""
        return SharedError(*super().about(subject).args)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one rank gave in one exchange: arrays by name, from a number of samples."""

    parts: Parts
    samples: int = 0


def packed(step: str, mine: Contribution) -> bytes:
    """A line of JSON, then the arrays as safetensors."""
    import numpy as np
    from safetensors.numpy import save

    head = {"step": step, "samples": mine.samples, "names": list(mine.parts)}  # in their order
    arrays = {name: np.ascontiguousarray(array) for name, array in mine.parts.items()}
    return json.dumps(head).encode() + b"\n" + save(arrays)


def failure(error: BncheckError) -> bytes:
    """In the place of what a rank should have contributed."""
    return json.dumps({"error": [error.sentence, error.hint, error.subject]}).encode() + b"\n"


def agreement(facts: Mapping[str, str]) -> bytes:
    """What must be the same on all ranks."""
    return json.dumps({"step": "agreeing", "facts": dict(facts)}).encode() + b"\n"


def head_of(message: bytes) -> dict[str, Any]:
    """The line of JSON."""
    head: dict[str, Any] = json.loads(message.partition(b"\n")[0])
    return head


def contribution_in(message: bytes) -> Contribution:
    """The inverse of `packed`."""
    from safetensors.numpy import load

    head, arrays = head_of(message), load(message.partition(b"\n")[2])
    return Contribution({name: arrays[name] for name in head["names"]}, head["samples"])


def in_step(messages: Sequence[bytes]) -> Sequence[bytes]:
    """The messages, if no rank has failed and all are at the same step."""
    heads = [head_of(message) for message in messages]
    for rank, head in enumerate(heads):
        if "error" in head:
            sentence, hint, subject = head["error"]
            raise SharedError(f"rank {rank} failed ({sentence})", hint, subject)
    for rank, head in enumerate(heads):
        if head["step"] != heads[0]["step"]:
            raise SharedError(
                f"rank {rank} is at {head['step']!r} and rank 0 at {heads[0]['step']!r}", _ALIKE
            )
    return messages


def refuse_difference(rank: int, other: Mapping[str, str], first: Mapping[str, str]) -> None:
    """Raise SharedError where a rank says something else than rank 0."""
    for name in {**first, **other}:
        theirs, ours = other.get(name, "none"), first.get(name, "none")
        if theirs != ours:
            short = len(theirs) + len(ours) <= _SHOWN
            values = f" ({theirs}, and rank 0 {ours})" if short else ""
            raise SharedError(f"rank {rank} differs from rank 0 in {name}{values}", _ALIKE)
