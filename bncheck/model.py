"""`--model TARGET:CALLABLE` and a checkpoint become a module."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bncheck.errors import BncheckError

if TYPE_CHECKING:
    from torch import nn

    from bncheck.reading.checkpoint import Checkpoint


def load_model(spec: str, args: Sequence[str], checkpoint: Checkpoint | None) -> nn.Module:
    """Build the model that `spec` names and load the checkpoint's tensors into it, strictly."""
    from torch import nn

    target, colon, name = spec.rpartition(":")
    if not colon or not target:
        raise BncheckError(f"--model {spec!r} is not TARGET:CALLABLE", "write e.g. nets.py:build")
    try:
        found = getattr(_import(target), name)
        keywords = dict(_argument(word) for word in args)
        model = found if isinstance(found, nn.Module) else found(**keywords)
    except BncheckError:
        raise
    except (Exception, SystemExit) as error:
        raise BncheckError(
            f"--model {spec} fails ({type(error).__name__}: {error})", "run it in Python first"
        ) from None
    if not isinstance(model, nn.Module):
        raise BncheckError(f"--model {spec} gives a {type(model).__name__}", "return an nn.Module")
    if checkpoint is not None:
        _load(model, checkpoint)
    return model


def _import(target: str) -> Any:
    if not target.endswith(".py"):
        return importlib.import_module(target)
    spec = importlib.util.spec_from_file_location("_bncheck_model", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _argument(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise BncheckError(f"--model-arg {word!r} is not key=value", "write e.g. depth=20")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _load(model: nn.Module, checkpoint: Checkpoint) -> None:
    import torch

    state = {}
    for name in checkpoint.tensors:
        array = checkpoint.tensors[name]
        short = name.removeprefix(checkpoint.prefix)
        if array.dtype.name == "bfloat16":
            state[short] = torch.from_numpy(array.view("int16").copy()).view(torch.bfloat16)
        else:
            state[short] = torch.from_numpy(array.copy())
    own = model.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(state) - counters)
    unexpected = sorted(set(state) - set(own))
    if missing or unexpected:
        raise BncheckError(
            f"does not fit the model: missing {missing[:5]}, unexpected {unexpected[:5]}",
            "check --model and --key",
            str(checkpoint.path),
        )
    model.load_state_dict(state, strict=False)
