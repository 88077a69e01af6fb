"""Einstein sums that are a product with a matrix along one axis."""

from __future__ import annotations

from collections import Counter

from bncheck.graph.dataflow import Linear

_ANY = "."


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
