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
    "backbone": f"name of a backbone, and its keywords: {_names([*BACKBONES, *SIZES])}; of a network of "
    "[PaddleSeg](paddleseg.md) its `type`, and its keywords",
    "type": "name of a network of [PaddleSeg](paddleseg.md); it takes that network's own keywords, too",
    "head": f"name of a head, and its keywords: {_names(HEADS)}",
    "backbone_rate": "rate of the backbone as a multiple of the base rate",
    "norm_decay": "weight decay of what has `norm` in its name in the backbone, as a multiple",
    "layer_decay": "rate of each of a vision transformer's blocks as a multiple of the next one's",
    "embed_dims": "channels of the four stages (mit); to which the head brings every stage (daformer)",
    "num_heads": "attention heads (mit: of the four stages)",
    "mlp_ratios": "width of the four stages' MLPs, as a multiple",
    "sr_ratios": "by how much the four stages' attention reduces keys and values",
    "drop_path": "share of the images for which the last block is left out in training; 0 at the first one",
    "depth": "number of blocks",
    "mlp_ratio": "width of the MLP, as a multiple",
    "ffn": _names(FFNS),
    "registers": "register tokens",
    "patch": "side of a patch in pixels",
    "stored_grid": "side of the grid of stored position embeddings",
    "offset": "what is added to rows and columns where position embeddings are resized by a scale",
    "antialias": "smooth position embeddings where they are resized (DINOv2 with registers)",
    "layer_scale": "initial value of the blocks' LayerScale",
    "layers": "blocks after which features are taken; empty: the last",
    "image_size": "side of training crops, from which VFM-UDA's input size follows; 0: the next multiples of a patch",
    "embed_dim": "channels to which the head brings every stage",
    "embedding": f"what brings a stage to the common width: {_names(EMBEDDINGS)} (with norm and ReLU)",
    "dropout": "share of the channels that training leaves out before the classifier",
    "channels": "channels of the head's fusion",
    "fusion": _names(FUSIONS),
    "dilations": "dilations of the fusions sepaspp and aspp; 1 is a 1x1 convolution",
    "pool": "whether the fusions sepaspp and aspp see the image's mean too",
    "kernel": "kernel of the fusion conv",
    "isa_channels": "channels of queries and keys of the fusion isa",
    "down_factor": "height and width of the windows of the fusion isa",
    "network": "the network that hrda wraps: a section like `model` itself, with one head (`aux: false`)",
    "crop": "hrda's detail crop in training, and its detail windows elsewhere [width, height]",
    "divisible": "the corner of the detail crop is a multiple of it",
    "classwise": "whether each class has a scale attention of its own",
    "attention_width": "channels of the head that computes the scale attention",
    "compare": "which features feature distance compares: of the `context`, or of `all` scales",
    "detail_batch": "detail windows that are computed at once where no gradient is needed; 0: all",
}
