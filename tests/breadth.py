"""Architectures of other libraries, one of each family, each in a process of its own.

    python -m tests.breadth [LIBRARY[:NAME]...] [--limit SECONDS]

prints a Markdown table: the norms, how many are folded, those kept by reason, the largest error.
timm, torchvision, pytorchcv and transformers take part where they can be imported; no weights are
loaded. `pip install --no-deps --target SITE timm torchvision pytorchcv` and PYTHONPATH=SITE let
them stand beside any torch: a torchvision without its compiled operators gets stubs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import bncheck
from bncheck.reporting.documents.fold import general

#: In names of small models, the smallest first.
_SMALL = (
    "test_", "atto", "femto", "pico", "nano", "xxs", "xx_small", "xxtiny", "xtiny", "050", "_050",
    "lite0", "b0", "_xs", "x_small", "extra_small", "tiny", "mini", "_t0", "_m0", "_s0", "s12",
    "_0", "18", "_s", "small", "t_", "26", "32", "50",
)  # fmt: skip
_TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0",
    "swin_t", "vgg11_bn", "vit_b_32", "segmentation.deeplabv3_mobilenet_v3_large",
    "segmentation.lraspp_mobilenet_v3_large", "segmentation.fcn_resnet50", "video.r3d_18",
    "detection.fasterrcnn_mobilenet_v3_large_320_fpn", "detection.ssdlite320_mobilenet_v3_large",
    "detection.retinanet_resnet50_fpn", "detection.fcos_resnet50_fpn",
)  # fmt: skip
_PYTORCHCV = (
    "resnet10", "preresnet10", "seresnet10", "sepreresnet10", "densenet121", "shufflenet_g1_wd4",
    "shufflenetv2_wd2", "menet108_8x1_g3", "mobilenet_wd4", "fdmobilenet_wd4", "mobilenetv2_wd4",
    "mobilenetv3_small_w7d20", "igcv3_wd4", "mnasnet_small", "darknet_tiny", "darknet53",
    "bninception", "efficientnet_b0", "ghostnet", "hardnet39ds", "dla34", "vovnet27s",
    "proxylessnas_gpu", "xdensenet41_2_k24_bc_cifar10", "diracnet18v2", "regnetx002", "resnesta18",
    "sknet50", "spnasnet", "fbnet_cb", "lednet_cityscapes", "icnet_resnetd50b_cityscapes",
    "fastscnn_cityscapes", "cgnet_cityscapes", "erfnet_cityscapes", "esnetv2_cityscapes",
)  # fmt: skip
#: Configurations of a few layers.
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "Llama": {}, "Gemma": {}, "Gemma2": {}, "Qwen2": {}, "Qwen3": {}, "Mistral": {}, "Phi3": {},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 24},
    "GPT2": {"n_embd": 24, "n_head": 2, "n_layer": 2},
    "GPTNeoX": {}, "Olmo2": {}, "Bert": {}, "Roberta": {}, "Electra": {"embedding_size": 24},
    "ViT": {}, "ConvNext": {}, "Levit": {}, "MobileViT": {}, "ResNet": {}, "RegNet": {}, "Swin": {},
}  # fmt: skip
_TINY: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 32, "pad_token_id": 0,
    "head_dim": 12,
}  # fmt: skip


def stubbed_torchvision() -> Any:
    """torchvision, whose compiled operators belong to another torch; the library is kept alive."""
    library: Any = getattr(torch.library, "Library")("torchvision", "DEF")  # noqa: B009
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _nms, "CPU")
    with contextlib.suppress(ImportError):
        extension: Any = importlib.import_module("torchvision.extension")
        extension._has_ops = lambda: True
    return library


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    kept: list[int] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for place in scores.argsort(descending=True).tolist():
        low = torch.maximum(boxes[place, :2], boxes[kept, :2])
        high = torch.minimum(boxes[place, 2:], boxes[kept, 2:])
        common = (high - low).clamp(min=0).prod(1)
        if not kept or bool((common / (areas[place] + areas[kept] - common) <= threshold).all()):
            kept.append(place)
    return torch.tensor(kept, dtype=torch.long)


def names_of(library: str) -> list[str]:
    """The models of a library that take part."""
    if library == "timm":
        timm = importlib.import_module("timm")
        return [_smallest(timm.list_models(module=m)) for m in timm.list_modules()]
    fixed: dict[str, list[str]] = {
        "torchvision": list(_TORCHVISION), "pytorchcv": list(_PYTORCHCV),
        "transformers": list(_TRANSFORMERS),
    }  # fmt: skip
    return fixed[library]


def _smallest(names: list[str]) -> str:
    def size(name: str) -> tuple[int, int]:
        found = (place for place, word in enumerate(_SMALL) if word in name)
        return next(found, len(_SMALL)), len(name)

    return min(names, key=size)


def built(library: str, name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A model without weights of others, and an example."""
    torch.manual_seed(0)
    if library == "timm":
        return _timm(name)
    if library == "pytorchcv":
        get_model: Any = importlib.import_module("pytorchcv.model_provider").get_model
        model = get_model(name, pretrained=False)
        size = 32 if "cifar" in name else 256 if "cityscapes" in name else 224
        return model, (torch.randn(2, 3, size, size),)
    if library == "torchvision":
        return _torchvision(name)
    return _transformers(name)


def _timm(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    timm = importlib.import_module("timm")
    model: nn.Module = timm.create_model(name, pretrained=False, exportable=True)
    settings: Any = model.default_cfg
    sizes = settings.get("test_input_size", settings["input_size"])
    if not settings.get("fixed_input_size", False) and max(sizes) > 128:
        small = (torch.randn(2, sizes[0], 128, 128),)
        try:
            with torch.no_grad():
                model.eval()(*small)
            return model, small
        except Exception:  # a size that it does not take
            return model, (torch.randn(2, *sizes),)
    return model, (torch.randn(2, *sizes),)


def _torchvision(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    group, _, last = name.rpartition(".")
    module = importlib.import_module("torchvision.models" + (f".{group}" if group else ""))
    more: dict[str, Any] = {"weights": None}
    if name in ("inception_v3", "googlenet"):
        more["init_weights"] = False
    if group in ("segmentation", "detection"):
        more["weights_backbone"] = None
    if last.startswith("fasterrcnn"):  # few boxes: suppressing them takes most of the time
        more |= {"rpn_pre_nms_top_n_test": 60, "rpn_post_nms_top_n_test": 20}
    elif group == "detection":
        more |= {"topk_candidates": 40, "detections_per_img": 20}
    model: nn.Module = getattr(module, last)(**more)
    if group == "detection":
        return model, ([torch.rand(3, 160, 160), torch.rand(3, 160, 160)],)
    sizes = (3, 8, 32, 32) if group == "video" else (3, 224, 224)
    return model, (torch.randn(2, *sizes),)


def _transformers(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    library = importlib.import_module("transformers")
    config = getattr(library, f"{name}Config")
    vision = name in ("ViT", "ConvNext", "Levit", "MobileViT", "ResNet", "RegNet", "Swin")
    head = "ForImageClassification" if vision else "ForCausalLM"
    if name in ("Bert", "Roberta", "Electra"):
        head = "ForMaskedLM"
    if name == "GPT2":
        head = "LMHeadModel"
    name = "Levit" if name == "Levit" else name
    config = getattr(library, f"{name}Config")
    more = _TRANSFORMERS.get(name, {})
    settings = more if vision else {**_TINY, **more}
    model: nn.Module = getattr(library, f"{name}{head}")(config(**settings))
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    if vision:
        size = getattr(model.config, "image_size", 64) or 64
        return model, (torch.randn(2, 3, size, size),)
    return model, (torch.randint(1, 60, (2, 9)),)


def trained(model: nn.Module, example: tuple[Any, ...]) -> nn.Module:
    """Affines of both signs, and statistics of what the layers see: as after training."""
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    norms: list[Any] = []
    with torch.no_grad():
        for module in model.modules():
            values = [getattr(module, role, None) for role in ("weight", "bias")]
            if "Norm" not in type(module).__name__ or not isinstance(values[0], Tensor):
                continue
            uniform(values[0], 0.6, 1.4)
            values[0][torch.rand(values[0].shape, generator=generator) < 0.3] *= -1
            if isinstance(values[1], Tensor):
                uniform(values[1], -0.3, 0.3)
        model.eval()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                norms.append(module.train())
                module.momentum = None
        try:
            for _ in range(3):  # two samples each: from the first layer to the last
                model(*torch.utils._pytree.tree_map(_again, example))
        except (ValueError, RuntimeError):  # one value a channel
            pass
        for norm in norms:
            norm.running_mean.nan_to_num_(0)
            norm.running_var.clamp_(min=0.05).nan_to_num_(1.0)
            norm.momentum = 0.1
    return model.eval()


def _again(item: Any) -> Any:
    return torch.randn_like(item) if isinstance(item, Tensor) and item.is_floating_point() else item


def one(library: str, name: str) -> dict[str, Any]:
    """What becomes of one model, as plain data."""
    torch.set_num_threads(1)
    model, example = built(library, name)
    model = trained(model, example)
    has_batch = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    norms: Any = "batch" if has_batch else "all"
    start = time.process_time()
    found: dict[str, Any] = {"norms": norms}
    try:
        result = bncheck.fold(model, example, norms=norms)
    except bncheck.BncheckError as error:
        return found | {"refused": str(error)[:200]}
    report = result.report
    kept = Counter(general(d.reason) for d in report.kept)
    return found | {
        "total": len(report.batchnorms),
        "folded": report.folded,
        "kept": kept.most_common(3),
        "parts": sum(part.folded for part in report.parts),
        "error": _error(model, result.module(), example),
        "seconds": time.process_time() - start,
    }


def _error(model: nn.Module, folded: nn.Module, example: tuple[Any, ...]) -> float | None:
    """In float32, in parts of the largest output."""
    with torch.no_grad():
        sides = [torch.utils._pytree.tree_leaves(f(*example)) for f in (model, folded)]
    pairs = [p for p in zip(*sides, strict=True) if isinstance(p[0], Tensor) and p[0].numel()]
    floats = [(a, b) for a, b in pairs if a.is_floating_point()]
    if any(a.shape != b.shape for a, b in floats):
        return None
    errors = (float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in floats)
    return max(errors, default=0.0)


def rows(wanted: list[str], limit: float) -> Iterator[str]:
    """A line of Markdown for each model."""
    yield "| model | norms | folded | kept, by reason | error | s |"
    yield "|---|---|---|---|---|---|"
    for word in wanted:
        library, _, chosen = word.partition(":")
        for name in [chosen] if chosen else names_of(library):
            yield _row(library, name, _in_process(library, name, limit))


def _in_process(library: str, name: str, limit: float) -> dict[str, Any]:
    """One model in a fork, which has the libraries loaded."""
    ways = multiprocessing.get_context("fork")
    here, there = ways.Pipe(duplex=False)
    child = ways.Process(target=_send, args=(there, library, name))
    child.start()
    there.close()
    try:
        if not here.poll(limit):
            return {"refused": f"takes more than {limit:g} s"}
        found: dict[str, Any] = here.recv()
        return found
    except EOFError:
        return {"crashed": "the process died"}
    finally:
        child.kill()
        child.join()


def _send(pipe: Any, library: str, name: str) -> None:
    try:
        pipe.send(one(library, name))
    except BaseException as error:
        pipe.send({"crashed": f"{type(error).__name__}: {str(error)[:200]}"})


def _row(library: str, name: str, found: dict[str, Any]) -> str:
    for word in ("refused", "crashed"):
        if word in found:
            return f"| {library} {name} | | | {word}: {found[word]} | | |".replace("\n", " ")
    kept = "; ".join(f"{number} {reason}" for reason, number in found["kept"])
    kinds = "all norms" if found["norms"] == "all" else ""
    parts = f"{found['parts']} parts" if found["parts"] else ""
    note = ", ".join(word for word in (kinds, parts) if word)
    error = "-" if found["error"] is None else f"{found['error']:.0e}"
    total = f"{found['total']} ({note})" if note else str(found["total"])
    cells = f"{library} {name}", total, str(found["folded"]), kept, error, f"{found['seconds']:.0f}"
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """One model, or a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("wanted", nargs="*")
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--one", nargs=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    stubs = stubbed_torchvision()
    if given.one:
        sys.stdout.write(f"\n{json.dumps(one(*given.one))}\n")
        return
    wanted = given.wanted or ["timm", "torchvision", "pytorchcv", "transformers"]
    for line in rows(wanted, given.limit):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    del stubs


if __name__ == "__main__":
    main()
