"""Configurations and baselines from a stranger's repository, given to `bncheck inspect`."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from tests.hostile.case import READ, REFUSED, add, saved

_TABLE = "[tool.bncheck]\n"
_DEEP = "[" * 100_000
_KNOWN = {"rule": "BN101", "layer": "bn", "severity": "error", "fingerprint": "x", "model": None}


def _beside(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return saved(folder)


def _folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return saved(folder)


def _pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return saved(folder)


def _huge(folder: Path, name: str) -> Path:
    with open(folder / name, "wb") as file:
        file.truncate(1 << 27)
    return saved(folder)


_CONFIGURATIONS = {
    "unknown-key": _TABLE + "w2-max = 0.5\n",
    "deep": f"{_TABLE}select = {_DEEP}",
    "deep-key": f"[tool.bncheck{'.a' * 20_000}]\n",
    "huge-integer": f"{_TABLE}select = {'1' * 5000}",
    "many-lines": _TABLE + "x = [\n" + "1,\n" * 200_000 + "]\n",
    "steering-key": _TABLE + '"\\u001b]0;x\\u0007\\n::error::y" = 1\n',
    "steering-rule": _TABLE + 'select = ["\\u001b[31m\\n::add-mask::y\\u202e"]\n',
    "duplicate-key": _TABLE + "select = []\nselect = []\n",
    "threshold-nan": "[tool.bncheck.thresholds]\nw2-error = nan\n",
    "threshold-date": "[tool.bncheck.thresholds]\nw2-error = 1979-05-27\n",
    "types": "[tool.bncheck]\nmodels = [1, {}]\nignore = 3\nseverity = []\n",
    "no-table": "[tool]\nbncheck = 3\n",
    "zero-bytes": "\0" * 100,
    "no-utf-8": _TABLE + "# \xff",
    "megabyte-word": f"{_TABLE}select = ['{'B' * 1_000_000}']\n",
}
for _name, _text in _CONFIGURATIONS.items():
    add(f"config-{_name}", REFUSED, "a configuration that is none",
        build=partial(_beside, name="evil.toml", content=_text.encode("latin-1")),
        options=("--config", "evil.toml"))  # fmt: skip

_BASELINES: dict[str, str] = {
    "deep": _DEEP,
    "huge-integer": "1" * 5000,
    "types": json.dumps([{**_KNOWN, "model": {}}]),
    "unhashable": json.dumps([{**_KNOWN, "layer": [1], "model": [2]}]),
    "no-severity": json.dumps([{**_KNOWN, "severity": "\x1b[31m"}]),
    "nan": "[NaN]",
    "many-values": "[" + "{}," * 1_200_000 + "{}]",
    "null": "null",
}
for _name, _text in _BASELINES.items():
    _whole = f'{{"schema": "bncheck.baseline/1", "findings": {_text}}}'
    add(f"baseline-{_name}", REFUSED, "a baseline that is none",
        build=partial(_beside, name="evil.json", content=_whole.encode()),
        options=("--baseline", "evil.json"))  # fmt: skip
add("baseline-duplicate-keys", READ, "a key twice: the last counts",
    build=partial(_beside, name="evil.json", content=b'{"schema": 1, "findings": 2, '
                  b'"schema": "bncheck.baseline/1", "findings": []}'),
    options=("--baseline", "evil.json"))  # fmt: skip

for _option, _file in (("config", "evil.toml"), ("baseline", "evil.json")):
    for _name, _build in {"folder": _folder, "pipe": _pipe, "huge": _huge}.items():
        add(f"{_option}-{_name}", REFUSED, "no file that can be read",
            build=partial(_build, name=_file), options=(f"--{_option}", _file))  # fmt: skip
    add(f"{_option}-endless", REFUSED, "a device without end", saved,
        options=(f"--{_option}", "/dev/zero"))  # fmt: skip

_CODE = """[tool.bncheck.models.net]
checkpoint = "saved.pt"
model = "evil.py:build"
data = "evil:batches"
"""


def _with_code(folder: Path) -> Path:
    (folder / "evil.py").write_text("import os; open(os.environ['BNCHECK_MARKER'], 'w')\n")
    return _beside(folder, "pyproject.toml", _CODE.encode())


add("config-runs-nothing", READ, "inspect imports no model that the folder's configuration names",
    _with_code, weights=True)  # fmt: skip
add("config-patterns", READ, "a pattern of layers that backtracks",
    build=partial(_beside, name="pyproject.toml", content=(
        "[[tool.bncheck.ignore]]\nrule = 'BN101'\nreason = ''\n"
        f"layers = '{'*a' * 200}*b'\n").encode()))  # fmt: skip
