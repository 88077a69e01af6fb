"""Every static rule: planted cases, thresholds from both sides, silence where it is right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import bncheck
from bncheck.core.thresholds import Thresholds
from bncheck.layers.norm_layer import Origin, Setting
from bncheck.reading.kinds import NormKind
from bncheck.rules.file_rules import FILE_RULES
from bncheck.rules.registry import RULES
from tests.networks import ASSUMED_MOMENTUM, SAMPLES, codes, findings, healthy_layer, network


def zeros(channels: int = 8) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.zeros(channels, np.float32)


def ones(channels: int = 8) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ones(channels, np.float32)


OTHER = healthy_layer("other", seed=1)
GOOD = healthy_layer("bn")
FRESH = replace(GOOD, mean=zeros(), var=ones(), batches=0.0)
UNTRAINED = replace(FRESH, weight=ones(), bias=zeros())


def with_var(index: int, value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    assert GOOD.var is not None
    var = GOOD.var.astype(np.float32)
    var[index] = value
    return var


def with_weight(index: int, value: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    assert GOOD.weight is not None
    weight = GOOD.weight.astype(np.float32)
    weight[index] = value
    return weight


def test_a_healthy_network_gives_no_finding() -> None:
    assert codes(network(GOOD, OTHER)) == set()


#: (what is planted, the damaged layer, what must be found at it; nothing else may be)
PLANTED: list[tuple[str, Any, set[tuple[str, str]]]] = [
    ("BN101 affine trained", FRESH, {("BN101", "error")}),
    ("BN101 neighbours have statistics", UNTRAINED, {("BN101", "error")}),
    (
        "BN101 never written",
        replace(GOOD, mean=zeros(), var=zeros()),
        {("BN101", "error"), ("BN109", "info"), ("BN110", "info")},
    ),
    ("BN102 NaN mean", replace(GOOD, mean=with_var(2, np.nan)), {("BN102", "error")}),
    ("BN102 infinite variance", replace(GOOD, var=with_var(2, np.inf)), {("BN102", "error")}),
    ("BN102 NaN weight", replace(GOOD, weight=with_weight(0, np.nan)), {("BN102", "error")}),
    *(
        (f"eps {eps}", replace(GOOD, eps=Setting(eps, Origin.FILE)), {(rule, "error")})
        for eps, rule in (
            (float("nan"), "BN102"),
            (float("-inf"), "BN102"),
            (-1.0, "BN103"),
        )
    ),
    ("BN103", replace(GOOD, var=with_var(3, -1e-6)), {("BN103", "error")}),
    ("BN104 no variance", replace(GOOD, var=None, missing=("running_var",)), {("BN104", "error")}),
    (
        "BN104 neither",
        replace(GOOD, mean=None, var=None, missing=("running_mean", "running_var")),
        {("BN104", "error")},
    ),
    ("BN118 variance at 1", replace(GOOD, var=ones()), {("BN118", "error")}),
    ("BN118 mean at 0", replace(GOOD, mean=zeros()), {("BN118", "error")}),
    ("BN104 two lengths", replace(GOOD, var=ones(7)), {("BN104", "error")}),
    ("BN106 zero", replace(GOOD, batches=0.0), {("BN106", "info")}),
    ("BN106 fraction", replace(GOOD, batches=7.5), {("BN106", "info")}),
    ("BN106 NaN", replace(GOOD, batches=float("nan")), {("BN106", "info")}),
    ("BN106 none", replace(GOOD, batches=None), {("BN106", "info")}),
    (
        "BN106 contradiction",
        replace(GOOD, batches=1.0, var=ones() * 0.5),
        {("BN106", "info"), ("BN107", "info")},
    ),
    ("BN107 doubled", replace(GOOD, batches=20_000.0), {("BN107", "warning")}),
    ("BN107 other ratio", replace(GOOD, batches=15_000.0), {("BN107", "info")}),
    ("BN107 one step apart", replace(GOOD, batches=10_001.0), set()),
    (
        "BN108 half",
        replace(GOOD, mean=zeros().astype(np.float16) + np.float16(0.5)),
        {("BN108", "info")},
    ),
    (
        "BN108 saturated",
        replace(GOOD, mean=np.full(8, 65504, np.float16)),
        {("BN108", "warning")},
    ),
    (
        "BN108 bf16, small momentum",
        replace(
            GOOD,
            mean=(ones() * 5).astype(ml_dtypes.bfloat16),
            momentum=Setting(0.01, Origin.FILE),
        ),
        {("BN108", "warning")},
    ),
    (
        "BN108 bf16, small momentum assumed",
        replace(
            GOOD,
            mean=(ones() * 5).astype(ml_dtypes.bfloat16),
            momentum=Setting(0.01, Origin.ASSUMED),
        ),
        {("BN108", "info")},
    ),
    ("BN108 double", replace(GOOD, mean=zeros().astype(np.float64) + 0.5), set()),
    (
        "BN109, whose gain is eps's doing",
        replace(GOOD, var=with_var(1, 1e-12)),
        {("BN109", "info"), ("BN110", "info")},
    ),
    (
        "BN110 spread",
        replace(GOOD, weight=with_weight(4, 500.0)),
        {("BN110", "info")},
    ),
    ("BN110 just within", replace(GOOD, weight=ones() * 3, var=ones() * 1.01), set()),
    ("BN111 one channel", replace(GOOD, weight=with_weight(5, 1e-4)), {("BN111", "info")}),
    ("BN111 all zero", replace(GOOD, weight=zeros()), {("BN111", "info")}),
    (
        "BN112 TensorFlow's",
        replace(GOOD, momentum=Setting(0.99, Origin.FILE)),
        {("BN112", "error")},
    ),
    ("BN112 large", replace(GOOD, momentum=Setting(0.5, Origin.FILE)), {("BN112", "warning")}),
    ("BN112 below", replace(GOOD, momentum=Setting(0.49, Origin.FILE)), set()),
    ("BN112 assumed", replace(GOOD, momentum=Setting(0.9, Origin.ASSUMED)), set()),
    ("BN112 cumulative", replace(GOOD, momentum=Setting(None, Origin.FILE)), set()),
    ("BN114", replace(GOOD, var=ones() * 5e-3), {("BN114", "info")}),
    (
        "BN115",
        replace(GOOD, weight=ones(), bias=np.array([-3.1] + [0.1] * 7, np.float32)),
        {("BN115", "info")},
    ),
    ("BN115 at the edge", replace(GOOD, weight=ones(), bias=-2.9 * ones()), set()),
    (
        "BN116",
        replace(GOOD, mean=None, var=None, batches=None, tracks_statistics=False),
        {("BN116", "info")},
    ),
    (
        "GroupNorm is not a BatchNorm without statistics",
        replace(GOOD, mean=None, var=None, batches=None, kind=NormKind.GROUP),
        set(),
    ),
    ("BN119 one weight for two channels each", replace(GOOD, weight=ones(4)), {("BN119", "info")}),
    ("BN119 one weight for all channels", replace(GOOD, weight=ones(1)), set()),
    (
        "BN104 of no channel",
        replace(GOOD, mean=zeros(0), var=zeros(0), weight=None, bias=None),
        {("BN104", "error")},
    ),
    ("BN401 in a module", replace(GOOD, training=True), {("BN401", "info")}),
]


@pytest.mark.parametrize(
    ("layer", "expected"), [c[1:] for c in PLANTED], ids=[c[0] for c in PLANTED]
)
def test_a_planted_fault_is_found_at_its_layer_and_nothing_else(
    layer: Any, expected: set[tuple[str, str]]
) -> None:
    third = healthy_layer("third", seed=2)
    assert codes(network(OTHER, layer, third)) == {(r, s, "bn") for r, s in expected}


def test_every_rule_is_planted() -> None:
    elsewhere = {"BN105", "BN113", "BN117"}  # they need a formula, an option, weights: test_means
    elsewhere |= {"BN120", "BN121", "BN122"}  # other norms: test_other_norms
    planted = {rule for _, _, expected in PLANTED for rule, _ in expected}
    assert planted | elsewhere == {rule.code for rule in FILE_RULES}


def test_an_untrained_network_is_one_info() -> None:
    assert codes(network(UNTRAINED, replace(UNTRAINED, name="b"))) == {("BN101", "info", None)}


def warmed(batches: int, momentum: float, origin: Origin = Origin.FILE) -> Any:
    """A layer as `batches` updates with the true moments leave it: w0 of it is still initial."""
    layer = healthy_layer("bn")
    assert layer.statistics is not None
    mean, var = layer.statistics
    w0 = (1 - momentum) ** batches
    return replace(
        layer,
        mean=(mean * (1 - w0)).astype(np.float32),
        var=(var * 0.1 * (1 - w0) + w0).astype(np.float32),
        batches=float(batches),
        momentum=Setting(momentum, origin),
    )


@pytest.mark.parametrize("momentum", [0.1, 0.01])
def test_under_warmed_statistics_are_found_and_their_w2_is_what_the_warm_ones_would_say(
    momentum: float,
) -> None:
    """The prediction equals W2 against the true moments, from which the layer was made."""
    steps = int(np.log(0.5) / np.log(1 - momentum))  # half of the average is initial
    layer = warmed(steps, momentum)
    (found,) = [f for f in findings(network(layer)) if f.rule == "BN105"]
    true = healthy_layer("bn").statistics
    assert true is not None
    sigma = np.sqrt(layer.var.astype(np.float64) + 1e-5)
    d = (true[0] - layer.mean) / sigma
    r = np.sqrt(true[1] * 0.1 + 1e-5) / sigma
    w2 = float(np.sqrt(np.mean(d**2 + (r - 1) ** 2)))
    assert found.evidence["w2"] == pytest.approx(w2, rel=1e-5)
    assert found.severity.value == ("error" if w2 >= 0.4 else "warning")


def test_under_warmed_is_only_info_where_momentum_is_assumed_and_silent_when_warm() -> None:
    assert ("BN105", "info", "bn") in codes(network(warmed(5, 0.1, Origin.ASSUMED)))
    assert not [c for c in codes(network(warmed(200, 0.1))) if c[0] == "BN105"]


def test_a_counter_that_one_layer_disproves_is_not_believed_in_the_others() -> None:
    """A port writes the same small counter everywhere; one low variance exposes it."""
    impossible = healthy_layer("a", var=np.full(8, 0.1, np.float32), batches=3.0)
    suspicious = replace(warmed(3, 0.1), name="b")
    assert not [c for c in codes(network(impossible, suspicious)) if c[0] == "BN105"]


@pytest.mark.parametrize(
    ("momentum", "batch", "severity"),
    [(0.1, 2, "none"), (0.2, 2, "warning"), (0.9, 4, "error"), (0.1, 8, "none"), (1.0, 4, "error")],
)
def test_noisy_configuration(momentum: float, batch: int, severity: str) -> None:
    setting = Setting(momentum, Origin.OPTION)
    layers = [replace(GOOD, momentum=setting), replace(OTHER, momentum=setting)]
    found = {c for c in codes(network(*layers, train_batch_size=batch)) if c[0] == "BN113"}
    assert found == (set() if severity == "none" else {("BN113", severity, None)})


def test_noisy_configuration_needs_a_known_momentum() -> None:
    layer = replace(GOOD, momentum=ASSUMED_MOMENTUM)
    assert not codes(network(layer, train_batch_size=1))


@pytest.mark.parametrize(("given", "model"), [(1e-5, 1e-3), (None, 1e-3)])
def test_eps_of_the_model_against_file_and_option(given: float | None, model: float) -> None:
    file = SAMPLES / ("healthy.pt" if given else "healthy-module.pt")
    nets = f"{SAMPLES / 'nets.py'}:DigitNet"
    report = bncheck.inspect(file, model=nets, model_args=[f"eps={model}"], eps=given)
    found = [f for f in report.findings if f.rule == "BN114"]
    assert [f.severity.value for f in found] == ["warning"] * 4
    assert all(f.evidence["eps"] == model and f.evidence["expected"] == 1e-5 for f in found)
    same = bncheck.inspect(file, model=nets, model_args=["eps=1e-5"], eps=given)
    assert all(f.severity.value == "info" for f in same.findings if f.rule == "BN114")


def test_eps_of_the_file_against_the_expected_one() -> None:
    assert codes(network(GOOD, eps=1e-3)) == {("BN114", "warning", "bn")}
    assert codes(network(GOOD, eps=1e-5)) == set()


def test_no_counter_anywhere_is_said_once() -> None:
    layers = [replace(GOOD, batches=None), replace(OTHER, batches=None)]
    assert codes(network(*layers)) == {("BN106", "info", None)}
    assert codes(network(*layers, counts_batches=False)) == set()


def test_training_mode_in_a_program_is_an_error() -> None:
    training = replace(GOOD, training=True)
    assert codes(network(training, OTHER, is_program=True)) == {("BN401", "error", "bn")}


def test_momentum_in_an_inference_graph_is_a_leftover() -> None:
    layer = replace(GOOD, momentum=Setting(0.9, Origin.FILE))
    assert codes(network(layer, OTHER, is_program=True, counts_batches=False)) == set()


CONV = {"layer1.0.conv1.weight": (8, 3, 3, 3)}
PAIR = {"layer1.0.bn1.weight": (8,), "layer1.0.bn1.bias": (8,)}


@pytest.mark.parametrize(
    ("shapes", "tracked", "expected"),
    [
        pytest.param(CONV | PAIR, ["layer2.0.bn1"], ["layer1.0.bn1"], id="named like others"),
        pytest.param(CONV | PAIR, ["stem"], ["layer1.0.bn1"], id="called bn behind a conv"),
        pytest.param(CONV | PAIR, [], [], id="a file without any statistics has no pattern"),
        pytest.param(PAIR, ["stem"], [], id="called bn alone is not enough"),
        pytest.param(
            {"f.0.weight": (8, 3, 3, 3), "f.1.weight": (8,), "f.1.bias": (8,)},
            ["f.4"],
            ["f.1"],
            id="Sequential: behind a conv and numbered like others",
        ),
        pytest.param(
            {"f.0.weight": (8, 3, 3, 3), "f.0.bias": (8,), "f.1.weight": (8,), "f.1.bias": (8,)},
            ["f.4"],
            [],
            id="behind a conv that has its own bias: LayerNorm of a ConvNeXt",
        ),
        pytest.param(
            {f"s.{i}.norm1.{t}": (8,) for i in range(5) for t in ("weight", "bias")},
            ["s.9.norm1"],
            [],
            id="LayerNorms that share a hybrid's names are the majority",
        ),
    ],
)
def test_layers_whose_buffers_a_file_lost(
    shapes: dict[str, tuple[int, ...]], tracked: list[str], expected: list[str]
) -> None:
    layers = [healthy_layer(name, seed=index) for index, name in enumerate(tracked)]
    found = codes(network(*layers, shapes=shapes, knows_modules=False))
    assert found == {("BN104", "error", name) for name in expected}
    assert codes(network(*layers, shapes=shapes)) == set()  # a file with modules is not guessed at


def test_a_statistic_that_no_layer_keeps_is_not_missing() -> None:
    """timm's EvoNorm2dB0 has a running_var and no running_mean."""
    lone = [
        replace(GOOD, name=n, mean=None, batches=None, missing=("running_mean",))
        for n in ("a", "b")
    ]
    found = {("BN104", "error", "a"), ("BN104", "error", "b")}
    assert not {c for c in codes(network(*lone)) if c[0] == "BN104"}
    assert found <= codes(network(*lone, OTHER))
    assert found <= codes(network(*(replace(layer, batches=9.0) for layer in lone)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_rule_explains_itself(rule: Any) -> None:
    assert rule.summary.endswith(".")
    assert "Criterion:" in rule.explanation
    assert "Fix:" in rule.explanation
    assert [r.code for r in RULES] == sorted(r.code for r in RULES)


def test_zeros_in_half_precision_may_be_a_dead_layer() -> None:
    half = zeros().astype(np.float16)
    found = codes(network(replace(GOOD, mean=half, var=half), OTHER))
    assert "BN101" not in {code for code, _, _ in found}


def test_a_network_of_scales_and_shifts_without_counters_may_be_so_by_design() -> None:
    frozen = replace(FRESH, batches=None)
    assert ("BN101", "info", None) in codes(network(frozen, replace(frozen, name="b")))
    counted = replace(frozen, name="b", batches=7.0)
    assert ("BN101", "error", "b") in codes(network(frozen, counted))
    assert ("BN101", "error", "bn") in codes(network(frozen, OTHER))


def test_a_small_share_that_matters_is_not_called_0_percent() -> None:
    layer = replace(warmed(60, 0.1), var=np.full(8, 2e-3, np.float32))
    (found,) = [f for f in findings(network(layer)) if f.rule == "BN105"]
    assert "so 0.18% of its running average" in found.message


def test_a_w2_is_written_on_its_side_of_the_limits() -> None:
    written = [Thresholds().written(w2) for w2 in (0.12, 0.197, 0.2, 0.204, 0.39961, float("nan"))]
    assert written == ["0.12", "0.197", "0.20", "0.20", "0.3996", "nan"]
