"""What a BatchNorm that no neighbour takes over costs in each form, beside keeping it.

A DenseNet-121 (61 of its 121 BatchNorms stay) on one image of 96 x 96, in onnxruntime, one thread:
CPU time, each round's ratio taken against the kept form of the same round.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch

import bncheck
from bncheck.shipping.sessions import LEVELS, Runnable, session
from tests.architectures import randomised
from tests.benchmarks.networks import densenet121
from tests.benchmarks.table import show

Form = Literal["bn", "conv", "muladd"]
FORMS: tuple[Form, ...] = ("bn", "conv", "muladd")
ROUNDS = 25
SIZE = 96


def ratios(models: dict[Form, onnx.ModelProto], level: str) -> dict[Form, float]:
    """The median over rounds of CPU time beside the first model's."""
    x = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), np.float32)
    sessions = {form: session(Runnable(model), level, threads=1) for form, model in models.items()}
    found: dict[Form, list[float]] = {form: [] for form in models}
    for round_ in range(ROUNDS + 1):
        costs = {}
        for form, one in sessions.items():
            start = time.process_time()
            one.run(None, {one.get_inputs()[0].name: x})
            costs[form] = time.process_time() - start
        for form, cost in costs.items():
            if round_:  # the first warms up
                found[form].append(cost / costs[FORMS[0]])
    return {form: statistics.median(values) for form, values in found.items()}


def main() -> None:
    """Print a row for each form."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = randomised(densenet121())
    models: dict[Form, onnx.ModelProto] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            path = Path(folder) / f"{form}.onnx"
            example = (torch.randn(2, 3, SIZE, SIZE),)
            bncheck.export(model, example, path, residual=form, timing=False)
            models[form] = onnx.load(path)
    found = [ratios(models, level) for level in LEVELS]
    rows = [(f"--residual {form}", *(f"{at[form]:.3f}" for at in found)) for form in FORMS]
    show("a DenseNet-121's kept BatchNorms, ratio to keeping them", ("", *LEVELS), rows)


if __name__ == "__main__":
    main()
