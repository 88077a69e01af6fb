"""What a call with a weight says of itself to whoever wants it to take a map over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeAlias

#: Axes of a value, counted from either end.
Axes: TypeAlias = tuple[int, ...]


class Weighted:
    """A call that computes with a weight, which may take over maps beside it.

    `takes_input`: one of its input; `takes_result`: one of its result. `unit` is what people call
    one of what the weight has numbers for.
    """

    __slots__ = ()
    takes_input: ClassVar[bool] = True
    takes_result: ClassVar[bool] = True
    unit: ClassVar[str] = "channels"

    def axes_of(self, weight: int, result: int) -> tuple[Axes, Axes]:
        """Where its channels lie, in their order, in its input and in its result; of a weight (0
        where it is not known) and a result of these ranks. By default along the last axis."""
        return (-1,), (-1,)

    def channels_of(self, weight: Sequence[int]) -> tuple[int, int] | None:
        """How many a weight of that shape has, in its input and in its result; None for any."""
        return None
