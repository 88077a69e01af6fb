"""`make lower-bounds`: what needs no torch, on the oldest dependencies and without torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[1] / "sample_models"
#: All that builds nothing with torch; the zoo's files come from an environment that has it.
TESTS = (
    *("reading/test_zoo.py", "policy", "gate", "graph/test_products.py", "core/test_secrets.py"),
    *("layers/test_facts.py", "layers/test_frameworks.py", "layers/test_means.py"),
    *("layers/test_norm_layer.py", "rules/test_choosing.py", "rules/test_static.py"),
    *("series/test_naming.py", "measuring/test_moments.py", "core/test_timing.py"),
    *("reporting/test_text.py", "reporting/test_visible.py", "writing/test_atomic.py"),
)
#: What runs a model, or takes a tensor, stands among them.
NEEDS_TORCH = (
    "rules/test_static.py::test_eps_of_the_model_against_file_and_option",
    "measuring/test_moments.py::test_of_single_values_the_squares_need_not_be_told",
)
#: What `bncheck inspect` must say about each.
EXPECTED = {
    **dict.fromkeys(("healthy.pt", "healthy-legacy.pth", "healthy-module.pt"), 0),
    **dict.fromkeys(("healthy-torchscript.pt", "healthy.pt2", "healthy.safetensors"), 0),
    **dict.fromkeys(("healthy.onnx", "healthy-sharded", "healthy-distributed"), 0),
    **dict.fromkeys(("nan.pt", "negative-variance.pt"), 1),
    **dict.fromkeys(("train.py", "absent.pt"), 2),
}


def main() -> int:
    """0 where the tests pass, and every sample is judged as it should be, in text and in JSON."""
    assert find_spec("torch") is None, "without torch"
    wrong = 0
    for name, code in EXPECTED.items():
        for option in ("--verbose", "--json"):
            command = [sys.executable, "-m", "bncheck", "inspect", option, str(SAMPLES / name)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != code or "bug in bncheck" in done.stderr:
                sys.stderr.write(f"{name} {option}: {done.returncode}\n{done.stderr}")
                wrong += 1
    here = Path(__file__).parent
    chosen = [str(here / name) for name in TESTS]
    return wrong or pytest.main(["-q", *chosen, *(f"--deselect=tests/{n}" for n in NEEDS_TORCH)])


if __name__ == "__main__":
    sys.exit(main())
