"""`--model` and a checkpoint become an nn.Module that holds the checkpoint's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.extras import need
from bncheck.core.importable import working_directory_importable
from bncheck.core.timing import timed
from bncheck.core.words import a_kind, shortened
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.reading.remote import is_local
from bncheck.subject.file_names import FileNames, file_names, matching_prefix
from bncheck.subject.uninitialized import refuse_meta, refuse_uninitialized

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bncheck.reading.tensors import Array

_OPTION = "--model"
_SHOWN = 5
#: What a state dict may lack or have beside the model's own: a layer works without its counter.
_OPTIONAL = ("num_batches_tracked",)
_EXTRA = ("n_averaged",)
_STATISTICS = ("running_mean", "running_var")


@timed("building the model")
def build_model(spec: str, args: Sequence[str]) -> nn.Module:
    """The module itself: an instance as it is, a class or function called with the arguments."""
    need("torch")
    from torch import nn

    found = usercode.resolve(spec, _OPTION)
    if isinstance(found, nn.Module):
        if args:
            raise BncheckError(
                f"{_OPTION} {spec} is a module already, so --model-arg has no effect",
                "name its class, or leave --model-arg out",
            )
        return found
    if not callable(found):
        raise BncheckError(
            f"{_OPTION} {spec} is {a_kind(found)}, not a module or a callable",
            "name an nn.Module class, a function that returns one, or a module",
        )
    built = usercode.call(found, args, spec, _OPTION)
    if not isinstance(built, nn.Module):
        raise BncheckError(
            f"{_OPTION} {spec} returned {a_kind(built)}, not an nn.Module",
            "let it return the model",
        )
    return built


def load_trusted(checkpoint: Checkpoint) -> nn.Module:
    """Unpickle a whole module for real, which runs whatever code the file asks for: --trust.

    Of a file of several things, that which was read as the checkpoint. Weights in half precision
    become float32, as those that are loaded into a module do.
    """
    need("torch")
    import torch
    from torch import nn

    path, key = checkpoint.path, checkpoint.key
    if not is_local(path):
        raise BncheckError(
            "is not unpickled from afar", "download it first, if you trust it", str(path)
        )
    if checkpoint.container in (Container.EXPORTED_PROGRAM, Container.ONNX):
        raise BncheckError("is a program, not a pickled module", "leave --trust out", str(path))
    if path.is_dir():
        raise BncheckError("is a folder, and --trust unpickles a file", "give --model", str(path))
    with usercode.running(f"--trust {path}"), working_directory_importable():
        value = _part(torch.load(path, map_location="cpu", weights_only=False), key)
    if not isinstance(value, nn.Module):
        place = f" at {shortened(key, 60)}" if key else ""
        raise BncheckError(
            f"holds {a_kind(value)}{place}, not a module", "give --model as well",
            str(path),
        )  # fmt: skip
    return value.float() if _is_half(value) else value


def _part(value: Any, key: str) -> Any:
    """What is in dicts, lists and objects under a dotted key, whose parts may have dots."""
    if not key:
        return value
    if isinstance(value, Mapping):
        pairs = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, (list, tuple)):
        pairs = [(str(place), item) for place, item in enumerate(value)]
    else:
        pairs = list(vars(value).items()) if hasattr(value, "__dict__") else []
    for name, item in pairs:
        if key == name or key.startswith(f"{name}."):
            found = _part(item, key[len(name) + 1 :])
            if found is not None:
                return found
    return None


def _is_half(module: nn.Module) -> bool:
    import torch

    return any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters())


@timed("loading the weights")
def load_weights(model: nn.Module, checkpoint: Checkpoint) -> FileNames:
    """Load the checkpoint's tensors into the model, all of them; returns what it calls them.

    A layer whose running statistics the file lacks keeps the model's: rule BN104 reports it.
    """
    refuse_meta(model)
    if checkpoint.folded:
        raise BncheckError(
            "is what `bncheck fold` made of a model's weights, which the model itself cannot hold",
            "give the file that it was folded from; in Python bncheck.load_folded takes this one",
            str(checkpoint.path),
        )
    wanted = dict(model.state_dict())
    found = file_names(checkpoint.tensors, checkpoint.aliases, list(wanted))
    names = found.tensors
    _refuse_mismatch(wanted, names, checkpoint)
    state = dict(wanted)
    for name, tensor in wanted.items():
        if name in names:
            state[name] = _fitting(_read(checkpoint, names[name]), tensor, name)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:
        path = str(checkpoint.path)
        if other := _other_shape(state, wanted):
            raise BncheckError(other, "check --model-arg", path) from None
        raise BncheckError(
            f"cannot be loaded into the model ({usercode.described(error)})",
            "check --model and --model-arg",
            path,
        ) from None
    refuse_uninitialized(model)
    return found


def missing_statistics(model: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """The layers of the model whose running statistics the file does not hold."""
    wanted = list(model.state_dict())
    names = file_names(checkpoint.tensors, checkpoint.aliases, wanted).tensors
    missing = [
        name for name in wanted if name.rpartition(".")[2] in _STATISTICS and name not in names
    ]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in missing))


def to_tensor(array: Array) -> Tensor:
    """A NumPy array, with ml_dtypes' small floats, as a tensor that owns its memory."""
    import numpy as np
    import torch

    if array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8")):
        raw = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
        return torch.from_numpy(raw.copy()).view(getattr(torch, array.dtype.name))
    return torch.from_numpy(array if array.flags.owndata else np.array(array))


def _read(checkpoint: Checkpoint, name: str) -> Array:
    try:
        return checkpoint.tensors[name]
    except BncheckError as error:
        raise error.about(str(checkpoint.path)) from None


def _fitting(array: Array, tensor: Tensor, name: str) -> Tensor:
    """The file's tensor; whether another shape will do is for the module itself to say.

    Lazy modules and the observers of quantization take the shape that the file has.
    """
    from torch.nn.parameter import is_lazy

    loaded = to_tensor(array)
    if not loaded.numel() and name.rpartition(".")[2] in _OPTIONAL:
        return tensor  # Flower and others save counters as empty arrays: BN106
    if not is_lazy(tensor) and loaded.numel() == tensor.numel() == 1:
        return loaded.reshape(tensor.shape)  # counters are saved as scalars and as [1]
    return loaded


def _other_shape(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first tensor that has another shape in the file than in the model."""
    from torch.nn.parameter import is_lazy

    for name, tensor in wanted.items():
        if not is_lazy(tensor) and state[name].shape != tensor.shape:
            file, model = tuple(state[name].shape), tuple(tensor.shape)
            return f"{name} is {file} in the file and {model} in the model"
    return ""


def _refuse_mismatch(
    wanted: Mapping[str, Tensor], names: Mapping[str, str], checkpoint: Checkpoint
) -> None:
    missing = [
        name
        for name in wanted
        if name not in names and name.rpartition(".")[2] not in (*_OPTIONAL, *_STATISTICS)
    ]
    extra = [
        name
        for name in names
        if name not in wanted and name.rpartition(".")[2] not in (*_OPTIONAL, *_EXTRA)
    ]
    if not missing and not extra:
        return
    if checkpoint.container is Container.RECORD:
        raise BncheckError(
            "is a record, which holds normalisation layers and not the weights that a model needs",
            "give a checkpoint of the same training, or leave --model out", str(checkpoint.path),
        )  # fmt: skip
    parts = []
    if missing:
        parts.append(f"lacks {_some(missing)} of the model")
    if extra:
        parts.append(f"holds {_some(extra)} that the model does not have")
    hint = _prefix_hint(list(wanted), list(checkpoint.tensors))
    raise BncheckError(" and ".join(parts), hint, str(checkpoint.path))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(shortened(name, 80) for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _prefix_hint(wanted: Sequence[str], file: Sequence[str]) -> str:
    """Name the prefix that would make the names meet, where there is one."""
    held = set(file)
    suffix = file[0] if file else ""
    for name in wanted:  # the model has a wrapper that the file lacks
        if name.endswith(f".{suffix}"):
            prefix = name[: -len(suffix)]
            ours = [n for n in wanted if n.startswith(prefix)]
            # Most of the file must be there, not just a layer that happens to be called alike.
            if sum(n[len(prefix) :] in held for n in ours) * 2 > max(len(ours), len(held)):
                inner = prefix.rstrip(".")
                return f"the names would match with the prefix {prefix!r}: build only its {inner}"
    prefix = matching_prefix(file, wanted)
    # A prefix that all names have is taken off without being asked for.
    partial = not all(name.startswith(prefix) for name in file)
    if prefix and partial and sum(prefix + n in held for n in wanted) * 2 > len(wanted):
        return f"with --key {prefix.rstrip('.')} only that part of the file is taken"
    return "check --model, --model-arg and --key"
