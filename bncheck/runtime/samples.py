"""The user's data as inputs of an ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from bncheck.core.errors import BncheckError
from bncheck.runtime.file import user_inputs
from bncheck.subject.inputs import SAMPLES, first_samples

if TYPE_CHECKING:
    from bncheck.data import Batches


def samples_for(data: Batches, model: onnx.ModelProto) -> dict[str, Any]:
    """The first samples, by the names of the model's inputs and in their dtypes.

    Raises BncheckError for data that the model does not take.
    """
    infos = list(user_inputs(model))
    batch = first_samples(data, _fixed_batch(infos) or SAMPLES)
    names = [info.name for info in infos]
    given = dict(zip(names, batch.args, strict=False)) | dict(batch.kwargs)
    if sorted(given) != sorted(names) or len(batch.args) + len(batch.kwargs) != len(names):
        raise BncheckError(
            f"the data gives {len(batch.inputs)} inputs ({', '.join(given)}), and the model takes "
            f"{len(names)} ({', '.join(names)})",
            "return a tuple in their order, or a dict with their names",
            data.name,
        )
    return {info.name: _fitted(info, given[info.name].numpy(), data.name) for info in infos}


def _fixed_batch(infos: list[onnx.ValueInfoProto]) -> int | None:
    sizes = [info.type.tensor_type.shape.dim[:1] for info in infos]
    fixed = [int(dims[0].dim_value) for dims in sizes if dims and dims[0].dim_value > 0]
    return fixed[0] if fixed else None


def _fitted(info: onnx.ValueInfoProto, array: Any, source: str) -> Any:
    kind = info.type.tensor_type
    wanted = [int(d.dim_value) if d.dim_value > 0 else None for d in kind.shape.dim]
    matches = not kind.HasField("shape") or (
        len(wanted) == array.ndim
        and all(size in (None, given) for size, given in zip(wanted, array.shape, strict=True))
    )
    if not matches:
        shape = "x".join("?" if size is None else str(size) for size in wanted)
        own = "x".join(map(str, array.shape))
        raise BncheckError(
            f"the model's input {info.name} is {shape}, and the data gives {own}",
            "check the data, --size and --batch-size",
            source,
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BncheckError("the data holds NaN or infinity", "clean the data", source)
    return array.astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
