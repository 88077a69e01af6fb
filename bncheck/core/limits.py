"""How much of a file bncheck is willing to look at, each limit with its reason.

A file from a stranger must not be able to choose how much time or memory its reading takes. The
limits are an order of magnitude above the largest checkpoints in the wild; what hits one is
reported with the limit's name.
"""

from __future__ import annotations

from typing import Final

MIB: Final = 1 << 20

#: A `data.pkl` holds names and shapes, no numbers: 100,000 tensors need about 11 MB.
MAX_PICKLE_BYTES: Final = 64 * MIB

#: Work of one checkpoint, its shards and nested files included, counted in opcodes of a pickle:
#: half a microsecond and, as long as the pickle is read, 30 bytes of memory. An opcode that makes a
#: container counts three times, one that makes a number twice; a tensor of a state dict takes about
#: 70 in all, so this is room for 100,000 tensors.
MAX_OPERATIONS: Final = 10_000_000
OPERATION_BYTES: Final = 30
CONTAINER_OPERATIONS: Final = 3
NUMBER_OPERATIONS: Final = 2

#: What a checkpoint may keep in memory until it has been read, as far as it is foreseen: texts,
#: what a pickle describes, code, headers, records, statistics.
MAX_HELD_BYTES: Final = 224 * MIB

#: Bytes of a checkpoint's files that are read; of tensors, those of normalisation layers count.
MAX_READ_BYTES: Final = 2048 * MIB

#: Bytes of a remote checkpoint that come over the network, its tensors included: headers and
#: normalisation layers of the largest networks take some 100 MB.
MAX_FETCHED_BYTES: Final = 1024 * MIB

#: Files that a checkpoint consists of: a rank of a large run writes one or a few.
MAX_FILES: Final = 10_000

#: The index of a record, about 200 bytes a snapshot, and snapshots in it. All are named by a
#: series, and of each normalisation layers alone are read.
MAX_INDEX_BYTES: Final = 64 * MIB
MAX_RECORDED: Final = 100_000

#: Byte strings from this length stay in the file and are read when asked for.
INLINE_BYTES: Final = 4096

#: The directory of a zip archive: about 63 bytes a record, so this is room for 250,000 records.
MAX_ZIP_DIRECTORY_BYTES: Final = 16 * MIB

#: A record of JSON or TorchScript source inside an archive, inflated.
MAX_TEXT_RECORD_BYTES: Final = 32 * MIB

#: Objects, lists and commas of one JSON text: an empty object takes 2 bytes of file and 64 of
#: memory. A program has about 100 an operator, a safetensors header 7 a tensor.
MAX_JSON_VALUES: Final = 1_000_000

#: The header of a safetensors file: about 100 bytes a tensor. safetensors' own limit is 100 MB,
#: of which Python would make a gigabyte.
MAX_SAFETENSORS_HEADER_BYTES: Final = 32 * MIB

#: Tensors in one checkpoint, modules in it, and letters in all their names (60 a tensor).
MAX_TENSORS: Final = 250_000
MAX_MODULES: Final = 100_000
MAX_NAME_LETTERS: Final = 64 * MIB

#: Normalisation layers of one model; the largest networks have a few thousand. Every one of them
#: is judged and reported.
MAX_LAYERS: Final = 10_000

#: Findings on one checkpoint, and letters in the names of their layers: a report says each name
#: several times. The largest networks have a few hundred findings.
MAX_FINDINGS: Final = 30_000
MAX_FINDING_LETTERS: Final = 4 * MIB

#: Numbers in all normalisation layers together, and the most that reading one of their tensors may
#: take from the file (strides spread it): the largest networks have 3 million. Rules look at them
#: in float64.
MAX_STATISTICS: Final = 8_000_000
MAX_STATISTIC_BYTES: Final = 64 * MIB

#: Modules inside modules, dicts inside dicts; 60,000 levels are an attack, 40 a large network.
MAX_DEPTH: Final = 500

#: A tensor with stride 0 can be larger than its storage. Up to this size it is believed.
MAX_EXPANDED_BYTES: Final = 64 * MIB

#: Protobuf cannot hold more than 2 GiB, so a larger file is not an ONNX model.
MAX_ONNX_BYTES: Final = 2048 * MIB

#: Messages and texts in one ONNX model: an empty node takes 2 bytes of file and 160 of memory.
#: About 20 a node, so this is room for 50,000 nodes.
MAX_ONNX_FIELDS: Final = 1_000_000

#: Numbers that one call makes of sizes: `zeros(100000, 100000)` is a few bytes of a file. And all
#: that an ONNX model computes of constants, what is read for it included.
MAX_MADE_NUMBERS: Final = 1 << 24
MAX_COMPUTED_NUMBERS: Final = 1 << 29

#: Memory for the constants that normalisation layers of an ONNX model are computed from, and are
#: kept: all statistics of the largest networks take 12 MB.
MAX_COMPUTED_BYTES: Final = 64 * MIB

#: What a .npz of data takes in memory beyond its own size: all of it is inflated. CIFAR in float32
#: is 614 MB.
MAX_INFLATED_DATA_BYTES: Final = 1024 * MIB

#: Files and folders that a pattern of [tool.bncheck.models] may meet on its way: `/**/*` meets the
#: whole disk.
MAX_PATTERN_ENTRIES: Final = 250_000

#: A pattern of names: its translation takes a time that grows with the square of unclosed brackets.
MAX_PATTERN_LETTERS: Final = 2048

#: Comparisons of names in a folder with rules of .gitignore, about a microsecond each: 100,000
#: files by 100 rules.
MAX_IGNORE_WORK: Final = 10_000_000

#: Weights that are read to predict means from them (BN117), the smallest tensors first: reading
#: them must cost no more than a few tenths of a second, whatever the size of the file.
MAX_PREDICTING_BYTES: Final = 64 * MIB
