"""What becomes of one model: folded, compared in float64, exported, beside two other tools."""

from __future__ import annotations

import copy
import importlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bncheck
from bncheck.reporting.documents.fold import general
from tests.breadth.models import built
from tests.breadth.trained import trained

Found = dict[str, Any]
BATCH_NORM = nn.modules.batchnorm._BatchNorm


def one(library: str, name: str, stages: list[str], opset: int | None) -> Iterator[Found]:
    """The stages' results, each as soon as it is there."""
    torch.set_num_threads(1)
    model, example = built(library, name)
    model = trained(model, example)
    with torch.no_grad():
        model(*example)  # a configuration that does not run asks nothing of us
    norms = "batch" if any(hasattr(m, "running_mean") for m in model.modules()) else "all"
    yield {"norms": norms}
    for stage in stages:
        start = time.process_time()
        try:
            found = _STAGES[stage](model, example, norms, opset)
        except bncheck.BncheckError as error:
            found = {f"{stage}_refused": str(error)[:400]}
        except Exception as error:
            found = {f"{stage}_crashed": f"{type(error).__name__}: {str(error)[:300]}"}
        yield found | {f"{stage}_seconds": time.process_time() - start}


def _fold(model: nn.Module, example: Any, norms: Any, _: int | None) -> Found:
    result = bncheck.fold(model, example, norms=norms)
    report = result.report
    kept = Counter(general(d.reason) for d in report.kept)
    return {
        "total": len(report.batchnorms),
        "folded": report.folded,
        "kept": kept.most_common(4),
        "parts": sum(part.folded for part in report.parts),
        "error": _error(model, result.module(), example),
    }


def _double(model: nn.Module, example: Any, norms: Any, _: int | None) -> Found:
    """The same model and example in float64, where a right fold differs by 1e-13 or so."""
    wide = copy.deepcopy(model).double()
    inputs = torch.utils._pytree.tree_map(_widened, example)
    return {"error64": _error(wide, bncheck.fold(wide, inputs, norms=norms).module(), inputs)}


def _fx(model: nn.Module, example: Any, norms: Any, _: int | None) -> Found:
    from torch.fx.experimental.optimization import fuse

    fused = fuse(model)
    _error(model, fused, example)  # it must run
    return {"fx_left": sum(isinstance(m, BATCH_NORM) for m in fused.modules())}


def _slim(model: nn.Module, example: Any, norms: Any, _: int | None) -> Found:
    """OnnxSlim on the file that `export` writes without folding: optimised, norms as they are."""
    from bncheck.folding.program.in_place import functional
    from bncheck.runtime.weights import whole
    from bncheck.shipping.torch_to_onnx import to_onnx
    from tests.breadth.files import norms_in

    with torch.no_grad():
        program = torch.export.export(model, example)
    made = to_onnx(functional(program), [], [])
    plain = whole(made.model, made.weights)
    slim: Any = importlib.import_module("onnxslim").slim
    return {"slim_before": norms_in(plain), "slim_left": norms_in(slim(plain))}


def _export(model: nn.Module, example: Any, norms: Any, opset: int | None) -> Found:
    from tests.breadth.files import norms_in

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        report = bncheck.export(model, example, path, opset=opset, norms=norms, timing=False)
        found: Found = {
            "export_findings": [f.message[:200] for f in report.findings if f.rule != "BN402"]
        }
        if report.file and report.proof:
            import onnx

            left = norms_in(onnx.load(path))
            found |= {"export_left": left, "opset": report.file.opset}
            found |= {"export_error": report.proof.worst, "notes": list(report.notes)}
        return found


_STAGES: dict[str, Callable[[nn.Module, Any, Any, int | None], Found]] = {
    "fold": _fold, "double": _double, "fx": _fx, "slim": _slim, "export": _export,
}  # fmt: skip
STAGES = tuple(_STAGES)


def _widened(item: Any) -> Any:
    return item.double() if isinstance(item, Tensor) and item.is_floating_point() else item


def _error(model: nn.Module, other: nn.Module, example: tuple[Any, ...]) -> float | None:
    """Of the outputs, in parts of the largest."""
    with torch.no_grad():
        sides = [torch.utils._pytree.tree_leaves(f(*example)) for f in (model, other)]
    pairs = [p for p in zip(*sides, strict=True) if isinstance(p[0], Tensor) and p[0].numel()]
    floats = [(a, b) for a, b in pairs if a.is_floating_point()]
    if any(a.shape != b.shape for a, b in floats):
        return None
    finite = [(a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0)) for a, b in floats]
    errors = (float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in finite)
    return max(errors, default=0.0)
