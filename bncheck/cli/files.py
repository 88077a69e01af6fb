"""All files of a command, held against each other before it begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from bncheck.cli.measuring import ModelOptions
from bncheck.cli.policy import Tally
from bncheck.cli.reporting import Delivery


def check_files(
    inputs: Iterable[Path],
    outputs: Iterable[Path],
    tally: Tally,
    delivery: Delivery,
    model: ModelOptions | None = None,
) -> None:
    """Refuse outputs that are inputs or each other, those of the options included.

    Raises BncheckError.
    """
    written = [*outputs, *(path for _, path in delivery.files)]
    if tally.target is not None:
        written.append(tally.target)
    if not written:
        return
    from bncheck.writing.outputs import check_outputs

    read = chain(inputs, tally.files, () if model is None else _named(model))
    check_outputs(written, read)


def _named(options: ModelOptions) -> Iterator[Path]:
    """The files that the options about model and data name."""
    from bncheck.core.arguments import files_of_arguments
    from bncheck.core.usercode import files_of_spec

    for spec in options.specs:
        yield from files_of_spec(spec)
    yield from files_of_arguments(options.model_arg or ())
