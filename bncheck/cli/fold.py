"""`bncheck fold`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from bncheck.cli import console
from bncheck.cli.options import (
    FailOn,
    FailOnOption,
    Format,
    FormatOption,
    JsonOption,
    NoColorOption,
    QuietOption,
    ReportOption,
    VerboseOption,
    exit_code,
    outputs,
)

if TYPE_CHECKING:
    from bncheck.folding.result import FoldReport


def fold(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CKPT", help="A checkpoint, a .pt2 or an ONNX model.")
    ],
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--model", metavar="TARGET:CALLABLE", help="What builds the model."),
    ] = None,
    model_arg: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--model-arg", metavar="KEY=VALUE", help="An argument for it; repeatable."),
    ] = None,
    input_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--input", metavar="SHAPE", help="One sample's shape: 3,224,224; repeatable."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--output", help="Where the folded model goes."),
    ] = None,
    key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--key", help="Which part of the checkpoint, e.g. ema or state_dict."),
    ] = None,
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

    The result is compared with the original in float64 before it is written: as .pt2, as
    .safetensors, or as .onnx for an ONNX model.
    """
    from bncheck.folding.command import FoldRequest, run

    shown, files = outputs(Format.JSON if json else format_, None, report or [])
    request = FoldRequest(
        checkpoint,
        output,
        model=model,
        model_args=tuple(model_arg or ()),
        inputs=tuple(input_ or ()),
        key=key,
        keep=tuple(keep or ()),
        tolerance=tolerance,
        dry_run=dry_run,
        fail_unfolded=fail_unfolded,
    )
    done = run(request)
    if not done.batchnorms:
        console.note(f"{checkpoint}: holds no BatchNorm")
    for kind, path in files:
        from bncheck.reporting.write import write_text

        write_text(path, _render(kind, checkpoint, done))
    _show(shown, checkpoint, done, quiet=quiet, verbose=verbose, no_color=no_color)
    return exit_code(list(done.findings), fail_on)


def _render(format_: Format, path: Path, done: FoldReport) -> str:
    if format_ is Format.JSON:
        from bncheck.reporting import json_report

        return json_report.dump(done.to_dict())
    from bncheck.reporting import fold_text

    page = io.StringIO()
    fold_text.show(console.file_console(page), str(path), done, verbose=True)
    return page.getvalue()


def _show(
    format_: Format, path: Path, done: FoldReport, *, quiet: bool, verbose: bool, no_color: bool
) -> None:
    if format_ is not Format.TEXT:
        typer.echo(_render(format_, path, done), nl=False)
        return
    from bncheck.reporting import fold_text

    terminal = console.result_console(no_color)
    if quiet:
        fold_text.show_findings(terminal, str(path), done)
    else:
        fold_text.show(terminal, str(path), done, verbose)
