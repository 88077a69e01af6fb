"""Folders of images."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bncheck.core.errors import BncheckError
from bncheck.core.extras import need
from bncheck.core.words import count, shortened
from bncheck.data.batches import Batch, DataOptions
from bncheck.data.preparing import prepared_input

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_IMAGES: Final = (
    ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip


#: What the parts of a data set are called.
_SPLITS: Final = {
    "train", "training", "trn", "val", "valid", "validation", "dev", "test", "testing", "eval",
}  # fmt: skip


def _is_image(place: Path) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in place.parts)
    return place.suffix.lower() in _IMAGES and not hidden


def _refuse_splits(path: Path, names: list[str]) -> None:
    """train and val are no classes: which of them is meant is asked."""
    splits = [name for name in names if _SPLITS & set(re.split(r"[\W_\d]+", name.lower()))]
    if splits and splits == names:
        raise BncheckError(
            f"holds {', '.join(splits)}, which are parts of a data set and no classes",
            f"name one of them: --data {shlex.quote(str(path / splits[0]))}",
            str(path),
        )


class ImageFolder:
    """Images below a folder; those in several subfolders have the subfolder's place as label."""

    def __init__(self, path: Path, options: DataOptions) -> None:
        need("PIL")
        self._path = path
        self._options = options
        self._files = sorted(p for p in path.rglob("*") if _is_image(p.relative_to(path)))
        if not self._files:
            raise BncheckError("holds no images", "check the path given to --data", str(path))
        parents = {file.relative_to(path).parts[0] for file in self._files if file.parent != path}
        flat = any(file.parent == path for file in self._files)
        _refuse_splits(path, sorted(parents))
        self._classes = [] if flat or len(parents) == 1 else sorted(parents)

    @property
    def note(self) -> str:
        """What was taken as classes."""
        if not self._classes:
            return f"{self._path}: {count(len(self._files), 'image')} without classes"
        shown = ", ".join(map(shortened, self._classes[:4]))
        more = ", ..." if self._classes[4:] else ""
        classes = count(len(self._classes), "class", "classes")
        return f"{self._path}: {classes} by the names of its folders: {shown}{more}"

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
        x = prepared_input(torch.stack(images).permute(0, 3, 1, 2), str(self._path), options)
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
                image = opened.convert("L" if self._options.grey else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise BncheckError(f"cannot be read ({error})", "remove it", str(file)) from None
        if self._options.size:
            height, *width = self._options.size
            image = ImageOps.fit(image, (width[0] if width else height, height))
        pixels = np.array(image)
        return torch.from_numpy(pixels[..., None] if self._options.grey else pixels)
