"""What the keywords of backbones and heads mean, for docs/configuration.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paddle_adaptseg.models.daformer import FUSIONS
from paddle_adaptseg.models.dinov2 import FFNS
from paddle_adaptseg.models.encode_decode import BACKBONES, HEADS, SIZES
from paddle_adaptseg.models.segformer import EMBEDDINGS


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PART_KEYWORDS: Mapping[str, str] = {
    "backbone": f"name of a backbone, and its keywords: {_names([*BACKBONES, *SIZES])}",
    "type": "name of a network of [PaddleSeg](paddleseg.md); it takes that network's own keywords, too",
    "head": f"name of a head, and its keywords: {_names(HEADS)}",
    "backbone_rate": "factor on the learning rate of the backbone",
    "norm_decay": "factor on the weight decay of the backbone's parameters with `norm` in their name",
    "layer_decay": "factor on the learning rate from one block of a vision transformer to the block before it",
    "embed_dims": "channels of the four stages (mit), or those to which the head projects every stage (daformer)",
    "num_heads": "attention heads (mit: of the four stages)",
    "mlp_ratios": "ratio of the MLP's width to the channels, for the four stages",
    "sr_ratios": "spatial reduction of keys and values in the attention of the four stages",
    "drop_path": "stochastic depth: probability of skipping the last block in training, growing from 0 at the first",
    "depth": "number of blocks",
    "mlp_ratio": "ratio of the MLP's width to the channels",
    "ffn": _names(FFNS),
    "registers": "number of register tokens",
    "patch": "side of a patch in pixels",
    "stored_grid": "side of the grid of stored position embeddings",
    "offset": "added to rows and columns when position embeddings are resized by a scale factor",
    "antialias": "antialias position embeddings when they are resized (DINOv2 with registers)",
    "layer_scale": "initial value of the blocks' LayerScale",
    "layers": "blocks after which features are taken; empty: the last",
    "image_size": "side of training crops, for VFM-UDA's input size; 0: resize to the next multiples of the patch size",
    "embed_dim": "channels to which the head projects every stage",
    "embedding": f"layer that projects a stage: {_names(EMBEDDINGS)} (with norm and ReLU)",
    "dropout": "dropout rate before the classifier",
    "channels": "channels of the head's fusion",
    "fusion": _names(FUSIONS),
    "dilations": "dilations of the fusions sepaspp and aspp; 1 is a 1x1 convolution",
    "pool": "whether the fusions sepaspp and aspp have an image pooling branch",
    "kernel": "kernel size of the fusion conv",
    "isa_channels": "channels of queries and keys of the fusion isa",
    "down_factor": "height and width of the windows of the fusion isa",
    "network": "the network that hrda wraps: a section like `model` itself, with one head (`aux: false`)",
    "crop": "hrda's detail crop in training, and its detail windows elsewhere [width, height]",
    "divisible": "offsets of the detail crop are multiples of this",
    "classwise": "whether each class has its own scale attention",
    "attention_width": "channels of the head that computes the scale attention",
    "compare": "which features feature distance compares: of the `context`, or of `all` scales",
    "detail_batch": "detail windows that are computed in one batch when no gradient is needed; 0: all",
}
