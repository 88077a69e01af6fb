"""Of a distributed checkpoint each chunk is unpickled once, and each file opened once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint import state_dict_saver

import bncheck
from bncheck.reading import distributed
from bncheck.reading.source import Source, SourceFile
from bncheck.reading.zip_archive import ZipArchive
from tests.zoo.states import quietly

LAYERS = 20


def test_no_chunk_is_opened_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.nn.Sequential(*[torch.nn.BatchNorm2d(8) for _ in range(LAYERS)]).state_dict()
    path = tmp_path / "checkpoint"
    quietly(lambda: state_dict_saver.save(state, checkpoint_id=path, no_dist=True))
    chunks: Counter[int] = Counter()
    files: Counter[str] = Counter()
    opened = SourceFile.__init__

    def counted(source: Source) -> ZipArchive:
        chunks[source.start] += 1
        return ZipArchive(source)

    def counting(self: SourceFile, path: Path) -> None:
        files[path.name] += 1
        opened(self, path)

    monkeypatch.setattr(distributed, "ZipArchive", counted)
    monkeypatch.setattr(SourceFile, "__init__", counting)
    assert len(bncheck.inspect(path).layers) == LAYERS
    assert len(chunks) == len(state)
    assert set(chunks.values()) == {1}
    assert files == {".metadata": 1, "__0_0.distcp": 1}
