"""Products with a matrix along one axis: matmul and Einstein sums.

Each gives the spec and the place of the matrix among the two operands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bncheck.graph.specs import Linear

_ANY = "."


def product(
    ranks: Sequence[int], first_is_fixed: bool, second_is_fixed: bool
) -> tuple[Linear, int] | None:
    """matmul of two operands: x @ W, or W @ x where W is the one that is fixed or of rank 2."""
    if ranks[0] == 2 and ranks[1] >= 2 and first_is_fixed and not second_is_fixed:
        return Linear(output_first=True, axes=(-2, -2)), 0
    if ranks[1] == 2 and ranks[0] >= 1:
        return Linear(output_first=False), 1
    if ranks[0] == 2 and ranks[1] > 2:
        return Linear(output_first=True, axes=(-2, -2)), 0
    return None


def einsum(equation: str, ranks: Sequence[int]) -> tuple[Linear, int] | None:
    """An Einstein sum of two operands."""
    for place in (1, 0) if len(ranks) == 2 else ():
        spec = einsum_spec(equation, place)
        if spec is not None and ranks[place] == 2:
            return spec, place
    return None


def einsum_spec(equation: str, weight: int) -> Linear | None:
    """`nchw,co->nohw` with operand number `weight` (1) as the matrix; None for any other sum.

    Axes are counted from the end, so an ellipsis may stand at the beginning of the data.
    """
    terms, arrow, result = equation.replace(" ", "").replace("...", _ANY).partition("->")
    operands = terms.split(",")
    if len(operands) != 2:
        return None
    if not arrow:  # the letters that occur once, in their order, behind the ellipsis
        result = "".join(sorted(x for x, n in Counter("".join(operands)).items() if n == 1))
    matrix, data = operands[weight], operands[1 - weight]
    if len(matrix) != 2 or any(len(set(term)) != len(term) for term in (matrix, data, result)):
        return None
    if not matrix.isalpha() or any(_ANY in term[1:] for term in (data, result)):
        return None
    inputs = [letter for letter in matrix if letter in data and letter not in result]
    outputs = [letter for letter in matrix if letter in result and letter not in data]
    if len(inputs) != 1 or len(outputs) != 1:
        return None
    if data.replace(inputs[0], "") != result.replace(outputs[0], ""):
        return None
    axes = data.index(inputs[0]) - len(data), result.index(outputs[0]) - len(result)
    return Linear(output_first=matrix[0] == outputs[0], axes=axes)
