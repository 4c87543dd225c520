"""RMT as published: the network of the public checkpoints, under the public parameter names.

Source: "RMT: Retentive Networks Meet Vision Transformers", CVPR 2024, https://arxiv.org/abs/2309.11523, sections 3 and
4.1; parameter names and shapes of the public checkpoints. Written from these; outputs equal the public code's
(tests/model/test_rmt.py). Left out: what only their training uses (stochastic depth, dropout, gradient checkpointing).

Layout: NHWC throughout, NCHW at the image and around convolutions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt_edge.data.preprocess import Preprocessing, check_input_size
from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.spec import CLASSIFIER
from rmt_edge.model.variants import VARIANTS, Variant
from rmt_edge.ops.retention.op import retention

LAYER_NORM_EPS = 1e-6  # public code; PyTorch's own default is 1e-5
EXTRA_NORM_EPS = 1e-5  # public code, of the norms on a backbone's outputs: PyTorch's default
LAYER_SCALE_INIT = 1e-6  # public code, B and L


def stage_grid(stage: int, h: int, w: int) -> tuple[int, int]:
    """The token grid of a stage (0 to 3) for an h x w image: the side halved and rounded up at every stride."""
    stride = 4 * 2**stage
    return -(-h // stride), -(-w // stride)


class DepthwiseConv(nn.Module):
    """Depthwise convolution of an NHWC tensor, same size. (b, h, w, c) -> (b, h, w, c)."""

    def __init__(self, dim: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class RelativePosition(nn.Module):
    """Theta-shift angles and log-decays of one stage; the public code's `Relpos`.

    angle = 10000^-linspace(0, 1, d/2), each twice; decay_n = log(1 - 2^(-2 - range·n/heads)) (RetNet's spacing).
    """

    def __init__(self, dim: int, num_heads: int, decay_range: int):
        super().__init__()
        angle = 1.0 / 10000 ** torch.linspace(0, 1, dim // num_heads // 2)
        exponent = -2 - decay_range * torch.arange(num_heads, dtype=torch.float32) / num_heads
        self.register_buffer("angle", angle.repeat_interleave(2))  # (d,)
        self.register_buffer("decay", torch.log(1 - 2**exponent))  # (n,)

    def forward(self, h: int, w: int) -> tuple[Tensor, Tensor]:
        """sin and cos of angle·index, index the row-major position. Each (h·w, d)."""
        index = torch.arange(h * w, device=self.angle.device, dtype=self.angle.dtype)
        phase = index[:, None] * self.angle  # (l, d)
        return torch.sin(phase), torch.cos(phase)


class Retention(nn.Module):
    """Projections around the retention op; MaSA in the paper (section 3.2). (b, h, w, c) -> (b, h, w, c)."""

    def __init__(self, dim: int, num_heads: int, decomposed: bool):
        super().__init__()
        self.num_heads = num_heads
        self.decomposed = decomposed
        self.key_scale = (dim // num_heads) ** -0.5
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.lepe = DepthwiseConv(dim, 5)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor, decay: list[float]) -> Tensor:
        qkv = torch.cat((self.q_proj(x), self.k_proj(x) * self.key_scale, self.v_proj(x)), dim=-1)  # (b, h, w, 3c)
        lepe = self.lepe.conv
        out = retention(qkv, sin, cos, lepe.weight, lepe.bias, self.num_heads, decay, self.decomposed)
        return self.out_proj(out)


class FeedForward(nn.Module):
    """fc2(y + dwconv(y)), y = gelu(fc1(x)). (b, h, w, c) -> (b, h, w, c)."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.dwconv = DepthwiseConv(hidden_dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        return self.fc2(x + self.dwconv(x))


class Block(nn.Module):
    """Conditional position encoding, retention, feed-forward, each on a residual. (b, h, w, c) -> (b, h, w, c)."""

    def __init__(self, dim: int, num_heads: int, ffn_ratio: int, decomposed: bool, layer_scale: bool):
        super().__init__()
        self.retention_layer_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.retention = Retention(dim, num_heads, decomposed)
        self.ffn = FeedForward(dim, dim * ffn_ratio)
        self.final_layer_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.pos = DepthwiseConv(dim, 3)
        if layer_scale:
            self.gamma_1 = nn.Parameter(torch.full((1, 1, 1, dim), LAYER_SCALE_INIT))
            self.gamma_2 = nn.Parameter(torch.full((1, 1, 1, dim), LAYER_SCALE_INIT))
        self.has_layer_scale = layer_scale

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor, decay: list[float]) -> Tensor:
        x = x + self.pos(x)
        retained = self.retention(self.retention_layer_norm(x), sin, cos, decay)
        x = x + (self.gamma_1 * retained if self.has_layer_scale else retained)
        fed = self.ffn(self.final_layer_norm(x))
        return x + (self.gamma_2 * fed if self.has_layer_scale else fed)


class PatchEmbed(nn.Module):
    """Four 3x3 convolutions, stride 4 in all. (b, 3, H, W) -> (b, ceil(H/4), ceil(W/4), c)."""

    def __init__(self, dim: int):
        super().__init__()
        half = dim // 2
        self.proj = nn.Sequential(
            nn.Conv2d(3, half, 3, 2, 1), nn.BatchNorm2d(half), nn.GELU(),
            nn.Conv2d(half, half, 3, 1, 1), nn.BatchNorm2d(half), nn.GELU(),
            nn.Conv2d(half, dim, 3, 2, 1), nn.BatchNorm2d(dim), nn.GELU(),
            nn.Conv2d(dim, dim, 3, 1, 1), nn.BatchNorm2d(dim),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).permute(0, 2, 3, 1)


class PatchMerging(nn.Module):
    """3x3 convolution of stride 2 and BatchNorm. (b, h, w, c) -> (b, ceil(h/2), ceil(w/2), c_out)."""

    def __init__(self, dim: int, dim_out: int):
        super().__init__()
        self.reduction = nn.Conv2d(dim, dim_out, 3, 2, 1)
        self.norm = nn.BatchNorm2d(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class Stage(nn.Module):
    """Blocks on one token grid, then the downsampling. (b, h, w, c) -> (b, ceil(h/2), ceil(w/2), c_next)."""

    def __init__(self, variant: Variant, index: int):
        super().__init__()
        dim, num_heads, decomposed = variant.dims[index], variant.num_heads[index], variant.decomposed[index]
        self.Relpos = RelativePosition(dim, num_heads, variant.decay_ranges[index])
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, variant.ffn_ratios[index], decomposed, variant.layer_scale[index])
            for _ in range(variant.depths[index])
        )
        self.downsample = PatchMerging(dim, variant.dims[index + 1]) if index < 3 else None

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.attend(x))

    def attend(self, x: Tensor) -> Tensor:
        """The blocks. (b, h, w, c) -> (b, h, w, c)."""
        sin, cos = self.Relpos(x.shape[1], x.shape[2])
        decay = self.Relpos.decay.tolist()
        for block in self.blocks:
            x = block(x, sin, cos, decay)
        return x

    def reduce(self, x: Tensor) -> Tensor:
        """The downsampling, where there is one. (b, h, w, c) -> (b, ceil(h/2), ceil(w/2), c_next)."""
        return x if self.downsample is None else self.downsample(x)


class Backbone(nn.Module):
    """RMT below a detector's or segmenter's neck. Images (b, 3, H, W) -> four maps (b, c, h, w), strides 4, 8, 16, 32.

    A map is a stage's tokens before the downsampling, through a LayerNorm of its own; the downsampling takes them
    without it. Source: det/models/backbones/RMT.py of the public code.
    """

    def __init__(self, variant_name: str):
        super().__init__()
        variant = VARIANTS[variant_name]
        self.variant_name = variant_name
        self.patch_embed = PatchEmbed(variant.dims[0])
        self.layers = nn.ModuleList(Stage(variant, index) for index in range(4))
        self.extra_norms = nn.ModuleList(nn.LayerNorm(dim, eps=EXTRA_NORM_EPS) for dim in variant.dims)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> list[Tensor]:
        check_input_size(image.shape[2], image.shape[3])
        x = self.patch_embed(image)
        maps = []
        for stage, norm in zip(self.layers, self.extra_norms, strict=True):
            x = stage.attend(x)
            maps.append(norm(x).permute(0, 3, 1, 2).contiguous())
            x = stage.reduce(x)
        return maps


class RMT(nn.Module):
    """The classifier. Images (b, 3, H, W), H and W at least 32 -> logits (b, num_classes).

    preprocessing: what the images went through in training and must go through from now on.
    """

    head_name = CLASSIFIER

    def __init__(self, variant_name: str, num_classes: int):
        super().__init__()
        variant = VARIANTS[variant_name]
        self.variant_name, self.num_classes = variant_name, num_classes
        self.preprocessing = Preprocessing()  # the public evaluation's; load_checkpoint puts the file's own here
        self.weights_taken: str | None = None  # load_checkpoint says here where in the file the weights lay
        self.class_names: tuple[str, ...] | None = None  # and here what the file calls its classes
        self.patch_embed = PatchEmbed(variant.dims[0])
        self.layers = nn.ModuleList(Stage(variant, index) for index in range(4))
        self.proj = nn.Linear(variant.dims[3], variant.classifier_dim)
        self.norm = nn.BatchNorm2d(variant.classifier_dim)
        self.head = nn.Linear(variant.classifier_dim, num_classes)
        # Trained on token labels; at inference it adds half of its largest logit over the tokens.
        self.aux_head = nn.Linear(variant.dims[3], num_classes) if variant.has_aux_head else None
        self.apply(_initialise)

    def forward_features(self, image: Tensor) -> Tensor:
        """The last stage's tokens. (b, 3, H, W) -> (b, ceil(H/32), ceil(W/32), c)."""
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        return x

    def forward(self, image: Tensor) -> Tensor:
        check_input_size(image.shape[2], image.shape[3])
        tokens = self.forward_features(image)
        x = self.norm(self.proj(tokens).permute(0, 3, 1, 2))  # (b, c, h, w)
        logits = self.head(F.silu(x).mean(dim=(2, 3)))
        if self.aux_head is None:
            return logits
        return logits + 0.5 * self.aux_head(tokens).flatten(1, 2).amax(dim=1)


def _initialise(module: nn.Module) -> None:
    """Truncated normal for the Linear layers, as ViTs are trained; convolutions and norms keep PyTorch's own."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def create_model(name: str, num_classes: int = 1000) -> RMT:
    """A freshly initialised RMT, in evaluation mode, by its name in `VARIANTS`."""
    if name not in VARIANTS:
        raise RmtEdgeError(f"There is no RMT variant {name!r}.", f"known variants: {', '.join(VARIANTS)}.")
    if num_classes < 1:
        raise RmtEdgeError(f"num_classes is {num_classes}.", "a classifier has at least one class.")
    return RMT(name, num_classes).eval()
