"""`bncheck export`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from bncheck.cli import console
from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.help import Told
from bncheck.cli.measuring import ModelOptions
from bncheck.cli.options import InputOption, KeyOption, NormsOption, ToleranceOption
from bncheck.cli.places import PLACE, place, whole
from bncheck.cli.policy import PolicyOptions
from bncheck.cli.reporting import ReportOptions
from bncheck.core.errors import ExitCode
from bncheck.folding.planner.families import Norms


class ResidualForm(StrEnum):
    """folding.residual.Residual without what it imports."""

    CONV = "conv"
    MULADD = "muladd"
    BN = "bn"


@dataclass(frozen=True)
class FileOptions:
    """What the ONNX file looks like."""

    opset: Annotated[
        int | None,
        typer.Option("--opset", metavar="N", help="ONNX opset version (default: chosen by torch)."),
    ] = None
    dynamic_batch: Annotated[
        bool | None,
        typer.Option(
            "--dynamic-batch/--static-batch",
            help="Allow any batch size, or only one (default: any where the model allows it).",
        ),
    ] = None
    dynamic: Annotated[
        list[str] | None,
        typer.Option(
            "--dynamic", metavar="NAME=AXES", help="More dynamic axes: x=0,2,3; repeatable."
        ),
    ] = None
    input_name: Annotated[
        list[str] | None,
        typer.Option(
            "--input-name", metavar="NAME", help="Names in order (default: forward's parameters)."
        ),
    ] = None
    output_name: Annotated[
        list[str] | None,
        typer.Option("--output-name", metavar="NAME", help="Names in order (default: dict keys)."),
    ] = None
    residual: Annotated[
        ResidualForm,
        typer.Option("--residual", help="How to write a BatchNorm that cannot be folded."),
    ] = ResidualForm.CONV
    no_fold: Annotated[bool, typer.Option("--no-fold", help="Keep every BatchNorm.")] = False


TOLD: Final = Told(
    (
        "bncheck export model.pt --model nets.py:build --input 3,224,224 -o model.onnx",
        "bncheck export model.pt2 -o model.onnx --opset 18",
    ),
    done="written",
    failed="not written, or findings at or above --fail-on",
)


@expanded
def export(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help=f"A checkpoint or a .pt2. {PLACE}")
    ],
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="The .onnx file to write.")
    ],
    input_: InputOption = None,
    key: KeyOption = None,
    file: FileOptions,
    part: Annotated[
        str | None, typer.Option("--part", metavar="NAME", help="Export this submodule alone.")
    ] = None,
    norms: NormsOption = Norms.BATCH,
    tolerance: ToleranceOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Export despite findings about the statistics.")
    ] = False,
    policy_options: PolicyOptions,
    given: ModelOptions,
    reporting: ReportOptions,
) -> int:
    """Fold, export to ONNX and compare; written if all holds.

    A checkpoint needs --model (or --trust) and --input or --data; a .pt2 brings its graph along.
    onnxruntime runs the file at three optimisation levels against the original in float64.
    """
    from bncheck.folding.residual import Residual
    from bncheck.reporting.documents.export import document
    from bncheck.reporting.formats import said
    from bncheck.shipping.axes import parse_axes
    from bncheck.shipping.command import ExportRequest, check_request, run
    from bncheck.shipping.export import ExportOptions
    from bncheck.shipping.writing import targets_of

    delivery = reporting.delivery()
    options = ExportOptions(
        file.opset,
        Residual(file.residual.value),
        not file.no_fold,
        tolerance,
        tuple(file.input_name or ()),
        tuple(file.output_name or ()),
        norms=norms,
    )
    axes = parse_axes(file.dynamic_batch, file.dynamic or ())
    inputs = tuple(input_ or ())
    tally = policy_options.tally()
    path = place(checkpoint)
    check_files([path], targets_of(output), tally, delivery, given)
    request = ExportRequest(
        path,
        output,
        given.parts(),
        inputs,
        key,
        axes,
        options,
        force,
        part=part,
        counted=lambda findings: tally.count_findings(findings).findings,
    )
    check_request(request)
    with whole(path) as (source, note), console.status() as say:
        done = run(replace(request, source=source), note, say)
    if not done.stopped:
        done = tally.count(done)
    for line in done.notes:
        console.note(line)
    delivery.deliver(said(done.to_dict, lambda: document(done, str(checkpoint))), tally)
    code = tally.finish(done.findings)
    return max(code, ExitCode.FINDINGS) if done.file is None else code
