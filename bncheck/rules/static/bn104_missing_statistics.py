"""BN104."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from bncheck.core.findings import Finding, Severity
from bncheck.reading.roles import split_name
from bncheck.rules.rule import Network, Rule, rule

_FIX = (
    "save the whole state dict (buffers too, not only parameters), "
    "or load with strict=True to see what is missing"
)
#: This many like it with statistics for one without: no other sign is needed.
_NEARLY_ALL = 4
_SAYS_BATCHNORM = re.compile(r"bn|batch_?norm", re.IGNORECASE)


@rule("BN104", "missing-statistics", Severity.ERROR)
def missing_statistics(self: Rule[Network, Finding], network: Network) -> Iterator[Finding]:
    """A BatchNorm layer lacks its running mean or running variance.

    load_state_dict(strict=False) fills such a gap with 0 and 1 without a word, and the layer then
    does not normalise. Usual causes: parameters saved without buffers, a filter by
    requires_grad, adapters (PEFT) that forget buffers.

    Criterion: a layer with one statistic and not the other (unless no layer of the file has the
    other, nor a batch counter), with num_batches_tracked and neither, or with statistics of
    different lengths or of no channel; a module that says it tracks statistics and has none; and,
    where the file has names only, a weight and bias that by the file's own pattern belong to a
    BatchNorm: four times as many of that name (numbers apart) have statistics as have none, or two
    of these hold: at least as many have them as not, it is called bn, it is behind a convolution
    without bias of as many channels.

    Fix: save the whole state dict. `recalibrate` writes no tensors that a file lacks; where they
    are lost, bncheck.recalibrate in Python measures them.
    """
    by_design = _missing_everywhere(network)
    for layer in network.layers:
        if layer.missing and layer.missing != by_design:
            names = " and ".join(layer.missing)
            yield self.finding(
                Severity.ERROR, layer.name, f"has no {names}", _FIX, missing=list(layer.missing)
            )
        elif layer.sizes_differ:
            yield self.finding(
                Severity.ERROR,
                layer.name,
                "has running means and variances of different lengths",
                _FIX,
            )
        elif layer.tracked and not layer.channels:
            yield self.finding(
                Severity.ERROR, layer.name, "has running statistics without any channel", _FIX
            )
    if not network.knows_modules:
        for name in _bare_batchnorms(network):
            yield self.finding(
                Severity.ERROR,
                name,
                "has a weight and bias like the BatchNorm layers around it, but neither "
                "running_mean nor running_var",
                _FIX,
                missing=["running_mean", "running_var"],
            )


def _missing_everywhere(network: Network) -> tuple[str, ...]:
    """The one statistic that no layer of the file has: not lost, but never kept.

    EvoNorm-B keeps only a running variance, mean-only BatchNorm only a mean.
    """
    missing = {layer.missing for layer in network.layers if layer.tracked}
    counted = any(layer.batches is not None for layer in network.layers)
    return missing.pop() if len(network.tracked) > 1 and len(missing) == 1 and not counted else ()


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _bare_batchnorms(network: Network) -> list[str]:
    """Layers without statistics that the file's own pattern says are BatchNorms.

    Hybrids give their LayerNorms the names of their BatchNorms (CoAtNet's norm1), so a name that
    others have, too, is not enough by itself.
    """
    listed = {layer.name for layer in network.layers}
    bare = {name: size for name, size in _affine_pairs(network) if name not in listed}
    if not bare or not network.tracked:
        return []
    tracked = Counter(_pattern(layer.name) for layer in network.tracked)
    patterns = Counter(map(_pattern, bare))
    convs = _convs_without_bias(network)
    found = []
    for name, channels in bare.items():
        parent, own_name = split_name(name)
        named_bn = bool(_SAYS_BATCHNORM.search(own_name))
        after_conv = (parent, channels) in convs
        with_statistics, without = tracked[_pattern(name)], patterns[_pattern(name)]
        signs = named_bn + after_conv + (with_statistics >= without)
        if signs >= 2 or with_statistics >= _NEARLY_ALL * without:
            found.append(name)
    return found


def _affine_pairs(network: Network) -> Iterator[tuple[str, int]]:
    """Weight and bias vectors of one length: the owner's name, the length."""
    for owner, shape in network.weights:
        if len(shape) == 1 and network.shapes.get(f"{owner}.bias") == shape:
            yield owner, shape[0]


def _convs_without_bias(network: Network) -> set[tuple[str, int]]:
    """(parent, output channels) of every convolution without bias, which wants a norm behind it."""
    return {
        (split_name(owner)[0], shape[0])
        for owner, shape in network.weights
        if len(shape) >= 3 and f"{owner}.bias" not in network.shapes
    }
