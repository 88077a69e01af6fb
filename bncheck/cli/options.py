"""Options that commands share, declared once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import typer

from bncheck.cli import completion
from bncheck.cli.help import Heading
from bncheck.core.errors import BncheckError, ExitCode
from bncheck.core.findings import FailOn, Finding
from bncheck.folding.planner.families import Norms

_EXAMPLES: Final = {
    "--eps": "1e-5", "--momentum": "0.1", "--tolerance": "1e-5", "--eta": "0.1",
    "--interval": "2", "--timeout": "300",
}  # fmt: skip


def finite(param: typer.CallbackParam, value: float | None) -> float | None:
    """Refuse nan and inf, which are floats to a command line: the file would be blamed for them."""
    if value is not None and not math.isfinite(value):
        raise BncheckError(
            f"{param.opts[0]} {value} is not a finite number",
            f"write e.g. {param.opts[0]} {_EXAMPLES[param.opts[0]]}",
        )
    return value


OutputOption = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Write the report to this file, as its ending says (.html) or --format.",
        rich_help_panel=Heading.REPORTS,
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="PART",
        help="Which part of the checkpoint, e.g. ema or state_dict.",
        autocompletion=completion.keys,
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="One sample's shape: 3,224,224 or ids=128:int64; 20,N,8 marks a batch that is "
        "not the first axis, '[3,8,8]' has none; repeatable.",
        rich_help_panel=Heading.DATA,
    ),
]
NormsOption = Annotated[
    Norms,
    typer.Option(
        "--norms",
        help="all: also the scale and shift of Layer-, RMS-, Group- and InstanceNorms, and the "
        "weights of Weight and Spectral Norms.",
    ),
]
PartOption = Annotated[
    list[str] | None,
    typer.Option("--part", metavar="NAME", help="Only this submodule: backbone; repeatable."),
]
ToleranceOption = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        min=0.0,
        metavar="X",
        callback=finite,
        help="Largest relative error allowed (default: by dtype).",
    ),
]


EpsOption = Annotated[
    float | None,
    typer.Option(
        "--eps",
        min=0.0,
        metavar="X",
        callback=finite,
        help="eps of layers for which neither file nor model has one.",
    ),
]
TrainBatchSizeOption = Annotated[
    int | None,
    typer.Option("--train-batch-size", min=1, metavar="N", help="Training batch size per device."),
]
MomentumOption = Annotated[
    float | None,
    typer.Option(
        "--momentum",
        metavar="X",
        callback=finite,
        min=0.0,
        max=1.0,
        help="Momentum in PyTorch's convention, if the file has none.",
    ),
]
NoColorOption = Annotated[
    bool,
    typer.Option(
        "--no-color", help="No colour, even on a terminal.", rich_help_panel=Heading.REPORTS
    ),
]


def exit_code(findings: Iterable[Finding], fail_on: FailOn) -> ExitCode:
    """FINDINGS where something is at or above the threshold."""
    limit = fail_on.limit
    bad = limit and any(finding.severity.rank <= limit.rank for finding in findings)
    return ExitCode.FINDINGS if bad else ExitCode.OK
