"""onnxruntime: sessions at its optimisation levels, and how long they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from bncheck.core.memory import give_back
from bncheck.core.words import shortened
from bncheck.runtime.running import session_of
from bncheck.runtime.weights import Weights, references
from bncheck.shipping.sides import Array, CannotRun, is_float

#: In the order in which onnxruntime does more and more to a graph.
LEVELS = {"disable_all": "ORT_DISABLE_ALL", "extended": "ORT_ENABLE_EXTENDED",
          "all": "ORT_ENABLE_ALL"}  # fmt: skip
#: Seconds that timing one pair of sessions may take, and the least and most rounds: a small
#: network's quickest runs are known long before its time is up.
_BUDGET = 0.2
_ROUNDS, _MOST_ROUNDS = 5, 500


@dataclass(frozen=True)
class Runnable:
    """A model, and the large weights that it refers to.

    All sessions read them where they are. One that is made of the whole message copies each weight
    twice: into the message, and out of it.
    """

    model: onnx.ModelProto
    weights: Weights = field(default_factory=Weights)

    def values(self) -> dict[str, Any]:
        """The weights by name as onnxruntime takes them. Raises ImportError without it."""
        from onnxruntime import OrtValue

        return {
            tensor.name: OrtValue.ortvalue_from_numpy(self.weights.numbers(tensor))
            for tensor in references(self.model)
        }


def session(model: Runnable, level: str, threads: int = 0) -> Any:
    """A session on the CPU. Raises CannotRun where it has no kernel, with what it lacks."""
    try:
        made = session_of(model.model, LEVELS[level], threads, model.values())
    except ImportError:
        raise CannotRun("onnxruntime is not installed") from None
    except Exception as error:  # its exceptions share no base class but Exception
        raise CannotRun(_reason(error)) from None
    give_back()  # twice the weights went through its hands
    return made


class Runner:
    """A model at one level. Raises CannotRun."""

    def __init__(self, model: Runnable, level: str) -> None:
        self.level = level
        self._session = session(model, level)
        self._names = [info.name for info in self._session.get_inputs()]

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """The floating outputs."""
        try:
            results = self._session.run(None, dict(zip(self._names, arrays, strict=True)))
        except Exception as error:
            raise CannotRun(_reason(error)) from None
        return [result for result in results if is_float(result)]


def _reason(error: Exception) -> str:
    """What onnxruntime says, without its own file names."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return shortened(text.rpartition(" : ")[2].strip() or text, 160)


def latency(
    ours: Runnable,
    other: Runnable,
    feed: Sequence[Array],
    level: str,
    budget: float = _BUDGET,
) -> tuple[float, float]:
    """Milliseconds a run, of both, on one thread and in turns, the quickest of many runs each.

    The quickest is what the model costs; everything above is what else the machine does.
    """
    sessions = [session(model, level, threads=1) for model in (ours, other)]
    feeds = []
    for one in sessions:
        names = [info.name for info in one.get_inputs()]
        feeds.append(dict(zip(names, feed, strict=True)))
        one.run(None, feeds[-1])
    times: list[list[float]] = [[], []]
    begin = time.perf_counter()
    while len(times[0]) < _ROUNDS or (
        len(times[0]) < _MOST_ROUNDS and time.perf_counter() - begin < budget
    ):
        turn = len(times[0]) % 2
        for place in (turn, 1 - turn):
            start = time.perf_counter()
            sessions[place].run(None, feeds[place])
            times[place].append(time.perf_counter() - start)
    quickest = [statistics.median(sorted(own)[: max(3, len(own) // 4)]) * 1e3 for own in times]
    return quickest[0], quickest[1]
