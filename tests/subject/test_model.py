"""--model: what users write, and what their code does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bncheck.core.errors import BncheckError
from bncheck.measuring.norms import norms_of
from bncheck.reading.opening import open_checkpoint
from bncheck.subject.model import build_model, load_weights, to_tensor
from tests.planted import SAMPLES

SOURCE = """
import sys
from torch import nn

print("importing")

class Net(nn.Module):
    def __init__(self, width=3, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, bias=bias)
        self.bn = nn.BatchNorm2d(width)

class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net()

instance = Net()
number = 3

def build(**options):
    print("building")
    return Net(**options)

def leaves():
    sys.exit(0)

def fails():
    raise ValueError("depth must be 6n+2")

def number_maker():
    return 3
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "some_nets", raising=False)
    return "some_nets"


@pytest.mark.parametrize("name", ["Net", "build", "instance"])
@pytest.mark.parametrize("ending", ["", ".py"])
def test_class_function_and_instance_by_module_and_by_path(
    nets: str, name: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = list(sys.path)
    model = build_model(f"{nets}{ending}:{name}", [])
    assert isinstance(model, nn.Module)
    assert sys.path[: len(path)] == path
    assert capsys.readouterr().out == ""


def test_arguments_are_literals_or_text(nets: str) -> None:
    model = build_model(f"{nets}:build", ["width=5", "bias=False"])
    assert model.get_parameter("conv.weight").shape[0] == 5
    assert not hasattr(model, "missing")
    with pytest.raises(BncheckError, match="is not key=value"):
        build_model(f"{nets}:build", ["width"])


BAD = {
    "leaves": r"called sys.exit\(0\) \(some_nets.py:26\)",
    "fails": r"ValueError: depth must be 6n\+2 \(some_nets.py:29\)",
    "number_maker": "returned an int, not an nn.Module",
    "number": "is an int, not a module or a callable",
    "Nett": "did you mean Net",
}


@pytest.mark.parametrize("name", BAD)
def test_what_user_code_does_is_one_line(nets: str, name: str) -> None:
    with pytest.raises(BncheckError, match=BAD[name]) as caught:
        build_model(f"{nets}:{name}", [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["some_nets", "nowhere:Net", "nowhere.py:Net", ":Net", "a:"])
def test_misspelt_specs_say_what_to_write(nets: str, spec: str) -> None:
    with pytest.raises(BncheckError):
        build_model(spec, [])


def test_a_broken_import_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import torch\nimport not_there_at_all\n")
    with pytest.raises(BncheckError, match=r"not_there_at_all.*broken.py:2"):
        build_model(f"{tmp_path / 'broken.py'}:Net", [])


def saved(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save(state, path / "net.pt")
    return path / "net.pt"


def loaded(spec: str, arguments: list[str], path: Path) -> nn.Module:
    model = build_model(spec, arguments)
    load_weights(model, open_checkpoint(path))
    return model


def test_weights_are_loaded_strictly(nets: str, tmp_path: Path) -> None:
    state = build_model(f"{nets}:Net", []).state_dict()
    del state["conv.bias"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(BncheckError, match=r"lacks conv.bias .* holds extra.weight"):
        loaded(f"{nets}:Net", [], saved(tmp_path, state))


def test_wrappers_are_stripped(nets: str, tmp_path: Path) -> None:
    net = build_model(f"{nets}:Net", [])
    state = {f"module._orig_mod.{n}": t for n, t in net.state_dict().items()}
    model = loaded(f"{nets}:Net", [], saved(tmp_path, state))
    assert torch.equal(model.get_parameter("conv.weight"), net.get_parameter("conv.weight"))


def test_the_prefix_that_would_fix_it_is_named(nets: str, tmp_path: Path) -> None:
    state = build_model(f"{nets}:Net", []).state_dict()
    with pytest.raises(BncheckError, match=r"with the prefix 'net\.'"):
        loaded(f"{nets}:Outer", [], saved(tmp_path, state))


def test_a_prefix_that_is_taken_off_anyway_is_not_advice(nets: str, tmp_path: Path) -> None:
    net = build_model(f"{nets}:Net", [])
    state = {f"module.{n}": t for n, t in net.state_dict().items()}
    state["module.other.weight"] = torch.zeros(1)
    with pytest.raises(BncheckError, match="check --model, --model-arg and --key"):
        loaded(f"{nets}:Net", [], saved(tmp_path, state))


def test_a_layer_that_is_called_alike_is_not_a_prefix(nets: str, tmp_path: Path) -> None:
    state = build_model(f"{nets}:Net", []).state_dict()
    state |= {f"other{index}.weight": torch.zeros(1) for index in range(30)}
    with pytest.raises(BncheckError, match="check --model, --model-arg and --key"):
        loaded(f"{nets}:Outer", [], saved(tmp_path, state))


def test_a_size_that_differs_is_named(nets: str, tmp_path: Path) -> None:
    state = build_model(f"{nets}:Net", []).state_dict()
    with pytest.raises(BncheckError, match=r"conv.weight is \(3, 1, 3, 3\) .* \(4, 1, 3, 3\)"):
        loaded(f"{nets}:Net", ["width=4"], saved(tmp_path, state))


@pytest.mark.parametrize(
    "name",
    ["healthy.pt", "healthy-legacy.pth", "healthy.safetensors", "healthy-sharded", "healthy.pt2",
     "healthy-distributed", "healthy-module.pt", "healthy-torchscript.pt"],
)  # fmt: skip
def test_every_layout_loads(name: str) -> None:
    model = loaded(f"{SAMPLES / 'nets.py'}:DigitNet", [], SAMPLES / name)
    assert [norm.name for norm in norms_of(model)] == ["bn1", "bn2", "bn3", "bn4"]
    assert float(model.get_buffer("bn1.running_mean").abs().sum()) > 0


def test_bfloat16_keeps_its_bits() -> None:
    import ml_dtypes
    import numpy as np

    array = np.array([1.5, -2.25, 3e38], dtype=ml_dtypes.bfloat16)
    assert to_tensor(array).tolist() == torch.tensor([1.5, -2.25, 3e38]).bfloat16().tolist()


def test_the_working_directory_hides_no_library_afterwards(nets: str, tmp_path: Path) -> None:
    (tmp_path / "ml_dtypes.py").write_text("raise SystemExit\n")
    build_model(f"{nets}:Net", [])
    import ml_dtypes

    assert "site-packages" in str(ml_dtypes.__file__)
    assert sys.path.index(os.getcwd()) > max(
        place for place, path in enumerate(sys.path) if "site-packages" in path
    )


def test_what_a_file_adds_to_the_path_and_its_folder_serve_when_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("added", "beside"):
        (tmp_path / name).mkdir()
    (tmp_path / "added" / "late_one.py").write_text("WIDTH = 3\n")
    (tmp_path / "beside" / "late_two.py").write_text("from torch.nn import ReLU\n")
    (tmp_path / "beside" / "lazy_nets.py").write_text(
        "import os, sys\nfrom torch import nn\n"
        "HERE = os.path.dirname(os.path.abspath(__file__))\n"
        "if HERE not in sys.path:\n    sys.path.append(HERE)\n"
        "sys.path.insert(0, os.path.join(HERE, '..', 'added'))\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        import late_one\n"
        "    def forward(self, x):\n        import late_two\n        return late_two.ReLU()(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    model = build_model("beside/lazy_nets.py:Net", [])
    assert model(torch.ones(1)) == 1


def _package(folder: Path, name: str) -> None:
    """A package whose modules import each other, by relative and by absolute names."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    (folder / name / "layers.py").write_text("from torch.nn import ReLU\n")
    (folder / name / "dotted.py").write_text("from .layers import ReLU as Net\n")
    (folder / name / "named.py").write_text(f"from {name}.layers import ReLU as Net\n")


@pytest.mark.parametrize(("place", "go"), [("src", ""), ("", ""), ("lib", "cd .*lib and ")])
def test_packages_by_name_and_by_file(
    place: str, go: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"mypkg_{place or 'here'}"
    _package(tmp_path / place, name)
    monkeypatch.chdir(tmp_path)
    file = (tmp_path / place / name).relative_to(tmp_path)
    assert isinstance(build_model(f"{file}/named.py:Net", []), nn.Module)
    with pytest.raises(BncheckError, match=f"; {go}write --model {name}.dotted:Net"):
        build_model(f"{file}/dotted.py:Net", [])
    if place != "lib":
        assert isinstance(build_model(f"{name}.dotted:Net", []), nn.Module)


def test_what_a_callable_takes_is_said(nets: str, tmp_path: Path) -> None:
    (tmp_path / "deep_nets.py").write_text(
        "class Net:\n    def __init__(self, depth, width: int = 64, *, norm='bn'): ...\n"
    )
    with pytest.raises(BncheckError) as caught:
        build_model("deep_nets:Net", ["width=3"])
    assert str(caught.value) == (
        "--model deep_nets:Net: takes (depth, width=64, norm='bn'): missing a required "
        "argument: 'depth'; give --model-arg depth=..., or write build.py with `from deep_nets "
        "import Net` and `def build(): return Net(depth=...)`, and give --model build.py:build"
    )
    with pytest.raises(BncheckError, match="leave --model-arg dpeth out, or correct its name"):
        build_model("deep_nets:Net", ["depth=1", "dpeth=2"])
