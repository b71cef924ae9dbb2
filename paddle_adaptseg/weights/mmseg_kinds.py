"""Weights of mmsegmentation from 0.20 on, 1.x too: a Mix Transformer in other names, and ResNet-v1c.

mmsegmentation joins queries, keys and values as PyTorch's attention does, has 1x1 convolutions for the linear layers of
the Mix-FFN, and a SegFormer head of its own: convolution, norm and ReLU on every stage (`head: {embedding: conv}`).
"""

from __future__ import annotations

from collections.abc import Mapping

from paddle_adaptseg.weights.kind import REST, TORCHVISION_PIXELS, Arrays, Kind, has
from paddle_adaptseg.weights.names import STATISTICS, Rules, apply
from paddle_adaptseg.weights.transformer_kinds import MIT_RULES, SEEN, Tensors, transposed

_STAGES = range(4)
_FFN = {"0": "fc1", "1": "dwconv.dwconv", "4": "fc2"}  # places of its Sequential
_NEWER: Rules = (
    (r"^(backbone\.)(?=layers\.\d\.\d)", ""),
    *((rf"^layers\.{n}\.0\.projection\.", f"patch_embed{n + 1}.proj.") for n in _STAGES),
    *((rf"^layers\.{n}\.0\.norm\.", f"patch_embed{n + 1}.norm.") for n in _STAGES),
    *((rf"^layers\.{n}\.1\.", f"block{n + 1}.") for n in _STAGES),
    *((rf"^layers\.{n}\.2\.", f"norm{n + 1}.") for n in _STAGES),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    *((rf"\.ffn\.layers\.{place}\.", f".mlp.{name}.") for place, name in _FFN.items()),
    (r"^decode_head\.convs\.(\d)\.", r"decode_head.linear_c.\1."),
    (r"^decode_head\.fusion_conv\.", "decode_head.linear_fuse."),
    (r"^decode_head\.conv_seg\.", "decode_head.linear_pred."),
)


def _newer(arrays: Arrays) -> Tensors:
    """Original names; attention's joined projection becomes that of queries and that of keys and values."""
    found: Tensors = {}
    for name, x in arrays.items():
        new = apply(_NEWER, name)
        if ".attn.attn.in_proj_" in new:
            before, _, kind = new.partition("attn.attn.in_proj_")
            third = len(x) // 3
            found[f"{before}attn.q.{kind}"], found[f"{before}attn.kv.{kind}"] = x[:third], x[third:]
        else:
            found[new] = x[:, :, 0, 0] if ".mlp.fc" in new and x.ndim == 4 else x
    return transposed(found)


_MODEL: Mapping[str, object] = {"name": "encode_decode"}
MMSEG_KINDS: Mapping[str, Kind] = {
    "mmseg1_segformer": Kind(
        f"SegFormer of mmsegmentation 1.x, trained with {SEEN}: RGB mean and deviation",
        has("backbone.layers.0.0.projection.weight", "decode_head.convs.0.conv.weight"),
        MIT_RULES,
        _newer,
        model=_MODEL,
        pixels=TORCHVISION_PIXELS,
        seen=SEEN,
    ),
    "mmseg1_mit": Kind(
        "ImageNet Mix Transformer of mmsegmentation 1.x: RGB mean and deviation",
        has("layers.0.0.projection.weight", "layers.0.1.0.attn.attn.in_proj_weight"),
        MIT_RULES,
        _newer,
        leave_out=r"^head\.",
        absent=REST,
        model=_MODEL,
        pixels=TORCHVISION_PIXELS,
    ),
    "resnet_v1c": Kind(
        "ImageNet ResNet-v1c of mmsegmentation (open-mmlab://resnet101_v1c): RGB mean and deviation, deep stem",
        has("stem.0.weight", "stem.6.weight", "layer4.0.conv3.weight"),
        ((r"^(stem|layer[1-4])\.", r"backbone.\1."), *STATISTICS),
        leave_out=r"^fc\.",
        absent=REST,
        model={"name": "deeplabv2_resnet_v1c"},
        pixels=TORCHVISION_PIXELS,
    ),
}
