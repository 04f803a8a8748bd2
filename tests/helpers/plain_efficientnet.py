"""EfficientNet-Lite in plain NumPy, a tap of a window at a time, in float64."""

import numpy as np


def plain_efficientnet(stages, variables, images):
    """Give the logits `[B, classes]` of images `[B, H, W, C]`."""

    def leaf(group, *path):
        node = variables[group]
        for name in path:
            node = node[name]
        return np.asarray(node, np.float64)

    def conv(x, kernel, stride, alone=False):
        """Slide a window whose borders are zeros, half a window to each side, the odd one after."""
        side = kernel.shape[0]
        size = -(-x.shape[1] // stride)
        border = max((size - 1) * stride + side - x.shape[1], 0)
        before = border // 2
        x = np.pad(x, ((0, 0), *[(before, border - before)] * 2, (0, 0)))
        out = 0
        for i in range(side):
            for j in range(side):
                part = x[:, i : i + size * stride : stride, j : j + size * stride : stride]
                part = part[:, :size, :size]
                out = out + (part * kernel[i, j, 0] if alone else part @ kernel[i, j])
        return out

    def layer(x, *path, norm, stride=1, alone=False):
        h = conv(x, leaf("params", *path, "kernel"), stride, alone)
        at = (*path[:-1], norm)
        h = (h - leaf("batch_stats", *at, "mean")) / np.sqrt(leaf("batch_stats", *at, "var") + 1e-3)
        return h * leaf("params", *at, "scale") + leaf("params", *at, "bias")

    def clipped(x):
        return np.clip(x, 0, 6)

    x = clipped(layer(np.asarray(images, np.float64), "conv_stem", norm="bn0", stride=2))
    number = 0
    for stage in stages:
        for i in range(stage.blocks):
            block, h = f"blocks_{number}", x
            if stage.expand > 1:
                h = clipped(layer(h, block, "expand_conv", norm="bn0"))
            stride = stage.stride if i == 0 else 1
            h = clipped(layer(h, block, "depthwise_conv", norm="bn1", stride=stride, alone=True))
            h = layer(h, block, "project_conv", norm="bn2")
            x = x + h if x.shape == h.shape else h
            number += 1
    x = clipped(layer(x, "conv_head", norm="bn1")).mean((1, 2))
    return x @ leaf("params", "fc", "kernel") + leaf("params", "fc", "bias")
