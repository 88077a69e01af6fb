"""What the proof of an ONNX fold must know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bncheck.folding.regions import constants_of, written_by_exit
from bncheck.folding.weights import Solution
from bncheck.folding.windows import Shapes
from bncheck.graph.dataflow import Op
from bncheck.runtime.inputs import Sizes
from bncheck.runtime.sizes import told_by_weights

#: The dtype of a value of which nothing is known.
UNKNOWN = "?"


@dataclass(frozen=True)
class Altered:
    """What a fold does to the outermost graph.

    `values` are others now, `fixed` are the same whatever the inputs are (with their sizes),
    `regions` say what each region makes, `renamed` which values have another name in the fold,
    `dtypes` are those of floating values, `numbers` the stored ones that the fold changes,
    `told` the sizes of free axes that its graph tells, `ops` its calls, and `written` the dtypes of
    the new numbers in the region of each exit. A value without a dtype is not floating; one of
    which nothing is known has the dtype UNKNOWN.
    """

    values: frozenset[str]
    fixed: Shapes
    regions: Sequence[Sequence[str]]
    renamed: Mapping[str, str]
    dtypes: Mapping[str, str]
    numbers: Sequence[str] = ()
    told: Sizes = field(default_factory=dict)
    ops: Sequence[Op] = ()
    written: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def by(
        cls, solution: Solution, regions: Sequence[Sequence[str]], renamed: Mapping[str, str]
    ) -> Altered:
        """By this fold of the outermost graph."""
        graph = solution.graph
        known = {n: v for n, v in graph.values.items() if v.dtype or v.shape is None}
        return cls(
            solution.plan.altered,
            constants_of(solution),
            regions,
            renamed,
            {name: value.dtype or UNKNOWN for name, value in known.items()},
            solution.numbers,
            told_by_weights(graph),
            graph.ops,
            written_by_exit(solution),
        )

    def twin(self, name: str) -> str:
        """The name of a value in the fold."""
        return self.renamed.get(name, name)
