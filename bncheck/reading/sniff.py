"""What a file is, by its content: its name decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NoReturn

from bncheck.core.errors import BncheckError, OtherFileError
from bncheck.reading.foreign import refuse_by_name, refuse_foreign
from bncheck.reading.source import Source
from bncheck.reading.zip_archive import ZipArchive

_AGAIN = "download it again"
_PULL = "run `git lfs pull`"
_RAW = "download the raw file"
#: What is done about a checkpoint of which something else has come.
_LOST = (_AGAIN, _PULL, _RAW)

#: Beginnings of files that people hand in by accident: (bytes, what it is, what to do).
_STRANGERS: Final = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", _PULL),
    (b"<!doctype html", "is a web page, not a checkpoint", _RAW),
    (b"<html", "is a web page, not a checkpoint", _RAW),
    (b"<?xml", "is XML, not a checkpoint", _RAW),
    (b"<error", "is a server's error message, not a checkpoint", _AGAIN),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it and give bncheck what is inside"),
    (b"rar!", "is a RAR archive", "unpack it and give bncheck what is inside"),
    (b"\x1f\x8b", "is compressed with gzip", "run gunzip and give bncheck the result"),
    (b"bzh", "is compressed with bzip2", "run bunzip2 and give bncheck the result"),
    (b"\xfd7zxz", "is compressed with xz", "run unxz and give bncheck the result"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "run unzstd and give bncheck the result"),
    (b"\x93numpy", "is a NumPy array, not a checkpoint", "give bncheck the model's own file"),
    (b"\x89png", "is an image, not a checkpoint", "check the path"),
    (b"\xff\xd8\xff", "is an image, not a checkpoint", "check the path"),
    (b"%pdf", "is a PDF, not a checkpoint", "check the path"),
    (b"\x7felf", "is a program, not a checkpoint", "check the path"),
)

#: How pickles of protocol 0 and 1 begin: MARK, EMPTY_DICT, EMPTY_LIST, GLOBAL.
_OLD_PICKLES: Final = (b"(", b"}", b"]", b"c")


def refuse_stranger(source: Source) -> None:
    """Raise BncheckError for what is known and no checkpoint."""
    if not source.size:
        raise BncheckError("is empty (0 bytes)", _AGAIN)
    head = source.head(512)
    refuse_foreign(source)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what, remedy in _STRANGERS:
        if start.startswith(magic):
            raise (BncheckError if remedy in _LOST else OtherFileError)(what, remedy)
    if head[257:262] == b"ustar":
        raise BncheckError(
            "is a tar archive (or a checkpoint of torch 0.1)",
            "unpack it, or load and save it again with a current torch",
        )
    if not any(head):
        raise BncheckError("starts with zero bytes only: an incomplete download", _AGAIN)


def is_exported_program(archive: ZipArchive) -> bool:
    """Whether a zip archive is a `.pt2`, of any version of torch."""
    return "archive_format" in archive or "serialized_exported_program.json" in archive


def refuse_zip(archive: ZipArchive) -> NoReturn:
    """Raise BncheckError for a zip archive that holds no pickle of torch."""
    names = archive.names
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) > 1:
        raise BncheckError(
            "is a zip archive with several data.pkl", "unpack it and give bncheck one of them"
        )
    if any(name.endswith(".npy") for name in names):
        raise OtherFileError("is a NumPy archive (.npz), not a checkpoint", "use it with --data")
    if "model.weights.h5" in names:
        raise BncheckError(
            "is a Keras model", "unzip it, and see what bncheck says of its model.weights.h5"
        )
    inside = [n for n in names if n.endswith((".pt", ".pth", ".ckpt", ".bin", ".safetensors"))]
    if inside:
        raise BncheckError(
            f"is a zip archive of {inside[0][-60:]!r}", "unpack it and give bncheck that file"
        )
    raise OtherFileError(
        "is a zip archive without a data.pkl, so not a checkpoint", "check the path"
    )


def looks_like_pickle(source: Source) -> bool:
    """Protocol 2 and later say so in their first two bytes."""
    head = source.head(2)
    return len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def may_be_old_pickle(source: Source) -> bool:
    """Protocols 0 and 1 have no mark of their own: texts begin like them, too."""
    return source.head(1) in _OLD_PICKLES


def refuse_unknown(source: Source, path: Path) -> NoReturn:
    """Raise BncheckError for bytes that no reader recognises."""
    refuse_by_name(source, path)
    head = source.head(256)
    if head.lstrip()[:1] in (b"{", b"["):
        raise OtherFileError("is JSON, not a checkpoint", "give bncheck the file with the weights")
    kind = "text" if all(byte >= 32 or byte in b"\t\r\n" for byte in head) else "binary data"
    raise OtherFileError(
        f"is not a checkpoint that bncheck knows ({kind})",
        "give it a torch.save, safetensors, torch.export or ONNX file",
    )
