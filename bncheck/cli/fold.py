"""`bncheck fold`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from bncheck.cli import console
from bncheck.cli.measuring import (
    BatchSizeOption,
    DataOption,
    DeviceOption,
    Given,
    MeanOption,
    ModelArgOption,
    ModelOption,
    ScaleOption,
    SizeOption,
    StdOption,
    TrustOption,
)
from bncheck.cli.options import (
    FailOn,
    FailOnOption,
    Format,
    FormatOption,
    JsonOption,
    KeyOption,
    NoColorOption,
    QuietOption,
    ReportOption,
    VerboseOption,
    exit_code,
    outputs,
)
from bncheck.errors import BncheckError

if TYPE_CHECKING:
    from bncheck.folding.result import FoldReport


def fold(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, a .pt2 or an ONNX model.")
    ],
    model: ModelOption = None,
    model_arg: ModelArgOption = None,
    input_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--input",
            metavar="SHAPE",
            help="One sample's shape: 3,224,224 or ids=128:int64; repeatable.",
        ),
    ] = None,
    data: DataOption = None,
    trust: TrustOption = False,
    device: DeviceOption = "cpu",
    batch_size: BatchSizeOption = None,
    scale: ScaleOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="Where the folded model goes."),
    ] = None,
    key: KeyOption = None,
    keep: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--keep", metavar="PATTERN", help="Leave these alone: 'stem.*'; repeatable."),
    ] = None,
    tolerance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--tolerance", min=0.0, help="Relative error allowed; by dtype if not given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")] = (
        False
    ),
    fail_unfolded: Annotated[
        bool, typer.Option("--fail-unfolded", help="A BatchNorm that stays is an error.")
    ] = False,
    fail_on: FailOnOption = FailOn.ERROR,
    format_: FormatOption = Format.TEXT,
    json: JsonOption = False,
    report: ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Fold every BatchNorm into its neighbours where that is exact, and say why for the rest.

    A checkpoint needs --model (or --trust) and --input or --data; a .pt2 and an ONNX model bring
    their graphs along. The result is compared with the original in float64 before it is written:
    as .pt2, as .safetensors for bncheck.load_folded, or as .onnx for an ONNX model.
    """
    from bncheck.folding.command import FoldRequest, run

    if quiet and verbose:
        raise BncheckError("--quiet and --verbose exclude each other", "give one of them")
    shown, files = outputs(Format.JSON if json else format_, None, report or [])
    for _, path in files:
        _refuse_overwriting(path, checkpoint, output)
    given = Given(
        model, model_arg or (), data, trust, device, None, batch_size, None, scale, mean, std, size
    )
    request = FoldRequest(
        checkpoint,
        output,
        given.parts(),
        inputs=tuple(input_ or ()),
        key=key,
        keep=tuple(keep or ()),
        tolerance=tolerance,
        dry_run=dry_run,
        fail_unfolded=fail_unfolded,
    )
    done = run(request, console.note)
    if not done.batchnorms:
        console.note(f"{checkpoint}: holds no BatchNorm")
    for kind, path in files:
        from bncheck.reporting.write import write_text

        write_text(path, _render(kind, checkpoint, done, dry_run))
    if shown is not Format.TEXT:
        typer.echo(_render(shown, checkpoint, done, dry_run), nl=False)
        return exit_code(list(done.findings), fail_on)
    from bncheck.reporting import fold_text

    terminal = console.result_console(no_color)
    if quiet:
        fold_text.show_findings(terminal, str(checkpoint), done)
    else:
        every = verbose or dry_run
        fold_text.show(terminal, str(checkpoint), done, every=every, dry_run=dry_run)
    return exit_code(list(done.findings), fail_on)


def _refuse_overwriting(report: Path, *others: Path | None) -> None:
    """A report in the place of the checkpoint or of the folded model would destroy it."""
    if any(other is not None and report.resolve() == other.resolve() for other in others):
        raise BncheckError("is no place for a report", "name another file", str(report))


def _render(format_: Format, path: Path, done: FoldReport, dry_run: bool) -> str:
    if format_ is Format.JSON:
        from bncheck.reporting import json_report

        return json_report.dump(done.to_dict())
    from bncheck.reporting import fold_text

    page = io.StringIO()
    fold_text.show(console.file_console(page), str(path), done, every=True, dry_run=dry_run)
    return page.getvalue()
