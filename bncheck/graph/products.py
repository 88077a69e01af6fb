"""Products with a weight: matmul, Einstein sums, tensordot.

Each gives the spec and the place of the weight among the two operands.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bncheck.graph.dataflow import Shape
from bncheck.graph.linear import Linear, Side

_ELLIPSIS = "."


@dataclass(frozen=True)
class Operand:
    """What is known of one: whether its numbers are fixed, and its shape, () for not known."""

    shape: Shape
    fixed: bool


def product(operands: Sequence[Operand]) -> tuple[Linear, int] | None:
    """matmul of two operands."""
    place = _weight_of(operands)
    if place is None:
        return None
    sides = _sides(operands[place].shape, operands[1 - place].shape, place)
    return None if sides is None else (Linear(sides), place)


def _weight_of(operands: Sequence[Operand]) -> int | None:
    """The place of the operand that is fixed; where none is, of a matrix."""
    if len(operands) != 2 or not all(operand.shape for operand in operands):
        return None
    if operands[0].fixed != operands[1].fixed:
        return 0 if operands[0].fixed else 1
    return next((place for place in (1, 0) if len(operands[place].shape) == 2), None)


def _sides(weight: Shape, data: Shape, place: int) -> tuple[Side, ...] | None:
    """x @ W (1) or W @ x (0), as numpy.matmul has them."""
    row = len(data) == 1  # the axis that it stands for is not in the result
    summed = -1 if place or row else -2
    last: tuple[Side, ...] = ((summed, None),)
    if len(weight) > 1:
        new: Side = (None, -1 if place or row else -2)
        last = (*last, new) if place else (new, *last)
    front: list[Side] = []
    for axis in range(-len(weight), -2):
        size, other = weight[axis], data[axis] if -axis <= len(data) else 1
        if size == 1:
            front.append((None, None))
        elif other == 1:
            front.append((None, axis + row))
        elif size == other and isinstance(size, int):
            front.append((axis, axis + row))
        else:  # who is repeated is not known
            return None
    return (*front, *last)


def einsum(equation: str, operands: Sequence[Operand]) -> tuple[Linear, int] | None:
    """An Einstein sum of two operands."""
    place = _weight_of(operands)
    if place is None:
        return None
    spec = einsum_spec(equation, place, [len(operand.shape) for operand in operands])
    if spec is None:
        return None
    fits = _fits(spec, operands[place].shape, operands[1 - place].shape)
    return (spec, place) if fits else None


def _fits(spec: Linear, weight: Shape, data: Shape) -> bool:
    """Whether no axis of size 1 is repeated, which torch allows."""
    if len(spec.sides) != len(weight):
        return False
    pairs = [(size, data[i]) for (i, _), size in zip(spec.sides, weight, strict=True) if i]
    return all(size == other or (size != 1 and isinstance(other, str)) for size, other in pairs)


def spelled_out(equation: str, ranks: Sequence[int]) -> tuple[Sequence[str], str] | None:
    """The operands' axes and the result's, with a letter for each axis of an ellipsis.

    None where the equation does not fit operands of these ranks.
    """
    terms, arrow, result = equation.replace(" ", "").replace("...", _ELLIPSIS).partition("->")
    operands = terms.split(",")
    if not arrow:  # the letters that occur once, in their order, behind the ellipsis
        letters = Counter(terms.replace(",", "").replace(_ELLIPSIS, ""))
        ellipsis = _ELLIPSIS if _ELLIPSIS in terms else ""
        result = ellipsis + "".join(sorted(x for x, n in letters.items() if n == 1))
    if len(operands) != len(ranks):
        return None
    wide = [
        rank - len(term) + 1
        for term, rank in zip(operands, ranks, strict=True)
        if _ELLIPSIS in term
    ]
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    if min(wide, default=0) < 0 or max(wide, default=0) > len(unused):
        return None
    axes = "".join(unused[: max(wide, default=0)])  # the last ones are those that all have
    fitting = iter(wide)
    whole = [
        term.replace(_ELLIPSIS, axes[len(axes) - next(fitting) :]) if _ELLIPSIS in term else term
        for term in operands
    ]
    fits = all(len(term) == rank for term, rank in zip(whole, ranks, strict=True))
    return (whole, result.replace(_ELLIPSIS, axes)) if fits else None


def einsum_spec(equation: str, weight: int, ranks: Sequence[int]) -> Linear | None:
    """`nchw,co->nohw` with operand number `weight` (1) as the weight; None for any other sum."""
    spelled = spelled_out(equation, ranks)
    if spelled is None or len(ranks) != 2:
        return None
    terms, result = spelled
    own, data = terms[weight], terms[1 - weight]
    if not own.isalpha() or any(len(set(term)) != len(term) for term in (own, data, result)):
        return None
    if set(own) - set(data + result):
        return None
    if [x for x in data if x not in own] != [x for x in result if x not in own]:
        return None
    return Linear(tuple((_from_end(data, x), _from_end(result, x)) for x in own))


def _from_end(term: str, letter: str) -> int | None:
    return term.index(letter) - len(term) if letter in term else None


def tensordot(
    axes: Sequence[Sequence[int]], operands: Sequence[Operand]
) -> tuple[Linear, int] | None:
    """A sum over these axes of both, with the others of the first before those of the second."""
    ranks, letters = [len(operand.shape) for operand in operands], iter(string.ascii_letters)
    if sum(ranks) > len(string.ascii_letters) or len(axes[0]) != len(axes[1]):
        return None
    terms = [[next(letters) for _ in range(rank)] for rank in ranks]
    for first, second in zip(*axes, strict=True):
        terms[1][second] = terms[0][first]
    both = Counter(terms[0] + terms[1])
    result = "".join(x for x in terms[0] + terms[1] if both[x] == 1)
    return einsum(f"{''.join(terms[0])},{''.join(terms[1])}->{result}", operands)
