"""A folded state dict as .safetensors, with a manifest, and loading it into the user's own model.

A folded state dict in an unfolded model is the trap: 265 of 320 keys are gone, strict=False says
nothing, and the answers are wrong. So the file says which model it belongs to, down to every key
and shape, and loading changes the model's architecture along with its numbers or refuses.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bncheck._version import __version__
from bncheck.core.errors import BncheckError
from bncheck.folding.difference import relative_error
from bncheck.folding.planner.plan import Status
from bncheck.folding.program.fold import FoldResult
from bncheck.folding.program.parity import arrays
from bncheck.writing.atomic import replacing

_KEY: Final = "bncheck.fold"
_SCHEMA: Final = "bncheck.folded-state/1"
_OTHER_FORM: Final = "write a .pt2 instead"
#: What a weight of one call among several is named.
_CLONE: Final = re.compile(r"(?:weight|bias)_\d+")
_PARAMETRISED: Final = "parametrizations.weight."
#: Exactly these: a subclass may do more than normalise, as timm's BatchNormAct2d does.
_PLAIN: Final = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
)  # fmt: skip


def save_folded(
    result: FoldResult,
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    path: Path,
    source: Path,
) -> None:
    """Write the folded tensors, after loading them into a copy of the model and comparing."""
    state = {
        name: tensor.detach().contiguous()
        for name, tensor in result.program.state_dict.items()
        if isinstance(tensor, torch.Tensor)
    }
    manifest = _manifest(result, model, set(state), source)
    try:
        trial = copy.deepcopy(model)
    except RuntimeError:  # a weight that a hook computes, as of the old weight_norm
        raise BncheckError("computes a weight in a hook", _OTHER_FORM) from None
    _apply(trial, manifest, state)
    _compare(trial, result, example_inputs)
    from safetensors.torch import save

    data = save(_unshared(state), {"format": "pt", _KEY: json.dumps(manifest)})
    with replacing(path, source) as temporary:
        temporary.write_bytes(data)


def _manifest(
    result: FoldResult, model: nn.Module, names: set[str], source: Path
) -> dict[str, Any]:
    """Which model a file belongs to, and what becomes of it."""
    shapes = _shapes(model)
    return {
        "schema": _SCHEMA,
        "bncheck": __version__,
        "torch": torch.__version__,
        "source_sha256": _digest(source),
        "batchnorms": [decision.to_dict() for decision in result.batchnorms],
        "identities": _removed_modules(result),
        "bare": _bare_modules(result),
        "plain_weights": [n.name for n in result.solution.plan.norms if n.of_weight],
        "added": sorted(names - set(shapes)),
        "removed": sorted(set(shapes) - names),
        "original": shapes,
        "parity": result.parity.to_dict() if result.parity else None,
    }


def load_folded(module: nn.Module, path: Path) -> nn.Module:
    """Fold the module with a file's tensors; refuses, before any change, what does not fit it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            manifest = json.loads((file.metadata() or {}).get(_KEY, "null"))
            if not isinstance(manifest, dict) or manifest.get("schema") != _SCHEMA:
                raise BncheckError(
                    "is not a folded state dict",
                    "make one with `bncheck fold ... -o X.safetensors`",
                )
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _apply(module, manifest, state)
    except BncheckError as error:
        raise error.about(str(path)) from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BncheckError(f"cannot be read ({error})", "check the path", str(path)) from None
    return module


def _removed_modules(result: FoldResult) -> list[str]:
    """The modules that become Identity; refuses plans that no module can carry out."""
    graph, plan = result.solution.graph, result.solution.plan
    for index, fold in plan.folds.items():
        if fold.as_shuffle:
            raise BncheckError(
                f"{graph.ops[index].label} becomes another operation",
                _OTHER_FORM,
            )
    if result.solution.constants:
        raise BncheckError("constants in the model's forward change", _OTHER_FORM)
    names = []
    bare = {norm.name for norm in plan.norms if norm.bare}
    for decision in result.batchnorms:
        if decision.status is Status.KEPT or decision.name in bare:
            continue
        if decision.op == "mul+add" or decision.name.endswith(")"):
            raise BncheckError(
                f"{decision.name} is not one module that is called once", _OTHER_FORM
            )
        names.append(decision.name)
    return names


def _bare_modules(result: FoldResult) -> list[str]:
    """The modules that lose their weight and bias."""
    weights = result.solution.weights
    norms = result.solution.plan.norms
    bare = (n for n in norms if n.bare and not n.of_weight and n.last in weights)
    return [norm.name for norm in bare if weights[norm.last].plain]


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def _digest(path: Path) -> str | None:
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _apply(module: nn.Module, manifest: dict[str, Any], state: dict[str, torch.Tensor]) -> None:
    """Check everything, then replace the norms, add the biases and load strictly."""
    _check_architecture(module, manifest)
    modules = dict(module.named_modules())
    _check_modules(modules, manifest)
    gone = tuple(f"{name}." for name in manifest["identities"])
    own = set(manifest["original"])
    bare = manifest.get("bare", [])
    own -= {f"{name}.{role}" for name in bare for role in ("weight", "bias")}
    plain = manifest.get("plain_weights", [])
    own = {key for key in own if not key.startswith(tuple(f"{n}.{_PARAMETRISED}" for n in plain))}
    expected = {key for key in own if not key.startswith(gone)} | set(manifest["added"])
    if expected != set(state):
        odd = sorted(expected ^ set(state))[:5]
        raise BncheckError(f"the fold does not leave one tensor a parameter ({odd})", _OTHER_FORM)
    for name in manifest["identities"]:
        parent, _, child = name.rpartition(".")
        setattr(modules[parent], child, nn.Identity())
    for name in bare:
        for role in {"weight", "bias"} & modules[name]._parameters.keys():
            setattr(modules[name], role, None)
    for name in plain:
        _take_plain(modules[name], state[f"{name}.weight".lstrip(".")])
    for key in manifest["added"]:
        owner, _, role = key.rpartition(".")
        if role == "weight":
            continue
        modules[owner].bias = nn.Parameter(torch.empty_like(state[key]), requires_grad=False)
    module.load_state_dict(state, strict=True)


def _take_plain(module: nn.Module, weight: torch.Tensor) -> None:
    """Give a module a weight of its own instead of one that it computes.

    torch's remove_parametrizations would change its class, which all copies of the module share.
    """
    module.__class__ = type(module).__bases__[0]
    del module._modules["parametrizations"]
    module.register_parameter("weight", nn.Parameter(torch.empty_like(weight)))


def _check_modules(modules: dict[str, nn.Module], manifest: dict[str, Any]) -> None:
    """Refuse norms that an identity cannot replace, and numbers that no module can hold."""
    for name in manifest["identities"]:
        norm = modules.get(name)
        if type(norm) not in _PLAIN:
            what = "not a module" if norm is None else f"a {type(norm).__name__}"
            raise BncheckError(
                f"the norm {name} is {what}, which an identity cannot replace",
                _OTHER_FORM,
            )
    for name in manifest.get("plain_weights", []):
        computed = getattr(modules.get(name), "parametrizations", {})
        if set(computed) != {"weight"}:
            raise BncheckError(f"the weight of {name} is computed in another way", _OTHER_FORM)
    for name in manifest.get("bare", []):
        if name not in modules:
            raise BncheckError(f"the norm {name} is not a module", _OTHER_FORM)
    for key in manifest["added"]:
        owner, _, role = key.rpartition(".")
        if _CLONE.fullmatch(role):
            raise BncheckError(
                f"{owner} is called more than once, and its calls need weights of their own",
                _OTHER_FORM,
            )
        if role == "weight" and owner in manifest.get("plain_weights", []):
            continue
        if role != "bias" or getattr(modules.get(owner), "bias", 0) is not None:
            raise BncheckError(f"no module of the model can hold {key}", _OTHER_FORM)


def _check_architecture(module: nn.Module, manifest: dict[str, Any]) -> None:
    mine, theirs = _shapes(module), manifest["original"]
    if mine == theirs:
        return
    lacking, more = set(theirs) - set(mine), set(mine) - set(theirs)
    if lacking == set(manifest["removed"]) and more == set(manifest["added"]):
        raise BncheckError(
            "the model is folded already", "give the model as it is built, before folding"
        )
    names = sorted(lacking | more) or sorted(n for n in mine if mine[n] != theirs[n])
    raise BncheckError(
        f"belongs to another model: {len(names)} parameters differ, such as {', '.join(names[:3])}",
        "give the architecture that was folded",
    )


def _compare(trial: nn.Module, result: FoldResult, example_inputs: tuple[Any, ...]) -> None:
    """The module with the file's numbers must do what the verified program does."""
    tolerance = 1e-5 if result.parity is None else max(result.parity.tolerance, 1e-5)
    with torch.no_grad():
        pairs = zip(
            pytree.tree_leaves(result.module()(*example_inputs)),
            pytree.tree_leaves(trial(*example_inputs)),
            strict=True,
        )
        for expected, given in pairs:
            if not isinstance(expected, torch.Tensor) or not expected.is_floating_point():
                continue
            if relative_error(*arrays((expected, given))) > tolerance:
                raise BncheckError(
                    "a state dict cannot express this fold: the model computes something else "
                    "with it",
                    _OTHER_FORM,
                )


def _unshared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors refuses tensors that share memory."""
    return {name: tensor.clone() for name, tensor in state.items()}
