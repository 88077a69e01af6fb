"""A file's names and a model's are matched whatever wrapped the model, and wherever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from bncheck.core.errors import BncheckError
from bncheck.reading.opening import open_checkpoint
from bncheck.subject.file_names import file_names
from bncheck.subject.model import load_trusted, load_weights


class Net(nn.Module):
    """Backbone and head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


class Shared(Net):
    """Its BatchNorm has two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(self.backbone[1])


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        n: torch.rand_like(t) if t.is_floating_point() else t for n, t in Net().state_dict().items()
    }


WRAPPED = {
    "compiled backbone": ("backbone.", "backbone._orig_mod."),
    "DDP backbone": ("backbone.", "backbone.module."),
    "checkpointed layer": ("backbone.1.", "backbone.1._checkpoint_wrapped_module."),
    "FSDP": ("backbone.", "_fsdp_wrapped_module.backbone._fsdp_wrapped_module."),
    "Lightning, compiled": ("", "model._orig_mod."),
    "both": ("backbone.", "module.backbone._orig_mod.module."),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_come_out_wherever_they_stand(how: str, tmp_path: Path) -> None:
    inner, outer = WRAPPED[how]
    wanted = state()
    path = tmp_path / "net.pt"
    torch.save({outer + n.removeprefix(inner) if n.startswith(inner) else n: t
                for n, t in wanted.items()}, path)  # fmt: skip
    model = Net()
    names = load_weights(model, open_checkpoint(path))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, wanted[name])
    layers = names.layers()
    layer = layers.get("backbone.1", f"{names.prefix}backbone.1")
    assert f"{layer}.running_mean" in open_checkpoint(path).tensors


def test_a_wrapper_of_the_model_s_own_stays() -> None:
    """A model with both `conv` and `model.conv` is no wrapped one."""
    model = ["conv.weight", "model.conv.weight"]
    assert file_names(model, {}, model).tensors == {name: name for name in model}
    lacking = file_names(model[1:], {}, model)
    assert lacking.tensors in ({model[1]: model[1]}, {model[0]: model[1]})
    assert len(lacking.tensors) == 1


def test_names_that_save_model_leaves_out(tmp_path: Path) -> None:
    wanted, path = Shared(), tmp_path / "net.safetensors"
    with torch.no_grad():
        wanted.get_buffer("backbone.1.running_mean").fill_(3)
    safetensors.torch.save_model(wanted, str(path))
    model = Shared()
    load_weights(model, open_checkpoint(path))
    assert model.get_buffer("stem.0.running_mean").tolist() == [3, 3, 3, 3]


def test_counters_that_were_saved_empty_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({n: t if t.ndim else torch.zeros(0) for n, t in state().items()}, path)
    model = Net()
    load_weights(model, open_checkpoint(path))
    assert model.get_buffer("backbone.1.num_batches_tracked") == 0


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"epoch": 1, "model": m},
                                  lambda m: {"a.b": {"models": [None, m]}}])  # fmt: skip
def test_trust_takes_the_part_that_the_reading_chose(
    wrap: Callable[[nn.Module], object], half: bool, tmp_path: Path
) -> None:
    path = tmp_path / "net.pt"
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.save(wrap(net.half() if half else net), path)
    module = load_trusted(open_checkpoint(path))
    assert isinstance(module, nn.Sequential)
    assert all(p.dtype == torch.float32 for p in module.parameters())


def test_trust_of_what_is_not_a_module_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"model": state()}, path)
    with pytest.raises(BncheckError, match="at model, not a module"):
        load_trusted(open_checkpoint(path))


def test_a_layer_of_two_names_has_the_one_that_the_file_has(tmp_path: Path) -> None:
    """The other is not among the model's own layers, so what the file says would be lost."""
    from bncheck.measuring.instrumented import Instrumented

    model = Shared()
    safetensors.torch.save_model(model, str(tmp_path / "net.safetensors"))
    names = load_weights(model, open_checkpoint(tmp_path / "net.safetensors"))
    subject = Instrumented.of(model, names.prefix, names.layers())
    assert subject.in_model({"backbone.1": 1}) == {"backbone.1": 1}
    assert [*subject.by_file_name()] == ["backbone.1"]
