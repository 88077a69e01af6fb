"""Architectures of other libraries, one of each family, without weights of others.

timm, torchvision, pytorchcv, transformers, geffnet, pretrainedmodels and
segmentation_models_pytorch (smp) take part where they can be imported.
"""

from __future__ import annotations

import hashlib
import importlib
from typing import Any

import torch
from torch import nn

from tests.breadth import hugging

LIBRARIES = (
    "timm", "torchvision", "pytorchcv", "smp", "geffnet", "pretrainedmodels", "transformers",
)  # fmt: skip
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
    "proxylessnas_gpu", "xdensenet40_2_k24_bc_cifar10", "diracnet18v2", "regnetx002", "resnesta18",
    "sknet50", "spnasnet", "fbnet_cb", "lednet_cityscapes", "icnet_resnetd50b_cityscapes",
    "fastscnn_cityscapes", "cgnet_cityscapes", "erfnet_cityscapes", "esnet_cityscapes",
)  # fmt: skip
_SMP = tuple(
    f"{decoder}:{encoder}"
    for decoder, encoder in (
        ("Unet", "resnet18"), ("UnetPlusPlus", "mobilenet_v2"), ("MAnet", "vgg11_bn"),
        ("Linknet", "densenet121"), ("FPN", "efficientnet-b0"), ("PSPNet", "resnet18"),
        ("PAN", "timm-regnetx_002"), ("DeepLabV3", "resnet18"), ("DeepLabV3Plus", "mobileone_s0"),
        ("UPerNet", "mit_b0"), ("Segformer", "mit_b0"), ("DPT", "tu-vit_tiny_patch16_224"),
        ("Unet", "xception"), ("Unet", "inceptionv4"), ("Unet", "dpn68"), ("Unet", "se_resnet50"),
        ("FPN", "timm-res2net50_26w_4s"), ("Linknet", "inceptionresnetv2"),
        ("Unet", "timm-skresnet18"), ("FPN", "tu-convnextv2_atto"),
    )
)  # fmt: skip
_PRETRAINEDMODELS = (
    "bninception", "cafferesnet101", "nasnetamobile", "pnasnet5large", "polynet", "dpn68",
    "fbresnet152", "resnext101_32x4d", "se_resnet50", "senet154", "xception",
)  # fmt: skip
_GEFFNET = (
    "efficientnet_b0", "tf_efficientnet_lite0", "mixnet_s", "tf_mixnet_s", "fbnetc_100",
    "spnasnet_100", "mnasnet_small", "mobilenetv3_rw", "efficientnet_cc_b0_4e",
)  # fmt: skip


def names_of(library: str) -> list[str]:
    """The models of a library that take part."""
    if library == "timm":
        timm = importlib.import_module("timm")
        return [_smallest(timm.list_models(module=m)) for m in timm.list_modules()]
    fixed: dict[str, list[str]] = {
        "torchvision": list(_TORCHVISION), "pytorchcv": list(_PYTORCHCV),
        "transformers": list(hugging.NAMES), "smp": list(_SMP), "geffnet": list(_GEFFNET),
        "pretrainedmodels": list(_PRETRAINEDMODELS),
    }  # fmt: skip
    return fixed[library]


def set_aside(library: str, name: str) -> bool:
    """Whether no code was written for it: a third of all, decided before the first run."""
    return int(hashlib.sha256(f"17 {library} {name}".encode()).hexdigest(), 16) % 3 == 0


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
        size = 32 if "cifar" in name else 256 if "cityscapes" in name else 224
        sized = {"in_size": (size, size)} if name.startswith(("icnet", "fastscnn")) else {}
        return get_model(name, pretrained=False, **sized), (torch.randn(2, 3, size, size),)
    if library == "torchvision":
        return _torchvision(name)
    if library == "smp":
        return _segmentation(name)
    if library in ("geffnet", "pretrainedmodels"):
        return _simple(library, name)
    return hugging.built(name)


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


def _segmentation(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    library = importlib.import_module("segmentation_models_pytorch")
    decoder, _, encoder = name.partition(":")
    model: nn.Module = getattr(library, decoder)(encoder, encoder_weights=None, classes=3)
    size = 224 if decoder == "DPT" else 128
    return model, (torch.randn(2, 3, size, size),)


def _simple(library: str, name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    module = importlib.import_module(library)
    if library == "geffnet":
        return module.create_model(name, pretrained=False), (torch.randn(2, 3, 128, 128),)
    model: nn.Module = vars(module)[name](num_classes=1000, pretrained=None)
    size = 331 if name.startswith("pnas") else 224
    return model, (torch.randn(2, 3, size, size),)
