"""What every rank must hold alike before anything is measured: model, layers, device."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from bncheck.core import usercode
from bncheck.layers.norm_layer import NormLayer
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.rounds import digest
from bncheck.measuring.run import Run

#: What `repr` writes of an object that has no words of its own: another in every process.
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")


def agree_on_model(subject: Instrumented, run: Run, layers: Sequence[NormLayer] = ()) -> None:
    """Raise SharedError where a rank holds another model, or its layers are described otherwise."""
    if run.processes.size == 1:
        return
    model = subject.model
    state = [*model.parameters(), *model.buffers()]
    with usercode.running("the model"):
        drawn = _ADDRESS.sub("", str(model))
    layers_said = [(x.name, x.kind.value, x.eps.value, x.momentum.value, x.batches) for x in layers]
    names = ", ".join(sorted({str(tensor.dtype)[6:] for tensor in state}))
    run.processes.agree(
        {
            "the kind of device": run.device.partition(":")[0],
            "the number of normalisation layers": str(len(subject.norms)),
            "the model's architecture": _short(drawn),
            "the dtypes of the weights": names,
            "the weights": digest(state).hex(),
            "eps, momentum or names of the layers": _short(repr(layers_said)),
        }
    )


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
