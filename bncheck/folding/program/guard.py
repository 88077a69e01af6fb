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

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from bncheck.core.errors import BncheckError
from bncheck.folding.program.expressions import is_arithmetic, is_guard, is_name
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
#: No names: torch refers to these by getattr, writes them out with repr, or they are judged below.
_FREE: Final = {
    "as_string", "metadata", "in_spec", "out_spec", "expr_str", "target", "guards_code",
}  # fmt: skip
#: Checked as text, so nothing else may stand there: sympify looks into dicts, too.
_TEXTS: Final = {"expr_str", "in_spec", "out_spec", "guards_code"}
_PLAIN: Final = (int, float, type(None))
#: Containers of inputs and outputs that need no import.
_CONTAINERS: Final = {
    None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
    "collections.namedtuple", "collections.deque", "torch.Size",
    "torch.fx.immutable_collections.immutable_list",
    "torch.fx.immutable_collections.immutable_dict",
}  # fmt: skip


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
    if key not in _FREE and not is_name(value):
        raise BncheckError(f"has an invalid name: {value[:60]!r}", AGAIN)
    holds, complaint = _JUDGES.get(key, (None, ""))
    if holds is not None and not holds(value):
        raise BncheckError(f"{complaint}: {value[:60]!r}", AGAIN)


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
        is_name(entry) if isinstance(entry, str) else isinstance(entry, _PLAIN) for entry in entries
    )


def _is_identifier(text: str) -> bool:
    return not text or text.isidentifier()


#: By the key that a text stands under: what it must be, and what is said where it is not.
_JUDGES: Final[Mapping[str, tuple[Callable[[str], bool], str]]] = {
    "expr_str": (is_arithmetic, "has a size that is not arithmetic"),
    "target": (_is_operator, "calls something that is not an operator of a model"),
    "in_spec": (is_container, "takes inputs of a type that would have to be imported"),
    "out_spec": (is_container, "gives outputs of a type that would have to be imported"),
    "guards_code": (is_guard, "checks its inputs by more than sizes"),
    "name": (_is_identifier, "has an input whose name is not an identifier"),
    "forward_arg_names": (_is_identifier, "has an input whose name is not an identifier"),
    "as_name": (_is_identifier, "has an input whose name is not an identifier"),
}
