#!/usr/bin/env python3
"""A peer: PyTorch's eager prediction, with its default layout, or channels last, or its fused attention."""

from __future__ import annotations

import inference_common as common
import torch
import torch.nn.functional as F
import transformers_networks as networks


def build(case: common.Case, size: int, way: str):
    networks.FUSED[0] = "fused_attention" in way
    layout = torch.channels_last if "channels_last" in way else torch.contiguous_format
    network = networks.Network(case.backbone, common.CLASSES, case.head)
    networks.fill(network)
    network = network.eval().requires_grad_(False).to(memory_format=layout)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (common.MEAN, common.STD))

    @torch.inference_mode()
    def label(image, watch):
        x = ((torch.from_numpy(image).permute(2, 0, 1)[None].float() - mean) / std).contiguous(memory_format=layout)
        logits = network.logits(x)
        watch.lap("network")
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear").argmax(1)[0].to(torch.uint8).numpy()

    return label, f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads {way}"


if __name__ == "__main__":
    common.serve(build)
