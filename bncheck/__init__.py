"""bncheck: are the BatchNorm layers of a trained model sound?

The Python API. `import bncheck` is light; what a call needs is imported by the call.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.core.report import Report
from bncheck.core.speaking import in_python

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from torch import nn
    from torch.export import ExportedProgram

    from bncheck.core.report import Views
    from bncheck.data import DataOptions
    from bncheck.drifting.report import DriftReport
    from bncheck.folding.program.fold import FoldResult
    from bncheck.folding.program.parts import PartsResult
    from bncheck.inspecting.report import InspectReport
    from bncheck.measuring.run import Metric
    from bncheck.reading.checkpoint import Checkpoint
    from bncheck.recalibrating.report import RecalibrationReport
    from bncheck.shipping.report import CompareReport, ExportReport
    from bncheck.surveying.objective import Loss
    from bncheck.surveying.report import LandscapeReport


def _views() -> Views:
    """What shows a report, which is above all that makes one."""
    from bncheck.reporting import notebook

    return notebook


Report.views = staticmethod(_views)

__all__ = [
    "BncheckError",
    "__version__",
    "compare",
    "drift",
    "export",
    "fold",
    "inspect",
    "landscape",
    "load_folded",
    "open_checkpoint",
    "recalibrate",
]


@in_python
def fold(
    model: nn.Module | ExportedProgram,
    example_inputs: object = None,
    *,
    keep: Sequence[str] = (),
    tolerance: float | None = None,
    fail_unfolded: bool = False,
    norms: Literal["batch", "all"] = "batch",
    parts: Sequence[str] = (),
) -> FoldResult | PartsResult:
    """Fold every normalisation that can exactly be folded into its neighbours.

    `model` is left as it is; `example_inputs` is a tuple, or the only input. The result's
    `.program` is a torch.export program, `.module()` calls it, `.batchnorms` says what became of
    each, `.parity` how close it is to the original in float64. With `norms="all"` the affine of
    LayerNorm, RMSNorm, GroupNorm and InstanceNorm goes, too, and Weight and Spectral Norm become
    their weight. A model that branches on values is folded by parts, the largest submodules that
    are one graph (or those in `parts`): then there is no `.program`, and `.module()` is a copy of
    the model with these parts folded. Raises BncheckError where it cannot be done or is not the
    same function.
    """
    from bncheck.folding.fold import FoldOptions
    from bncheck.folding.planner.families import Norms
    from bncheck.folding.program.parts import fold_model

    options = FoldOptions(keep, tolerance, fail_unfolded, norms=Norms(norms))
    result = fold_model(model, example_inputs, options, names=parts)
    result.refuse_unsound()
    return result


@in_python
def drift(
    paths: str | Path | Sequence[str | Path],
    model: str | nn.Module | None = None,
    data: object = None,
    *,
    reference: str = "last",
    order: str = "auto",
    layers: str = "norm",
    shape: bool = False,
    model_args: Sequence[str] = (),
    key: str | None = None,
    eps: float | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    device: str = "cpu",
    data_options: DataOptions | None = None,
) -> DriftReport:
    """How every layer's distribution moved over the snapshots of one training.

    `paths` are checkpoints, or one folder that `bncheck.recording` wrote.
    From the files alone, by their running statistics; with `model` (TARGET:CALLABLE or a module,
    which is left as it is) and `data`, by what the layers see. `reference` is last, first, previous
    or a file; `order` auto, name or given; `layers="all"` adds the outputs of convolutions, linear
    layers and activations; `shape` compares histograms as well.

    Snapshots that cannot be read are in the report's `.errors`. Raises BncheckError.
    """
    from bncheck.drifting.command import DriftOptions
    from bncheck.drifting.command import drift as run

    if isinstance(paths, (str, Path)):
        from bncheck.reading.record import is_record

        if not is_record(Path(paths)):
            raise BncheckError("one snapshot is not a series", "give a list of at least two paths")
        paths = [paths]
    options = DriftOptions(reference, order, layers == "all", shape, key, eps, select, ignore)
    if model is None and data is None:
        return run(paths, options)
    from bncheck.subject.setup import Measuring

    if model is None or data is None:
        raise BncheckError("a model and data are needed to measure", "give both, or neither")
    return run(paths, options, Measuring(model, data, model_args, data_options, device=device))


@in_python
def landscape(
    paths_or_module: str | Path | Sequence[str | Path] | nn.Module,
    data: object,
    *,
    eta: float,
    model: str | nn.Module | None = None,
    model_args: Sequence[str] = (),
    loss: str | Loss | None = None,
    batches: int = 8,
    mode: Literal["train", "eval"] = "train",
    key: str | None = None,
    device: str = "cpu",
    data_options: DataOptions | None = None,
) -> LandscapeReport:
    """How smooth the loss is around a module or checkpoints, and what learning rates it stands.

    On the first `batches` of the labelled `data`, with theta the trained parameters, g the gradient
    and steps a of 0.5 to 4 times `eta`: the loss and the gradient at theta - a g, the covariate
    shift of each layer (Santurkar et al. 2018), the largest eigenvalue of the Hessian in train and
    in eval mode. `loss(output, labels)` returns a tensor; None is cross entropy, or what the labels
    ask for. Checkpoints need `model`; a module is left as it is. Raises BncheckError.
    """
    from bncheck.subject.setup import Measuring, device_of
    from bncheck.surveying.command import LandscapeOptions, landscape_of_module
    from bncheck.surveying.command import landscape as run
    from bncheck.surveying.objective import Mode

    if mode not in ("train", "eval"):
        raise BncheckError(f"mode {mode!r} is not known", "take train or eval")
    options = LandscapeOptions(eta, batches, Mode(mode), loss, key=key)
    if isinstance(paths_or_module, (str, Path)):
        paths_or_module = [paths_or_module]
    if isinstance(paths_or_module, (list, tuple)):
        given = Measuring(model, data, model_args, data_options, device=device)
        return run(paths_or_module, options, given)
    device = device_of(paths_or_module)  # type: ignore[arg-type]
    given = Measuring(None, data, data_options=data_options, device=device)
    return landscape_of_module(paths_or_module, options, given)  # type: ignore[arg-type]


@in_python
def export(
    model: nn.Module | ExportedProgram,
    example_inputs: object,
    path: str | Path,
    *,
    opset: int | None = None,
    dynamic_batch: bool | None = None,
    dynamic: Mapping[str, Sequence[int]] | None = None,
    residual: Literal["conv", "muladd", "bn"] = "conv",
    fold: bool = True,
    tolerance: float | None = None,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
    timing: bool = True,
    force: bool = False,
    norms: Literal["batch", "all"] = "batch",
    part: str | None = None,
) -> ExportReport:
    """Write an ONNX file without BatchNorm that is proven to be the same function.

    `model` is left as it is. `dynamic_batch` frees the first axis of every input (None: where
    the model allows it), `dynamic` other axes by input; `residual` is what a BatchNorm becomes
    that cannot be folded; `norms` is that of `fold`, `part` a submodule to export alone.
    `timing` measures the latency beside the unfolded model. Raises BncheckError, with nothing
    written, for a model in training mode or with broken statistics unless `force`, and where
    onnxruntime's results are not those of the original in float64.
    """
    from bncheck.folding.planner.families import Norms
    from bncheck.folding.residual import Residual
    from bncheck.shipping.export import ExportOptions
    from bncheck.shipping.in_memory import axes_of, export_model

    options = ExportOptions(
        opset,
        Residual(residual),
        fold,
        tolerance,
        input_names,
        output_names,
        timing,
        norms=Norms(norms),
    )
    axes = axes_of(dynamic_batch, dynamic)
    return export_model(model, example_inputs, Path(path), options, axes, force, part)


@in_python
def compare(
    first: str | Path,
    second: str | Path,
    *,
    model: str | nn.Module | None = None,
    data: object = None,
    inputs: Sequence[str] = (),
    key: str | None = None,
    tolerance: float | None = None,
    data_options: DataOptions | None = None,
) -> CompareReport:
    """Whether two files compute the same function: `.equal`, and where they part.

    Checkpoints need `model`, and the shapes in `inputs` (as --input) or `data` where neither file
    is a program. `first` in float64 is the judge. Raises BncheckError.
    """
    from bncheck.reading.downloading import downloaded
    from bncheck.reading.remote import place_of
    from bncheck.shipping.compare import CompareRequest, run
    from bncheck.subject.setup import Measuring

    given = Measuring(model, data, data_options=data_options)
    with downloaded(place_of(first)) as one, downloaded(place_of(second)) as other:
        return run(CompareRequest(one, other, given, inputs, key, tolerance))


@in_python
def load_folded(module: nn.Module, path: str | Path) -> nn.Module:
    """Load a folded .safetensors into a model of the original architecture, in place.

    The folded layers get their new weights and their normalisations become Identity; a file that
    belongs to another model is refused before anything is changed. Raises BncheckError.
    """
    from bncheck.folding.program.state_file import load_folded as run

    return run(module, Path(path))


@in_python
def inspect(
    path_or_module: str | Path | nn.Module,
    data: object = None,
    *,
    model: str | nn.Module | None = None,
    model_args: Sequence[str] = (),
    key: str | None = None,
    eps: float | None = None,
    momentum: float | None = None,
    train_batch_size: int | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    metric: str | Metric | None = None,
    device: str = "cpu",
    shape: bool = False,
    data_options: DataOptions | None = None,
) -> InspectReport:
    """Inspect a checkpoint's normalisation layers, or those of a module in memory.

    Nothing in a file is executed. With `data` (and, for a file, `model`: TARGET:CALLABLE or a
    module that its tensors are loaded into) its statistics are held against what the layers see,
    and the model alone tells eps, momentum and what the file lacks. A module given as the first
    argument comes back as it was.

    `data` is a spec as on the command line, or batches, a Dataset, a DataLoader or a function that
    returns one. `key` is the subtree to take; `eps` and `momentum` (PyTorch's convention) stand in
    where the file has none; `select` and `ignore` hold rule codes or names. Raises BncheckError.
    """
    from bncheck.inspecting.command import inspect as run
    from bncheck.inspecting.command import inspect_module
    from bncheck.inspecting.from_file import InspectOptions

    options = InspectOptions(key, eps, momentum, train_batch_size, select, ignore)
    measuring = None
    if data is not None or (model is not None and isinstance(path_or_module, (str, Path))):
        from bncheck.subject.setup import Measuring, device_of

        if not isinstance(path_or_module, (str, Path)):
            device = device_of(path_or_module)
        measuring = Measuring(
            model, data, model_args, data_options, device=device, metric=metric, shape=shape
        )
    if isinstance(path_or_module, (str, Path)):
        return run(path_or_module, options, measuring)
    return inspect_module(path_or_module, options, measuring)


@in_python
def recalibrate(
    model: nn.Module,
    data: object,
    *,
    metric: str | Metric | None = None,
    train_batch_size: int | None = None,
    data_options: DataOptions | None = None,
    force: bool = False,
) -> RecalibrationReport:
    """Measure a module's running statistics anew; the module is left as it was.

    `.state_dict()` of the report holds the new buffers, for model.load_state_dict(...,
    strict=False); it refuses where `inspect` on the same data would not recalibrate, unless
    `force`, and `.forced` then says why it would have. Raises BncheckError.
    """
    from bncheck.inspecting.from_file import InspectOptions
    from bncheck.recalibrating.command import recalibrate_module
    from bncheck.subject.setup import Measuring, device_of

    device = device_of(model)
    measuring = Measuring(
        model, data, data_options=data_options, device=device, metric=metric, force=force
    )
    return recalibrate_module(model, InspectOptions(train_batch_size=train_batch_size), measuring)


@in_python
def open_checkpoint(path: str | Path, *, key: str | None = None) -> Checkpoint:
    """Open any checkpoint; `.tensors` maps names to NumPy arrays, read when asked for.

    Nothing in the file is executed. Raises BncheckError.
    """
    from bncheck.reading.opening import open_checkpoint as run

    return run(path, key)
