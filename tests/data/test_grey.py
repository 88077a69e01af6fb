"""A folder of grey images for a network that takes one channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bncheck.cli import run
from bncheck.core.errors import BncheckError
from bncheck.data import DataOptions, open_data
from tests.folding.command import SAMPLES


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample data as a folder of pictures, a folder a class."""
    folder = tmp_path_factory.mktemp("digits")
    with np.load(SAMPLES / "digits-train.npz") as data:
        images, labels = data["x"][:200], data["y"][:200]
    low, high = float(images.min()), float(images.max())
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        pixels = np.round((image[0] - low) / (high - low) * 255).astype(np.uint8)
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / str(label) / f"{place}.png")
    return folder


def test_one_channel_as_the_picture_has_it(digits: Path) -> None:
    (batch, *_) = open_data(str(digits), DataOptions(grey=True))
    assert batch.inputs[0].shape[1:] == (1, 8, 8)
    (colour, *_) = open_data(str(digits), DataOptions())
    assert colour.inputs[0].shape[1:] == (3, 8, 8)
    assert (colour.inputs[0][:, :1] == batch.inputs[0]).all()


def test_a_network_of_one_channel_is_measured_and_the_fix_says_so(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["inspect", str(SAMPLES / "stale.pt"), "--model", f"{SAMPLES / 'nets.py'}:DigitNet",
             "--data", str(digits)]  # fmt: skip
    assert run(asked) == 2
    assert "--grey for images" in capsys.readouterr().err
    pixels = np.load(SAMPLES / "digits-train.npz")["x"]
    span = float(np.ptp(pixels))
    prepared = ["--mean", f"{-pixels.min() / span}", "--std", f"{1 / span}"]
    assert run([*asked, "--grey", *prepared]) == 1
    assert " --grey " in capsys.readouterr().out


@pytest.mark.parametrize("options", [DataOptions(grey=True), DataOptions(size=(8, 8))])
def test_other_data_have_the_channels_and_sizes_that_they_have(options: DataOptions) -> None:
    with pytest.raises(BncheckError, match="is about folders of images"):
        open_data(str(SAMPLES / "digits-train.npz"), options)
    with pytest.raises(BncheckError, match="does not exist"):
        open_data("absent", options)
