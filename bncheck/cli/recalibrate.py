"""`bncheck recalibrate`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import typer

from bncheck.cli import console
from bncheck.cli.measuring import (
    BatchSizeOption,
    DataOption,
    DeviceOption,
    Given,
    MaxSamplesOption,
    MeanOption,
    MetricOption,
    ModelArgOption,
    ModelOption,
    ScaleOption,
    SizeOption,
    StdOption,
    TrustOption,
    progress_bar,
)
from bncheck.cli.options import (
    EpsOption,
    Format,
    FormatOption,
    JsonOption,
    KeyOption,
    MomentumOption,
    NoColorOption,
    QuietOption,
    ReportOption,
    outputs,
)
from bncheck.errors import BncheckError, ExitCode


def recalibrate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The mended copy: a file, or a folder.")
    ],
    model: ModelOption = None,
    model_arg: ModelArgOption = None,
    data: DataOption = None,
    trust: TrustOption = False,
    device: DeviceOption = "cpu",
    metric: MetricOption = None,
    batch_size: BatchSizeOption = None,
    max_samples: MaxSamplesOption = None,
    scale: ScaleOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    key: KeyOption = None,
    eps: EpsOption = None,
    momentum: MomentumOption = None,
    format_: FormatOption = Format.TEXT,
    json: JsonOption = False,
    report: ReportOption = None,
    quiet: QuietOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Measure the running statistics anew and write a copy of the checkpoint that has them.

    Only the BatchNorm buffers' bytes differ in the copy. Nothing is written where the new
    statistics serve the data worse (exit 1). Without --model and --data, averages that were
    updated too rarely are repaired by formula.
    """
    from bncheck.measuring.distributed import launched_processes
    from bncheck.recalibration import recalibrate_file
    from bncheck.reporting.write import check_target
    from bncheck.static_inspection import Options

    check_target(output)
    shown, files = outputs(Format.JSON if json else format_, None, report or [])
    given = Given(
        model, model_arg or (), data, trust, device, metric, batch_size, max_samples, scale, mean,
        std, size,
    )  # fmt: skip
    options = Options(key, eps, momentum)
    with progress_bar(not quiet) as progress, launched_processes(device) as processes:
        measuring = given.measuring(processes, progress, "")
        if measuring is not None and data is None:
            raise BncheckError("--model needs data to measure with", "add --data SPEC")
        done = recalibrate_file(checkpoint, output, options, measuring, write=processes.rank == 0)
    code = ExitCode.OK if done.reason is None else ExitCode.FINDINGS
    if processes.rank:
        return code
    from bncheck.reporting import json_report, text_recalibrate
    from bncheck.reporting.write import write_text

    for file_format, path in files:
        if file_format is Format.JSON:
            write_text(path, json_report.dump(done.to_dict()))
        else:
            plain = io.StringIO()
            text_recalibrate.show(console.file_console(plain), done)
            write_text(path, plain.getvalue())
    if shown is Format.JSON:
        typer.echo(json_report.dump(done.to_dict()), nl=False)
    elif not quiet or done.reason is not None:
        text_recalibrate.show(console.result_console(no_color), done)
    return code
