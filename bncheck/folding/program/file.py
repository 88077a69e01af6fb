"""`.pt2` files: read without running what is in them, written without traces of this machine."""

from __future__ import annotations

import io
import logging
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Final

import torch
from torch.export import ExportedProgram

from bncheck.core.budget import Budget
from bncheck.core.errors import BncheckError
from bncheck.core.words import shortened
from bncheck.folding.program.guard import AGAIN, check_record
from bncheck.folding.program.reading_back import is_same_program
from bncheck.reading.source import Source
from bncheck.reading.zip_archive import ZipArchive
from bncheck.writing.atomic import check_read_back, replacing

_SAMPLES: Final = "data/sample_inputs/"
_EXTRA: Final = "extra/"
#: Frames of the exporting machine's files, which would name its folders.
_TRACES: Final = ("stack_trace", "source_fn_stack", "torch_fn", "from_node", "custom")


def load_program(path: Path) -> ExportedProgram:
    """Read a program. torch.export.load unpickles sample inputs and weights marked `use_pickle`:

    the former are replaced by none before torch sees them, the latter are refused, and so is
    whatever else torch would run (guard.py).
    """
    try:
        clean = _without_pickles(ZipArchive(Source.open(path, Budget())))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.export").setLevel(logging.ERROR)
            program = torch.export.load(clean)
            program.example_inputs = None  # not the empty ones, which do not fit the program
            return program
    except BncheckError as error:
        raise error.about(str(path)) from None
    except Exception as error:
        first = shortened((str(error).splitlines() or [""])[0], 120)
        raise BncheckError(
            f"cannot be read by torch {torch.__version__} ({type(error).__name__}: {first})",
            AGAIN,
            str(path),
        ) from None


def _without_pickles(archive: ZipArchive) -> io.BytesIO:
    if "archive_format" not in archive:
        raise BncheckError("is a .pt2 of torch before 2.7, which only unpickling can read", AGAIN)
    nothing = io.BytesIO()
    torch.save(((), {}), nothing)
    clean, left = io.BytesIO(), archive.size
    with zipfile.ZipFile(clean, "w", zipfile.ZIP_STORED) as out:
        for name in archive.names:
            if name.startswith(_EXTRA):  # what users pack along; a fold does not keep it
                continue
            # torch finds records whatever the case of their names
            check_record(name, archive.text(name) if name.lower().endswith(".json") else None)
            if name.startswith(_SAMPLES):
                data = nothing.getvalue()
            else:
                record = archive.storage(name)
                if (left := left - record.source.size) < 0:
                    raise BncheckError("holds records that overlap", AGAIN)
                data = record.read(0, record.source.size)
            out.writestr(f"{archive.folder}{name}", data)
    clean.seek(0)
    return clean


def save_program(program: ExportedProgram, path: Path, original: Path | None = None) -> None:
    """Write a program, whole or not at all, without paths and source lines of this machine.

    Raises BncheckError where what was written is not that program.
    """
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in _TRACES:
                    node.meta.pop(key, None)
    with (
        replacing(path, original) as temporary,
        _Enduring(temporary, "w+") as file,  # by its name, torch would put it into the file
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            torch.export.save(program, file)
        except NotImplementedError as error:  # of pytree, of a class without a name for files
            found = re.search(r"<class '([^']*)'>", str(error))
            what = shortened(found[1] if found else str(error), 120)
            raise BncheckError(
                f"cannot hold what the model takes or returns: {what} has no registered name",
                "write a .safetensors or .onnx, use plain tuples or dicts, or register a dataclass "
                "with a serialized_type_name",
                str(path),
            ) from None
        file.refuse_failed()
        file.seek(0)
        check_read_back(path, lambda: is_same_program(torch.export.load(file), program))


class _Enduring(io.FileIO):
    """A file that keeps its errors for later: torch's writer ends the process when it meets one."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it; after an error, pretend to."""
        left = memoryview(data)
        try:
            while len(left) and self.failed is None:
                left = left[super().write(left) or 0 :]
        except OSError as error:
            self.failed = error
        return len(data)

    def refuse_failed(self) -> None:
        """Raise the error of an earlier write."""
        if self.failed is not None:
            raise self.failed


def moved(program: ExportedProgram, device: str) -> ExportedProgram:
    """The program for another device than the CPU, on which it was folded."""
    if torch.device(device).type == "cpu":
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, device)
