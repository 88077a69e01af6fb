"""What `drift` says of series with one planted fault each, and of a sound one: nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bncheck.core.errors import BncheckError
from bncheck.drifting.command import DriftOptions, drift
from bncheck.drifting.report import DriftReport
from bncheck.reporting.documents.drift import sentences
from tests.drifting.planted import SNAPSHOTS, State, changed, loaded, write
from tests.networks import REAL

REAL_SNAPSHOTS = sorted((REAL / "snapshots").glob("*.pth"))


def found(report: DriftReport) -> set[tuple[str, str | None]]:
    return {(finding.rule, finding.layer) for finding in report.findings}


def test_a_sound_training_has_no_findings_and_settles() -> None:
    report = drift(SNAPSHOTS, DriftOptions())
    assert (report.findings, report.notes, report.errors) == ((), (), ())
    assert report.verdict == "settled"
    assert [s.label for s in report.movement.snapshots][:2] == ["epoch 1", "epoch 2"]
    assert [s.position for s in report.movement.snapshots] == [44, 88, 176, 352, 616, 880]


def test_a_jump_is_found_with_the_snapshot_before_it(tmp_path: Path) -> None:
    def jump(place: int, state: State) -> None:
        if place >= 4:
            state["bn2.running_mean"] += 3 * state["bn2.running_var"].sqrt()

    report = drift(changed(tmp_path, jump), DriftOptions())
    assert found(report) == {("BN304", "bn2")}
    (finding,) = report.findings
    assert finding.evidence["before"] == str(tmp_path / "epoch-008.pt")
    assert "epoch 8 to epoch 14" in finding.message


def test_frozen_parameters_with_moving_statistics(tmp_path: Path) -> None:
    first = loaded()[0]["state_dict"]

    def freeze(place: int, state: State) -> None:
        for name in ("bn1.weight", "bn1.bias"):
            state[name] = first[name]

    assert found(drift(changed(tmp_path, freeze), DriftOptions())) == {("BN301", "bn1")}


def test_transfer_learning_in_which_only_the_head_trains(tmp_path: Path) -> None:
    """No parameter of any normalisation layer moves, but some other weight does."""
    first = loaded()[0]["state_dict"]

    def freeze(place: int, state: State) -> None:
        for name in state:
            if "running" not in name and not name.startswith("fc2"):
                state[name] = first[name]

    layers = ("bn1", "bn2", "bn3", "bn4")
    report = drift(changed(tmp_path, freeze), DriftOptions())
    assert found(report) == {("BN301", layer) for layer in layers}


def test_recalibration_alone_is_not_a_fault(tmp_path: Path) -> None:
    first = loaded()[0]["state_dict"]

    def freeze(place: int, state: State) -> None:
        for name in state:
            if "running" not in name:
                state[name] = first[name]

    assert found(drift(changed(tmp_path, freeze), DriftOptions())) == set()


def test_momentum_0_leaves_all_statistics_where_they_were(tmp_path: Path) -> None:
    def never(place: int, state: State) -> None:
        for name, tensor in state.items():
            if name.endswith("running_mean"):
                tensor.zero_()
            if name.endswith("running_var"):
                tensor.fill_(1)

    report = drift(changed(tmp_path, never), DriftOptions())
    assert found(report) == {("BN302", f"bn{number}") for number in (1, 2, 3, 4)}


def test_a_layer_that_is_frozen_altogether_is_said_and_no_fault(tmp_path: Path) -> None:
    from bncheck.reporting.documents.drift import sentences

    first = loaded()[0]["state_dict"]

    def freeze(place: int, state: State) -> None:
        state.update({name: first[name] for name in state if name.startswith("bn3.")})

    report = drift(changed(tmp_path, freeze), DriftOptions())
    assert found(report) == set()
    assert "frozen throughout, parameters and statistics: bn3" in sentences(report)


def test_names_in_the_wrong_order_are_said_and_the_steps_decide(tmp_path: Path) -> None:
    names = [path.name for path in SNAPSHOTS]
    names[2], names[3] = names[3], names[2]
    report = drift(write(tmp_path, loaded(), names), DriftOptions())
    assert [s.epoch for s in report.movement.snapshots] == [1, 2, 4, 8, 14, 20]
    (note,) = report.notes
    assert "epoch-004.pt before" in note
    by_name = drift(write(tmp_path, loaded(), names), DriftOptions(order="name"))
    assert [s.epoch for s in by_name.movement.snapshots] == [1, 2, 8, 4, 14, 20]
    assert "counters fall from 352" in by_name.notes[0]


def test_without_steps_names_order_and_counters_contradict(tmp_path: Path) -> None:
    states = [content["state_dict"] for content in loaded()]
    states[2], states[3] = states[3], states[2]
    names = [f"model_{number}.pt" for number in (1, 2, 9, 10, 11, 100)]
    report = drift(write(tmp_path, states, names)[::-1], DriftOptions())
    assert [s.label for s in report.movement.snapshots] == ["1", "2", "9", "10", "11", "100"]
    (note,) = report.notes
    assert "model_9.pt" in note
    assert "model_10.pt" in note


def test_a_copy_is_said(tmp_path: Path) -> None:
    files = loaded()
    files[3] = files[2]
    (note,) = drift(write(tmp_path, files), DriftOptions()).notes
    assert f"{tmp_path / 'epoch-008.pt'} is a copy of {tmp_path / 'epoch-004.pt'}" in note


def test_several_copies_are_one_line(tmp_path: Path) -> None:
    files = loaded()
    files[3] = files[4] = files[5] = files[2]
    (note,) = drift(write(tmp_path, files), DriftOptions()).notes
    assert note.startswith("3 snapshots are copies of earlier ones, such as ")


def test_reading_and_measuring_are_told_apart(tmp_path: Path) -> None:
    read: list[tuple[int, int]] = []
    measured: list[tuple[int, int]] = []
    options = DriftOptions(
        read=lambda *told: read.append(told), measured=lambda *told: measured.append(told)
    )
    drift(write(tmp_path, loaded()), options)
    assert read == [(number, 6) for number in range(1, 7)]
    assert measured == []


def test_another_width_names_both_files_and_the_layer(tmp_path: Path) -> None:
    def widen(place: int, state: State) -> None:
        if place == 3:
            for name in ("weight", "bias", "running_mean", "running_var"):
                state[f"bn2.{name}"] = torch.ones(25)

    paths = changed(tmp_path, widen)
    with pytest.raises(BncheckError) as caught:
        drift(paths, DriftOptions())
    text = str(caught.value)
    assert "layer bn2 has 25 channels, and 24 in" in text
    assert str(paths[0]) in text
    assert str(paths[3]) in text


def test_a_reference_of_another_width_names_both(tmp_path: Path) -> None:
    state = loaded()[0]["state_dict"]
    state["bn1.running_mean"], state["bn1.running_var"] = torch.zeros(5), torch.ones(5)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(BncheckError, match="bn1 has 5 channels, and 12 in"):
        drift(SNAPSHOTS, DriftOptions(reference=str(tmp_path / "other.pt")))


def test_a_truncated_snapshot_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    paths = write(tmp_path, loaded())
    paths[1].write_bytes(paths[1].read_bytes()[:20_000])
    report = drift(paths, DriftOptions())
    assert len(report.movement.snapshots) == 5
    (error,) = report.errors
    assert error.subject == str(paths[1])
    assert report.to_dict()["errors"] != []


def test_ranks_that_disagree(tmp_path: Path) -> None:
    state = loaded()[5]["state_dict"]
    other = {name: tensor.clone() for name, tensor in state.items()}
    names = ["step-10-rank0.pt", "step-10-rank1.pt"]
    report = drift(write(tmp_path, [state, other], names), DriftOptions())
    assert found(report) == set()
    other["bn3.running_var"] *= 2
    report = drift(write(tmp_path, [state, other], names), DriftOptions())
    assert found(report) == {("BN303", "bn3")}
    assert len(report.movement.snapshots) == 1


def test_a_layer_full_of_nan_is_null_and_said(tmp_path: Path) -> None:
    def poison(place: int, state: State) -> None:
        if place == 2:
            state["bn1.running_mean"][0] = torch.nan

    report = drift(changed(tmp_path, poison), DriftOptions())
    w2 = report.to_dict()["w2"]
    assert isinstance(w2, list)
    assert w2[0][2] is None
    assert w2[1][2] is not None
    assert "no usable statistics in layer bn1" in report.notes[0]


def test_a_training_that_ends_in_nan_is_compared_with_the_last_before_it(tmp_path: Path) -> None:
    def poison(place: int, state: State) -> None:
        if place >= 3:
            for name in (f"bn{number}.running_mean" for number in range(1, 5)):
                state[name][0] = torch.nan

    report = drift(changed(tmp_path, poison), DriftOptions())
    assert report.movement.reference.path == tmp_path / "epoch-004.pt"
    assert found(report) == {("BN102", f"bn{number}") for number in range(1, 5)}
    assert all("since epoch 8 (not yet in epoch 4)" in f.message for f in report.findings)


@pytest.mark.parametrize("reference", ["first", "last", "previous", str(SNAPSHOTS[2])])
def test_a_snapshot_is_nothing_away_from_itself(reference: str) -> None:
    report = drift(SNAPSHOTS, DriftOptions(reference=reference))
    w2 = report.movement.grid.w2
    places = {"first": 0, "last": 5, str(SNAPSHOTS[2]): 2}
    if reference == "previous":
        assert report.to_dict()["w2"][0][0] is None  # type: ignore[index]
        assert (w2[:, 1:] > 0).all()
    else:
        assert (w2[:, places[reference]] == 0).all()


@pytest.mark.skipif(not REAL_SNAPSHOTS, reason="the real files are not here")
def test_a_real_training_comes_to_rest() -> None:
    """Eleven snapshots of the ultralight face detector, epochs 0 to 499."""
    report = drift(REAL_SNAPSHOTS, DriftOptions())
    movement = report.movement
    labels = [snapshot.label for snapshot in movement.snapshots]
    assert (labels[0], labels[-1]) == ("epoch000", "epoch499")
    assert [s.position for s in movement.snapshots][-1] == 40_000
    furthest = movement.to_last.max(axis=0)
    assert (furthest[:-1] > furthest[1:]).all()
    assert furthest[0] == movement.to_last.max()
    assert report.findings == ()
    assert all(
        labels[place or 0] in ("epoch240", "epoch320", "epoch400") for place in movement.settled
    )


def test_statistics_that_are_lost_at_the_end_are_not_settled(tmp_path: Path) -> None:
    def spoil(place: int, state: State) -> None:
        if place >= first:
            for name in layers:
                state[f"{name}.running_var"].fill_(math.nan)

    first = len(SNAPSHOTS) - 1
    layers = ["bn2"]
    report = drift(changed(tmp_path, spoil), DriftOptions())
    assert report.verdict == "broken"
    assert found(report) == {("BN102", "bn2")}
    assert any("bn2" in line and "usable" in line for line in sentences(report))
    layers = ["bn1", "bn2", "bn3", "bn4"]
    report = drift(changed(tmp_path, spoil), DriftOptions())
    assert report.verdict == "broken"
    assert found(report) == {("BN102", name) for name in layers}
    first = 0
    with pytest.raises(BncheckError, match="no layer with usable statistics"):
        drift(changed(tmp_path, spoil), DriftOptions())


@pytest.mark.parametrize("whole", [True, False])
def test_a_layer_that_the_last_snapshot_lacks_is_missing_statistics(
    tmp_path: Path, whole: bool
) -> None:
    def drop(place: int, state: State) -> None:
        if place == len(SNAPSHOTS) - 1:
            for name in [n for n in state if n.startswith("bn2." if whole else "bn2.running")]:
                del state[name]

    paths = changed(tmp_path, drop)
    report = drift(paths, DriftOptions())
    assert (found(report), report.verdict) == ({("BN104", "bn2")}, "broken")
    ignoring = drift(paths, DriftOptions(ignore=["BN104"]))
    assert (found(ignoring), ignoring.verdict) == (set(), "settled")
    assert found(drift(paths[::-1], DriftOptions(order="given"))) == set()


def test_a_name_without_a_number_contradicts_no_order(tmp_path: Path) -> None:
    files = loaded()
    paths = write(tmp_path, [*files[:5], files[5]], [*[p.name for p in SNAPSHOTS[:5]], "a.pt"])
    assert not [note for note in drift(paths, DriftOptions()).notes if "the names" in note]
