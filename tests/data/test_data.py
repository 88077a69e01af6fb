"""--data: files, folders, functions, loaders; and what is wrong with them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bncheck.core.errors import BncheckError
from bncheck.data import Batch, DataOptions, check_shapes, open_data

X, Y = torch.arange(300.0).reshape(100, 3), torch.arange(100)


def everything(data: Any, options: DataOptions | None = None) -> tuple[Tensor, Tensor | None]:
    batches = list(open_data(data, options))
    targets = [batch.target for batch in batches if batch.target is not None]
    x = torch.cat([batch.inputs[0] for batch in batches])
    return x, torch.cat(targets) if targets else None


def save(kind: str, folder: Path) -> Path:
    path = folder / f"data.{kind}"
    if kind == "npz":
        np.savez(path, x=X.numpy(), y=Y.numpy(), classes=np.array(["cat", "dog"]))
    elif kind == "npy":
        np.save(path, X.numpy())
    elif kind == "pt":
        torch.save((X, Y), path)
    else:
        safetensors.torch.save_file({"x": X, "y": Y}, path)
    return path


@pytest.mark.parametrize("kind", ["npz", "npy", "pt", "safetensors"])
def test_files_give_every_sample_once_with_its_label(kind: str, tmp_path: Path) -> None:
    x, y = everything(str(save(kind, tmp_path)), DataOptions(batch_size=7))
    assert sorted(x[:, 0].tolist()) == X[:, 0].tolist()
    if y is not None:
        assert torch.equal(x[:, 0], 3.0 * y)


def test_samples_are_dealt_in_a_fixed_random_order() -> None:
    """Sorted data would give batches of one class each."""
    first, _ = everything((X, Y))
    again, _ = everything((X, Y))
    assert torch.equal(first, again)
    assert not torch.equal(first, X)


def test_no_batch_is_much_smaller_than_the_others() -> None:
    sizes = [batch.size for batch in open_data(X, DataOptions(batch_size=33))]
    assert max(sizes) - min(sizes) <= 1


def test_at_most_max_samples_are_used() -> None:
    data = open_data(X, DataOptions(batch_size=8, max_samples=30))
    assert sum(batch.size for batch in data) == 30
    loader = open_data(DataLoader(X, 8), DataOptions(max_samples=30))  # type: ignore[arg-type]
    assert sum(batch.size for batch in loader) == 30


def generator() -> Iterator[tuple[Tensor, Tensor]]:
    yield X[:50], Y[:50]
    yield X[50:], Y[50:]


@pytest.mark.parametrize(
    "data",
    [generator, lambda: DataLoader(TensorDataset(X, Y), 9), TensorDataset(X, Y),
     DataLoader(TensorDataset(X, Y), 9), lambda: [(X, Y)], lambda: (X, Y), {"x": X, "y": Y},
     [{"image": X, "label": Y}]],
)  # fmt: skip
def test_what_gives_batches(data: Any) -> None:
    opened = open_data(data)
    for _ in range(2):  # every pass starts anew
        batches = list(opened)
        x = torch.cat([batch.inputs[0] for batch in batches])
        y = torch.cat([batch.target for batch in batches if batch.target is not None])
        assert torch.equal(x[:, 0], 3.0 * y)
        assert len(x) == 100


def test_a_shuffling_loader_repeats_itself_and_spares_the_users_generator() -> None:
    opened = open_data(DataLoader(TensorDataset(X, Y), 9, shuffle=True))
    state = torch.get_rng_state()
    passes = [torch.cat([batch.inputs[0] for batch in opened]) for _ in range(2)]
    assert torch.equal(*passes)
    assert torch.equal(torch.get_rng_state(), state)


def test_several_inputs_reach_the_parameters_they_name() -> None:
    class Two(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left + right

    (batch,) = open_data([{"right": X, "left": X, "target": Y}])
    fitted = check_shapes(Two(), batch)
    assert set(fitted.kwargs) == {"left", "right"}
    other = check_shapes(Two(), Batch((), {"a": X, "b": X}))
    assert len(other.args) == 2


def test_raw_pixels_need_their_scale() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 8, 9, 3), dtype=np.uint8)
    with pytest.raises(BncheckError, match=r"raw pixels.*--scale 255"):
        list(open_data(pixels))
    options = DataOptions(scale=255, mean=(0.5, 0.4, 0.3), std=(0.2,))
    x, _ = everything(pixels, options)
    assert x.shape == (10, 3, 8, 9)
    order = np.random.default_rng(0).permutation(10)
    expected = (pixels[np.sort(order)].transpose(0, 3, 1, 2) / 255
                - np.array([0.5, 0.4, 0.3])[:, None, None]) / 0.2  # fmt: skip
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_grey_pixels_get_a_channel() -> None:
    x, _ = everything(np.zeros((5, 8, 8), np.uint8), DataOptions(scale=255))
    assert x.shape == (5, 1, 8, 8)


BAD: dict[str, tuple[Any, str]] = {
    "no file": ("nowhere.npz", "does not exist"),
    "a generator": (generator(), "only once"),
    "a number": (lambda: 3, "gives an int"),
    "text in a batch": (["abc"], "holds a str"),
    "no batches": ([], "gives no batches"),
    "no samples": (torch.zeros(0, 3), "holds no samples"),
    "labels that do not meet": ((X, Y[:50]), "100 samples and 50 labels"),
    "only labels": ({"y": Y}, "only labels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_is_one_line(name: str) -> None:
    data, message = BAD[name]
    with pytest.raises(BncheckError, match=message):
        list(open_data(data))


def test_a_strange_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2\n")
    with pytest.raises(BncheckError, match=r"\.csv"):
        open_data(str(tmp_path / "data.csv"))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(BncheckError, match="cannot be read"):
        open_data(str(tmp_path / "data.npz"))


HOSTILE: dict[str, tuple[Tensor, str]] = {
    "rows without end": (torch.rand(1).expand(1 << 60, 1), "expands x to .*MAX_EXPANDED_BYTES"),
    "samples without end": (torch.rand(3, 1).expand(3, 1 << 40), "expands x to"),
    "rows of nothing": (torch.empty(1 << 60, 0), "holds no arrays of numbers"),
    "meta": (torch.empty(1 << 40, 3, device="meta"), "holds no arrays of numbers"),
    "sparse": (
        torch.sparse_coo_tensor(
            torch.zeros(2, 1).long(), torch.ones(1), (1 << 40, 1 << 20), check_invariants=True
        ),
        "holds no arrays of numbers",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_tensor_larger_than_its_file_is_refused(name: str, new: bool, tmp_path: Path) -> None:
    value, message = HOSTILE[name]
    torch.save(value, tmp_path / "data.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(BncheckError, match=rf"data\.pt: {message}"):
        open_data(str(tmp_path / "data.pt"))


def _bomb(path: Path, record: str) -> None:
    """A compressed record of zeros, much larger than its file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(record, bytes(1 << 20))


def test_a_bomb_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bncheck.data.files.MAX_INFLATED_DATA_BYTES", 1 << 19)
    _bomb(tmp_path / "data.npz", "x.npy")
    with pytest.raises(BncheckError, match=r"data\.npz: holds .* MAX_INFLATED_DATA_BYTES"):
        open_data(str(tmp_path / "data.npz"))
    _bomb(tmp_path / "data.pt", "data/data.pkl")
    with pytest.raises(BncheckError, match=r"data\.pt: was repacked with compression"):
        open_data(str(tmp_path / "data.pt"))


def test_a_npz_may_be_compressed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", x=X.numpy())
    x, _ = everything(str(tmp_path / "data.npz"))
    assert sorted(x[:, 0].tolist()) == X[:, 0].tolist()


def test_a_folder_of_images(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for label, value in (("cat", 0), ("dog", 255)):
        (tmp_path / label).mkdir()
        for i in range(3):
            pixels = np.full((10, 12, 3), value, np.uint8)
            image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    x, y = everything(str(tmp_path), DataOptions(size=(8, 8)))
    assert x.shape == (6, 3, 8, 8)
    assert y is not None
    assert torch.equal(x[:, 0, 0, 0], y.float())


@pytest.mark.parametrize("value", [
    (torch.ones(4, 2), torch.arange(4), ["a", "b", "c", "d"]),
    (torch.ones(4, 2), torch.arange(4), {"path": "x"}),
    (torch.ones(4, 2), ("a", "b", "c", "d"), np.arange(4)),
    (torch.ones(4, 2), [0, 1, 2, 3], None),
    {"x": torch.ones(4, 2), "labels": torch.arange(4), "text": ["a", "b", "c", "d"]},
    {"x": torch.ones(4, 2), "labels": [0, 1, 2, 3], "name": np.array(["a", "b", "c", "d"])},
])  # fmt: skip
def test_what_is_not_a_number_is_left_on_the_side(value: Any) -> None:
    (batch,) = open_data(lambda: iter([value]))
    assert len(batch.inputs) == 1
    assert batch.target.tolist() == [0, 1, 2, 3]


def test_labels_may_be_a_dict_or_a_list_of_dicts() -> None:
    target = {"boxes": torch.ones(4, 4), "labels": torch.arange(4)}
    (batch,) = open_data(lambda: iter([(torch.ones(4, 2), target)]))
    assert batch.target is target
    cut = next(iter(open_data(lambda: iter([(torch.ones(4, 2), target)]),
                              DataOptions(max_samples=3))))  # fmt: skip
    assert cut.target["labels"].tolist() == [0, 1, 2]


def test_what_forward_has_no_room_for_is_labels_and_more() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    (batch,) = open_data(lambda: iter([(torch.ones(4, 2), torch.arange(4), torch.zeros(4))]))
    fitted = check_shapes(Net(), batch)
    assert len(fitted.args) == 1
    assert fitted.target.tolist() == [0, 1, 2, 3]


def test_labels_of_a_file_that_are_text_are_refused() -> None:
    with pytest.raises(BncheckError, match=r"labels \(y\) that are not an array of numbers"):
        open_data({"x": np.ones((4, 2)), "y": np.array(["a", "b", "c", "d"])})


class Own:
    """Not torch's Dataset, but all that is needed of one."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        if place >= 100:
            raise IndexError
        return X[place], place


class OwnIterable(Own):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return (self[place] for place in range(100))


SAMPLE_LISTS = {
    "a list of (x, number)": [(X[i], i) for i in range(100)],
    "a list of (array, scalar tensor)": [(X[i].numpy(), torch.tensor(i)) for i in range(100)],
    "a list of dicts": [{"image": X[i], "label": i} for i in range(100)],
    "an object with __getitem__": Own(),
    "one that can be iterated, too": OwnIterable(),
    "a function that returns a list": lambda: [(X[i], i) for i in range(100)],
    "a function that yields": lambda: ((X[i], i) for i in range(100)),
}


@pytest.mark.parametrize("given", SAMPLE_LISTS)
def test_samples_are_put_into_batches(given: str) -> None:
    batches = list(open_data(SAMPLE_LISTS[given], DataOptions(batch_size=20)))
    assert [batch.size for batch in batches] == [20] * 5
    x, y = everything(SAMPLE_LISTS[given])
    assert y is not None
    assert sorted(y.tolist()) == list(range(100))
    assert torch.equal(x[:, 0], 3.0 * y)


def test_a_list_of_batches_stays_one() -> None:
    batches = [(X[:60], Y[:60]), (X[60:], Y[60:])]
    assert [batch.size for batch in open_data(batches)] == [60, 40]
    assert [batch.size for batch in open_data([X[:60], X[60:]])] == [60, 40]


def _images(folder: Path, *places: str) -> Path:
    image = pytest.importorskip("PIL.Image")
    for value, place in enumerate(places):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(folder / place)
    return folder


CLASSES = {
    "classes": (
        ("cat/1.png", "dog/a/2.png", ".cache/3.png"),
        "2 classes by the names of its folders",
    ),
    "flat": (("1.png", "2.png"), "2 images without classes"),
    "as COCO": (("images/1.png", "images/2.png"), "2 images without classes"),
    "mixed": (("1.png", "cat/2.png"), "2 images without classes"),
}


@pytest.mark.parametrize("layout", CLASSES)
def test_what_was_taken_as_class_is_said(layout: str, tmp_path: Path) -> None:
    places, note = CLASSES[layout]
    batches = open_data(str(_images(tmp_path, *places)))
    assert note in batches.note
    (batch,) = batches
    assert batch.size == 2
    assert (batch.target is None) == ("without" in note)


@pytest.mark.parametrize("names", [("train", "val"), ("train2017", "val2017"), ("Training",)])
def test_parts_of_a_data_set_are_no_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    _images(tmp_path, *(f"{name}/{label}/1.png" for name in names for label in ("cat", "dog")))
    with pytest.raises(BncheckError, match=f"parts of a data set .*--data {tmp_path}/{names[0]}"):
        open_data(str(tmp_path))
    assert open_data(str(tmp_path / names[0])).note.endswith("folders: cat, dog")


def test_a_url_is_not_data() -> None:
    with pytest.raises(BncheckError, match="is a URL; download the data"):
        open_data("https://example.org/x.npz")
