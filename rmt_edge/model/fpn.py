"""The feature pyramid under detectors and Semantic FPN, and the convolution module of all heads, under mmdet's names.

Source: "Feature Pyramid Networks for Object Detection", CVPR 2017, https://arxiv.org/abs/1612.03144; the settings of
RMT's public configs (det/models/necks/fpn.py): no norm and no activation in the pyramid, nearest up-sampling to the
size of the level below, the 3x3 convolutions after all sums. All maps are NCHW.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# What is put on top of the pyramid: nothing; P6 by striding over P5; P6 from the backbone's last map and P7 from P6.
PLAIN, POOLED, CONVOLVED = "plain", "pooled", "convolved"


class ConvModule(nn.Module):
    """Convolution of the same size (at stride 1), BatchNorm and ReLU, the last two if asked for; mmcv's ConvModule.

    A convolution before a BatchNorm has no bias of its own. `fold` takes the BatchNorm into it.
    """

    def __init__(
        self, channels: int, out: int, kernel_size: int, stride: int = 1, norm: bool = False, activation: bool = True
    ):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel_size, stride, kernel_size // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(out) if norm else None
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return F.relu(x) if self.activation else x

    def fold(self) -> None:
        """The same function with the BatchNorm in the convolution."""
        if self.bn is not None:
            self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), None


class FPN(nn.Module):
    """Backbone maps, fine to coarse -> the pyramid's, each with `channels`. channels_in: of the maps that it reads.

    top: PLAIN, POOLED or CONVOLVED; with the last the finest of four maps is left out, as in RetinaNet.
    """

    def __init__(self, channels_in: tuple[int, ...], channels: int, top: str):
        super().__init__()
        self.top = top
        self.lateral_convs = nn.ModuleList(ConvModule(c, channels, 1, activation=False) for c in channels_in)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3, activation=False) for _ in channels_in)
        if top == CONVOLVED:
            for c in (channels_in[-1], channels):
                self.fpn_convs.append(ConvModule(c, channels, 3, stride=2, activation=False))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = maps[-len(self.lateral_convs) :]
        sums = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(sums) - 1, 0, -1):
            sums[level - 1] = sums[level - 1] + F.interpolate(sums[level], size=sums[level - 1].shape[2:])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, sums, strict=False)]
        if self.top == POOLED:
            levels.append(levels[-1][:, :, ::2, ::2])  # max pooling with kernel 1 and stride 2
        elif self.top == CONVOLVED:
            levels.append(self.fpn_convs[-2](maps[-1]))
            levels.append(self.fpn_convs[-1](levels[-1]))
        return levels
