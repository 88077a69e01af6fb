"""What a command line does not import: every start would pay for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.planted import SAMPLES


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--version"], ("typer", "numpy", "rich", "pydantic", "importlib.metadata")),
        (["inspect", "--help"], ("numpy", "rich", "pydantic", "importlib.metadata")),
        (["rule", "BN101"], ("torch", "pydantic", "onnx", "importlib.metadata")),
        (
            ["inspect", "--isolated", f"{SAMPLES}/healthy.pt"],
            (
                "torch",
                "pydantic",
                "onnx",
                "numpy.ma",
                "importlib.metadata",
                "fsspec",
                "asyncio",
                "concurrent.futures",
                "hashlib",
                "multiprocessing",
                "secrets",
                "statistics",
                "tempfile",
                "bncheck.rules.registry",
                "bncheck.series",
            ),
        ),
    ],
)
def test_a_start_imports_only_what_it_needs(arguments: list[str], heavy: tuple[str, ...]) -> None:
    program = f"import sys\nfrom bncheck.cli import run\nrun({arguments!r})\n"
    program += f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "[]"
