"""Names that attack whoever reads them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch

from tests.hostile.assembler import dict_, in_zip, tensor
from tests.hostile.case import FOUND, READ, REFUSED, add, case, file, saved
from tests.hostile.containers import append

#: Steering characters in names; `visible` must turn each into an escape.
NAMES = {
    "ansi-title": "\x1b]0;owned\x07\x1b[31mred",
    "ansi-8-bit": "\x9b31mred\x90x\x9c",
    "osc-8-link": "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "workflow": "\n::stop-commands::x\n::add-mask::y",
    "carriage-return": "good\rbad",
    "rich-markup": "[red]x[/red][link=http://evil]y[/link][/]",
    "emoji": ":skull: [bold",
    "bidi": "\u202egnp.exe\u2066",
    "zero-width": "a\u200bb\ufeff",
    "surrogate": "\ud800x\udfff",
    "nul": "a\x00b",
    "line-separator": "a\u2028b\u2029c\x85d",
    "megabyte": "m" * 1_000_000,
    "empty": "",
    "dots": "." * 1000,
    "runner-anywhere": "a ##[add-mask]b ##vso[task.setvariable variable=PATH]c ##teamcity[x]",
    "runner-after-a-wrap": "x" * 70 + " ::error::" + "y " * 20 + "::stop-commands::z",
    "forged-verdict": "x" + " " * 90 + "healthy  other.pt",
    "marks": "a" + "\u0336\u20dd" * 50,
    "blanks": "\u3164\u2800\u00a0\u3000",
    "markdown": "[x](http://evil) `a` | b |\n# c <details>",
    "html": "<script>alert(1)</script>&lt;'\"",
    "xml": "]]></x><!ENTITY y SYSTEM 'file:///etc/passwd'>",
    "csv": "=cmd|' /C calc'!A0",
    "format": "%s{0}{x.__class__}$(id)`id`\\u0041",
    "astral": "\U000e0001\U0010ffff",
}


def _named(folder: Path, key: str) -> Path:
    bad = torch.tensor([0.5, torch.nan, 1.0, 1.0])  # a finding names the layer
    content = {f"{key}.running_mean": bad, f"{key}.running_var": torch.ones(4)}
    return saved(folder, {"state_dict": content, "other": {key: {key: torch.ones(2)}}})


for _name, _key in NAMES.items():
    add(f"name-{_name}", FOUND, "a layer of this name has NaN", partial(_named, key=_key))


@case(FOUND, "the subtree that is taken has such a name, and so has its alternative")
def name_of_a_subtree(folder: Path) -> Path:
    content = {"bn.running_mean": torch.full((4,), torch.nan), "bn.running_var": torch.ones(4)}
    return saved(
        folder, {NAMES["workflow"]: content, NAMES["bidi"] + NAMES["rich-markup"]: content}
    )


@case(REFUSED, "such a name in an error: two records")
def name_of_a_record(folder: Path) -> Path:
    return append(saved(folder), "saved/\x1b[31m\n::error::x", 2)


@case(REFUSED, "such a name in an error: a missing storage")
def name_of_a_storage(folder: Path) -> Path:
    return in_zip(folder, dict_({"bn.running_mean": tensor(key="\x1b[31m\n::error::\ud800")}))


@case(REFUSED, "such a name in an error: a dtype")
def name_of_a_dtype(folder: Path) -> Path:
    kind = "\x1b[31m\u202e"
    return in_zip(folder, dict_({"bn.running_mean": tensor(storage=kind)}))


@case(READ, "such a name for the file itself", weights=True)
def name_of_the_file(folder: Path) -> Path:
    return saved(folder).rename(folder / "\x1b[31m\n::error::[red]\u202e.pt")


@case(REFUSED, "such a name for a file that cannot be read")
def name_of_a_bad_file(folder: Path) -> Path:
    return file(folder, b"", "\x1b[31m\n::error::[red]\u202e.pt")


@case(READ, "a file name that is not UTF-8", weights=True)
def name_of_bytes(folder: Path) -> Path:
    return saved(folder).rename(folder / os.fsdecode(b"\xff\xfe.pt"))
