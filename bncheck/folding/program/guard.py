"""What a stranger's `.pt2` may ask of torch.export.load, judged before torch sees it.

torch evaluates more of a program than its tensors: it hands sizes to sympy.sympify, which runs
them as Python; it writes the names of inputs and submodules into source code that it executes; it
imports what an input specification names as an enum or a defaultdict's factory; it compiles or
loads what lies below data/aotinductor; it unpickles opaque objects, and weights in one .pt (the
format of torch 2.7). So only the records that a program needs pass, sizes have to be arithmetic,
guards have to compare sizes, names have to be names, and operators have to compute.
Schema: torch/_export/serde/schema.py, serialize.py; torch/export/pt2_archive.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, Final

from bncheck.core.errors import BncheckError
from bncheck.reading.json_text import parse

AGAIN: Final = "export it again with torch.export.save"

#: The records that torch.export.save writes, and no others: no native code, no objects.
_RECORDS: Final = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|models/[\w.-]+\.json"
    r"|data/weights/(weight_\d+|[\w.-]+\.json)|data/constants/(tensor_\d+|[\w.-]+\.json)"
    r"|data/sample_inputs/[\w.-]+"
)
_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision)\.\w+\.\w+"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|associative_scan|invoke_subgraph"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast|flex_attention)"
    r"|_operator\.(getitem|add|sub|mul|mod|pow|neg|pos|abs|truediv|floordiv|eq|ne|lt|le|gt|ge"
    r"|and_|or_|xor|not_|lshift|rshift)|math\.\w+|torch\.(sym_\w+|_sym_\w+)"
)
#: They read or write files, or print.
_SIDE_EFFECTS: Final = ("from_file", "._print", ".save", ".load")
#: As module and parameter names are in practice; nothing that ends a string or starts a call.
_NAME: Final = re.compile(r"[\w.@:/+<>\[\], -]{0,1000}")
#: torch refers to these by getattr or writes them out with repr.
_FREE: Final = {"as_string", "metadata", "in_spec", "out_spec", "expr_str", "target"}
#: Judged as texts, so nothing else may stand there: sympify looks into dicts, too.
_TEXTS: Final = {"expr_str", "in_spec", "out_spec", "guards_code"}
_PLAIN: Final = (int, float, type(None))
#: Containers of inputs and outputs that need no import.
_CONTAINERS: Final = {
    None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
    "collections.namedtuple", "collections.deque", "torch.Size",
    "torch.fx.immutable_collections.immutable_list",
    "torch.fx.immutable_collections.immutable_dict",
}  # fmt: skip
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


def check_record(name: str, text: bytes | None) -> None:
    """Refuse a record (its JSON as `text`) that could make torch run something.

    Raises BncheckError; RecursionError for JSON without end.
    """
    if not _RECORDS.fullmatch(name):
        raise BncheckError(f"holds code or objects ({name[:60]!r})", AGAIN)
    if text is None:
        return
    try:
        value = parse(text)
    except ValueError:
        raise BncheckError(f"holds malformed JSON ({name[:60]!r})", AGAIN) from None
    for key, item in _leaves(value):
        _check(key, item)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the key it stands under, and every key as a name."""
    if isinstance(value, dict):
        yield key, value
        for own, item in value.items():
            yield "key", own
            if own != "metadata":
                yield from _leaves(item, own)
            elif isinstance(item, dict):
                yield from (("metadata", text) for text in item.values())
    elif isinstance(value, list):
        yield key, value
        for item in value:
            yield from _leaves(item, key)
    else:
        yield key, value


def _check(key: str, value: Any) -> None:
    if key == "use_pickle" and value is not False:
        raise BncheckError(
            "keeps a weight as a pickle (use_pickle), which loading would have to execute", AGAIN
        )
    if not isinstance(value, str):
        if key in _TEXTS and isinstance(value, dict):
            raise BncheckError(f"has no text as {key}", AGAIN)
        return
    if key == "expr_str" and not is_arithmetic(value):
        raise BncheckError(f"has a size that is no arithmetic: {value[:60]!r}", AGAIN)
    if key == "target" and not _is_operator(value):
        raise BncheckError(f"calls {value[:60]!r}, which is no operator of a model", AGAIN)
    if key in ("in_spec", "out_spec") and not is_container(value):
        raise BncheckError(f"takes inputs of a type that is to be imported ({key})", AGAIN)
    if key == "guards_code":
        if not is_guard(value):
            raise BncheckError(f"checks its inputs by more than sizes: {value[:60]!r}", AGAIN)
        return
    if key not in _FREE and not _NAME.fullmatch(value):
        raise BncheckError(f"has a name that is none: {value[:60]!r}", AGAIN)
    if key in ("name", "forward_arg_names", "as_name") and value and not value.isidentifier():
        raise BncheckError(f"has an input that is no identifier: {value[:60]!r}", AGAIN)


def _is_operator(target: str) -> bool:
    return bool(_OPERATOR.fullmatch(target)) and not any(s in target for s in _SIDE_EFFECTS)


def is_container(text: str) -> bool:
    """Whether a pytree specification is made of plain containers; torch writes keys into code."""
    try:
        version, root = parse(text) if text else (1, {"type": None})
        todo: list[Any] = [root]
        while todo:
            spec = todo.pop()
            if spec["type"] not in _CONTAINERS or not _is_plain_context(spec.get("context")):
                return False
            todo += spec.get("children_spec", ())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    return version == 1


def _is_plain_context(context: Any) -> bool:
    """Keys of a dict, as JSON in a text; a length; the name of a registered type."""
    value = parse(context) if isinstance(context, str) and context[:1] in '["{' else context
    entries = value if isinstance(value, list) else [value]
    return all(
        bool(_NAME.fullmatch(entry)) if isinstance(entry, str) else isinstance(entry, _PLAIN)
        for entry in entries
    )


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
    return not isinstance(node.value, str) or _NAME.fullmatch(node.value) is not None


def _is_arithmetic_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        endless = name in _POWERS and not (_is_small(node.args[1:]) and _is_flat(node.args[0]))
        texts = sum(isinstance(argument, ast.Constant) and isinstance(argument.value, str)
                    for argument in node.args)  # fmt: skip
        return name in _FUNCTIONS and not endless and texts == (name == "Symbol")
    if isinstance(node, ast.Name):
        return (
            node.id in _FUNCTIONS
            or re.fullmatch(r"[a-z]{1,4}\d{1,6}|true|false", node.id) is not None
        )
    if isinstance(node, ast.Constant):  # text: the name of a symbol
        if isinstance(node.value, str):
            return node.value.isidentifier()
        return isinstance(node.value, (int, float))
    if isinstance(node, ast.BinOp):  # a text times a number would fill the memory
        return not any(
            isinstance(part, ast.Constant) and isinstance(part.value, str)
            for part in (node.left, node.right)
        )
    return isinstance(node, _ARITHMETIC)


def _is_flat(base: ast.expr) -> bool:
    return not any(isinstance(n, ast.Name) and n.id in _POWERS for n in ast.walk(base))


def _is_small(exponent: list[ast.expr]) -> bool:
    """A power of a power would be computed for ever."""
    if len(exponent) == 1 and isinstance(exponent[0], ast.Call):
        exponent = exponent[0].args  # Integer(2)
    value = exponent[0].value if exponent and isinstance(exponent[0], ast.Constant) else None
    return isinstance(value, int) and 0 <= value <= _LARGEST_EXPONENT
