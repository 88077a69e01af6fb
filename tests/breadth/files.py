"""What `bncheck fold` makes of ONNX files of others: exit code, time, memory, what is left."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bncheck.cli import run
from bncheck.reading.onnx_file import graphs_of


def set_aside(path: Path) -> bool:
    """Whether no code was written for it: half of all, by their content."""
    return hashlib.sha256(path.read_bytes()).digest()[0] % 2 == 1


def results(path: Path) -> Iterator[dict[str, Any]]:
    """One file, folded by the command line; the result is compared by onnxruntime alone."""
    yield _one(path)


def _one(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"bytes": path.stat().st_size}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.onnx"
        start = time.perf_counter()
        code, out, err = _typed(["fold", str(path), "-o", str(target), "--format", "json"])
        found["seconds"] = time.perf_counter() - start
        found["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        found |= {"code": code, "err": err[-400:]}
        with contextlib.suppress(ValueError):
            report = json.loads(out)
            found["summary"] = report["summary"]
            found["kept"] = Counter(
                d["reason"] for d in report["batchnorms"] if d["status"] == "kept"
            ).most_common(3)
        with contextlib.suppress(Exception):
            found["before"] = norms_in(onnx.load(path, load_external_data=False))
        if target.exists():
            found["after"] = norms_in(onnx.load(target, load_external_data=False))
            found["error"] = difference(path, target)
    return found


def _typed(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run(words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return int(code or 0), out.getvalue(), err.getvalue()


def norms_in(model: onnx.ModelProto) -> int:
    """How many BatchNormalizations it has, in branches, too."""
    nodes = (node for graph in graphs_of(model.graph) for node in graph.node)
    return sum(node.op_type == "BatchNormalization" for node in nodes)


def difference(first: Path, second: Path) -> float | str:
    """The largest difference of the outputs, in parts of the largest output, on invented inputs."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    try:
        sessions = [ort.InferenceSession(str(path), options) for path in (first, second)]
    except Exception as error:
        return str(error).splitlines()[0][:120]
    last = ""
    for free in (64, 320, 640, 32, 224, 16, 2, 1):
        try:
            feed = _feed(sessions[0], free)
            sides = [session.run(None, feed) for session in sessions]
        except Exception as error:
            last = str(error).splitlines()[0][:120]
            continue
        return max((_apart(a, b) for a, b in zip(*sides, strict=True)), default=0.0)
    return last


def _feed(session: Any, free: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    feed: dict[str, Any] = {}
    for port in session.get_inputs():
        sizes = [n if isinstance(n, int) and n > 0 else free for n in port.shape]
        if port.shape and sizes and not isinstance(port.shape[0], int):
            sizes[0] = 1
        kinds = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8"}
        if port.type in kinds:
            feed[port.name] = rng.normal(size=sizes).astype(kinds[port.type])
        else:
            kind = port.type.removeprefix("tensor(").removesuffix(")")
            feed[port.name] = np.ones(sizes, {"bool": "bool"}.get(kind, kind))
    return feed


def _apart(first: Any, second: Any) -> float:
    first, second = np.asarray(first), np.asarray(second)
    if first.dtype.kind != "f":
        return float(np.mean(first != second)) if first.size else 0.0
    both = np.isfinite(first)
    scale = float(np.abs(first[both]).max(initial=0.0))
    return float(np.abs(first[both].astype("f8") - second[both]).max(initial=0.0)) / (scale or 1.0)
