"""Architectures of other libraries and ONNX files of other projects, each in its own process.

    python -m tests.breadth [LIBRARY[:NAME]...] [--stages fold,double,fx,slim,export] -o FILE
    python -m tests.breadth --files FOLDER -o FILE
    python -m tests.breadth --table FILE...

The first two append a JSON line for each model or file, and leave out what is already there; the
last prints Markdown. `pip install --no-deps --target SITE timm torchvision pytorchcv onnxslim
segmentation_models_pytorch geffnet pretrainedmodels munch` and PYTHONPATH=SITE let the libraries
stand beside any torch: a torchvision without its compiled operators gets stubs. No weights of
others are loaded. Families and files that `set_aside` names were not looked at while code changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.breadth import children, files, models, tables
from tests.breadth.measuring import STAGES, one
from tests.breadth.stubs import stubbed_torchvision


def main() -> None:
    """Run what was asked for, or print the table of an earlier run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("wanted", nargs="*", default=list(models.LIBRARIES))
    parser.add_argument("--stages", default="fold")
    parser.add_argument("--opset", type=int)
    parser.add_argument("--half", choices=("open", "aside"))
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--table", type=Path, nargs="+")
    parser.add_argument("-o", dest="output", type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--gigabytes", type=float, default=12)
    given = parser.parse_args()
    if given.table:
        lines = [line for path in given.table for line in path.open()]
        sys.stdout.write(tables.table([json.loads(line) for line in lines]))
        return
    torch.set_num_threads(1)
    stubs = stubbed_torchvision()
    for row in _files(given) if given.files else _models(given):
        line = json.dumps(row)
        sys.stdout.write(f"{line[:600]}\n")
        sys.stdout.flush()
        if given.output:
            with given.output.open("a") as written:
                written.write(f"{line}\n")
    del stubs


def _models(given: Any) -> Iterator[dict[str, Any]]:
    stages = given.stages.split(",")
    assert set(stages) <= set(STAGES), stages
    there = _there(given.output)
    named = [
        (library, name)
        for word in given.wanted
        for library, _, chosen in (word.partition(":"),)
        for name in ([chosen] if chosen else models.names_of(library)[:: given.every])
    ]
    for library, name in named:
        aside = models.set_aside(library, name)
        if (given.half and aside != (given.half == "aside")) or (
            f"{library} {name}",
            given.stages,
            given.opset,
        ) in there:
            continue
        work = partial(one, library, name, stages, given.opset)
        found = children.run(work, given.seconds, given.gigabytes)
        yield {
            "model": f"{library} {name}",
            "stages": given.stages,
            "opset_asked": given.opset,
            "aside": aside,
            **found,
        }


def _files(given: Any) -> Iterator[dict[str, Any]]:
    there = _there(given.output)
    for path in sorted(given.files.rglob("*.onnx")):
        name = str(path.relative_to(given.files))
        if (name, None, None) in there:
            continue
        work = partial(files.results, path)
        found = children.run(work, given.seconds, given.gigabytes)
        yield {"file": name, "aside": files.set_aside(path), **found}


def _there(output: Path | None) -> set[tuple[Any, ...]]:
    if output is None or not output.exists():
        return set()
    rows = [json.loads(line) for line in output.open()]
    return {(r.get("model", r.get("file")), r.get("stages"), r.get("opset_asked")) for r in rows}


if __name__ == "__main__":
    main()
