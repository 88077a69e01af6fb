"""Files of frameworks that are not read are called by their right names."""

from __future__ import annotations

from pathlib import Path

import pytest

from bncheck.core.errors import BncheckError
from bncheck.reading.folders import checkpoints_in
from bncheck.reading.opening import open_checkpoint

TABLE = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
FILES = {
    "net.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
    "net.gguf": (b"GGUF\x03\0\0\0" + bytes(64), "GGUF"),
    "net.params": (b"\x12\x01\0\0\0\0\0\0" + bytes(64), "MXNet"),
    "net.plan": (b"ptrt" + bytes(64), "TensorRT"),
    "net.tflite": (b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite"),
    "net.ort": (b"\x1c\0\0\0ORTM" + bytes(64), "ONNX Runtime"),
    "net.xml": (b'<?xml version="1.0"?>\n<net name="n" version="11">\n<layers>', "OpenVINO"),
    "net.ckpt.index": (bytes(100) + TABLE, "index of a TensorFlow checkpoint"),
    "net.ckpt.data-00000-of-00001": (b"\x07\x41\x99" * 50, "data of a TensorFlow checkpoint"),
    "flax_model.msgpack": (b"\x82\xa6params\x81\xa4conv\x81\xa6kernel\xc1", "MessagePack"),
    "net.caffemodel": (b"\x0a\x03net\xff\xff", "Caffe"),
    "net.mlmodel": (b"\x08\x04\xff\xff\xff", "Core ML"),
    "saved_model.pb": (b"\x08\x01\xff\xff\xff", "TensorFlow graph"),
    "net.weights": (b"\x07\x41\x99" * 50, "Darknet"),
}
FOLDERS = {
    "saved_model.pb": "SavedModel",
    "_CHECKPOINT_METADATA": "Orbax",
    "manifest.ocdbt": "Orbax",
    "Manifest.json": "Core ML package",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_called_by_its_right_name(name: str, tmp_path: Path) -> None:
    content, called = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BncheckError, match=called) as error:
        open_checkpoint(tmp_path / name)
    assert error.value.hint


def test_the_weights_beside_an_openvino_graph(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_text("<net name='n'/>")
    (tmp_path / "net.bin").write_bytes(b"\x07\x41\x99" * 50)
    with pytest.raises(BncheckError, match="weights of an OpenVINO model"):
        open_checkpoint(tmp_path / "net.bin")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_called_by_its_right_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x08\x01")
    with pytest.raises(BncheckError, match=FOLDERS[name]):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("inner", [".", "step_1"])
def test_a_folder_on_the_command_line_too(name: str, inner: str, tmp_path: Path) -> None:
    """Such a folder holds no file that is a checkpoint, which would be no name for it."""
    place = tmp_path / inner
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(b"\x08\x01")
    with pytest.raises(BncheckError, match=FOLDERS[name]) as error:
        checkpoints_in(tmp_path)
    assert error.value.subject == str(place)
