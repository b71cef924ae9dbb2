"""Weights of transformers (SegFormer, DAFormer, DINOv2, VFM-UDA) from PyTorch, Hugging Face and PaddleSeg.

PyTorch keeps a linear layer's weight as [out, in], Paddle as [in, out].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np

from paddle_adaptseg.weights.kind import REST, TORCHVISION_PIXELS, Arrays, Kind, has
from paddle_adaptseg.weights.names import ORIGINAL_NAMES, Rules, apply

Tensors = dict[str, np.ndarray]


def _numbered(text: str, one: str) -> Rules:
    """The rules that turn {n} counted from 0 into {n} counted from 1, for four stages."""
    return tuple((text.format(n=n), one.format(n=n + 1)) for n in range(4))


# Hugging Face's names to the originals'.
_HF_SEGFORMER: Rules = (
    (r"^(segformer\.)?encoder\.", ""),
    *_numbered(r"^patch_embeddings\.{n}\.proj\.", "patch_embed{n}.proj."),
    *_numbered(r"^patch_embeddings\.{n}\.layer_norm\.", "patch_embed{n}.norm."),
    *_numbered(r"^block\.{n}\.", "block{n}."),
    *_numbered(r"^layer_norm\.{n}\.", "norm{n}."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.self\.(query|key|value|sr)\.", r".attn.\1."),
    (r"\.attn\.query\.", ".attn.q."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"^decode_head\.linear_fuse\.", "decode_head.linear_fuse.conv."),
    (r"^decode_head\.batch_norm\.", "decode_head.linear_fuse.bn."),
    (r"^decode_head\.classifier\.", "decode_head.linear_pred."),
)
_HF_DINOV2: Rules = (
    (r"^dinov2(_with_registers)?\.", ""),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"^layernorm\.", "norm."),
)
_FUSE = "decode_head.linear_fuse.conv.weight"
_HF_BLOCK = r"^(segformer\.)?encoder\.block\.0\.0\.attention\.self\.query\.weight$"
MIT_RULES: Rules = ((r"^(patch_embed|block|norm)(?=\d)", r"backbone.\1"), *ORIGINAL_NAMES["encode_decode"])
_DINOV2: Rules = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # stored in chunks
    (r"^reg_token$", "register_tokens"),  # timm's
    (r"^(cls_token|pos_embed|mask_token|register_tokens|patch_embed|blocks|norm)(?=[.]|$)", r"backbone.\1"),
)


def transposed(arrays: Arrays) -> Tensors:
    """Linear weights as Paddle keeps them; nothing else has two axes and is called weight."""
    return {name: x.T if x.ndim == 2 and name.endswith("weight") else x for name, x in arrays.items()}


def _joined(arrays: Arrays, target: str, parts: Sequence[str]) -> Tensors:
    """Layers called *.attn.<part> as one called *.attn.<target>."""
    found, first = dict(arrays), re.compile(rf"\.attn\.{parts[0]}\.")
    for name in [name for name in arrays if first.search(name)]:
        pieces = [found.pop(first.sub(f".attn.{part}.", name)) for part in parts]
        found[first.sub(f".attn.{target}.", name)] = np.concatenate(pieces)
    return found


def _as_paddle(arrays: Arrays) -> Tensors:
    """A bare Mix Transformer: PaddleSeg's names are those of the original, and only its linear weights differ."""
    fc1 = arrays.get("block1.0.mlp.fc1.weight")
    paddles = fc1 is not None and fc1.shape[0] == len(arrays["patch_embed1.proj.weight"])
    return dict(arrays) if paddles else transposed(arrays)


def _segmenter(arrays: Arrays) -> Tensors:
    """A network of mmsegmentation's family. SegFormer's head never uses conv_seg, and fuses the deepest stage first."""
    found = transposed(arrays)
    if "decode_head.linear_pred.weight" in found:
        found = {name: x for name, x in found.items() if not name.startswith("decode_head.conv_seg.")}
    if "decode_head.linear_c1.proj.weight" in found and _FUSE in found:
        found[_FUSE] = stages_reversed(found[_FUSE])
    return found


def stages_reversed(weight: np.ndarray) -> np.ndarray:
    """A fusion's weight [out, 4 x width, 1, 1] with its four groups of inputs in the opposite order."""
    four = weight.ndim == 4 and weight.shape[1] % 4 == 0
    return np.concatenate(np.split(weight, 4, axis=1)[::-1], axis=1) if four else weight


def _hf_segformer(arrays: Arrays) -> Tensors:
    found = {apply(_HF_SEGFORMER, name): x for name, x in arrays.items()}
    found = transposed(_joined(found, "kv", ("key", "value")))
    if _FUSE in found:
        found[_FUSE] = stages_reversed(found[_FUSE])
    return found


def _hf_dinov2(arrays: Arrays) -> Tensors:
    found = {apply(_HF_DINOV2, name): x for name, x in arrays.items()}
    return transposed(_joined(found, "qkv", ("query", "key", "value")))


def _dinov2(arrays: Arrays) -> Tensors:
    """timm adds the CLS token's position to the token where there are registers, and stores no such position."""
    found = transposed(arrays)
    gated = [n for n in found if n.endswith(".mlp.fc1.weight") and found[n].shape[1] == 2 * len(_second(found, n))]
    for name in gated:  # the giant's SwiGLU
        for old, new in (("fc1", "w12"), ("fc2", "w3")):
            for kind in ("weight", "bias"):
                before = name.replace("fc1.weight", f"{old}.{kind}")
                found[before.replace(f".{old}.", f".{new}.")] = found.pop(before)
    if "reg_token" in found and "pos_embed" in found:
        found["pos_embed"] = np.concatenate([np.zeros_like(found["pos_embed"][:, :1]), found["pos_embed"]], axis=1)
    return found


def _second(arrays: Arrays, first: str) -> np.ndarray:
    """The second layer of a block's feed-forward part, [in, out]."""
    return arrays[first.replace("fc1", "fc2")]


def _finds(pattern: str) -> Callable[[Arrays], bool]:
    return lambda arrays: any(re.search(pattern, name) for name in arrays)


SEEN = "labels of Cityscapes or ADE20K"
_VIT: Mapping[str, Any] = {"model": {"name": "encode_decode"}, "pixels": TORCHVISION_PIXELS}
TRANSFORMER_KINDS: Mapping[str, Kind] = {
    "mit": Kind(
        "ImageNet Mix Transformer of SegFormer or PaddleSeg: RGB mean and deviation; its classifier is left out",
        has("patch_embed1.proj.weight", "block1.0.attn.q.weight"),
        MIT_RULES,
        _as_paddle,
        leave_out=r"^head\.",
        absent=REST,
        **_VIT,
    ),
    "segformer": Kind(
        f"SegFormer of its authors, trained with {SEEN}: RGB mean and deviation",
        has("backbone.patch_embed1.proj.weight", "decode_head.linear_c1.proj.weight"),
        ORIGINAL_NAMES["encode_decode"],
        _segmenter,
        seen=SEEN,
        **_VIT,
    ),
    "mmseg_hrda": Kind(
        "HRDA or MIC on HRDA, trained for segmentation: RGB mean and deviation",
        _finds(r"^decode_head\.scale_attention\."),
        ORIGINAL_NAMES["hrda"],
        _segmenter,
        model={"name": "hrda"},
        pixels=TORCHVISION_PIXELS,
    ),
    "mmseg_mit": Kind(
        "DAFormer and what is built on its program, trained for segmentation: RGB mean and deviation",
        lambda arrays: "backbone.patch_embed1.proj.weight" in arrays and _finds(r"^decode_head\.")(arrays),
        ORIGINAL_NAMES["encode_decode"],
        _segmenter,
        **_VIT,
    ),
    "hf_segformer_trained": Kind(
        f"SegFormer of Hugging Face, trained with {SEEN}: RGB mean and deviation",
        lambda arrays: _finds(_HF_BLOCK)(arrays) and _finds(r"^decode_head\.")(arrays),
        MIT_RULES,
        _hf_segformer,
        seen=SEEN,
        **_VIT,
    ),
    "hf_segformer": Kind(
        "ImageNet Mix Transformer of Hugging Face: RGB mean and deviation; its classifier is left out",
        _finds(_HF_BLOCK),
        MIT_RULES,
        _hf_segformer,
        leave_out=r"^classifier\.",
        absent=REST,
        **_VIT,
    ),
    "dinov2": Kind(
        "DINOv2, or timm's copy of it: RGB mean and deviation",
        lambda arrays: "patch_embed.proj.weight" in arrays and _finds(r"^blocks\.0\.(0\.)?ls1\.gamma$")(arrays),
        _DINOV2,
        _dinov2,
        leave_out=r"^(head|linear_head)\.",
        absent=rf"{REST}|^backbone\.mask_token$",
        **_VIT,
    ),
    "hf_dinov2": Kind(
        "DINOv2 of Hugging Face: RGB mean and deviation; a classifier is left out",
        _finds(r"^(dinov2(_with_registers)?\.)?embeddings\.patch_embeddings\.projection\.weight$"),
        _DINOV2,
        _hf_dinov2,
        leave_out=r"^classifier\.",
        absent=REST,
        **_VIT,
    ),
    "vfm_uda": Kind(
        "VFM-UDA: DINOv2 with the light head, trained for segmentation: RGB mean and deviation",
        has("encoder.patch_embed.proj.weight", "upscale.0.weight", "out.weight"),
        ORIGINAL_NAMES["encode_decode"],
        transposed,
        leave_out=r"^token_masking\.",
        **_VIT,
    ),
}
