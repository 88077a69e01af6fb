"""Checkpoints behind URLs: what is read of them, from whom, and what becomes of failures."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import bncheck
from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.reading import remote
from bncheck.reading.downloading import downloaded
from bncheck.reading.ranges import BLOCK, fetched_file, traffic
from bncheck.reading.remote import Remote, StandardInput, place_of
from tests.planted import SAMPLES
from tests.reading.server import Served, serving

FILES = (
    "healthy.pt", "healthy.safetensors", "healthy.onnx", "healthy.pt2", "healthy-legacy.pth",
    "healthy-module.pt", "healthy-torchscript.pt", "healthy-sharded/model.safetensors.index.json",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept of another test, and no test waits."""
    fetched_file.cache_clear()
    remote.info_of.cache_clear()
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0, 0.0))


@pytest.mark.parametrize(("parts", "says_so"), [(True, True), (True, False), (False, False)])
def test_every_format_reads_alike_from_afar(parts: bool, says_so: bool) -> None:
    with serving(Served(SAMPLES, parts, says_so)) as served:
        for name in FILES:
            far = bncheck.inspect(f"{served.url}/{name}")
            near = bncheck.inspect(SAMPLES / name)
            assert far.checkpoint is not None
            assert str(far.checkpoint.path) == f"{served.url}/{name}"
            far_, near_ = far.to_dict(), near.to_dict()
            far_.pop("checkpoint"), near_.pop("checkpoint")
            assert far_ == near_


def _large(folder: Path) -> int:
    """A network of 20 MB of weights and some kilobytes of BatchNorm."""
    rng = np.random.default_rng(0)
    tensors = {}
    for place in range(4):
        tensors[f"conv{place}.weight"] = rng.normal(size=(128, 128, 9, 9)).astype(np.float32)
        tensors[f"conv{place}.zbn.running_mean"] = rng.normal(size=128).astype(np.float32)
        tensors[f"conv{place}.zbn.running_var"] = rng.uniform(1, 2, size=128).astype(np.float32)
    save_file(tensors, folder / "large.safetensors")
    return (folder / "large.safetensors").stat().st_size


def test_of_a_large_file_headers_and_norms_alone_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = _large(tmp_path)
    with serving(Served(tmp_path)) as served:
        url = f"{served.url}/large.safetensors"
        assert run(["inspect", url]) == 0
        fetched, whole = traffic(Remote(url))
        assert whole == size
        assert fetched <= 12 * BLOCK < size / 20
        said = capsys.readouterr().err
        assert f"{url}: read {fetched / 1e6:.1f} MB of {size / 1e6:.1f} MB" in said
        ranges = [parts for _, parts in served.requests if parts]
        assert len(ranges) <= 10
        before = len(served.requests)
        bncheck.inspect(url)  # kept for the run
        assert len(served.requests) == before


def test_what_passes_is_tried_again_and_what_does_not_is_a_line() -> None:
    with serving(Served(SAMPLES, failures=3)) as served:
        assert bncheck.inspect(f"{served.url}/healthy.pt").summary.verdict.value == "healthy"
        remote.info_of.cache_clear()
        fetched_file.cache_clear()
        served.failures = 99
        with pytest.raises(BncheckError, match=r"cannot be reached .*503"):
            bncheck.inspect(f"{served.url}/healthy.pt")
        served.failures = 0
        with pytest.raises(BncheckError, match="does not exist there"):
            bncheck.inspect(f"{served.url}/absent.pt")
        with pytest.raises(BncheckError, match="may not be read"):
            bncheck.inspect(f"{served.url}/forbidden")
    with pytest.raises(BncheckError, match="cannot be reached"):
        bncheck.inspect("http://127.0.0.1:9/x.pt")


def test_no_redirect_leads_to_a_file_and_no_index_out_of_its_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    save_file({"bn.running_mean": np.zeros(2)}, secret)
    served_folder = tmp_path / "served"
    served_folder.mkdir()
    for name in ("../secret.safetensors", str(secret), "http://127.0.0.1:9/x", "file:///x"):
        index = {"weight_map": {"bn.running_mean": name}}
        (served_folder / "model.safetensors.index.json").write_text(json.dumps(index))
        fetched_file.cache_clear()
        remote.info_of.cache_clear()
        with serving(Served(served_folder)) as served:
            with pytest.raises(BncheckError):
                bncheck.inspect(f"{served.url}/model.safetensors.index.json")
            asked = {place for place, _ in served.requests}
            assert all(place.startswith("/model") or "x" in place for place in asked)
            with pytest.raises(BncheckError, match="cannot be reached"):
                bncheck.inspect(f"{served.url}/to/file://{secret}")


@pytest.mark.parametrize("name", ["%2e%2e/secret.safetensors", "a?b", "a#b"])
def test_no_name_in_an_index_steers_a_url(name: str, tmp_path: Path) -> None:
    index = {"weight_map": {"bn.running_mean": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    remote.info_of.cache_clear()
    with serving(Served(tmp_path)) as served:
        with pytest.raises(BncheckError, match="would steer a URL"):
            bncheck.inspect(f"{served.url}/model.safetensors.index.json")
        assert {place for place, _ in served.requests} == {"/model.safetensors.index.json"}


@pytest.fixture
def _memory() -> None:
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True) if store.exists("/bucket") else None
    for path in (SAMPLES / "healthy-sharded").iterdir():
        store.pipe(f"/bucket/net/{path.name}", path.read_bytes())
    for path in (SAMPLES / "healthy-distributed").iterdir():
        store.pipe(f"/bucket/ranks/{path.name}", path.read_bytes())
    for name in ("stale.pt", "healthy.onnx"):
        store.pipe(f"/bucket/{name}", (SAMPLES / name).read_bytes())


@pytest.mark.usefixtures("_memory")
def test_folders_and_patterns_of_a_store(capsys: pytest.CaptureFixture[str]) -> None:
    for folder, container in (("net", "hf-directory"), ("ranks", "distributed")):
        report = bncheck.inspect(f"memory://bucket/{folder}")
        assert report.checkpoint is not None
        assert report.checkpoint.container.value == container
        assert len(report.layers) == 4
    assert run(["inspect", "memory://bucket/*.pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"]["path"] == "memory://bucket/stale.pt"
    assert run(["inspect", "memory://bucket"]) == 2
    assert "name a file in it, such as 'healthy.onnx'" in capsys.readouterr().err


@pytest.mark.usefixtures("_memory")
def test_what_needs_the_whole_file_downloads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folded.onnx"
    assert run(["fold", "memory://bucket/healthy.onnx", "-o", str(out), "--json"]) == 0
    assert out.is_file()
    assert "bncheck-" not in "".join(capsys.readouterr())
    with downloaded(place_of("memory://bucket/net")) as folder:
        assert {p.name for p in folder.iterdir()} == {
            p.name for p in (SAMPLES / "healthy-sharded").iterdir()
        }
    with (
        pytest.raises(BncheckError) as caught,
        downloaded(place_of("memory://bucket/stale.pt")) as path,
    ):
        raise BncheckError("is bad", "", str(path))
    assert caught.value.subject == "memory://bucket/stale.pt"
    assert run(["fold", "memory://bucket/absent.pt", "--dry-run"]) == 2
    assert "memory://bucket/absent.pt: does not exist there" in capsys.readouterr().err


def test_what_is_named() -> None:
    assert isinstance(place_of("-"), StandardInput)
    assert place_of("./-") == Path("-")
    assert type(place_of("net.pt")) is type(Path("net.pt"))
    far = place_of("hf://org/name@v1/net.pt")
    assert (str(far), far.name, str(far.parent)) == (
        "hf://org/name@v1/net.pt", "net.pt", "hf://org/name@v1",
    )  # fmt: skip
    assert str(far.parent / "x.json") == "hf://org/name@v1/x.json"
    for word in ("file:///etc/passwd", "ftp://host/x.pt", "simplecache://x", "local:///x"):
        with pytest.raises(BncheckError, match="a URL that bncheck does not read"):
            place_of(word)


def test_a_file_from_afar_is_not_unpickled(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Served(SAMPLES)) as served:
        assert run(["inspect", f"{served.url}/healthy-module.pt", "--trust"]) == 2
    assert "is not unpickled from afar; download it first" in capsys.readouterr().err


def test_a_page_in_the_browser_means_the_file_that_it_shows() -> None:
    meant = {
        "https://huggingface.co/org/net/blob/main/a/x.pt": "https://huggingface.co/org/net/resolve/main/a/x.pt",
        "https://huggingface.co/org/net/resolve/main/x.pt": None,
        "https://huggingface.co/org/net": "hf://org/net",
        "https://huggingface.co/org/net/tree/v1.0": "hf://org/net@v1.0",
        "https://github.com/a/b/blob/main/x.pt?raw=true": "https://github.com/a/b/raw/main/x.pt",
        "https://example.org/a/b/blob/main/x.pt": None,
    }
    for page, file in meant.items():
        assert str(place_of(page)) == (file or page)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("org/net", "hf://org/net"),
        ("huggingface.co/org/net", "write https://huggingface.co/org/net"),
        ("runs/net.pt", "check the path"),
        ("https://", "names nothing"),
    ],
)
def test_what_may_be_meant_is_said(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", word]) == 2
    assert capsys.readouterr().err.rstrip().endswith(hint) or hint == "names nothing"


def test_a_gate_reads_what_the_configuration_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Served(SAMPLES)) as served:
        (tmp_path / "pyproject.toml").write_text(
            f'[tool.bncheck.models.net]\ncheckpoint = "{served.url}/nan.pt"\n'
        )
        assert run(["gate", "--config", str(tmp_path / "pyproject.toml"), "--json"]) == 1
        out, err = capsys.readouterr()
        assert json.loads(out)["models"][0]["reports"][0]["checkpoint"]["path"] == (
            f"{served.url}/nan.pt"
        )
        assert f"{served.url}/nan.pt: read " in err
        assert run(["inspect", f"{served.url}/nan.pt", "--format", "sarif"]) == 1
        assert f'"uri": "{served.url}/nan.pt"' in capsys.readouterr().out


def test_a_server_that_sends_without_end_is_cut_off() -> None:
    with serving(Served(SAMPLES, floods=True)) as served:
        url = f"{served.url}/healthy.pt"
        with pytest.raises(BncheckError, match="gives other bytes than were asked for"):
            bncheck.inspect(url)
        assert traffic(Remote(url))[0] <= (SAMPLES / "healthy.pt").stat().st_size + 1


@pytest.mark.parametrize("url", ["hf://org", "hf://org/", "hf:///"])
def test_an_owner_alone_is_no_repository(url: str) -> None:
    with pytest.raises(BncheckError, match="write") as caught:
        place_of(url)
    assert "cannot be reached" not in str(caught.value)


def test_a_file_that_changes_between_requests_is_refused() -> None:
    with (
        serving(Served(SAMPLES, changes=True)) as served,
        pytest.raises(BncheckError, match="has changed while it was read"),
    ):
        bncheck.inspect(f"{served.url}/healthy.safetensors")


def _many_layers(folder: Path) -> None:
    """Thirty layers, each in a block of its own."""
    tensors: dict[str, torch.Tensor] = {}
    for place in range(30):
        tensors[f"l{place}.weight"] = torch.randn(64, 64, 9)
        norm = torch.nn.BatchNorm1d(64).state_dict()
        tensors |= {f"l{place}.bn.{name}": value for name, value in norm.items()}
    torch.save(tensors, folder / "many.pt")
    arrays = {name: value.numpy() for name, value in tensors.items()}
    save_file(dict(sorted(arrays.items())), folder / "many.safetensors")


@pytest.mark.parametrize("name", ["many.pt", "many.safetensors"])
def test_pieces_that_are_known_are_fetched_several_at_a_time(name: str, tmp_path: Path) -> None:
    _many_layers(tmp_path)
    with serving(Served(tmp_path, delay=0.01)) as served:
        far = bncheck.inspect(f"{served.url}/{name}").to_dict()
        assert served.most_busy > 2
        assert len(served.requests) < 45
    near = bncheck.inspect(tmp_path / name).to_dict()
    assert far["layers"] == near["layers"]


def test_a_store_is_read_several_pieces_at_a_time(tmp_path: Path) -> None:
    _many_layers(tmp_path)
    store = fsspec.filesystem("memory")
    store.pipe("/many/many.pt", (tmp_path / "many.pt").read_bytes())
    far = bncheck.inspect("memory://many/many.pt").to_dict()
    assert far["layers"] == bncheck.inspect(tmp_path / "many.pt").to_dict()["layers"]


def test_a_server_that_sends_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BNCHECK_REMOTE_TIMEOUT", "0.2")
    remote._filesystem.cache_clear()
    with serving(Served(SAMPLES, stalls=True)) as served:
        assert run(["inspect", f"{served.url}/healthy.pt"]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"bncheck: error: {served.url}/healthy.pt: is on a server that is too slow; try again, or "
        "set BNCHECK_REMOTE_TIMEOUT to more seconds than 0.2\n"
    )
    remote._filesystem.cache_clear()


@pytest.mark.parametrize("word", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_limit_is_a_number(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNCHECK_REMOTE_TIMEOUT", word)
    with pytest.raises(BncheckError, match="is not a number of seconds"):
        remote.seconds()


def test_a_bucket_that_is_not_there_does_not_exist() -> None:
    class ClientError(Exception):
        """What botocore raises."""

        response = {"Error": {"Code": "NoSuchBucket"}}  # noqa: RUF012

    def fail() -> None:
        raise ClientError("An error occurred (NoSuchBucket)")

    with pytest.raises(BncheckError, match="does not exist there"):
        remote.attempt(Remote("s3://nobody/x.pt"), fail)
