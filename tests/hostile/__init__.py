"""Files that mean harm, or that harm by accident, each built by a few lines of code.

`CASES` maps an id to what it is, the exit codes that are right for it, and its builder, which
gets an empty folder and returns the path to hand to bncheck. `PAYLOADS` are pickles that create the
file $BNCHECK_MARKER when they are really unpickled (a test makes sure that they would).
`python -m tests.hostile` runs them all through the console script.
"""

from tests.hostile import (
    abundance,
    configurations,
    containers,
    distributed_liars,
    exported_liars,
    folders,
    liars,
    names,
    onnx_liars,
    onnx_models,
    pickled_liars,
    pickles,
    programs,
    repeated_formats,
    repetition,
    roles,
    safetensors_files,
    sharing,
    surroundings,
    tensors,
    torchscript_liars,
)
from tests.hostile.case import CASES, Case, mark_large, mark_long
from tests.hostile.payloads import PAYLOADS

mark_long("pickle-laughs-modules-of-many-roots", "config-huge", "baseline-huge",
          "pickle-shared-parameter-chain",
          "pickle-too-many-operations", "pickle-ten-million-dicts", "pickle-deeper-lists",
          "torchscript-code-bomb", "nested-file-shared", "abundant-tuples",
          "abundant-safetensors", "abundant-marks", "exported-json-bomb",
          # each limit has quicker members, too
          "repeated-nested-files", "repeated-nested-small-files", "repeated-large-shards",
          "repeated-chunks-of-many-archives", "repeated-chunks-each-its-own", "repeated-index",
          "repeated-pickle-links", "repeated-pickle-shards", "repeated-classes",
          "repeated-onnx-devices", "repeated-program", "repeated-long-names",
          "repeated-memo-backwards", "repeated-parameters")  # fmt: skip

mark_large("abundant-bytes", "abundant-dicts", "abundant-exported", "abundant-findings",
           "abundant-floats", "abundant-index", "abundant-index-json", "abundant-lists",
           "abundant-marks", "abundant-memo", "abundant-metadata", "abundant-onnx-fields",
           "abundant-onnx-initializers", "abundant-onnx-namesakes", "abundant-onnx-nodes",
           "abundant-opaque-tensors", "abundant-parts", "abundant-records", "abundant-safetensors",
           "abundant-tensors", "abundant-text", "abundant-tuples", "distributed-hash-collisions",
           "onnx-many-constants", "pickle-hash-collisions", "pickle-laughs-modules",
           "pickle-ten-million-dicts", "pickle-too-many-operations", "repeated-absent-shards",
           "repeated-arguments", "repeated-bad-shard", "repeated-broken-parts", "repeated-chunks",
           "repeated-chunks-each-its-own", "repeated-class", "repeated-classes", "repeated-entries",
           "repeated-findings", "repeated-globals", "repeated-index", "repeated-keys",
           "repeated-memo-backwards", "repeated-metadata", "repeated-nested-small-files",
           "repeated-numbers", "repeated-onnx-devices", "repeated-onnx-group",
           "repeated-onnx-names", "repeated-pairs", "repeated-parameters", "repeated-parts",
           "repeated-pickle-shards", "repeated-program", "repeated-set", "repeated-shard-links",
           "repeated-shards", "repeated-short-texts", "repeated-spread", "repeated-state",
           "repeated-statistics", "repeated-varints-dims", "repeated-varints-dims-unpacked",
           "repeated-varints-int32", "repeated-varints-int32-unpacked", "repeated-varints-int64",
           "repeated-varints-int64-unpacked", "repeated-varints-uint64",
           "repeated-varints-uint64-unpacked", "repeated-wide-header", "repeated-wide-letter",
           "repeated-wide-letters")  # fmt: skip

__all__ = ["CASES", "PAYLOADS", "Case", "abundance", "configurations", "containers",
           "distributed_liars", "exported_liars", "folders", "liars", "names",
           "onnx_liars", "onnx_models", "pickled_liars", "pickles", "programs",
           "repeated_formats", "repetition", "roles", "safetensors_files", "sharing",
           "surroundings", "tensors", "torchscript_liars"]  # fmt: skip
