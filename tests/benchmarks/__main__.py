"""`make benchmark`: what bncheck costs as users run it, into docs/performance.md.

Whole commands (`commands`), calls of the Python API (`calls`) and what comes out (`running`), each
in processes of their own: this one imports no torch. More about one subject:
`python -m tests.benchmarks.NAME` with folded, residual, measuring, drift, recording or surveying.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bncheck._version import __version__
from tests.benchmarks import commands
from tests.benchmarks.process import ROOT
from tests.benchmarks.table import Peer, Row, markdown

PAGE = ROOT / "docs" / "performance.md"
LIBRARIES = ("torch", "onnx", "onnxruntime", "onnxscript", "numpy", "safetensors", "fvcore",
             "onnxslim")  # fmt: skip
TEXT = """# Performance

What bncheck costs beside what others do with the same files and models. `make benchmark` measures
it and writes this page.

{tables}\
Seconds are processor time, a command's from its start to its end; a run in onnxruntime and two
processes are measured by the clock. One thread; medians of a few runs in turns, and one run of what
takes many seconds. A busy machine makes processor time longer, too. *forwards* are multiples of
plain forward passes of the same network on the same data. *ratio* is bncheck's cost by the peer's.
Peak memory is the process's resident memory at its most, peers' in brackets. *wanted* is what the
project aims at. The networks have random weights; images are 224 x 224 for ONNX and 64 x 64
elsewhere.

Measured on {date} with bncheck {version} on {machine}: Python {python}, {libraries}.
Load of the machine while it was measured: {load}.
"""


def of(module: str, *arguments: str) -> Iterator[Row]:
    """The rows that a module of this folder prints."""
    words = [sys.executable, "-W", "ignore", "-m", f"tests.benchmarks.{module}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                fields: dict[str, Any] = json.loads(line)
                fields["peers"] = tuple(Peer(**peer) for peer in fields["peers"])
                yield Row(**fields)
    assert process.returncode == 0, module


def told(title: str, rows: Iterator[Row]) -> str:
    """A table, whose rows are printed as soon as they are known."""
    found = []
    for row in rows:
        found.append(row)
        print("  ".join(cell.replace("<br>", ", ") for cell in row.cells() if cell), flush=True)
    return f"## {title}\n\n{markdown(found)}\n"


def machine() -> str:
    """Processor and cores."""
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    return f"{os.cpu_count()} cores of {name}, {platform.system()}"


def libraries() -> str:
    """Versions of what is installed, and what is not."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def main() -> None:
    """Measure all, print it and write the page."""
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "tests.benchmarks.build", name], check=True)
        tables = [told("Commands", commands.rows(folder))]
        loads.append(os.getloadavg()[0])
        tables.append(told("What comes out", of("running", name)))
    tables.append(told("Calls from Python", of("calls")))
    loads.append(os.getloadavg()[0])
    PAGE.write_text(
        TEXT.format(
            tables="".join(tables), version=__version__, machine=machine(),
            date=datetime.datetime.now(datetime.UTC).date(), python=platform.python_version(),
            libraries=libraries(), load=" to ".join(f"{f(loads):.1f}" for f in (min, max)),
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
