"""What a file says by itself: its layers, and the rules that need nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from bncheck.core.errors import BncheckError
from bncheck.core.findings import Finding, Severity
from bncheck.core.limits import MAX_FINDING_LETTERS, MAX_FINDINGS
from bncheck.core.thresholds import DEFAULT, Thresholds
from bncheck.core.timing import timed
from bncheck.inspecting.chains import chains_of
from bncheck.inspecting.report import InspectReport
from bncheck.layers.means import Chains
from bncheck.layers.norm_layer import Assumptions, NormLayer, find_layers
from bncheck.layers.other_norms import OtherNorm, other_norms
from bncheck.layers.unjudged import refuse_unread, unjudged
from bncheck.reading.checkpoint import Checkpoint, Container
from bncheck.reading.remote import Remote
from bncheck.reading.roles import split_name
from bncheck.rules.choosing import choose_rules
from bncheck.rules.file_rules import FILE_RULES
from bncheck.rules.rule import Network
from bncheck.rules.static.bn105_under_warmed import under_warmed
from bncheck.rules.static.bn106_batch_counter import unusable_counter
from bncheck.rules.static.bn117_other_weights import other_weights

_PROGRAMS: Final = (Container.TORCHSCRIPT, Container.EXPORTED_PROGRAM, Container.ONNX)

#: The rules that ask what the weights predict.
_BY_CHAINS = (other_weights, under_warmed, unusable_counter)


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """What a user can set about an inspection."""

    key: str | None = None
    eps: float | None = None
    momentum: float | None = None
    train_batch_size: int | None = None
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()
    thresholds: Thresholds = DEFAULT

    def __post_init__(self) -> None:
        """Raise BncheckError for numbers that no layer has."""
        eps, momentum, size = self.eps, self.momentum, self.train_batch_size
        if eps is not None and not 0 <= eps < math.inf:
            raise BncheckError(f"eps {eps:g} is not a number from 0", "give e.g. 1e-5")
        if momentum is not None and not 0 <= momentum <= 1:
            raise BncheckError(f"momentum {momentum:g} is not between 0 and 1", "give e.g. 0.1")
        if size is not None and size < 1:
            raise BncheckError(f"a training batch of {size:g} is none", "give its size, e.g. 64")


def inspect_checkpoint(checkpoint: Checkpoint, options: InspectOptions) -> InspectReport:
    """Read the normalisation layers of an open checkpoint and run the rules on them."""
    layers = tuple(find_layers(checkpoint, Assumptions(options.eps, options.momentum)))
    refuse_unread(checkpoint, layers)
    others = other_norms(checkpoint, layers)
    findings = static_findings(checkpoint, layers, options, others)
    return InspectReport(checkpoint, (*layers, *(n.layer for n in others)), tuple(findings))


def _is_far(checkpoint: Checkpoint) -> bool:
    """Whether the weights between layers would have to come over the network."""
    return isinstance(checkpoint.path, Remote) and checkpoint.container is not Container.ONNX


@timed("judging the file")
def static_findings(
    checkpoint: Checkpoint | None,
    layers: tuple[NormLayer, ...],
    options: InspectOptions,
    others: tuple[OtherNorm, ...] | None = None,
) -> list[Finding]:
    """What the rules say without data, the worst first."""
    container = checkpoint.container if checkpoint else None
    rules = choose_rules(options.select, options.ignore)
    if others is None:
        others = other_norms(checkpoint, layers) if checkpoint else ()
    network = Network(
        layers,
        other_norms=others,
        unjudged=unjudged(checkpoint, layers) if checkpoint else (),
        shapes=_shapes(checkpoint) if checkpoint else {},
        knows_modules=checkpoint is None or bool(checkpoint.modules),
        counts_batches=container is not Container.ONNX and _in_torch_s_names(layers),
        is_program=container in _PROGRAMS,
        eps=options.eps,
        train_batch_size=options.train_batch_size,
        thresholds=options.thresholds,
        chains=chains_of(checkpoint, layers)
        if checkpoint and any(rule in rules for rule in _BY_CHAINS) and not _is_far(checkpoint)
        else Chains(),
    )
    with np.errstate(all="ignore"):  # statistics at a dtype's limits overflow on the way
        findings = [
            *_bounded(
                finding for rule in FILE_RULES if rule in rules for finding in rule.check(network)
            )
        ]
    if checkpoint:
        findings = [*_less_of_unused(findings, checkpoint)]
    return sorted(findings, key=lambda finding: finding.severity.rank)


def _less_of_unused(findings: Iterable[Finding], checkpoint: Checkpoint) -> Iterator[Finding]:
    """What is wrong with a layer that is never called is worth knowing, and harms nobody."""
    for finding in findings:
        module = checkpoint.modules.get(finding.layer or "")
        if module is not None and module.unused and finding.layer is not None:
            message = f"{finding.message}; the code never calls this layer in eval mode"
            yield replace(finding, severity=Severity.INFO, message=message)
        else:
            yield finding


def _in_torch_s_names(layers: tuple[NormLayer, ...]) -> bool:
    """Only torch's BatchNorm has a num_batches_tracked beside its running_mean."""
    names = [layer.tensors.get("running_mean", "running_mean") for layer in layers if layer.tracked]
    return not names or any(split_name(name)[1] == "running_mean" for name in names)


def _bounded(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings, as long as a report of them fits into time and memory."""
    left, letters = MAX_FINDINGS, MAX_FINDING_LETTERS
    for finding in findings:
        left -= 1
        letters -= len((finding.layer or "").encode("unicode_escape"))  # as reports show it
        if left < 0 or letters < 0:
            limit = "MAX_FINDINGS" if left < 0 else "MAX_FINDING_LETTERS"
            raise BncheckError(
                f"has more findings than a report can hold (limit {limit})",
                "take a part of it with --key, or fewer rules with --select",
            )
        yield finding


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    lazy = checkpoint.tensors.lazy
    return {name: t.shape for name, t in lazy.items() if t.shape is not None}
