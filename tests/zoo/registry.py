"""All layouts: BUILDERS has them once the modules that hold them are imported."""

from tests.zoo import (
    distributed,
    exported_program,
    legacy,
    modules,
    norms,
    onnx_models,
    pickles,
    safetensors_files,
    shards,
    tensors,
    torch_zip,
    torchscript,
)
from tests.zoo.layout import BUILDERS

__all__ = ["BUILDERS", "distributed", "exported_program", "legacy", "modules", "norms",
           "onnx_models", "pickles", "safetensors_files", "shards", "tensors", "torch_zip",
           "torchscript"]  # fmt: skip
