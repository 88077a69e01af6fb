"""`inspect` with a model and data: findings on the file, the measurement, the diagnosis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.data import Batches, DataOptions, open_data
from bncheck.inspecting.diagnosis import diagnose
from bncheck.inspecting.from_file import Options, static_findings
from bncheck.inspecting.report import InspectReport
from bncheck.layers.norm_layer import NormLayer, Origin, Setting
from bncheck.measuring.cascades import Progress
from bncheck.measuring.cascades import Setting as RunSetting
from bncheck.measuring.comparison import Metric
from bncheck.measuring.distributed import Processes
from bncheck.measuring.measure import Plan, measure
from bncheck.measuring.norms import find_norms, norms_of
from bncheck.reading.checkpoint import Checkpoint
from bncheck.rules.registry import choose_rules
from bncheck.rules.rule import Rule
from bncheck.rules.static.bn104_missing_statistics import missing_statistics
from bncheck.rules.static.bn114_eps_sensitive import eps_contradicted, eps_sensitive, same_eps
from bncheck.subject.model import build_model, load_trusted, load_weights, matching_prefix
from bncheck.subject.model import missing_statistics as missing_in

if TYPE_CHECKING:
    from torch import nn

#: Nothing can be measured with such statistics: every output is NaN, or a buffer is not there.
STOPPING = ("BN102", "BN103", "BN104")


@dataclass(frozen=True)
class Measuring:
    """A model, data, and how to run one on the other.

    `model` is TARGET:CALLABLE, None to unpickle the file itself (`trust`), or a module.
    `recalibrate` is what to tell users to run.
    """

    model: str | nn.Module | None
    data: object
    model_args: Sequence[str] = ()
    data_options: DataOptions | None = None
    trust: bool = False
    device: str = "cpu"
    metric: str | Metric | None = None
    shape: bool = False
    processes: Processes = field(default_factory=Processes)
    progress: Progress = lambda done, total: None
    recalibrate: str = "bncheck.recalibrate(model, data)"

    def plan(self, train_batch_size: int | None, everything: bool = False) -> Plan:
        """What to measure, with the metric looked up."""
        metric, name = self._metric()
        return Plan(
            RunSetting(checked_device(self.device), self.processes, self.progress),
            metric,
            name,
            train_batch_size,
            everything,
            self.shape,
        )

    def batches(self) -> Batches:
        """The data, opened."""
        return open_data(self.data, self.data_options)

    def _metric(self) -> tuple[Metric | None, str]:
        if self.metric is None:
            return None, "metric"
        if not isinstance(self.metric, str):
            return self.metric, getattr(self.metric, "__name__", "metric")
        found = usercode.resolve(self.metric, "--metric")
        if not callable(found):
            raise BncheckError(
                f"--metric {self.metric} is a {type(found).__name__}, not a function",
                "name a function of the model's output and the labels, higher is better",
            )
        return found, self.metric.rpartition(":")[2]


def checked_device(device: str) -> str:
    """The device, or one line if it is not there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0][:120]
        raise BncheckError(
            f"--device {device} cannot be used ({reason})", "try --device cpu"
        ) from None
    return device


def module_for(measuring: Measuring, checkpoint: Checkpoint) -> tuple[nn.Module, str]:
    """The model with the checkpoint's tensors, and the prefix of the file's names."""
    if measuring.model is None:
        if not measuring.trust:
            raise BncheckError(
                "a model is needed to measure", "give --model, or --trust for a pickled module"
            )
        return load_trusted(checkpoint.path).to(checked_device(measuring.device)), ""
    if isinstance(measuring.model, str):
        model = build_model(measuring.model, measuring.model_args)
    else:
        model = measuring.model
    prefix = load_weights(model, checkpoint)
    return model.to(checked_device(measuring.device)), prefix


def check_module(given: object) -> None:
    """Refuse what is no module, such as a state dict."""
    from torch import nn

    if not isinstance(given, nn.Module):
        raise BncheckError(
            f"a {type(given).__name__} is no torch.nn.Module",
            "give the path of a checkpoint, or the module that a state dict has been loaded into",
        )


def device_of(model: nn.Module) -> str:
    """Where a module in memory is, and stays."""
    check_module(model)
    tensor = next(iter((*model.parameters(), *model.buffers())), None)
    return "cpu" if tensor is None else str(tensor.device)


def inspect_with_data(
    checkpoint: Checkpoint,
    layers: tuple[NormLayer, ...],
    rules: Sequence[Rule],
    options: Options,
    measuring: Measuring,
) -> InspectReport:
    """Inspect a file together with its model and data."""
    model, prefix = module_for(measuring, checkpoint)
    layers = described_by(layers, model, prefix)
    findings = file_findings(checkpoint, layers, model, options)
    if measuring.data is None:  # the model alone tells eps, momentum and what the file lacks
        findings = sorted(findings, key=lambda finding: finding.severity.rank)
        return InspectReport(checkpoint, layers, tuple(findings))
    return _judged(checkpoint, model, layers, findings, rules, options, measuring, prefix)


def file_findings(
    checkpoint: Checkpoint,
    layers: tuple[NormLayer, ...],
    model: nn.Module,
    options: Options,
) -> list[Finding]:
    """What the rules say of a file and its layers as the model describes them, without data."""
    rules = choose_rules(options.select, options.ignore)
    findings = static_findings(checkpoint, layers, options)
    prefix = matching_prefix(list(checkpoint.tensors), list(model.state_dict()))
    if missing_statistics in rules:
        findings = [*_missing(model, checkpoint, findings, prefix), *findings]
    if eps_sensitive in rules:
        other = list(_other_eps(model, layers, prefix))
        told = {(finding.rule, finding.layer) for finding in other}
        findings = [*(f for f in findings if (f.rule, f.layer) not in told), *other]
    return findings


def inspect_module_with_data(
    model: nn.Module,
    layers: tuple[NormLayer, ...],
    rules: Sequence[Rule],
    options: Options,
    measuring: Measuring,
) -> InspectReport:
    """Inspect a module in memory together with data."""
    findings = static_findings(None, layers, options)
    return _judged(None, model, layers, findings, rules, options, measuring, "")


def _judged(
    checkpoint: Checkpoint | None,
    model: nn.Module,
    layers: tuple[NormLayer, ...],
    findings: Sequence[Finding],
    rules: Sequence[Rule],
    options: Options,
    measuring: Measuring,
    prefix: str,
) -> InspectReport:
    command = measuring.recalibrate
    serious = [f for f in findings if f.rule in STOPPING and f.severity is Severity.ERROR]
    if serious:
        stopped = tuple(_with_command(f, command) if f in serious else f for f in findings)
        return InspectReport(checkpoint, layers, stopped)
    plan = replace(measuring.plan(options.train_batch_size), thresholds=options.thresholds)
    measurement = measure(model, layers, measuring.batches(), plan, prefix)
    judged = diagnose(measurement, findings, rules, command)
    return InspectReport(checkpoint, layers, tuple(judged), measurement, options.train_batch_size)


def _with_command(finding: Finding, command: str) -> Finding:
    if finding.rule == "BN104":  # a copy of the file cannot gain tensors
        return finding
    return replace(finding, fix=f"run `{command}`")


def _missing(
    model: nn.Module, checkpoint: Checkpoint, findings: Sequence[Finding], prefix: str
) -> list[Finding]:
    """BN104 for layers of the model that the file does not know at all."""
    known = {finding.layer for finding in findings if finding.rule == "BN104"}
    return [
        missing_statistics.finding(
            Severity.ERROR,
            prefix + name,
            "the model has running statistics here, and the file has none",
            "save the whole state dict, buffers too; loaded with strict=False the layer would "
            "not normalise",
        )
        for name in missing_in(model, checkpoint)
        if prefix + name not in known
    ]


def _other_eps(model: nn.Module, layers: tuple[NormLayer, ...], prefix: str) -> Iterator[Finding]:
    """BN114 for layers that the model runs with another eps than the file or --eps says."""
    modules = {prefix + norm.name: norm.module for norm in find_norms(model)}
    for layer in layers:
        ours, said = getattr(modules.get(layer.name), "eps", None), layer.eps
        place = {Origin.FILE: "in the file", Origin.OPTION: "from --eps"}.get(said.origin)
        if ours is None or said.value is None or place is None or same_eps(ours, said.value):
            continue
        yield eps_contradicted(layer, ("in the model", ours), (place, said.value))


def described_by(
    layers: tuple[NormLayer, ...], model: nn.Module, prefix: str
) -> tuple[NormLayer, ...]:
    """The layers with eps and momentum of the model's modules, where only defaults were assumed."""
    modules = {prefix + norm.name: norm.module for norm in find_norms(model)}
    return tuple(
        replace(
            layer,
            eps=_from_module(layer.eps, modules[layer.name], "eps"),
            momentum=_from_module(layer.momentum, modules[layer.name], "momentum"),
        )
        if layer.name in modules
        else layer
        for layer in layers
    )


def _from_module(setting: Setting, module: object, name: str) -> Setting:
    if setting.known or not hasattr(module, name):
        return setting
    value = getattr(module, name)
    return Setting(None if value is None else float(value), Origin.MODEL)


def layers_of(model: nn.Module) -> tuple[NormLayer, ...]:
    """The normalisation layers of a module in memory, which may be none."""
    check_module(model)
    found = []
    for norm in norms_of(model):
        module = norm.module
        counter = getattr(module, "num_batches_tracked", None)
        tensors = {
            name: tensor.detach().float().cpu().numpy()
            for name in ("running_mean", "running_var", "weight", "bias")
            if (tensor := getattr(module, name, None)) is not None
        }
        found.append(
            NormLayer(
                norm.name,
                norm.kind,
                mean=tensors.get("running_mean"),
                var=tensors.get("running_var"),
                weight=tensors.get("weight"),
                bias=tensors.get("bias"),
                batches=None if counter is None else float(counter),
                eps=Setting(float(getattr(module, "eps", 1e-5)), Origin.MODEL),
                momentum=Setting(getattr(module, "momentum", None), Origin.MODEL),
                training=module.training,
                tracks_statistics=True,
            )
        )
    return tuple(found)
