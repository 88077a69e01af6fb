"""Files of other frameworks that bncheck does not read: what they are, and how to convert them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from bncheck.core.errors import BncheckError, OtherFileError
from bncheck.reading.source import Source

_ORIGINAL: Final = "BatchNorms are folded in it, as a rule: give bncheck the model it was made of"
_H5: Final = (
    "copy its arrays with h5py: d = {}; h5py.File(FILE).visititems(lambda n, a: d.update({n: a[()]}"
    " if hasattr(a, 'shape') else {})); numpy.savez('net.npz', **d)"
)
_TF_CHECKPOINT: Final = (
    "copy its arrays: r = tf.train.load_checkpoint(PREFIX); numpy.savez('net.npz', **{n: "
    "r.get_tensor(n) for n in r.get_variable_to_shape_map()})"
)
_SAVED_MODEL: Final = (
    "copy its arrays: r = tf.train.load_checkpoint('FOLDER/variables/variables'); numpy.savez('"
    "net.npz', **{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()}); where Keras 3 wrote "
    "it they are only numbered: take the model's .keras file"
)
_FLATTENED: Final = "numpy.savez('net.npz', **flax.traverse_util.flatten_dict(t, sep='/'))"
_MSGPACK: Final = (
    "copy its arrays: t = flax.serialization.msgpack_restore(open(FILE, 'rb').read()); "
    f"{_FLATTENED}"
)
_ORBAX: Final = (
    "copy its arrays: t = orbax.checkpoint.PyTreeCheckpointer().restore(os.path.abspath(FOLDER)); "
    f"{_FLATTENED}"
)
_ONNX: Final = "convert it to ONNX, or give bncheck the model it was made of"

#: Where the bytes are, which, what it is, and what to do.
_MARKS: Final = (
    (0, b"\x89HDF", "is an HDF5 file (Keras)", _H5),
    (0, b"GGUF", "is a GGUF file", "give bncheck the weights that it was made of"),
    (0, b"\x12\x01\0\0\0\0\0\0", "is an MXNet parameter file", _ONNX),
    (0, b"ptrt", "is a TensorRT engine", _ORIGINAL),
    (0, b"ftrt", "is a TensorRT engine", _ORIGINAL),
    (0, b"7767517", "is an ncnn model", _ORIGINAL),
    (0, b"MATLAB 5.0", "is a MATLAB file", _ONNX),
    (4, b"TFL3", "is a TensorFlow Lite model", _ORIGINAL),
    (4, b"ORTM", "is an ONNX Runtime (ORT) model", "give bncheck the .onnx that it was made of"),
    (4, b"ET12", "is an ExecuTorch program", _ORIGINAL),
)
#: The end of a TensorFlow checkpoint's index: that of a LevelDB table.
_TABLE: Final = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_OPENVINO: Final = re.compile(rb"<net\s+name=")
#: MessagePack: a map of a few or of many entries, whose first key is a text.
_MESSAGEPACK: Final = re.compile(
    rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa1-\xbf]|\xd9.)", re.DOTALL
)

#: What nothing but the name tells: these formats have no mark of their own.
_ENDINGS: Final = {
    ".pb": ("is a TensorFlow graph", _SAVED_MODEL),
    ".caffemodel": ("is a Caffe model", _ONNX),
    ".mlmodel": ("is a Core ML model", _ORIGINAL),
    ".pdmodel": ("is a Paddle program", _ONNX),
    ".pdiparams": ("is Paddle's parameters without their names", _ONNX),
    ".weights": ("is weights without names (Darknet)", _ONNX),
    ".t7": ("is a file of Lua Torch", _ONNX),
    ".mnn": ("is an MNN model", _ORIGINAL),
}
#: What a folder holds that one framework writes.
_FOLDERS: Final = (
    ("saved_model.pb", "is a TensorFlow SavedModel", _SAVED_MODEL),
    ("_CHECKPOINT_METADATA", "is an Orbax checkpoint (JAX)", _ORBAX),
    ("manifest.ocdbt", "is an Orbax checkpoint (JAX)", _ORBAX),
    ("Manifest.json", "is a Core ML package", _ORIGINAL),
    ("model.weights.h5", "is a Keras model", _H5),
    ("checkpoint", "is a folder of TensorFlow or Flax checkpoints", _TF_CHECKPOINT),
)


def refuse_foreign(source: Source) -> None:
    """Raise OtherFileError for a format of another framework, by its content."""
    head = source.head(512)
    for place, mark, what, remedy in _MARKS:
        if head[place : place + len(mark)] == mark:
            raise OtherFileError(what, remedy)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<?xml", b"<net")) and _OPENVINO.search(
        head
    ):
        raise OtherFileError("is the graph of an OpenVINO model", _ORIGINAL)
    if source.size > len(_TABLE) and source.read(source.size - len(_TABLE), len(_TABLE)) == _TABLE:
        raise OtherFileError("is the index of a TensorFlow checkpoint", _TF_CHECKPOINT)


def refuse_by_name(source: Source, path: Path) -> None:
    """Raise OtherFileError for what no reader knows, and its first bytes or its name tell."""
    if _MESSAGEPACK.match(source.head(16)):
        raise OtherFileError("is a MessagePack file (Flax)", _MSGPACK)
    if found := _ENDINGS.get(path.suffix.lower()):
        raise OtherFileError(*found)
    if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
        raise OtherFileError("is the weights of an OpenVINO model", _ORIGINAL)
    if re.fullmatch(r"\.data-\d+-of-\d+", path.suffix):
        raise OtherFileError("is the data of a TensorFlow checkpoint", _TF_CHECKPOINT)


def refuse_foreign_folder(path: Path) -> None:
    """Raise BncheckError for a folder that another framework wrote."""
    for name, what, remedy in _FOLDERS:
        if (path / name).exists():
            raise BncheckError(what, remedy)
