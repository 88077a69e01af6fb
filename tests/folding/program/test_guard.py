"""A stranger's `.pt2` is folded without running anything but its operators."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.folding.program.expressions import is_arithmetic, is_guard
from bncheck.folding.program.file import load_program
from tests.launching import forked

_CALL = "__import__('os').system('echo pwned > $BNCHECK_MARKER')"
_EXPRESSION = re.compile(r'"expr_str": "[^"]*"')
_GUARDS = re.compile(r'"guards_code": \[[^\]]*\]')
_FACTORY = json.dumps([1, {
    "type": "collections.defaultdict", "children_spec": [],
    "context": {"default_factory_module": "antigravity", "default_factory_name": "fly",
                "dict_context": []},
}])  # fmt: skip
_IN_SPEC = re.compile(r'"in_spec": "(?:[^"\\]|\\.)*"')


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("program") / "good.pt2"
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (torch.rand(2, 3, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(program, path, extra_files={"notes.txt": "mine"})
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _packed(
    path: Path, records: Mapping[str, bytes], edit: Callable[[str], str], more: str = ""
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            if name.endswith("models/model.json"):
                changed = edit(data.decode())
                assert changed != data.decode() or more
                data = changed.encode()
            archive.writestr(name, data)
        if more:
            archive.writestr(f"{next(iter(records)).partition('/')[0]}/{more}", b"{}")
    return path


def _size(expression: str) -> Callable[[str], str]:
    return lambda text: _EXPRESSION.sub(f'"expr_str": {json.dumps(expression)}', text, count=1)


def _spec(context: object) -> Callable[[str], str]:
    spec = json.dumps([1, {"type": "builtins.tuple", "context": context, "children_spec": []}])
    return lambda text: _IN_SPEC.sub(lambda _: f'"in_spec": {json.dumps(spec)}', text, count=1)


def _guard(text: str) -> Callable[[str], str]:
    return lambda t: _GUARDS.sub(lambda _: f'"guards_code": [{json.dumps(text)}]', t)


#: What each would make torch do if it got that far.
ATTACKS: dict[str, Callable[[str], str]] = {
    "size-evaluated": _size(_CALL),
    "size-of-attributes": _size("Integer(1).__class__.__mro__"),
    "size-symbol-executed": _size(f"Symbol({_CALL!r})"),
    "size-tower-of-powers": _size("Pow(Integer(9), Pow(Integer(9), Integer(9)))"),
    "name-executed": lambda t: t.replace('"input"', json.dumps(f"input={_CALL}")),
    "module-executed": lambda t: t.replace('"0.weight"', json.dumps(f'0.weight")+{_CALL}#')),
    "enum-imported": _spec({"__enum__": True, "fqn": "antigravity:Enum"}),
    "enum-imported-below": _spec(json.dumps([[{"__enum__": True, "fqn": "antigravity:Enum"}]])),
    "factory-imported": lambda t: _IN_SPEC.sub(lambda _: f'"in_spec": {json.dumps(_FACTORY)}', t),
    "input-name-executed": _spec(json.dumps([f"x={_CALL}"])),
    "size-in-a-dict": lambda t: _EXPRESSION.sub(
        f'"expr_str": {json.dumps({"as_string": _CALL})}', t, count=1
    ),
    "operator-that-calls": lambda t: t.replace("torch.ops.aten.relu.default", "_operator.call"),
    "guard-executed": _guard(_CALL),
    "guard-leaves-its-message": _guard(f"L['a\"+{_CALL}+\"'].size()[0] > 1"),
    "guard-commented-out": _guard("1 > 0 #"),
    "operator-of-files": lambda t: t.replace("aten.relu.default", "aten.from_file.default"),
    "operator-of-system": lambda t: t.replace("torch.ops.aten.relu.default", "torch.os.system"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name: str, records: dict[str, bytes], tmp_path: Path) -> None:
    path = _packed(tmp_path / "bad.pt2", records, ATTACKS[name])
    with pytest.raises(BncheckError, match="export it again"):
        load_program(path)


_PICKLE = f"cposix\nsystem\n(V{'echo pwned > $BNCHECK_MARKER'}\ntR.".encode()


def _with_object(records: Mapping[str, bytes], path: Path) -> Path:
    """A constant that torch unpickles, whatever its use_pickle says."""
    weights = next(data for name, data in records.items() if name.endswith("weights_config.json"))
    meta = json.loads(weights)["config"]["0.bias"]["tensor_meta"]
    meta |= {
        "dtype": 1,
        "requires_grad": False,
        "sizes": [{"as_int": len(_PICKLE)}],
    }  # bytes, like the record
    config = {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False,
                    "tensor_meta": meta}}  # fmt: skip
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            if name.endswith("_constants_config.json"):
                archive.writestr(name, json.dumps({"config": config}))
            else:
                archive.writestr(name, data)
        archive.writestr(f"{next(iter(records)).partition('/')[0]}/data/constants/opaque_obj_0",
                         _PICKLE)  # fmt: skip
    return path


def _with_weights(records: Mapping[str, bytes], path: Path) -> Path:
    """All weights as one pickle, as torch 2.7 wrote them."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
        folder = next(iter(records)).partition("/")[0]
        archive.writestr(f"{folder}/data/weights/model.pt", _PICKLE)
    return path


def _with_capitals(records: Mapping[str, bytes], path: Path) -> Path:
    """A configuration under a name that no guard of *.json sees."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            text = data.replace(b'"use_pickle": false', b'"use_pickle": [0]')
            config = name.endswith("weights_config.json")
            assert text != data or not config
            archive.writestr(name.replace(".json", ".JSON") if config else name,
                             text if config else data)  # fmt: skip
    return path


def _with_odd_flag(records: Mapping[str, bytes], path: Path) -> Path:
    """A list is true for torch."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data.replace(b'"use_pickle": false', b'"use_pickle": [0]'))
    return path


@pytest.mark.parametrize("build", [_with_object, _with_weights, _with_capitals, _with_odd_flag])
def test_pickles_are_refused(
    build: Callable[[Mapping[str, bytes], Path], Path], records: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("BNCHECK_MARKER", str(tmp_path / "marker"))
    with pytest.raises(BncheckError, match="export it again"):
        load_program(build(records, tmp_path / "bad.pt2"))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("build", [_with_object, _with_weights])
def test_those_pickles_are_live(
    build: Callable[[Mapping[str, bytes], Path], Path], unguarded: Path
) -> None:
    assert (unguarded / f"{build.__name__}.pt2.marker").exists()


@pytest.mark.parametrize("record", ["data/aotinductor/m/m.wrapper.cpp", "data/constants/../x",
                                    "data/constants/custom_obj_0.so/x"])  # fmt: skip
def test_native_code_is_refused(record: str, records: dict[str, bytes], tmp_path: Path) -> None:
    path = _packed(tmp_path / "bad.pt2", records, lambda text: text, record)
    with pytest.raises(BncheckError, match="code or objects"):
        load_program(path)


def test_a_good_one_is_read(records: dict[str, bytes], tmp_path: Path) -> None:
    program = load_program(_packed(tmp_path / "good.pt2", records, str, "extra/more.bin"))
    assert program.module()(torch.rand(5, 3, 8, 8)).shape == (5, 4, 6, 6)


def _load_unguarded(paths: list[Path]) -> None:
    for path in paths:
        os.environ["BNCHECK_MARKER"] = f"{path}.marker"
        with contextlib.suppress(Exception):
            torch.export.load(path)


@pytest.fixture(scope="module")
def unguarded(records: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what torch itself has loaded, with the marks that this left."""
    folder = tmp_path_factory.mktemp("unguarded")
    paths = [
        *(
            build(records, folder / f"{build.__name__}.pt2")
            for build in (_with_object, _with_weights)
        ),
        _packed(folder / "size.pt2", records, ATTACKS["size-evaluated"]),
    ]
    process = forked(_load_unguarded, paths, said=folder / "said")
    process.join(120)
    assert process.exitcode == 0
    return folder


def test_the_attack_is_live(unguarded: Path) -> None:
    """torch itself runs a size; the day it does not, this module may go."""
    assert (unguarded / "size.pt2.marker").exists()


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s31', positive=True, integer=True)",
        "Mul(Integer(7), Max(Integer(1), Add(Symbol('s53', integer=True), Integer(-2))))",
        "2*s0 + 1",
        "Pow(Symbol('s0'), Integer(2))",
        "Ne(u0, 3)",
        "FloorDiv(s0, 2)",
    ],
)
def test_sizes_are_arithmetic(text: str) -> None:
    assert is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        _CALL,
        "exec('x')",
        "s0.x",
        "[1]",
        "lambda: 0",
        "9**9",
        "(" * 9000,
        "Pow(s0, s1)",
        "",
        "Pow(Pow(9, 8), 8)",
        "'a' * 9",
        "Mul('a', 9)",
        "b'a' * 9",
        "Symbol('a' * 9)",
    ],
)
def test_others_are_not(text: str) -> None:
    assert not is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "L['x'].size()[2] >= 3",
        "((-2) + L['x'].size()[3]) != 1",
        "(max(1, (-2) + L['x'].size()[3])*max(1, L['y'][0].size()[2])) % 2 == 0 and True",
    ],
)
def test_guards_compare_sizes(text: str) -> None:
    assert is_guard(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('x')",
        "L['x'].size(print())[0] > 1",
        "L['x'].__class__()[0] > 1",
        "L['x'].size()[0] > 1 if print() else 2",
        "[print() for L['x'] in [1]]",
        "max(1, key=print)",
        "L[print()].size()[0] > 1",
        "(lambda: 1)() > 1",
        "9 ** 9 ** 9 > 1",
        "L['a\"+print()+\"'].size()[0] > 1",
        "-" * 3999 + "1",
        "L['x'].size()[0] > 1; print()",
    ],
)
def test_what_does_more_is_not_a_guard(text: str) -> None:
    assert not is_guard(text)


def test_a_program_of_free_sizes_is_folded_and_read_again(tmp_path: Path) -> None:
    model = torch.nn.Sequential(
        torch.nn.BatchNorm2d(4), torch.nn.ConvTranspose2d(4, 6, 2, stride=2),
        torch.nn.Conv2d(6, 4, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.get_submodule("0").bias.fill_(0.3)  # type: ignore[operator]
    auto = torch.export.Dim.AUTO
    program = torch.export.export(
        model, (torch.randn(3, 4, 9, 9),), dynamic_shapes=({0: auto, 2: auto, 3: auto},)
    )
    torch.export.save(program, tmp_path / "in.pt2")
    command = ["fold", str(tmp_path / "in.pt2"), "-o", str(tmp_path / "out.pt2"), "--quiet"]
    assert run(command) == 0
    folded = load_program(tmp_path / "out.pt2").module()
    x = torch.randn(40, 4, 5, 12)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
