"""`python -m tests.fuzz READER SECONDS`; without arguments, the names of the readers.

Anything but BncheckError, more than ten seconds or more than a gigabyte is a find: libFuzzer ends
and keeps the bytes in a file beside. Needs atheris: `pip install bncheck[fuzz]`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bncheck"]):
    from bncheck import reading
    from bncheck.core.errors import BncheckError
    from bncheck.inspecting.command import inspect

    # bncheck imports most readers when it needs them: too late to be instrumented.
    for module in pkgutil.iter_modules(reading.__path__, f"{reading.__name__}."):
        importlib.import_module(module.name)

from tests.fuzz.readers import READERS


def main(name: str, seconds: str) -> None:
    """Fuzz one reader for so long, from good files."""
    reader = READERS[name]
    scratch = Path(tempfile.mkdtemp(prefix="bncheck-fuzz-"))
    corpus, place = scratch / "corpus", scratch / "place"
    corpus.mkdir()
    place.mkdir()
    for number, seed in enumerate(reader.seeds()):
        (corpus / str(number)).write_bytes(seed)

    def once(data: bytes) -> None:
        try:
            report = inspect(reader.place(data, place))
            for tensor in report.checkpoint.tensors if report.checkpoint else ():
                try:
                    report.checkpoint.tensors[tensor]  # type: ignore[union-attr]
                except BncheckError:
                    continue
            report.to_dict()
        except BncheckError:
            pass

    limits = ["-timeout=10", "-rss_limit_mb=1024", f"-max_total_time={seconds}", "-max_len=200000"]
    quiet = ["-print_final_stats=1", "-verbosity=0", f"-artifact_prefix=fuzz-{name}-"]
    atheris.Setup([sys.argv[0], *limits, *quiet, str(corpus)], once)
    atheris.Fuzz()


if len(sys.argv) == 3:
    main(*sys.argv[1:])
else:
    print(*READERS)
