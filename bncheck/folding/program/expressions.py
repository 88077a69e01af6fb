"""Texts of a `.pt2` that torch runs as Python: names, sizes and guards, parsed and not executed."""

from __future__ import annotations

import ast
import re
from typing import Final

#: As module and parameter names are in practice; nothing that ends a string or starts a call.
_NAME: Final = re.compile(r"[\w.@:/+<>\[\], -]{0,1000}")
_SYMBOL: Final = re.compile(r"[a-z]{1,4}\d{1,6}|true|false")
#: What sizes are made of: torch/utils/_sympy/functions.py, and sympy's own.
_FUNCTIONS: Final = frozenset(
    {
        *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Mod", "Max", "Min", "Abs"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Equality", "Unequality"),
        *("StrictLessThan", "StrictGreaterThan", "LessThan", "GreaterThan", "Where", "Identity"),
        *("FloorDiv", "CeilDiv", "CleanDiv", "IntTrueDiv", "FloatTrueDiv", "PythonMod"),
        *("CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt", "ToFloat", "ModularIndexing"),
        *("Pow", "PowByNatural", "floor", "ceiling"),
    }
)
_ARITHMETIC: Final = (
    ast.Expression, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.Name,
    ast.Constant, ast.keyword, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod,
    ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or, ast.cmpop,
)  # fmt: skip
_LONGEST: Final = 4000
_POWERS: Final = ("Pow", "PowByNatural")
_LARGEST_EXPONENT: Final = 8


def is_name(text: str) -> bool:
    """Whether a text can be the name of a module, a parameter or an input."""
    return _NAME.fullmatch(text) is not None


def is_arithmetic(text: str) -> bool:
    """Whether a text is a size: `Add(Symbol('s0', integer=True), Integer(-2))`, `2*s0 + 1`."""
    if len(text) > _LONGEST:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(map(_is_arithmetic_node, ast.walk(tree)))


def is_guard(text: str) -> bool:
    """Whether a text compares sizes of inputs: `L['x'].size()[2] >= 3`.

    torch executes it, and once more between double quotes.
    """
    if len(text) > _LONGEST or any(c in '"#\\' or not c.isprintable() for c in text):
        return False
    try:
        return _is_comparison(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_comparison(node: ast.expr) -> bool:
    """Numbers, sizes, sums, products, max and min of them, and how they compare; nothing else."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.Subscript):
        return _is_size(node)
    if isinstance(node, ast.Call):
        known = isinstance(node.func, ast.Name) and node.func.id in ("max", "min")
        return known and not node.keywords and all(map(_is_comparison, node.args))
    if not isinstance(node, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp)):
        return False
    parts = list(ast.iter_child_nodes(node))
    operands = [part for part in parts if isinstance(part, ast.expr)]
    signs = [part for part in parts if not isinstance(part, ast.expr)]
    return all(isinstance(sign, _ARITHMETIC) for sign in signs) and all(
        map(_is_comparison, operands)
    )


def _is_size(node: ast.Subscript) -> bool:
    """`L['x'].size()[0]`, where `L['x']` may be longer: `L['x'][0]['y']`."""
    if not _is_index(node.slice, int) or not isinstance(node.value, ast.Call):
        return False
    call = node.value
    if call.args or call.keywords or not isinstance(call.func, ast.Attribute):
        return False
    place = call.func.value
    if call.func.attr not in ("size", "stride"):
        return False
    while isinstance(place, ast.Subscript) and _is_index(place.slice, (int, str)):
        place = place.value
    return isinstance(place, ast.Name) and place.id == "L"


def _is_index(node: ast.expr, kinds: type | tuple[type, ...]) -> bool:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, kinds):
        return False
    return not isinstance(node.value, str) or is_name(node.value)


def _is_arithmetic_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return _is_known_call(node)
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or _SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):  # text: the name of a symbol
        if isinstance(node.value, str):
            return node.value.isidentifier()
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.BinOp):  # a text times a number would fill the memory
        return not any(map(_is_text, (node.left, node.right)))
    return isinstance(node, _ARITHMETIC)


def _is_known_call(node: ast.Call) -> bool:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    endless = name in _POWERS and not (_is_small(node.args[1:]) and _is_flat(node.args[0]))
    texts = sum(map(_is_text, node.args))
    return name in _FUNCTIONS and not endless and texts == (name == "Symbol")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_flat(base: ast.expr) -> bool:
    return not any(isinstance(n, ast.Name) and n.id in _POWERS for n in ast.walk(base))


def _is_small(exponent: list[ast.expr]) -> bool:
    """A power of a power would be computed for ever."""
    if len(exponent) == 1 and isinstance(exponent[0], ast.Call):
        exponent = exponent[0].args  # Integer(2)
    value = exponent[0].value if exponent and isinstance(exponent[0], ast.Constant) else None
    return isinstance(value, int) and 0 <= value <= _LARGEST_EXPONENT
