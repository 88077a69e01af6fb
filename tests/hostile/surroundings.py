"""What lies beside a checkpoint, and what `--model` may name: code, of which only the latter runs.

Such cases need a process of their own: modules that are imported already cannot be shadowed.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np

from tests.batch import SCRIPT
from tests.hostile.case import READ, REFUSED, add, saved

_MARK = "import os; open(os.environ['BNCHECK_MARKER'], 'w')\n"
_SHADOWED = (
    *("json", "struct", "pickle", "zipfile", "numpy", "onnx", "safetensors", "torch"),
    *("rich", "typer", "click", "ml_dtypes", "sitecustomize", "usercustomize", "conftest"),
)


#: What Python itself has imported before `python -m bncheck` gets a say is beyond it.
_DOORS = {"script": (SCRIPT, ("typing",)), "module": ((sys.executable, "-m", "bncheck"), ())}


def _among_shadows(folder: Path, more: tuple[str, ...]) -> Path:
    for name in (*_SHADOWED, *more):
        (folder / f"{name}.py").write_text(_MARK)
    (folder / "bncheck.pth").write_text(_MARK)
    return saved(folder)


for _name, (_door, _more) in _DOORS.items():
    add(f"cwd-shadow-{_name}", READ, "torch.py, json.py, sitecustomize.py... beside it",
        partial(_among_shadows, more=_more), weights=True, door=_door)  # fmt: skip


_NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = torch.nn.BatchNorm2d(4)
        {init}
    def forward(self, x):
        {forward}
        return self.bn(x)
"""


def _spec(folder: Path, source: str) -> Path:
    (folder / "nets.py").write_text(source)
    np.save(folder / "data.npy", np.random.default_rng(0).random((8, 4, 3, 3), np.float32))
    return saved(folder)


def _net(init: str = "pass", forward: str = "pass") -> str:
    return _NET.format(init=init, forward=forward)


_LOUD = r"raise ValueError('\x1b[31m\n::error::x')"
_DEPTH = "f = lambda: f(); f()"
for _name, _codes, _what, _model, _source in (
    ("nonsense", REFUSED, "no TARGET:CALLABLE", "\x1b[31m??", ""),
    ("absent", REFUSED, "a module that is not there", "absent.module:Net", ""),
    ("no-attribute", REFUSED, "a name that the module lacks", "nets.py:Nit", _net()),
    ("no-module", REFUSED, "a function that returns 7", "nets.py:seven", "seven = lambda: 7"),
    ("syntax", REFUSED, "a file that is not Python", "nets.py:Net", "def :"),
    ("exits", REFUSED, "a module that calls sys.exit(0)", "nets.py:Net", "import sys; sys.exit(0)"),
    ("raises", REFUSED, "a constructor that raises", "nets.py:Net", _net(init=_LOUD)),
    ("recursion", REFUSED, "a constructor without end", "nets.py:Net", _net(init=_DEPTH)),
    ("memory", REFUSED, "one that runs out of memory", "nets.py:Net",
     _net(init="raise MemoryError")),
    ("prints", READ, "one that prints to stdout", "nets.py:Net", _net(init="print('{')")),
    ("forward-exits", REFUSED, "a forward that calls sys.exit(0)", "nets.py:Net",
     _net(forward="import sys; sys.exit(0)")),
    ("forward-recursion", REFUSED, "a forward without end", "nets.py:Net", _net(forward=_DEPTH)),
):  # fmt: skip
    _data = ("--data", "data.npy") if "forward" in _name else ()
    add(f"spec-{_name}", _codes, _what, partial(_spec, source=_source), door=SCRIPT,
        options=("--model", _model, *_data))  # fmt: skip
