"""What a command line does not import: every start would pay for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.folding.onnx.graphs import building
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
                "socket",
                "bncheck.rules.registry",
                "bncheck.series",
                "bncheck.reporting.figures",
                "bncheck.policy.baseline",
                "bncheck.reading.torchscript_code",
                "bncheck.reading.distributed",
                "bncheck.reading.record",
            ),
        ),
        (
            ["inspect", "--isolated", f"{SAMPLES}/healthy.onnx"],
            ("torch", "onnxruntime", "onnx.reference", "numpy.ma", "numpy.random", "hashlib"),
        ),
    ],
)
def test_a_start_imports_only_what_it_needs(arguments: list[str], heavy: tuple[str, ...]) -> None:
    _check(arguments, heavy)


def test_a_project_that_changes_a_severity_imports_no_rules_of_data(tmp_path: Path) -> None:
    config = tmp_path / "pyproject.toml"
    config.write_text("[tool.bncheck.severity]\nBN110 = 'warning'\n")
    heavy = ("torch", "pydantic", "bncheck.rules.registry", "bncheck.series")
    _check(["inspect", "--config", str(config), f"{SAMPLES}/healthy.pt"], heavy)


def test_a_fold_of_an_onnx_model_with_its_proof_imports_no_more(tmp_path: Path) -> None:
    heavy = ("torch", "pydantic", "numpy.ma", "fsspec", "asyncio", "onnx.reference.ops")
    onnx.save(building.conv_bn()(), tmp_path / "net.onnx")
    _check(
        ["fold", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "folded.onnx")],
        (*heavy, "bncheck.rules.registry", "bncheck.series", "bncheck.graph.program"),
    )
    assert (tmp_path / "folded.onnx").exists()


def test_two_onnx_files_are_compared_without_torch() -> None:
    path = str(SAMPLES / "healthy.onnx")
    _check(["compare", path, path], ("torch", "bncheck.graph.program"))


def test_nothing_is_searched_for_garbage_at_the_exit() -> None:
    program = "import atexit, gc\natexit.register(lambda: print(len(gc.get_objects())))\n"
    program += "from bncheck.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program, "inspect", "--quiet", f"{SAMPLES}/healthy.pt"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert int(done.stdout.splitlines()[-1]) < 1_000


def _check(arguments: list[str], heavy: tuple[str, ...]) -> None:
    program = f"import sys\nfrom bncheck.cli import run\nrun({arguments!r})\n"
    program += f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.splitlines()[-1] == "[]"
