"""What `bncheck gate --init` writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from bncheck.core.errors import BncheckError
from bncheck.policy.config.find import FILE
from bncheck.policy.config.load import read
from bncheck.writing.atomic import write_text

TEMPLATE: Final = """\
# `bncheck gate` checks the BatchNorm layers of these models.
[tool.bncheck]
fail-on = "error"              # or "warning", "never"
# ignore = ["BN109"]           # rules to ignore; `bncheck rule --all` lists them
# baseline = "bncheck-baseline.json"   # known findings; made with --write-baseline
# docs-url = "https://..."     # your copy of the documentation, which reports link to

# [tool.bncheck.severity]
# BN105 = "error"

# [tool.bncheck.thresholds]
# w2-warning = 0.2
# w2-error = 0.4

# [[tool.bncheck.ignore]]      # layers that are unused on purpose
# rule = "BN101"
# layers = "aux.*"
# reason = "the auxiliary head only helps training"

[tool.bncheck.models.net]
checkpoint = "models/*.pt"     # relative to this file; or a list
# key = "ema"                  # the part of the checkpoint that is deployed

# The settings below run code: model is imported and called.
# model = "nets.py:build"      # or "package.module:Net"
# model-args = { depth = 20 }
# data = "data/calibration.npz"    # do the statistics agree with what the layers see?
# samples = 1024
# input = "3,32,32"            # one sample's shape, if there is no data
# fold = { fail-unfolded = true }  # every BatchNorm must fold, and exactly
# export = "net.onnx"          # is written, and compared with the model
# compare = "net.onnx"         # an existing file: is it still the same function?
# drift = "runs/*.pt"          # earlier snapshots: half-frozen layers, late jumps
"""


def write_template(target: Path | None) -> str:
    """Add the template to pyproject.toml, and say so. Raises BncheckError if it has one."""
    path = target or Path(FILE)
    if not os.path.exists(path):
        write_text(path, TEMPLATE)
        return f"wrote {path}; declare your models in it"
    if path.suffix != ".toml":  # some other file that was named by mistake
        raise BncheckError("does not end in .toml", "name a configuration", str(path))
    if read(path, required=False) is not None:
        raise BncheckError("has a [tool.bncheck] already", "edit it", str(path))
    text = path.read_text("utf-8")
    separator = "" if text.endswith("\n\n") or not text else "\n" if text[-1] == "\n" else "\n\n"
    write_text(path, f"{text}{separator}{TEMPLATE}")
    return f"added [tool.bncheck] to {path}; declare your models in it"
