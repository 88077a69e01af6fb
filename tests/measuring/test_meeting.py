"""Ranks that do not come together, and an environment that names no place."""

from __future__ import annotations

import pytest

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.measuring.distributed import launched_processes
from bncheck.measuring.place import Place
from tests.measuring.test_distributed import free_ports

PLACE = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched_processes(60) as processes:
        assert (processes.rank, processes.size) == (0, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("RANK", value) for value in ("", "x", "2", "-1", "1.0", "²")),
        *(("WORLD_SIZE", value) for value in ("x", "0", "-2")),
        *(("MASTER_PORT", value) for value in ("", "x", "0", "65536")),
        ("MASTER_ADDR", ""),
    ],
)
def test_an_environment_that_names_no_place_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, said in {**PLACE, name: value}.items():
        monkeypatch.setenv(variable, said)
    with pytest.raises(BncheckError, match=name) as caught:
        Place.from_environment()
    assert "torchrun" in caught.value.hint


@pytest.mark.parametrize(
    ("rank", "sentence"), [("0", "rank 1 did not join within 0.3 s"), ("1", "rank 0 was not found")]
)
def test_a_rank_that_is_alone_names_the_other(
    rank: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    for variable, said in {**PLACE, "RANK": rank, "MASTER_PORT": port}.items():
        monkeypatch.setenv(variable, said)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with pytest.raises(BncheckError, match=sentence), launched_processes(0.3):
        pass


@pytest.mark.parametrize("timeout", ["nan", "inf", "-1", "0", "1e12", "soon"])
def test_a_timeout_that_is_not_a_number_of_seconds_is_refused(
    timeout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", "any.pt", "--timeout", timeout]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--timeout" in line
