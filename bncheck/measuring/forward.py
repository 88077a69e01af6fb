"""Running the user's model on one batch, and saying in one line what it objected to."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.data import Batch, check_shapes
from bncheck.measuring.collector import SingleValueError

if TYPE_CHECKING:
    from torch import Tensor, nn


def prepared(model: nn.Module, batch: Batch, number: int, device: str) -> Batch:
    """The batch on the model's device and, where it has fractions, in the model's precision."""
    return preparing(model, device)(batch, number)


def preparing(model: nn.Module, device: str) -> Callable[[Batch, int], Batch]:
    """The same for many batches, given one by one with their numbers."""
    import torch

    precision = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)

    def fit(tensor: Tensor, number: int) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.to(device)
        # A sum is finite only if everything in it is, and one pass instead of five.
        if not math.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise BncheckError(
                f"batch {number} of the data holds NaN or infinity",
                "clean the data; one such batch in training ruins the statistics for good",
            )
        return tensor.to(device, precision)

    return lambda batch, number: check_shapes(model, batch.map(lambda x: fit(x, number)), number)


_OF_DATA: Final = "check the shape and dtype of the data, --size and --grey for images, --model-arg"
#: What helps where it is not the data.
_HINTS: Final[Mapping[type[BaseException], str]] = {
    SystemExit: "let it raise an exception where it calls sys.exit",
    MemoryError: "give smaller batches: --batch-size",
}


def forward(
    model: nn.Module, batch: Batch, number: int, state: Mapping[str, Tensor] | None = None
) -> Any:
    """The model's output; whatever it raises is told with the shape and the module concerned.

    `state` has parameters and buffers to run with in place of the model's own, a name for every
    place that holds one. The model gets copies of the batch: one that prepares its input in place
    would change what the next pass is fed.
    """
    import torch

    own = batch.map(torch.clone)
    try:
        with usercode.running("the model"), _uncompiled():
            if state is None:
                return model(*own.args, **own.kwargs)
            from torch.func import functional_call

            return functional_call(
                model, dict(state), own.args, dict(own.kwargs), tie_weights=False
            )
    except BncheckError as error:
        cause = error.__cause__
        if cause is None or isinstance(error, SingleValueError):
            raise
        shapes = ", ".join(f"{_shape(x)} {str(x.dtype)[6:]}" for x in batch.inputs)
        where = _module_of(model, cause)
        hint = (
            "check the shape and dtype of the data, --size and --grey for images, and --model-arg"
        )
        hint = next((h for kind, h in _HINTS.items() if isinstance(cause, kind)), hint)
        raise BncheckError(
            f"the model rejects batch {number} of shape {shapes}"
            f"{f' in {where}' if where else ''} ({usercode.described(cause)})",
            hint,
        ) from cause


def _uncompiled() -> contextlib.AbstractContextManager[None]:
    """Whatever torch.compile has a hand in runs as written: it would trace the hooks that measure.

    Nothing is compiled before torch._dynamo is imported, which takes longer than many forwards.
    """
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    import torch

    stance: contextlib.AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape)


def _module_of(model: nn.Module, error: BaseException) -> str:
    """The name of the innermost module whose forward was running when the error arose."""
    names = {id(module): name for name, module in model.named_modules()}
    found = ""
    trace = error.__traceback__
    while trace is not None:
        name = names.get(id(trace.tb_frame.f_locals.get("self")))
        found = name or found
        trace = trace.tb_next
    return found
