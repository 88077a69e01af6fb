"""Exported programs and TorchScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.hostile.assembler import PROTO, call, dict_, name, tensor
from tests.hostile.case import ANY, READ, REFUSED, add, case, pack, records_of
from tests.hostile.payloads import PAYLOADS
from tests.hostile.pickles import DEEP
from tests.zoo import states as zoo

_EXPORTED: list[dict[str, bytes]] = []


def exported(folder: Path) -> dict[str, bytes]:
    """The records of a good .pt2 with the layer `bn`; exporting is slow, so it is done once."""
    if not _EXPORTED:
        model = nn.Sequential()
        model.bn = nn.BatchNorm2d(4)
        model.load_state_dict(zoo.statistics(), strict=False)
        program = torch.export.export(model.eval(), (torch.rand(2, 4, 3, 3),))
        torch.export.save(program, folder / "good.pt2")
        _EXPORTED.append(records_of(folder / "good.pt2"))
    return dict(_EXPORTED[0])


def _edited(folder: Path, ending: str, old: bytes, new: bytes) -> Path:
    records = exported(folder)
    key = next(record for record in records if record.endswith(ending))
    assert old in records[key]
    records[key] = records[key].replace(old, new)
    return pack(folder / "model.pt2", records)


_MODEL_JSON, _CONFIG_JSON = "models/model.json", "model_weights_config.json"

add("exported-intact", READ, "none: that the edits below hit a good one",
    partial(_edited, ending=_MODEL_JSON, old=b"", new=b""), weights=True)  # fmt: skip
add("exported-payload-sample-inputs", READ, "sample inputs that are an attack",
    lambda folder: pack(folder / "model.pt2", {
        record: PAYLOADS["reduce"] if "sample_inputs" in record else data
        for record, data in exported(folder).items()}), weights=True)  # fmt: skip
for _name, _codes, _what, _ending, _old, _new in (
    ("use-pickle", REFUSED, "weights that are pickles", _CONFIG_JSON,
     b'"use_pickle": false', b'"use_pickle": true'),
    ("traversal", REFUSED, "weights outside the archive", _CONFIG_JSON,
     b'"path_name": "', b'"path_name": "../../'),
    ("deep-json", REFUSED, "100,000 arrays in each other", _MODEL_JSON,
     b"{", b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b', "y":{'),
    ("json-list", REFUSED, "a list in the place of an object", _CONFIG_JSON, b"{", b"[{"),
    ("eps-is-text", ANY, "an eps that is a text", _MODEL_JSON,
     b'"as_float": 1e-05', b'"as_float": "1e-05"'),
    ("eps-is-list", ANY, "an eps that is a list", _MODEL_JSON, b'"as_float": 1e-05',
     b'"as_float": [1]'),
    ("eps-is-giant", ANY, "an eps of 400 digits", _MODEL_JSON, b'"as_float": 1e-05',
     b'"as_float": 1' + b"0" * 400),
    ("momentum-is-nan", ANY, "a momentum of NaN", _MODEL_JSON, b'"as_float": 0.1',
     b'"as_float": NaN'),
    ("momentum-is-list", ANY, "a momentum that is a list", _MODEL_JSON, b'"as_float": 0.1',
     b'"as_float": [1]'),
    ("sizes-giant", REFUSED, "a weight of 2^60 elements", _CONFIG_JSON, b'"as_int": 4',
     b'"as_int": 1152921504606846976'),
    ("sizes-negative", REFUSED, "a weight of -4 elements", _CONFIG_JSON, b'"as_int": 4',
     b'"as_int": -4'),
    ("dtype-unknown", REFUSED, "a dtype that nobody has", _CONFIG_JSON, b'"dtype": 7',
     b'"dtype": 77'),
):  # fmt: skip
    add(f"exported-{_name}", _codes, _what, partial(_edited, ending=_ending, old=_old, new=_new))


@case(ANY, "60 MB of deflated JSON, which takes 20 times that in memory")
def exported_json_bomb(folder: Path) -> Path:
    records = exported(folder)
    key = next(record for record in records if record.endswith(_MODEL_JSON))
    records[key] = b'{"x":[' + b"{}," * 20_000_000 + b"{}]}"
    return pack(folder / "model.pt2", records, deflate=lambda record: record.endswith(".json"))


def torchscript_norm(kind: str = "BatchNorm2d") -> bytes:
    """A scripted layer of a class in `__torch__`."""
    statistics = {"running_mean": tensor(), "running_var": tensor()}
    return call(name("__torch__", kind)) + dict_(statistics) + b"b"


def torchscript(
    folder: Path,
    code: Mapping[str, bytes],
    deflate: bool = False,
    norms: Sequence[bytes] = (torchscript_norm(),),
) -> Path:
    """A scripted network of these layers, and the files of its code."""
    layers = {f"bn{number}": norm for number, norm in enumerate(norms)}
    numbers = np.ones(4, np.float32).tobytes()
    records = {
        "m/data.pkl": PROTO + call(name("__torch__", "Net")) + dict_(layers) + b"b.",
        "m/constants.pkl": PROTO + b"(" + tensor() + b"t.",
        "m/data/0": numbers,
        "m/constants/0": numbers,
        "m/version": b"3\n",
    }
    records |= {f"m/code/{record}": data for record, data in code.items()}
    return pack(folder / "model.pt", records, lambda record: deflate and "/code/" in record)


NORM_CODE = b"class BatchNorm2d(Module):\n  eps : Final[float] = 1e-05\n"
#: 60 MB of code in which there is nothing but the beginning of a class.
_BLANKS = b"class C(Module):\n" + b" " * 60_000_000

add("torchscript-regex", ANY, "code that makes a regular expression go back and forth",
    partial(torchscript, code={"__torch__.py": b"class BatchNorm2d(Module):\n  "
                                + b"torch.batch_norm(" * 60_000}))  # fmt: skip
add("torchscript-regex-commas", ANY, "the same with commas",
    partial(torchscript, code={"__torch__.py": b"class BatchNorm2d(Module):\n  "
                                + b"torch.batch_norm(x, w, b, m, v, " * 60_000}))  # fmt: skip
add("torchscript-code-bomb", ANY, "20 files of code that inflate to 60 MB each",
    partial(torchscript, deflate=True, code={"__torch__.py": NORM_CODE}
            | {f"__torch__/c{n}.py": _BLANKS for n in range(20)}))  # fmt: skip
add("torchscript-code-not-text", ANY, "code that is noise",
    partial(torchscript, code={"__torch__.py": bytes(range(256)) * 10}))  # fmt: skip
add("torchscript-no-code", ANY, "a class whose code is missing",
    partial(torchscript, code={"other.py": b""}))  # fmt: skip
add("torchscript-eps-not-a-number", ANY, "an eps of 1e999 and one of text",
    partial(torchscript, code={"__torch__.py": b"class BatchNorm2d(Module):\n"
            b"  eps : Final[float] = 1e999\n  momentum : Final[float] = abc\n"}))  # fmt: skip


add("torchscript-frozen-eps-of-dots", ANY, "a call whose eps is 1..2.-3",
    partial(torchscript, code={"__torch__.py": b"torch.batch_norm(x, CONSTANTS.c0, CONSTANTS.c0, "
            b"CONSTANTS.c0, CONSTANTS.c0, False, 1..2, 1.-3, True)"}))  # fmt: skip
