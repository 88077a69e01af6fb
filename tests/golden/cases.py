"""Command lines, by the name of the file that holds what they print, and how one is run."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest import mock

import numpy as np

from bncheck.cli import run
from tests import small
from tests.networks import SAMPLES

FOLDER: Final = Path(__file__).parent
_NET: Final = "--model sample_models/nets.py:DigitNet"
_DATA: Final = f"{_NET} --data sample_models/digits-test.npz"
_SHAPE: Final = f"{_NET} --input 1,8,8"

CASES: Final = {
    "inspect-healthy": "inspect sample_models/healthy.pt",
    "inspect-healthy-verbose": "inspect sample_models/healthy.pt2 --verbose",
    "inspect-sick": "inspect sample_models/one-layer-reset.pt",
    "inspect-sick-verbose": "inspect sample_models/under-warmed-module.pt --verbose",
    "inspect-nan": "inspect sample_models/nan.pt",
    "inspect-key": "inspect sample_models/ema-initial-buffers.pt --key ema",
    "inspect-several": "inspect dead.safetensors sample_models/nan.pt sample_models/healthy.onnx",
    "inspect-quiet": "inspect sample_models/nan.pt sample_models/healthy.pt --quiet",
    "inspect-data-healthy": f"inspect sample_models/healthy.pt {_DATA}",
    "inspect-data-sick": f"inspect sample_models/stale.pt {_DATA}",
    "inspect-data-verbose": f"inspect sample_models/stale.pt {_DATA} --verbose --shape",
    "inspect-data-quiet": f"inspect sample_models/class-sorted.pt {_DATA} --quiet",
    "inspect-colour": f"FORCE_COLOR=1 inspect sample_models/stale.pt {_DATA}",
    "inspect-narrow": "COLUMNS=56 inspect sample_models/one-layer-reset.pt --verbose",
    "inspect-deep": "inspect deep-1.safetensors --verbose",
    "drift": "drift sample_models/snapshots/epoch-001.pt sample_models/snapshots/epoch-020.pt",
    "drift-many": "drift deep-1.safetensors deep-2.safetensors deep-3.safetensors",
    "drift-many-verbose": "drift deep-1.safetensors deep-2.safetensors -v --reference first",
    "drift-data": f"drift sample_models/snapshots/epoch-0{{01,08,20}}.pt {_DATA} --layers all",
    "drift-quiet": "drift deep-1.safetensors deep-2.safetensors --quiet",
    "recalibrate": f"recalibrate sample_models/stale.pt {_DATA} -o new.pt",
    "recalibrate-formula": "recalibrate sample_models/under-warmed-module.pt -o new2.pt",
    "recalibrate-refused": "recalibrate sample_models/healthy.pt --data bad.py:batches "
    f"{_NET} -o new3.pt",
    "fold-plan": f"fold sample_models/healthy.pt {_SHAPE} --dry-run",
    "fold-kept": "fold sample_models/healthy.pt2 --keep bn[1234] --fail-unfolded --dry-run",
    "fold-reasons": "fold kept.safetensors --model kept.py:Net --input 4,6,6 --dry-run",
    "fold-partly": "fold sample_models/healthy.onnx --keep bn[12] -o partly.onnx",
    "fold-verbose": "fold sample_models/healthy.onnx -o folded.onnx --verbose",
    "export": f"export sample_models/healthy.pt {_SHAPE} -o net.onnx --static-batch",
    "export-stopped": f"export sample_models/one-layer-reset.pt {_SHAPE} -o net2.onnx",
    "compare-equal": "compare sample_models/healthy.onnx sample_models/healthy.onnx",
    "compare-differs": f"compare sample_models/stale.pt sample_models/healthy.onnx {_NET}",
    "gate": "gate",
    "gate-verbose": "gate student teacher --verbose",
    "rule": "rule BN105",
    "rule-all": "rule --all",
}  # fmt: skip

_CONFIGURATION: Final = """
[tool.bncheck.models.student]
checkpoint = "sample_models/one-layer-reset.pt"
[tool.bncheck.models.teacher]
checkpoint = "sample_models/healthy.onnx"
fold = {}
[tool.bncheck.models.series]
checkpoint = "deep-3.safetensors"
drift = "deep-[12].safetensors"
[tool.bncheck.models.absent]
checkpoint = "absent.pt"
"""
#: Images of one class: statistics of their own serve them worse.
_BATCHES: Final = """
import numpy as np
def batches():
    digits = np.load("sample_models/digits-test.npz")
    chosen = digits["y"] == 3
    return [(digits["x"][chosen], digits["y"][chosen])] * 3
"""
_KEPT: Final = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        late = [nn.Sequential(nn.BatchNorm2d(4), nn.Tanh()) for _ in range(3)]
        super().__init__(*late, nn.Sequential(nn.BatchNorm2d(4)), nn.GELU())
"""
#: Times, and figures of rounding errors, are others on another machine.
_VARYING: Final = (
    (re.compile(r"\b\d(?:\.\d)?e-(?:0[6-9]|1\d)\b(?! for|\))"), "1e-07"),
    (re.compile(r"\b\d+ KiB, opset \d+"), "40 KiB, opset 20"),
    (re.compile(r"\b\d+\.\d{3} ms"), "0.100 ms"),
    (re.compile(r"(?<=ms) +\d+\.\d{2}x"), "        1.00x"),
)


def prepare(folder: Path) -> None:
    """What the command lines are about, by relative paths: output is the same in any folder."""
    (folder / "sample_models").symlink_to(SAMPLES)
    (folder / "pyproject.toml").write_text(_CONFIGURATION)
    (folder / "bad.py").write_text(_BATCHES)
    (folder / "kept.py").write_text(_KEPT)
    small.save(folder / "kept.safetensors", {f"{i}.0": small.layer() for i in range(4)})
    small.dead(folder / "dead.safetensors")
    rng = np.random.default_rng(1)
    for number in (1, 2, 3):
        layers = {f"stages.{i}.a_long_name_of_a_block.bn": small.layer() for i in range(36)}
        for place, tensors in enumerate(layers.values()):
            tensors["running_mean"] += np.float32(rng.normal(0, place / 36 / number))
            tensors["running_var"] *= np.float32(1 + place / 50 / number)
        small.save(folder / f"deep-{number}.safetensors", layers)


def printed(command: str) -> str:
    """What a command prints on stdout; A=b before it and {a,b} in it are as in a shell."""
    words = [word for part in command.split() for word in _braces(part)]
    setting = dict(word.split("=") for word in words[:1] if word.partition("=")[0].isupper())
    out = io.StringIO()
    quietly = contextlib.redirect_stderr(io.StringIO())
    with contextlib.redirect_stdout(out), quietly, _terminal(setting):
        code = run(words[len(setting) :])
    typed = [*words[: len(setting)], "bncheck", *words[len(setting) :]]
    text = f"$ {' '.join(typed)}\n{out.getvalue()}exit code {code}\n"
    for pattern, shown in _VARYING:
        text = pattern.sub(shown, text)
    return text


def _braces(word: str) -> list[str]:
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", word)
    return [f"{found[1]}{m}{found[3]}" for m in found[2].split(",")] if found else [word]


@contextlib.contextmanager
def _terminal(setting: dict[str, str]) -> Iterator[None]:
    """With these settings, and none of the terminal or the CI that the tests run in."""
    known = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "COLORTERM", "TERM")
    plain = {key: value for key, value in os.environ.items() if key not in known}
    with mock.patch.dict(os.environ, plain | {"TERM": "xterm-256color"} | setting, clear=True):
        yield
