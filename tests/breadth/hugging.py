"""Architectures of transformers, from configurations of a few layers."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

#: Models of text: all norms, and no batch normalisation.
_TEXT = (
    "LlamaForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "Qwen2ForCausalLM",
    "Qwen3ForCausalLM", "MistralForCausalLM", "Phi3ForCausalLM", "OPTForCausalLM",
    "GPT2LMHeadModel", "GPTNeoXForCausalLM", "Olmo2ForCausalLM", "BertForMaskedLM",
    "RobertaForMaskedLM", "ElectraForMaskedLM", "T5EncoderModel", "MambaForCausalLM",
    "FalconForCausalLM", "CohereForCausalLM", "GraniteForCausalLM", "StableLmForCausalLM",
    "DistilBertForMaskedLM", "AlbertForMaskedLM", "MPNetForMaskedLM", "ModernBertForMaskedLM",
    "DebertaV2ForMaskedLM", "BloomForCausalLM", "SmolLM3ForCausalLM", "Glm4ForCausalLM",
)  # fmt: skip
#: Models of images, sounds and series; most have batch normalisations.
_OTHER = (
    "ViTForImageClassification", "ConvNextForImageClassification", "LevitForImageClassification",
    "MobileViTForImageClassification", "ResNetForImageClassification", "SwinForImageClassification",
    "RegNetForImageClassification", "MobileViTV2ForImageClassification",
    "EfficientNetForImageClassification", "MobileNetV1ForImageClassification",
    "MobileNetV2ForImageClassification", "CvtForImageClassification",
    "TextNetForImageClassification", "SwiftFormerForImageClassification",
    "HGNetV2ForImageClassification", "PPLCNetForImageClassification",
    "PoolFormerForImageClassification", "PvtV2ForImageClassification",
    "FocalNetForImageClassification", "Dinov2ForImageClassification",
    "BeitForSemanticSegmentation", "SegformerForSemanticSegmentation", "DPTForSemanticSegmentation",
    "UperNetForSemanticSegmentation", "MobileViTV2ForSemanticSegmentation",
    "MobileNetV2ForSemanticSegmentation",
    "GLPNForDepthEstimation", "ZoeDepthForDepthEstimation", "DepthAnythingForDepthEstimation",
    "VitMatteForImageMatting", "VitPoseForPoseEstimation", "RTDetrForObjectDetection",
    "RTDetrV2ForObjectDetection", "DFineForObjectDetection", "LwDetrForObjectDetection",
    "DetrForObjectDetection", "DeformableDetrForObjectDetection", "YolosForObjectDetection",
    "PatchTSTForPrediction", "PatchTSMixerForPrediction", "Wav2Vec2ConformerForCTC",
    "ParakeetForCTC", "LasrForCTC", "HubertForCTC", "Wav2Vec2ForCTC",
    "WhisperForAudioClassification",
    "FastSpeech2ConformerModel", "ClapAudioModel", "GroupViTVisionModel", "AlignVisionModel",
    "SuperPointForKeypointDetection", "Swin2SRForImageSuperResolution", "UnivNetModel",
    "EncodecModel", "PPOCRV5MobileDetForObjectDetection", "UVDocModel",
    "ASTForAudioClassification", "CLIPVisionModel", "SiglipVisionModel", "EfficientLoFTRModel",
)  # fmt: skip
NAMES = (*_TEXT, *_OTHER)
_TINY: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 32, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "head_dim": 12, "ffn_dim": 48, "embedding_size": 24,
    "word_embed_proj_dim": 24, "n_embd": 24, "n_head": 2, "n_layer": 2, "d_model": 24, "d_kv": 12,
    "d_ff": 48, "num_layers": 2, "num_heads": 2, "dim": 24, "hidden_dim": 48, "n_layers": 2,
    "n_heads": 2, "state_size": 4,
}  # fmt: skip
_FEW = {"num_hidden_layers": 2, "encoder_layers": 2, "decoder_layers": 2}
_SET: dict[str, dict[str, Any]] = {
    "OPTForCausalLM": {"hidden_size": 24},
    "PatchTSTForPrediction": {"context_length": 64, "num_input_channels": 3},
    "PatchTSMixerForPrediction": {
        "context_length": 64, "num_input_channels": 3, "norm_mlp": "BatchNorm",
    },
}  # fmt: skip


_SIZES = {"LwDetrForObjectDetection": 256, "VitMatteForImageMatting": 224}


def built(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """A model without weights of others, and an example."""
    kind: Any = getattr(importlib.import_module("transformers"), name)
    plain = kind.config_class()
    shrunk = _TINY if name in _TEXT else _FEW
    known = {k: v for k, v in shrunk.items() if hasattr(plain, k)}
    config = kind.config_class(**(known | _SET.get(name, {})))
    for key in ("use_cache", "output_hidden_states", "return_loss"):
        if hasattr(config, key):
            setattr(config, key, False)
    model: nn.Module = kind(config)
    return model, _example(model, config)


def _example(model: Any, config: Any) -> tuple[Any, ...]:
    name = model.main_input_name
    if name == "pixel_values":
        backbone = getattr(config, "backbone_config", None) or config
        size = _SIZES.get(type(model).__name__) or getattr(backbone, "image_size", None) or 224
        sizes = tuple(size) if isinstance(size, list | tuple) else (size, size)
        batch = (2, 2) if "LoFTR" in type(model).__name__ else (2,)
        channels = getattr(backbone, "num_channels", 3) or 3
        return (torch.randn(*batch, channels, *sizes),)
    if name == "input_values" and hasattr(config, "max_length"):  # a spectrogram
        return (torch.randn(2, config.max_length, config.num_mel_bins),)
    if name == "input_values":
        channels = (1,) if "Encodec" in type(model).__name__ else ()
        return (torch.randn(2, *channels, 4000),)
    if name == "input_features":
        return (_features(type(model).__name__, config),)
    if name == "past_values":
        return (torch.randn(2, config.context_length, config.num_input_channels),)
    return (torch.randint(3, 40, (2, 9)),)


def _features(name: str, config: Any) -> torch.Tensor:
    if "Whisper" in name:
        return torch.randn(2, config.num_mel_bins, 2 * config.max_source_positions)
    if "Clap" in name:
        return torch.randn(2, 1, 1001, config.num_mel_bins)
    inner = getattr(config, "encoder_config", config)
    return torch.randn(2, 96, getattr(inner, "num_mel_bins", None) or config.model_in_channels)
