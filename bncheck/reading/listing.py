"""What a file says about the order of a model's calls, in the names of torch's operators (aten).

A `.pt2` archive lists them, TorchScript has them as code, and a pickled Sequential implies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Before the name of a tensor between calls, which no weight has.
BETWEEN = "%"

#: Before the name of a tensor that a frozen TorchScript module has in its code.
CONSTANTS = "CONSTANTS."

#: A size that is not known is the name of its symbol, or "?".
Sizes = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor by its name: a weight's in the checkpoint, or BETWEEN and any other."""

    name: str


@dataclass(frozen=True, slots=True)
class ListedCall:
    """A call: arguments are Refs, numbers, texts, None and tuples of these.

    `named` has those that are given by name, which may be all of them.
    """

    operator: str
    args: tuple[Any, ...]
    outputs: tuple[str, ...]
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """Calls in the order in which they run; sizes and dtypes by name where the file knows them.

    `repeated` are those in loops and tasks, each once; `whole` is whether there are no others.
    """

    calls: tuple[ListedCall, ...]
    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    repeated: tuple[ListedCall, ...] = ()
    whole: bool = True
