"""`make lower-bounds`: the reading room on its oldest dependencies, without torch and pytest."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SAMPLES = Path(__file__).parents[1] / "sample_models"
#: What `bncheck inspect` must say about each.
EXPECTED = {
    **dict.fromkeys(("healthy.pt", "healthy-legacy.pth", "healthy-module.pt"), 0),
    **dict.fromkeys(("healthy-torchscript.pt", "healthy.pt2", "healthy.safetensors"), 0),
    **dict.fromkeys(("healthy.onnx", "healthy-sharded", "healthy-distributed"), 0),
    **dict.fromkeys(("nan.pt", "negative-variance.pt"), 1),
    **dict.fromkeys(("train.py", "absent.pt"), 2),
}


def main() -> int:
    """0 where every file has the exit code that it should have, in text and in JSON."""
    assert find_spec("torch") is None, "without torch"
    wrong = 0
    for name, code in EXPECTED.items():
        for option in ("--verbose", "--json"):
            command = [sys.executable, "-m", "bncheck", "inspect", option, str(SAMPLES / name)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != code or "bug in bncheck" in done.stderr:
                sys.stderr.write(f"{name} {option}: {done.returncode}\n{done.stderr}")
                wrong += 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
