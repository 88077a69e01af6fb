"""`bncheck compare`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from bncheck.cli import console
from bncheck.cli.files import check_files
from bncheck.cli.groups import expanded
from bncheck.cli.help import Told
from bncheck.cli.measuring import ModelOptions
from bncheck.cli.options import InputOption, KeyOption, ToleranceOption
from bncheck.cli.places import PLACE, place, whole
from bncheck.cli.policy import PolicyOptions
from bncheck.cli.reporting import ReportOptions

TOLD: Final = Told(
    (
        "bncheck compare model.pt2 model.onnx",
        "bncheck compare old.pt new.pt --model nets.py:build --input 3,224,224",
    ),
    done="the same function",
    failed="not the same function",
)


@expanded
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A", help=f"The reference: a checkpoint, a .pt2 or an ONNX model. {PLACE}"
        ),
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", help=f"A checkpoint, a .pt2 or an ONNX model. {PLACE}")
    ],
    *,
    input_: InputOption = None,
    key: KeyOption = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--part", metavar="NAME", help="Of the model, this submodule alone (as `export` does)."
        ),
    ] = None,
    tolerance: ToleranceOption = None,
    policy_options: PolicyOptions,
    given: ModelOptions,
    reporting: ReportOptions,
) -> int:
    """Do two files compute the same function?

    Exit code 1 where they do not. A checkpoint needs --model, and --input or --data where the
    other file is one, too. A in float64 is the judge; B runs as it is, an ONNX model at three
    levels of onnxruntime.
    """
    from bncheck.reporting.documents.compare import document
    from bncheck.reporting.formats import said
    from bncheck.shipping.compare import CompareRequest, run

    delivery = reporting.delivery()
    tally = policy_options.tally()
    paths = (place(first), place(second))
    check_files(paths, (), tally, delivery, given)
    with whole(paths[0]) as (one, _), whole(paths[1]) as (other, note), console.status() as say:
        inputs = tuple(input_ or ())
        names = (str(paths[0]), str(paths[1]))
        request = CompareRequest(one, other, given.parts(), inputs, key, tolerance, part, names)
        done = tally.count(run(request, note, say))
    delivery.deliver(said(done.to_dict, lambda: document(done)), tally)
    return tally.finish(done.findings)
