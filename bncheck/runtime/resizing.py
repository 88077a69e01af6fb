"""Resize and Upsample in the forms that onnx's own evaluator (1.23) does not have.

As onnxruntime computes them: core/providers/cpu/tensor/upsamplebase.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

_LINEAR = ("linear", "bilinear", "trilinear")
_FOR_NEAREST = "tf_half_pixel_for_nn"
_ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
}


class Upsample(OpRun):
    """Of opset 7 to 9: place i of the result is place i / scale."""

    op_domain = ""

    def _run(self, x, given=None, mode=None, scales=None):  # type: ignore[no-untyped-def]
        return (_asymmetric(x, scales if given is None else given, mode or "nearest"),)


class OldResize(OpRun):
    """Resize of opset 10, in which it is Upsample; onnx gives it the settings of later ones."""

    op_domain = ""

    def _run(self, x, scales, mode=None, **_later):  # type: ignore[no-untyped-def]
        return (_asymmetric(x, scales, mode or "nearest"),)


OldResize.__name__ = "Resize"  # by which the evaluator knows it


class Resize(OpRun):
    """With the coordinates that opset 11 and 12 have for nearest neighbours."""

    op_domain = ""

    def _run(self, x, roi=None, scales=None, sizes=None, **settings):  # type: ignore[no-untyped-def]
        if settings.get("coordinate_transformation_mode") != _FOR_NEAREST:
            from onnx.reference.ops.op_resize import Resize as OnnxResize  # and 200 others

            return OnnxResize(self.onnx_node, self.run_params).run(x, roi, scales, sizes)  # type: ignore[no-untyped-call]
        if (settings.get("mode") or "nearest") != "nearest":
            raise NotImplementedError(f"mode {settings['mode']} with {_FOR_NEAREST}")
        if sizes is None or not len(sizes):
            sizes = [int(n * s) for n, s in zip(x.shape, scales, strict=True)]
        else:
            scales = [new / old for new, old in zip(sizes, x.shape, strict=True)]
        rounded = _ROUNDINGS[settings.get("nearest_mode") or "round_prefer_floor"]
        for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
            if scale != 1:
                x = _picked(x, axis, rounded((np.arange(int(size)) + 0.5) / scale))
        return (x,)


def _asymmetric(x: Any, scales: Sequence[float], mode: str) -> Any:
    if mode != "nearest" and mode not in _LINEAR:
        raise NotImplementedError(f"mode {mode}")
    for axis, scale in enumerate(scales):
        at = np.arange(int(x.shape[axis] * scale)) / scale
        if scale == 1:
            continue
        if mode == "nearest":
            x = _picked(x, axis, np.floor(at) if scale > 1 else np.ceil(at))
        else:
            x = _between(x, axis, at)
    return x


def _between(x: Any, axis: int, at: Any) -> Any:
    """Linear between the two places around each."""
    at = np.clip(at, 0, x.shape[axis] - 1)
    first = np.floor(at)
    share = (at - first).reshape([-1 if i == axis else 1 for i in range(x.ndim)]).astype(x.dtype)
    return _picked(x, axis, first) * (1 - share) + _picked(x, axis, first + 1) * share


def _picked(x: Any, axis: int, places: Any) -> Any:
    return np.take(x, np.clip(places, 0, x.shape[axis] - 1).astype(np.int64), axis=axis)
