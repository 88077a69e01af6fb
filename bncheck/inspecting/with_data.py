"""`inspect` with a model and data: findings on the file, the measurement, the diagnosis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from bncheck.core import usercode
from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.data import Batches
from bncheck.inspecting.chains import module_chains, traced_chains
from bncheck.inspecting.diagnosis import diagnose
from bncheck.inspecting.from_file import InspectOptions, static_findings
from bncheck.inspecting.repair import recalibrate_command
from bncheck.inspecting.report import InspectReport
from bncheck.layers.means import Chains
from bncheck.layers.norm_layer import NormLayer, Origin, same_eps
from bncheck.measuring.instrumented import Instrumented
from bncheck.measuring.measure import measure
from bncheck.measuring.norms import in_eval_mode
from bncheck.measuring.proving import proven
from bncheck.reading.checkpoint import Checkpoint
from bncheck.rules.choosing import choose_rules
from bncheck.rules.rule import AnyRule, Network
from bncheck.rules.static.bn102_non_finite import non_finite
from bncheck.rules.static.bn103_negative_variance import negative_variance
from bncheck.rules.static.bn104_missing_statistics import missing_statistics
from bncheck.rules.static.bn114_eps_sensitive import eps_contradicted, eps_sensitive
from bncheck.rules.static.bn117_other_weights import other_weights
from bncheck.subject.inputs import first_samples, in_order
from bncheck.subject.model import missing_statistics as missing_in
from bncheck.subject.module_layers import described_by
from bncheck.subject.setup import Measuring, device_of, instrumented

#: Samples that a model is exported with; torch.export would fix the size of a batch of one.
_EXAMPLES: Final = 2
#: A trace that tells the means of so many layers is as good as the graph of an export.
_MOST: Final = 0.5

#: Nothing can be measured with such statistics: every output is NaN, or a buffer is not there.
STOPPING = (non_finite, negative_variance, missing_statistics)


def stops(finding: Finding) -> bool:
    """Whether nothing can be measured with it."""
    return finding.severity is Severity.ERROR and any(rule.made(finding) for rule in STOPPING)


def beyond_repair(finding: Finding) -> bool:
    """Whether new statistics do not help either: weights that are not finite, what a file lacks."""
    return stops(finding) and finding.instead is None


def inspect_with_data(
    checkpoint: Checkpoint,
    layers: tuple[NormLayer, ...],
    rules: Sequence[AnyRule],
    options: InspectOptions,
    measuring: Measuring,
) -> InspectReport:
    """Inspect a file together with its model and data."""
    subject = instrumented(measuring, checkpoint)
    layers = described_by(layers, subject)
    findings = file_findings(checkpoint, layers, subject, options)
    if measuring.data is None:  # the model alone tells eps, momentum, and what the file lacks
        if other_weights in rules and isinstance(measuring.model, str):
            findings = _with_order(findings, subject, layers)
        findings = sorted(findings, key=lambda finding: finding.severity.rank)
        return InspectReport(checkpoint, layers, tuple(findings))
    return _judged(checkpoint, subject, layers, findings, rules, options, measuring)


def file_findings(
    checkpoint: Checkpoint,
    layers: tuple[NormLayer, ...],
    subject: Instrumented,
    options: InspectOptions,
) -> list[Finding]:
    """What the rules say of a file and its layers as the model describes them, without data."""
    rules = choose_rules(options.select, options.ignore)
    findings = static_findings(checkpoint, layers, options)
    if missing_statistics in rules:
        findings = [*_missing(subject, checkpoint, findings), *findings]
    if eps_sensitive in rules:
        other = list(_other_eps(subject, layers))
        told = {(finding.rule, finding.layer) for finding in other}
        findings = [*(f for f in findings if (f.rule, f.layer) not in told), *other]
    return findings


def inspect_module_with_data(
    subject: Instrumented,
    layers: tuple[NormLayer, ...],
    rules: Sequence[AnyRule],
    options: InspectOptions,
    measuring: Measuring,
) -> InspectReport:
    """Inspect a module in memory together with data."""
    findings = static_findings(None, layers, options)
    return _judged(None, subject, layers, findings, rules, options, measuring)


def _judged(
    checkpoint: Checkpoint | None,
    subject: Instrumented,
    layers: tuple[NormLayer, ...],
    findings: Sequence[Finding],
    rules: Sequence[AnyRule],
    options: InspectOptions,
    measuring: Measuring,
) -> InspectReport:
    path = None if checkpoint is None else checkpoint.path
    command = recalibrate_command(path, options, measuring)
    if not subject.norms and any(layer.tracks_statistics is False for layer in layers):
        measuring.note("nothing was measured: the model's BatchNorms track no running statistics")
        return InspectReport(checkpoint, layers, tuple(findings))
    serious = [f for f in findings if stops(f)]
    if serious:
        repairable = () if any(map(beyond_repair, serious)) else serious
        stopped = (replace(f, fix=f"run `{command}`") if f in repairable else f for f in findings)
        return InspectReport(checkpoint, layers, tuple(stopped))
    run = measuring.run(options.train_batch_size, thresholds=options.thresholds)
    data = measuring.batches()
    measurement = measure(proven(subject, data, run), layers, data, run)
    if other_weights in rules and options.thresholds.severity(measurement.w2) is not None:
        findings = _with_graph(findings, subject, layers, data)
    diagnosis = diagnose(measurement, findings, rules, command)
    return InspectReport(
        checkpoint, layers, diagnosis.findings, measurement, options.train_batch_size
    )


def _with_order(
    findings: Sequence[Finding], subject: Instrumented, layers: tuple[NormLayer, ...]
) -> list[Finding]:
    """With BN117 by the order of the model's calls, where torch.fx can follow its forward."""
    with in_eval_mode(subject.model), usercode.exporting():
        chains = traced_chains(subject.model, layers, subject.prefix)
    if chains is None or not chains.found:
        return [*findings]
    rest = (finding for finding in findings if not other_weights.made(finding))
    return [*rest, *other_weights.check(Network(layers, chains=chains))]


def _with_graph(
    findings: Sequence[Finding],
    subject: Instrumented,
    layers: tuple[NormLayer, ...],
    data: Batches,
) -> Sequence[Finding]:
    """With BN117 by the model's graph, which is worth its export where statistics and data differ.

    It knows the layer where the order of tensors only warns of the whole. How far all layers are
    off, the data say better.
    """
    try:
        with in_eval_mode(subject.model):
            chains = _chains(subject, layers, data)
    except BncheckError:  # inputs by name: measured, but not exported
        return findings
    if chains is None or not chains.found:
        return findings
    told = other_weights.check(Network(layers, chains=chains))
    rest = [finding for finding in findings if not other_weights.made(finding)]
    return [*rest, *(finding for finding in told if finding.layer is not None)]


def _chains(subject: Instrumented, layers: tuple[NormLayer, ...], data: Batches) -> Chains | None:
    """By what torch.fx sees, which costs a twentieth of an export, where that is most of it."""
    model = subject.model
    with usercode.exporting():
        traced = traced_chains(model, layers, subject.prefix)
    if traced is not None and traced.number == len(layers) == 1:  # no other norm to follow from
        return traced
    if traced is not None and len(traced.found) >= _MOST * (traced.number - 1) > 0:
        return traced
    inputs = in_order(model, first_samples(data, _EXAMPLES))
    inputs = tuple(tensor.to(device_of(model)) for tensor in inputs)
    return module_chains(model, inputs, layers, subject.prefix)


def _missing(
    subject: Instrumented, checkpoint: Checkpoint, findings: Sequence[Finding]
) -> list[Finding]:
    """BN104 for layers of the model that the file does not know at all."""
    known = {finding.layer for finding in findings if missing_statistics.made(finding)}
    return [
        missing_statistics.finding(
            Severity.ERROR,
            subject.file_name(name),
            "the model has running statistics here, and the file has none",
            "save the whole state dict, buffers too; loaded with strict=False the layer would "
            "not normalise",
        )
        for name in missing_in(subject.model, checkpoint)
        if subject.file_name(name) not in known
    ]


def _other_eps(subject: Instrumented, layers: tuple[NormLayer, ...]) -> Iterator[Finding]:
    """BN114 for layers that the model runs with another eps than the file says."""
    modules = {name: norm.module for name, norm in subject.by_file_name().items()}
    for layer in layers:
        ours, said = getattr(modules.get(layer.name), "eps", None), layer.eps
        if ours is None or said.value is None or said.origin is not Origin.FILE:
            continue
        if not same_eps(ours, said.value):
            yield eps_contradicted(layer, ("in the model", ours), ("in the file", said.value))
