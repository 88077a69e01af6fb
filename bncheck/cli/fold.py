"""`bncheck fold`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer

from bncheck.cli import console
from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.help import Told
from bncheck.cli.measuring import ModelOptions
from bncheck.cli.options import InputOption, KeyOption, NormsOption, PartOption, ToleranceOption
from bncheck.cli.places import PLACE, place, whole
from bncheck.cli.policy import PolicyOptions
from bncheck.cli.reporting import ReportOptions
from bncheck.core.errors import ExitCode
from bncheck.folding.planner.families import Norms

TOLD: Final = Told(
    (
        "bncheck fold model.pt --model nets.py:build --input 3,224,224 -o folded.pt2",
        "bncheck fold model.onnx -o folded.onnx",
        "bncheck fold model.pt2 --dry-run",
    ),
    done="folded, and nothing found at or above --fail-on",
    failed="findings at or above --fail-on, or nothing proven to write",
)


@expanded
def fold(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CKPT", help=f"A checkpoint, a .pt2 or an ONNX model. {PLACE}")
    ],
    *,
    input_: InputOption = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="The folded model to write."),
    ] = None,
    key: KeyOption = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="PATTERN", help="Do not fold these: 'stem.*'; repeatable."),
    ] = None,
    tolerance: ToleranceOption = None,
    part: PartOption = None,
    norms: NormsOption = Norms.BATCH,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = (
        False
    ),
    fail_unfolded: Annotated[
        bool, typer.Option("--fail-unfolded", help="Fail if a BatchNorm is not folded.")
    ] = False,
    freeze_inputs: Annotated[
        bool,
        typer.Option(
            "--freeze-inputs",
            help="Assume that no caller overrides an ONNX model's stored weights.",
        ),
    ] = False,
    static_batch: Annotated[
        bool,
        typer.Option(
            "--static-batch",
            help="A .pt2 for one sample (default: any batch, where the model allows it).",
        ),
    ] = False,
    policy_options: PolicyOptions,
    given: ModelOptions,
    reporting: ReportOptions,
) -> int:
    """Fold every BatchNorm into its neighbours where exact.

    Says why for the rest. A checkpoint needs --model (or --trust) and --input or --data; a .pt2
    and an ONNX model bring their graphs along. The result is compared with the original in float64
    before it is written: as .pt2, as .safetensors for bncheck.load_folded, or as .onnx for an ONNX
    model.
    """
    from bncheck.folding.command import check_request, run
    from bncheck.folding.request import FoldRequest
    from bncheck.reporting.documents.fold import document
    from bncheck.reporting.formats import said

    delivery = reporting.delivery()
    tally = policy_options.tally()
    path = place(checkpoint)
    check_files([path], [output] if output else [], tally, delivery, given)
    request = FoldRequest(
        path,
        output,
        given.parts(),
        inputs=tuple(input_ or ()),
        key=key,
        keep=tuple(keep or ()),
        tolerance=tolerance,
        dry_run=dry_run,
        fail_unfolded=fail_unfolded,
        freeze_inputs=freeze_inputs,
        norms=norms,
        parts=tuple(part or ()),
        static_batch=static_batch,
    )
    check_request(request)
    with whole(path) as (source, note):
        made = run(replace(request, source=source), note)
    done = tally.count(made)
    if not done.batchnorms:
        what = "BatchNorm" if norms is Norms.BATCH else "norm to fold"
        console.note(f"{checkpoint}: holds no {what}")
    for line in done.notes:
        console.note(line)
    answer = said(done.to_dict, lambda: document(done, str(checkpoint), dry_run))
    delivery.deliver(answer, tally)
    code = tally.finish(done.findings)
    unwritten = output is not None and not dry_run and made.output is None
    return max(code, ExitCode.FINDINGS) if unwritten else code
