"""Semantic FPN and UperNet on RMT: images to class logits a quarter of their size, and to labels, under mmseg's names.

Sources: "Panoptic Feature Pyramid Networks", CVPR 2019, https://arxiv.org/abs/1901.02446; "Unified Perceptual Parsing
for Scene Understanding", ECCV 2018, https://arxiv.org/abs/1807.10221; the settings of RMT's public configs
(seg/models/decode_heads/fpn_head.py, uper_head.py, psp_head.py). Dropout, which only training uses, is left out. All
maps are NCHW; every resize is bilinear with align_corners False.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_edge.model.downstream import Downstream
from rmt_edge.model.fpn import FPN, PLAIN, ConvModule
from rmt_edge.model.spec import LABELS, SEMANTIC_FPN, UPERNET
from rmt_edge.model.widths import Widths

POOL_SIZES = (1, 2, 3, 6)  # of UperNet's pyramid pooling: the grids that the coarsest map is averaged to


def resized(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, to a size. (b, c, h, w) -> (b, c, *size)."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class Upsample(nn.Module):
    """Twice the size, bilinear."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class SemanticFPNHead(nn.Module):
    """Four pyramid levels -> logits (b, classes, h, w), the size of the finest."""

    def __init__(self, classes: int, channels: int, width: int, norm: bool = True):
        super().__init__()
        self.scale_heads = nn.ModuleList()
        for level in range(4):
            steps: list[nn.Module] = []
            for number in range(max(1, level)):
                steps.append(ConvModule(width if number else channels, width, 3, norm=norm))
                if level:
                    steps.append(Upsample())
            self.scale_heads.append(nn.Sequential(*steps))
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        x = self.scale_heads[0](levels[0])
        for head, level in zip(self.scale_heads[1:], levels[1:], strict=True):
            x = x + resized(head(level), x.shape[2:])  # where a side was odd, twice the next level is one more
        return self.conv_seg(x)


class UperNetHead(nn.Module):
    """The backbone's four maps -> logits (b, classes, h, w), the size of the finest."""

    def __init__(self, classes: int, dims: tuple[int, ...], width: int, norm: bool = True):
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvModule(dims[-1], width, 1, norm=norm)) for size in POOL_SIZES
        )
        self.bottleneck = ConvModule(dims[-1] + len(POOL_SIZES) * width, width, 3, norm=norm)
        self.lateral_convs = nn.ModuleList(ConvModule(dim, width, 1, norm=norm) for dim in dims[:-1])
        self.fpn_convs = nn.ModuleList(ConvModule(width, width, 3, norm=norm) for _ in dims[:-1])
        self.fpn_bottleneck = ConvModule(len(dims) * width, width, 3, norm=norm)
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        sums = [lateral(x) for lateral, x in zip(self.lateral_convs, maps, strict=False)]
        sums.append(self.pooled(maps[-1]))
        for level in range(len(sums) - 1, 0, -1):
            sums[level - 1] = sums[level - 1] + resized(sums[level], sums[level - 1].shape[2:])
        levels = [conv(x) for conv, x in zip(self.fpn_convs, sums, strict=False)] + sums[-1:]
        levels = levels[:1] + [resized(x, levels[0].shape[2:]) for x in levels[1:]]
        return self.conv_seg(self.fpn_bottleneck(torch.cat(levels, dim=1)))

    def pooled(self, x: Tensor) -> Tensor:
        """Pyramid pooling of the coarsest map. (b, c, h, w) -> (b, width, h, w)."""
        pools = [resized(module(x), x.shape[2:]) for module in self.psp_modules]
        return self.bottleneck(torch.cat([x, *pools], dim=1))


class AuxiliaryHead(nn.Module):
    """UperNet's second head on the third map. Only training runs it, but its weights are in the checkpoints."""

    def __init__(self, classes: int, channels: int, width: int):
        super().__init__()
        self.convs = nn.Sequential(ConvModule(channels, width, 3, norm=True))
        self.conv_seg = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.conv_seg(self.convs(maps[2]))


class Segmenter(Downstream):
    """Images (b, 3, H, W) -> labels (b, H, W): the class of the greatest logit, resized to the images' size first."""

    def logits(self, images: Tensor) -> Tensor:
        """The decode head's output. (b, 3, H, W) -> (b, classes, ceil(H/4), ceil(W/4))."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        labels = resized(self.logits(images), images.shape[2:]).argmax(dim=1)
        return {LABELS: labels.to(torch.uint8 if self.num_classes <= 256 else torch.int32)}


class SemanticFPN(Segmenter):
    """Semantic FPN. norm: whether the head has its BatchNorms still."""

    head_name = SEMANTIC_FPN

    def __init__(self, backbone: nn.Module, classes: int, widths: Widths, norm: bool = True):
        super().__init__(backbone, classes, widths)
        self.neck = FPN(self.dims, widths.neck, PLAIN)
        self.decode_head = SemanticFPNHead(classes, widths.neck, widths.head, norm)

    def logits(self, images: Tensor) -> Tensor:
        return self.decode_head(self.neck(self.backbone(images)))


class UperNet(Segmenter):
    """UperNet. norm: as for SemanticFPN; without norms it is for inference alone and has no auxiliary head."""

    head_name = UPERNET

    def __init__(self, backbone: nn.Module, classes: int, widths: Widths, norm: bool = True):
        super().__init__(backbone, classes, widths)
        self.decode_head = UperNetHead(classes, self.dims, widths.head, norm)
        self.auxiliary_head = AuxiliaryHead(classes, self.dims[2], widths.auxiliary) if norm else None

    def logits(self, images: Tensor) -> Tensor:
        return self.decode_head(self.backbone(images))
