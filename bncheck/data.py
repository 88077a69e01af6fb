"""`--data` becomes batches that can be gone through again and again.

Files and folders are dealt out in a fixed random order: batches of one class each, as a sorted
folder gives them, would say little about the statistics of training. Loaders and functions keep
their own order, with torch's generator seeded alike before every pass.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bncheck import usercode
from bncheck.errors import BncheckError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


_OPTION = "--data"
_LABELS = ("y", "label", "labels", "target", "targets")
_INPUTS = ("x", "image", "images", "input", "inputs", "data")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_CHANNELS = (1, 3, 4)
_SEED = 0
DEFAULT_BATCH_SIZE = 64
DEFAULT_MAX_SAMPLES = 4096


@dataclass(frozen=True, slots=True)
class DataOptions:
    """How batches are made: raw values become (x / scale - mean) / std."""

    batch_size: int = DEFAULT_BATCH_SIZE
    max_samples: int | None = DEFAULT_MAX_SAMPLES
    scale: float | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    size: Sequence[int] = ()

    @property
    def normalises(self) -> bool:
        """Whether any of scale, mean and std is given."""
        return self.scale is not None or bool(self.mean) or bool(self.std)


@dataclass(frozen=True)
class Batch:
    """The model's inputs and, where there are any, the labels."""

    args: tuple[Tensor, ...]
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    target: Tensor | None = None

    @property
    def inputs(self) -> list[Tensor]:
        """All inputs, the first the most important."""
        return [*self.args, *self.kwargs.values()]

    @property
    def size(self) -> int:
        """How many samples."""
        first = self.inputs[0]
        return int(first.shape[0]) if first.ndim else 1

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a function applied to its inputs."""
        return Batch(
            tuple(function(tensor) for tensor in self.args),
            {name: function(tensor) for name, tensor in self.kwargs.items()},
            self.target,
        )


@dataclass(frozen=True)
class Batches:
    """Batches to go through as often as needed. `total` counts samples where that is known."""

    source: Callable[[], Iterable[Batch]]
    name: str
    total: int | None = None
    max_samples: int | None = None

    def __iter__(self) -> Iterator[Batch]:
        """One pass, the same each time, cut off after max_samples."""
        import torch

        left = self.max_samples
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            for batch in self.source():
                if left is not None and batch.size > left:
                    batch = _first(batch, left)
                yield batch
                if left is not None:
                    left -= batch.size
                    if left <= 0:
                        return

    @property
    def samples(self) -> int | None:
        """How many samples a pass has, where that is known."""
        if self.total is None or self.max_samples is None:
            return self.total
        return min(self.total, self.max_samples)


class _Samples(Protocol):
    """Samples that can be picked by number."""

    def __len__(self) -> int: ...

    def pick(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
        """The samples at these places as one batch."""
        ...


def open_data(data: object, options: DataOptions | None = None) -> Batches:
    """Batches from a spec (file, folder, TARGET:CALLABLE) or from an object that gives them."""
    options = options or DataOptions()
    if isinstance(data, (str, Path)):
        path = Path(data)
        if path.is_dir():
            return _dealt(_Folder(path, options), str(data), options)
        if path.is_file():
            return _dealt(_Arrays(_read_arrays(path), str(data), options), str(data), options)
        if isinstance(data, Path) or ":" not in data:
            raise BncheckError("does not exist", "check the path given to --data", str(data))
        found = usercode.resolve(data, _OPTION)
        return _from_object(found, data, options)
    return _from_object(data, "data", options)


def check_shapes(model: nn.Module, batch: Batch) -> Batch:
    """The batch with dict entries given to the parameters of `forward` that they name."""
    if not batch.kwargs:
        return batch
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if takes_any or set(batch.kwargs) <= set(parameters):
        return batch
    return Batch((*batch.args, *batch.kwargs.values()), {}, batch.target)


# --- files ----------------------------------------------------------------------------------------


def _read_arrays(path: Path) -> dict[str, Any]:
    """Everything with numbers in a file, by name."""
    readers = {
        ".npz": _read_npz,
        ".npy": _read_npy,
        ".pt": _read_pt,
        ".pth": _read_pt,
        ".safetensors": _read_safetensors,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise BncheckError(
            f"is no data file that bncheck knows (its name ends in {path.suffix or 'nothing'})",
            "give .npz, .npy, .pt, .safetensors, a folder of images or TARGET:CALLABLE",
            str(path),
        )
    try:
        return reader(path)
    except BncheckError:
        raise
    except Exception as error:
        reason = usercode.described(error)
        raise BncheckError(f"cannot be read ({reason})", "check the file", str(path)) from None


def _read_npz(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_npy(path: Path) -> dict[str, Any]:
    import numpy as np

    return {"x": np.load(path, mmap_mode="r", allow_pickle=False)}


def _read_pt(path: Path) -> dict[str, Any]:
    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # the layout of before torch 1.6 cannot be mapped
        value = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(value, torch.Tensor):
        return {"x": value}
    if isinstance(value, (tuple, list)):
        names = ["x", "y"] if len(value) == 2 else [f"x{i}" for i in range(len(value))]
        return dict(zip(names, value, strict=True))
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    raise BncheckError(
        f"holds a {type(value).__name__}", "save a tensor, (x, y) or a dict", str(path)
    )


class _SafetensorsRows:
    """A tensor in a safetensors file, of which only the rows asked for are read."""

    def __init__(self, opened: Any, name: str) -> None:
        self._slice = opened.get_slice(name)
        self.shape = tuple(self._slice.get_shape())
        self.ndim = len(self.shape)

    def __getitem__(self, indices: Any) -> Any:
        import torch

        return torch.stack([self._slice[int(index)] for index in indices])


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    opened = safe_open(path, framework="pt")  # stays open: its tensors are views of the file
    return {name: _SafetensorsRows(opened, name) for name in _names(opened)}


def _names(opened: Any) -> list[str]:
    return list(opened.keys())


class _Arrays:
    """Arrays whose first dimension counts the samples."""

    def __init__(self, arrays: Mapping[str, Any], name: str, options: DataOptions) -> None:
        self._options = options
        self._name = name
        numeric = {key: value for key, value in arrays.items() if _is_numeric(value)}
        if not numeric:
            raise BncheckError("holds no arrays of numbers", "it needs an array x", name)
        label = next((key for key in _LABELS if key in numeric), None)
        inputs = {key: value for key, value in numeric.items() if key != label}
        preferred = next((key for key in _INPUTS if key in inputs), None)
        if preferred is not None:
            rows = inputs[preferred].shape[0]
            if preferred == "x" or len(inputs) == 1:
                inputs = {preferred: inputs[preferred]}
        elif inputs:
            rows = next(iter(inputs.values())).shape[0]
        else:
            raise BncheckError("holds labels and nothing else", "it needs an array x", name)
        self._inputs = {key: value for key, value in inputs.items() if value.shape[0] == rows}
        self._target = numeric[label] if label is not None else None
        if self._target is not None and self._target.shape[0] != rows:
            raise BncheckError(
                f"holds {rows} samples and {self._target.shape[0]} labels", "make them meet", name
            )
        self._rows = int(rows)

    def __len__(self) -> int:
        return self._rows

    def pick(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
        """The rows at these places."""
        inputs = {key: self._input(value[indices]) for key, value in self._inputs.items()}
        target = None if self._target is None else _tensor(self._target[indices])
        if len(inputs) == 1:
            return Batch((next(iter(inputs.values())),), {}, target)
        return Batch((), inputs, target)

    def _input(self, rows: Any) -> Tensor:
        return _prepared(_tensor(rows), self._name, self._options)


def _is_numeric(value: Any) -> bool:
    import numpy as np
    import torch

    if isinstance(value, np.ndarray):
        return value.ndim > 0 and value.dtype.kind in "biuf"
    return isinstance(value, (torch.Tensor, _SafetensorsRows)) and value.ndim > 0


def _tensor(rows: Any) -> Tensor:
    import numpy as np
    import torch

    if isinstance(rows, torch.Tensor):
        return rows
    array = np.array(rows)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def _prepared(x: Tensor, name: str, options: DataOptions) -> Tensor:
    """Raw values scaled and normalised; whole numbers as channels-last images made NCHW."""
    import torch

    if x.dtype == torch.uint8:
        if not options.normalises:
            raise BncheckError(
                "holds raw pixels (uint8), and how the model wants them is not known",
                "give --scale 255 and, as in training, --mean and --std",
                name,
            )
        if x.ndim == 3:
            x = x.unsqueeze(1)
        elif x.ndim == 4 and x.shape[-1] in _CHANNELS and x.shape[1] not in _CHANNELS:
            x = x.permute(0, 3, 1, 2)
    if not options.normalises:
        return x
    x = x.float() / (options.scale or 1.0)
    if options.mean:
        x = x - _per_channel(options.mean, x, "--mean")
    if options.std:
        x = x / _per_channel(options.std, x, "--std")
    return x


def _per_channel(values: Sequence[float], x: Tensor, option: str) -> Tensor:
    import torch

    channels = x.shape[1] if x.ndim > 1 else 1
    if len(values) not in (1, channels):
        raise BncheckError(
            f"{option} has {len(values)} values, the data have {channels} channels",
            "give one value, or one for each channel",
        )
    return torch.tensor(values, dtype=x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))


# --- folders of images ----------------------------------------------------------------------------


class _Folder:
    """Images below a folder; those in subfolders have the subfolder's place as their label."""

    def __init__(self, path: Path, options: DataOptions) -> None:
        try:
            import PIL.Image  # noqa: F401
        except ModuleNotFoundError:
            raise BncheckError(
                "is a folder of images, which needs Pillow", "pip install pillow", str(path)
            ) from None
        self._path = path
        self._options = options
        self._files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _IMAGES)
        if not self._files:
            raise BncheckError("holds no images", "check the path given to --data", str(path))
        parents = {file.relative_to(path).parts[0] for file in self._files if file.parent != path}
        flat = any(file.parent == path for file in self._files)
        self._classes = [] if flat else sorted(parents)

    def __len__(self) -> int:
        return len(self._files)

    def pick(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
        """These images, decoded."""
        import torch

        files = [self._files[int(index)] for index in indices]
        images = [self._image(file) for file in files]
        if len({image.shape for image in images}) > 1:
            raise BncheckError(
                "holds images of several sizes", "give --size HEIGHT,WIDTH", str(self._path)
            )
        options = self._options
        if options.scale is None:
            options = DataOptions(scale=255.0, mean=options.mean, std=options.std)
        x = _prepared(torch.stack(images).permute(0, 3, 1, 2), str(self._path), options)
        return Batch((x,), {}, self._labels(files))

    def _labels(self, files: Sequence[Path]) -> Tensor | None:
        import torch

        if not self._classes:
            return None
        return torch.tensor(
            [self._classes.index(f.relative_to(self._path).parts[0]) for f in files]
        )

    def _image(self, file: Path) -> Tensor:
        import numpy as np
        import torch
        from PIL import Image, ImageOps

        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise BncheckError(f"cannot be read ({error})", "remove it", str(file)) from None
        if self._options.size:
            height, *width = self._options.size
            image = ImageOps.fit(image, (width[0] if width else height, height))
        return torch.from_numpy(np.array(image))


# --- loaders, data sets, functions ----------------------------------------------------------------


def _dealt(samples: _Samples, name: str, options: DataOptions) -> Batches:
    """Batches of (nearly) equal size in a fixed random order: none is much smaller than others."""
    import numpy as np

    total = len(samples)
    if not total:
        raise BncheckError("holds no samples", "check the data", name)
    taken = min(total, options.max_samples or total)
    order = np.random.default_rng(_SEED).permutation(total)[:taken]
    parts = np.array_split(order, -(-taken // options.batch_size))
    return Batches(lambda: (samples.pick(np.sort(part)) for part in parts), name, total, taken)


class _DataSet:
    """A torch Dataset with a length."""

    def __init__(self, data: Any, name: str, options: DataOptions) -> None:
        self._data = data
        self._name = name
        self._options = options

    def __len__(self) -> int:
        return len(self._data)

    def pick(self, indices: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
        """The samples at these places, collated as a DataLoader does."""
        from torch.utils.data import default_collate

        with usercode.running(f"--data {self._name}"):
            value = default_collate([self._data[int(index)] for index in indices])
        return to_batch(value, self._name, self._options)


def _from_object(value: Any, name: str, options: DataOptions) -> Batches:
    """A function is called anew for every pass, so it may return a generator."""
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset, IterableDataset

    again: Callable[[], Any] = lambda: value  # noqa: E731
    if callable(value) and not isinstance(value, (DataLoader, Dataset)):
        function = value
        again = lambda: usercode.call(function, (), name, _OPTION)  # noqa: E731
        value = again()
        if not isinstance(value, Iterator):  # a loader is built once
            again = lambda: value  # noqa: E731
    elif isinstance(value, Iterator):
        raise BncheckError(
            "is a generator, which can be gone through only once",
            "name the function that returns it",
            name,
        )
    if isinstance(value, torch.Tensor | np.ndarray):
        return _dealt(_Arrays({"x": value}, name, options), name, options)
    if isinstance(value, Mapping):
        return _dealt(_Arrays(value, name, options), name, options)
    if _is_pair_of_arrays(value):
        return _dealt(_Arrays(dict(zip("xy", value, strict=True)), name, options), name, options)
    sized = hasattr(value, "__len__") and hasattr(value, "__getitem__")
    if isinstance(value, Dataset) and not isinstance(value, IterableDataset) and sized:
        return _dealt(_DataSet(value, name, options), name, options)
    if isinstance(value, IterableDataset):
        value = DataLoader(value, options.batch_size)
    if not isinstance(value, Iterable):
        raise BncheckError(
            f"gives a {type(value).__name__}",
            "let it give batches, a Dataset, a DataLoader or arrays",
            name,
        )
    return Batches(
        lambda: _batches(again(), name, options), name, _length(value), options.max_samples
    )


def _is_pair_of_arrays(value: Any) -> bool:
    import numpy as np
    import torch

    arrays = (torch.Tensor, np.ndarray)
    pair = isinstance(value, tuple) and len(value) == 2
    return pair and all(isinstance(part, arrays) for part in value)


def _length(loader: Any) -> int | None:
    with contextlib.suppress(TypeError, AttributeError, NotImplementedError):
        return len(loader.dataset)
    return None


def _batches(values: Iterable[Any], name: str, options: DataOptions) -> Iterator[Batch]:
    with usercode.running(f"--data {name}"):
        iterator = iter(values)
    empty = True
    while True:
        with usercode.running(f"--data {name}"):
            try:
                value = next(iterator)
            except StopIteration:
                break
        empty = False
        yield to_batch(value, name, options)
    if empty:
        raise BncheckError("gives no batches", "check the loader", name)


def to_batch(value: Any, name: str, options: DataOptions) -> Batch:
    """What a loader yields: x, (x, y), (x1, x2, ..., y) or a dict."""
    import numpy as np
    import torch

    def tensor(item: Any) -> Tensor:
        if isinstance(item, np.ndarray):
            item = _tensor(item)
        if not isinstance(item, torch.Tensor):
            raise BncheckError(
                f"gives a batch that holds a {type(item).__name__}",
                "a batch is a tensor, (x, y) or a dict of tensors",
                name,
            )
        return item

    def prepared(item: Any) -> Tensor:
        return _prepared(tensor(item), name, options)

    if isinstance(value, Mapping):
        label = next((key for key in _LABELS if key in value), None)
        inputs = {str(key): item for key, item in value.items() if key != label}
        kept = {key: prepared(item) for key, item in inputs.items() if hasattr(item, "shape")}
        if not kept:
            raise BncheckError("gives a dict without inputs", "it needs an entry x", name)
        target = None if label is None else tensor(value[label])
        if len(kept) == 1:
            return Batch((next(iter(kept.values())),), {}, target)
        return Batch((), kept, target)
    if isinstance(value, (tuple, list)):
        if len(value) < 2:
            return Batch(tuple(prepared(item) for item in value))
        *inputs_, label = value
        labels = label if isinstance(label, torch.Tensor) else torch.as_tensor(np.asarray(label))
        return Batch(tuple(prepared(item) for item in inputs_), {}, labels)
    return Batch((prepared(value),))


def _first(batch: Batch, samples: int) -> Batch:
    cut = batch.map(lambda tensor: tensor[:samples])
    target = batch.target
    return Batch(cut.args, cut.kwargs, None if target is None else target[:samples])
