"""Pickles that run a command: one for every opcode that calls."""

from __future__ import annotations

import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.assembler import PROTO, call, dict_, in_zip, integer, name, text, tuple_
from tests.hostile.case import ANY, READ, REFUSED, add, case, file, pack, records_of, saved
from tests.zoo import states as zoo
from tests.zoo.legacy import end_of_pickle

_COMMAND = text('echo pwned > "$BNCHECK_MARKER"')
_SYSTEM = name("os", "system")
_NAMESPACE = call(name("argparse", "Namespace"))
#: tuple.__new__(tuple, map.__new__(map, os.system, [command])): no opcode but NEWOBJ calls here.
_MAP = name("builtins", "map") + tuple_(_SYSTEM, b"](" + _COMMAND + b"e") + b"\x81"

#: One way to run a command for every opcode that calls; each leaves one value on the stack.
BODIES = {
    "reduce": call(_SYSTEM, _COMMAND),
    "stack-global": text("os") + text("system") + b"\x93" + tuple_(_COMMAND) + b"R",
    "inst": b"(" + _COMMAND + b"ios\nsystem\n",
    "obj": b"(" + _SYSTEM + _COMMAND + b"o",
    "newobj": name("builtins", "tuple") + tuple_(_MAP) + b"\x81",
    "newobj-ex": name("builtins", "tuple") + tuple_(_MAP) + b"}\x92",
    "build-setstate": _NAMESPACE + dict_({"__setstate__": _SYSTEM}) + b"b" + _COMMAND + b"b",
    "append": _NAMESPACE + dict_({"append": _SYSTEM}) + b"b" + _COMMAND + b"a",
    "add-items": _NAMESPACE + dict_({"add": _SYSTEM}) + b"b(" + _COMMAND + b"\x90",
    "extension": b"\x82\xf0" + tuple_(_COMMAND) + b"R",
    "persistent-id": call(_SYSTEM, _COMMAND) + b"Q",
    "getattr-chain": call(
        call(
            name("builtins", "getattr"),
            call(name("importlib", "import_module"), text("os")),
            text("system"),
        ),
        _COMMAND,
    ),
    "exec": call(
        name("builtins", "exec"), text("import os; open(os.environ['BNCHECK_MARKER'], 'w')")
    ),
}
PAYLOADS = {key: PROTO + body + b"." for key, body in BODIES.items()}


def _spliced(folder: Path, body: bytes, form: str) -> Path:
    """Weights whose pickle runs the payload first and drops its result."""
    if form == "plain":
        data = pickle.dumps(zoo.statistics(), protocol=2)
        return file(folder, data[:2] + body + b"0" + data[2:])
    if form == "legacy":
        data = saved(folder, legacy=True).read_bytes()
        at = data.rindex(b"\x80\x02", 0, data.index(b"bn."))
        return file(folder, data[: at + 2] + body + b"0" + data[at + 2 :])
    records = records_of(saved(folder))
    pickled = records["saved/data.pkl"]
    records["saved/data.pkl"] = pickled[:2] + body + b"0" + pickled[2:]
    return pack(folder / "model.pt", records)


for _name, _body in BODIES.items():
    add(f"payload-{_name}-raw", ANY, "a pickle that is nothing but an attack",
        partial(file, data=PAYLOADS[_name]))  # fmt: skip
    _codes = REFUSED if _name == "build-setstate" else READ  # a second state means harm
    for _form in ("zip", "legacy", "plain"):
        add(f"payload-{_name}-{_form}", _codes, f"an attack in a {_form} file beside good weights",
            partial(_spliced, body=_body, form=_form), weights=True)  # fmt: skip


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ('echo pwned > "$BNCHECK_MARKER"',)


@case(READ, "a payload among the values of a dict that holds the weights", weights=True)
def payload_beside_weights(folder: Path) -> Path:
    return saved(folder, {"state_dict": zoo.statistics(), "config": _Evil()})


def _legacy_part(folder: Path, number: int) -> Path:
    """A legacy file whose pickle of this number (1 protocol, 2 system, 4 keys) is an attack."""
    data, parts = saved(folder, legacy=True).read_bytes(), []
    for _ in range(5):
        end = end_of_pickle(data)
        parts.append(data[:end])
        data = data[end:]
    parts[number] = PAYLOADS["reduce"]
    return file(folder, b"".join(parts) + data)


for _number in (1, 2, 4):
    add(f"payload-in-legacy-pickle-{_number}", ANY, "an attack in the frame of a legacy file",
        partial(_legacy_part, number=_number))  # fmt: skip


@case(ANY, "a payload in the place of the name of a storage")
def payload_as_storage_key(folder: Path) -> Path:
    pid = tuple_(text("storage"), name("torch", "FloatStorage"), BODIES["reduce"], text("cpu"))
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return in_zip(folder, dict_({"bn.running_mean": call(rebuild, pid + b"Q", integer(0))}))
