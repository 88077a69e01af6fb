"""`.pt2` archives that look sound and in which torch.export.load finds other numbers."""

from __future__ import annotations

import copy
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.hostile.case import FOUND, READ, REFUSED, add, pack, records_of
from tests.hostile.programs import exported
from tests.zoo import states as zoo
from tests.zoo.layout import ROLES

CONFIG, PROGRAM = "data/weights/model_weights_config.json", "models/model.json"
_BAD = -torch.ones(4)
_CONSTANTS: list[dict[str, bytes]] = []

Records = dict[str, bytes]


def load(path: Path) -> dict[str, Tensor]:
    """All tensors of the program, without the pickles beside them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path)
    constants = {k: v for k, v in program.constants.items() if isinstance(v, Tensor)}
    return {**program.state_dict, **constants}


def folder_of(records: Records) -> str:
    return next(iter(records)).partition("/")[0] + "/"


def edit_json(records: Records, name: str, edit: Callable[[Any], object]) -> None:
    key = folder_of(records) + name
    content = json.loads(records[key])
    edit(content)
    records[key] = json.dumps(content).encode()


def build(folder: Path, edit: Callable[[Records], object]) -> Path:
    records = exported(folder)
    edit(records)
    return pack(folder / "model.pt2", records)


def _add(name: str, codes: frozenset[int], what: str, edit: Callable[[Records], object]) -> None:
    add(f"exported-lie-{name}", codes, what, partial(build, edit=edit))


def _torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _bad_state() -> dict[str, Tensor]:
    state = {**zoo.statistics(), "bn.running_var": _BAD, "bn.num_batches_tracked": torch.tensor(1)}
    parameters = {f"bn.{name}": nn.Parameter(state[f"bn.{name}"]) for name in ("weight", "bias")}
    return {**state, **parameters}


def torch_file_beside(records: Records) -> None:
    records[folder_of(records) + "data/weights/model.pt"] = _torch_file(_bad_state())


def _torch_file_alone(records: Records) -> None:
    torch_file_beside(records)
    del records[folder_of(records) + CONFIG]


def _second_config(records: Records) -> None:
    records[folder_of(records) + "model_weights_config.json"] = records[folder_of(records) + CONFIG]


def _two_dtypes(records: Records) -> None:
    def edit(content: Any) -> None:
        entry = content["config"]["bn.running_var"]
        first = {**entry, "tensor_meta": {**entry["tensor_meta"], "dtype": 4}}  # int32
        content["config"] = {"a": first, **content["config"]}

    edit_json(records, CONFIG, edit)


def _other_program(records: Records) -> None:
    """Sound, and larger; torch.export.load returns the one called model."""
    top = folder_of(records)
    for name in [n for n in records if "model" in n.rpartition("/")[2]]:
        other = name.removeprefix(top).replace("model.", "two.").replace("model_", "two_")
        records[top + other] = records[name]
    edit_json(
        records,
        "data/weights/two_weights_config.json",
        lambda content: content["config"].update(
            {f"more.{role}": content["config"][f"bn.{role}"] for role in ROLES}
        ),
    )
    records[top + "data/weights/bad"] = _BAD.numpy().tobytes()

    def edit(content: Any) -> None:
        content["config"]["bn.running_var"]["path_name"] = "bad"

    edit_json(records, CONFIG, edit)


def _old_program(records: Records) -> None:
    """What torch falls back to where the newer archive gives a RuntimeError."""
    top = folder_of(records)
    records["serialized_exported_program.json"] = records[top + PROGRAM]
    records["serialized_state_dict.pt"] = _torch_file(_bad_state())


def _torch_save_too(records: Records) -> None:
    with zipfile.ZipFile(io.BytesIO(_torch_file(_bad_state()))) as archive:
        for name in archive.namelist():
            own = name.partition("/")[2]
            records.setdefault(folder_of(records) + own, archive.read(name))


def _version(records: Records) -> None:
    records[folder_of(records) + "archive_version"] = b"1"


def _computed(records: Records) -> None:
    def edit(content: Any) -> None:
        for item in content["graph_module"]["graph"]["nodes"][0]["inputs"]:
            if item["name"] == "running_var":
                item["arg"]["as_tensor"]["name"] = "input"

    edit_json(records, PROGRAM, edit)


def _given_as(records: Records, name: str, value: object) -> None:
    """A setting of the norm in another way of JSON, of which torch takes any."""

    def edit(content: Any) -> None:
        inputs = content["graph_module"]["graph"]["nodes"][0]["inputs"]
        next(item for item in inputs if item["name"] == name)["arg"] = value

    edit_json(records, PROGRAM, edit)


def _name_taken(records: Records) -> None:
    """A result has the name of the variance: torch 2.13 refuses it, others may take it."""

    def edit(content: Any) -> None:
        nodes = content["graph_module"]["graph"]["nodes"]
        given = {item["name"]: item["arg"] for item in nodes[0]["inputs"]}
        weight = {"name": "self", "arg": given["weight"], "kind": 1}
        call = {**nodes[0], "target": "torch.ops.aten.neg.default", "inputs": [weight]}
        nodes.insert(0, {**call, "outputs": [given["running_var"]]})

    edit_json(records, PROGRAM, edit)


def _again(records: Records, target: str, **settings: object) -> None:
    """The same norm is called once more, with other settings."""

    def edit(content: Any) -> None:
        graph = content["graph_module"]["graph"]
        node = copy.deepcopy(graph["nodes"][0])
        results = [node["outputs"][0]["as_tensor"]["name"] + f"_{i}" for i in range(4)]
        graph["tensor_values"] |= dict.fromkeys(
            results, graph["tensor_values"][node["outputs"][0]["as_tensor"]["name"]]
        )
        node["outputs"] = [{"as_tensor": {"name": name}} for name in results]
        node["name"], node["target"] = "again", f"torch.ops.aten.{target}"
        if target == "batch_norm.default":
            node["outputs"], node["name"] = node["outputs"][:1], results[0]
        for item in node["inputs"]:
            item["arg"] = settings.get(item["name"], item["arg"])
        node["inputs"] = [item for item in node["inputs"] if item["arg"] is not None]
        graph["nodes"].append(node)

    edit_json(records, PROGRAM, edit)


def _before(records: Records, operator: str, role: str, *, mutates: bool = False) -> None:
    """A call is made of a statistic before the norm: in place, or into what is written back."""

    def edit(content: Any) -> None:
        graph, signature = content["graph_module"]["graph"], content["graph_module"]["signature"]
        norm = graph["nodes"][0]
        given = next(item for item in norm["inputs"] if item["name"] == role)["arg"]
        name = given["as_tensor"]["name"]
        made = {"as_tensor": {"name": "made"}}
        graph["tensor_values"]["made"] = graph["tensor_values"][name]
        call = {
            **norm,
            "target": f"torch.ops.aten.{operator}",
            "inputs": [{"name": "self", "arg": copy.deepcopy(given), "kind": 1}],
            "outputs": [made],
            "name": "made",
        }
        if operator.startswith("mul"):
            call["inputs"].append({"name": "other", "arg": {"as_float": -9.0}, "kind": 1})
        graph["nodes"].insert(0, call)
        if mutates:
            graph["outputs"].insert(0, made)
            spec = {"arg": {"name": "made"}, "buffer_name": f"bn.{role}"}
            signature["output_specs"].insert(0, {"buffer_mutation": spec})

    edit_json(records, PROGRAM, edit)


_add("none", READ, "none: that the lies are told of a good one", lambda records: None)
_add("torch-file", REFUSED, "weights as records and as a torch file", torch_file_beside)
_add("torch-file-alone", FOUND, "weights as a torch file", _torch_file_alone)
_add("two-dtypes", REFUSED, "one record in two dtypes", _two_dtypes)
_add("other-program", FOUND, "a larger, sound program beside the one that is loaded",
     _other_program)  # fmt: skip
_add("computed", FOUND, "a variance that is the input", _computed)

for _name, _setting, _value in (
    ("eps-nan", "eps", {"as_float": "NaN"}),
    ("eps-below-zero", "eps", {"as_int": -7}),
    ("training-number", "training", {"as_int": 1}),
):
    _add(_name, FOUND, f"{_setting} given as {_value}",
         partial(_given_as, name=_setting, value=_value))  # fmt: skip
_add("neg-in-place", REFUSED, "a variance that is negated before the norm",
     partial(_before, operator="neg_.default", role="running_var"))  # fmt: skip
_add("mul-in-place", REFUSED, "a mean that is multiplied before the norm",
     partial(_before, operator="mul_.Scalar", role="running_mean"))  # fmt: skip
_add("written-back", REFUSED, "a variance that each run replaces",
     partial(_before, operator="neg.default", role="running_var", mutates=True))  # fmt: skip
_add("again-in-training", FOUND, "a norm that is called in training, too",
     partial(_again, target="batch_norm.default", training={"as_bool": True}))  # fmt: skip
_add("again-other-eps", FOUND, "a norm that is called with another eps, too",
     partial(_again, target="batch_norm.default", eps={"as_float": -0.4}))  # fmt: skip
_add(
    "with-update",
    FOUND,
    "a norm by the batch without a flag that says so",
    partial(_again, target="_batch_norm_with_update.default", training=None, cudnn_enabled=None),
)


class _Inside(nn.Module):
    """A norm within torch.no_grad, which export makes a graph in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.zeros(4))
        self.register_buffer("second", _BAD.clone())
        self.first: Tensor
        self.second: Tensor

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = nn.functional.batch_norm(x, self.first, self.second)
        return y + 1


def _inside(folder: Path) -> Path:
    path = folder / "model.pt2"
    torch.export.save(torch.export.export(_Inside().eval(), (torch.rand(2, 4, 3, 3),)), path)
    return path


class _Constants(nn.Module):
    """Functional statistics: one is a plain tensor, one a buffer that no state dict has."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.rand(4)
        self.register_buffer("var", _BAD.clone(), persistent=False)
        self.var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.mean, self.var)


def _constants(folder: Path, twice: bool = False) -> Path:
    if not _CONSTANTS:
        program = torch.export.export(_Constants().eval(), (torch.rand(2, 4, 3, 3),))
        torch.export.save(program, folder / "good.pt2")
        _CONSTANTS.append(records_of(folder / "good.pt2"))
        (folder / "good.pt2").unlink()
    records = dict(_CONSTANTS[0])
    if twice:
        good = json.loads(exported(folder)[folder_of(exported(folder)) + CONFIG])["config"]
        entry = {**good["bn.running_var"], "path_name": "good"}
        records[folder_of(records) + "data/weights/good"] = torch.ones(4).numpy().tobytes()
        edit_json(records, CONFIG, lambda content: content["config"].update({"var": entry}))
    return pack(folder / "model.pt2", records)


add("exported-lie-constants", FOUND, "statistics that are constants of the program", _constants)
add("exported-constants-twice", REFUSED, "a constant that is a weight, too",
    lambda folder: _constants(folder, twice=True))  # fmt: skip
add("exported-lie-inside", FOUND, "statistics of a graph within the graph", _inside)
for _name, _what, _edit in (
    ("second-config", "a second list of weights", _second_config),
    ("old-beside-new", "an old program beside a new one", _old_program),
    ("torch-save-too", "a file of torch.save in the same archive", _torch_save_too),
    ("version", "a version that nobody has", _version),
    ("name-taken", "a result with the name of a variance", _name_taken),
):
    add(f"exported-{_name}", REFUSED, _what, partial(build, edit=_edit))
