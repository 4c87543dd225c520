"""RMT in its folded form: the same function with fewer, larger steps, for one input size.

Equal to the published form (rmt.py) to 1e-5 in float32. What changes: q, k and v projections are one Linear with the
d^-0.5 key scale in its weights; BatchNorms are in the convolution or Linear before them, LayerScale in the Linear
before it; theta-shift tables are constants of the size. Folding is done in float64.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from rmt_edge.data.preprocess import check_input_size
from rmt_edge.model import rmt
from rmt_edge.model.memory import check_memory
from rmt_edge.model.variants import VARIANTS
from rmt_edge.ops.retention.op import retention

# INT8 ranges of modules, named as quantization/calibrate.py says: `<module>.weight_amax`, `<module>.input_amax`, ….
Ranges = dict[str, Tensor]


class Sum(nn.Module):
    """left + right: a residual addition as a module, so that it has a name, of which its INT8 ranges are."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


class Output(nn.Module):
    """What a Linear layer writes, unchanged: as a module, so that it has a name, of which its INT8 range is."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class FoldedBlock(nn.Module):
    """One block. (b, h, w, c) -> (b, h, w, c); its convolutions are NCHW."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, decomposed: bool):
        super().__init__()
        self.num_heads = num_heads
        self.decomposed = decomposed
        self.pos = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.retention_layer_norm = nn.LayerNorm(dim, eps=rmt.LAYER_NORM_EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.out_proj = nn.Linear(dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim, eps=rmt.LAYER_NORM_EPS)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.qkv_output, self.out_proj_output, self.fc1_output, self.fc2_output = (Output() for _ in range(4))
        self.pos_sum, self.out_proj_sum, self.dwconv_sum, self.fc2_sum = Sum(), Sum(), Sum(), Sum()

    def forward(self, x: Tensor, sin: Tensor, cos: Tensor, decay: list[float]) -> Tensor:
        x = self.pos_sum(x, nhwc(self.pos(nchw(x))))
        qkv = self.qkv_output(self.qkv(self.retention_layer_norm(x)))  # (b, h, w, 3c)
        retained = retention(
            qkv, sin, cos, self.lepe.weight, self.lepe.bias, self.num_heads, decay, self.decomposed
        )  # fmt: skip
        x = self.out_proj_sum(x, self.out_proj_output(self.out_proj(retained)))
        y = F.gelu(self.fc1_output(self.fc1(self.final_layer_norm(x))))
        y = self.dwconv_sum(y, nhwc(self.dwconv(nchw(y))))
        return self.fc2_sum(x, self.fc2_output(self.fc2(y)))


class FoldedStage(nn.Module):
    """Blocks of one grid with its constants, then the downsampling. sin, cos: (h·w, d); decay: (n,)."""

    def __init__(self, variant_name: str, index: int, h: int, w: int):
        super().__init__()
        variant = VARIANTS[variant_name]
        dim, num_heads = variant.dims[index], variant.num_heads[index]
        self.register_buffer("sin", torch.zeros(h * w, dim // num_heads))
        self.register_buffer("cos", torch.zeros(h * w, dim // num_heads))
        self.register_buffer("decay", torch.zeros(num_heads))
        self.blocks = nn.ModuleList(
            FoldedBlock(dim, num_heads, dim * variant.ffn_ratios[index], variant.decomposed[index])
            for _ in range(variant.depths[index])
        )
        self.downsample = nn.Conv2d(dim, variant.dims[index + 1], 3, 2, 1) if index < 3 else None

    def forward(self, x: Tensor) -> Tensor:
        decay = self.decay.tolist()
        for block in self.blocks:
            x = block(x, self.sin, self.cos, decay)
        return self.reduce(x)

    def reduce(self, x: Tensor) -> Tensor:
        """The downsampling, where there is one. (b, h, w, c) -> (b, h/2, w/2, c of the next stage)."""
        return x if self.downsample is None else nhwc(self.downsample(nchw(x)))


class FoldedRMT(nn.Module):
    """The classifier for one input size. Images (b, 3, height, width) -> logits (b, num_classes)."""

    def __init__(self, variant_name: str, num_classes: int, height: int, width: int):
        super().__init__()
        check_input_size(height, width)
        check_memory(variant_name, height, width)
        variant = VARIANTS[variant_name]
        self.variant_name, self.num_classes = variant_name, num_classes
        self.height, self.width = height, width
        dim, last = variant.dims[0], variant.dims[3]
        self.stem = nn.ModuleList(
            [
                nn.Conv2d(3, dim // 2, 3, 2, 1),
                nn.Conv2d(dim // 2, dim // 2, 3, 1, 1),
                nn.Conv2d(dim // 2, dim, 3, 2, 1),
                nn.Conv2d(dim, dim, 3, 1, 1),
            ]
        )
        grids = [rmt.stage_grid(index, height, width) for index in range(4)]
        self.stages = nn.ModuleList(FoldedStage(variant_name, index, *grids[index]) for index in range(4))
        self.proj = nn.Linear(last, variant.classifier_dim)
        self.head = nn.Linear(variant.classifier_dim, num_classes)
        self.aux_head = nn.Linear(last, num_classes) if variant.has_aux_head else None

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image)
        for stage in self.stages:
            x = stage(x)
        return self.classify(x)

    def embed(self, image: Tensor) -> Tensor:
        """The stem. (b, 3, height, width) -> (b, h, w, c)."""
        x = self.stem[0](image)
        for conv in self.stem[1:]:
            x = conv(F.gelu(x))
        return nhwc(x)

    def classify(self, x: Tensor) -> Tensor:
        """The heads. (b, h, w, c) of the last stage -> logits (b, num_classes)."""
        logits = self.head(F.silu(self.proj(x)).mean(dim=(1, 2)))
        if self.aux_head is None:
            return logits
        return logits + 0.5 * self.aux_head(x).amax(dim=(1, 2))


def nchw(x: Tensor) -> Tensor:
    """(b, h, w, c) -> (b, c, h, w)."""
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, h, w, c)."""
    return x.permute(0, 2, 3, 1)


def folded_from_model(model: rmt.RMT, height: int, width: int) -> FoldedRMT:
    """The folded form of a trained RMT for one input size, in float32. The model is left as it is."""
    folded = FoldedRMT(model.variant_name, model.num_classes, height, width).double()
    source = copy.deepcopy(model).double().eval()
    convs = [x for x in source.patch_embed.proj if isinstance(x, nn.Conv2d)]
    norms = [x for x in source.patch_embed.proj if isinstance(x, nn.BatchNorm2d)]
    for target, conv, norm in zip(folded.stem, convs, norms, strict=True):
        target.load_state_dict(fuse_conv_bn_eval(conv, norm).state_dict())
    for index, (target, stage) in enumerate(zip(folded.stages, source.layers, strict=True)):
        # The tables of the float32 model: a float64 phase would differ from it by up to 1e-3 at the far end of a grid.
        sin, cos = model.layers[index].Relpos(*rmt.stage_grid(index, height, width))
        target.sin.copy_(sin)
        target.cos.copy_(cos)
        target.decay.copy_(stage.Relpos.decay)
        for new, block in zip(target.blocks, stage.blocks, strict=True):
            _fill_block(new, block)
        if stage.downsample is not None:
            fused = fuse_conv_bn_eval(stage.downsample.reduction, stage.downsample.norm)
            target.downsample.load_state_dict(fused.state_dict())
    folded.proj.load_state_dict(fuse_linear_bn_eval(source.proj, source.norm).state_dict())
    folded.head.load_state_dict(source.head.state_dict())
    if source.aux_head is not None:
        folded.aux_head.load_state_dict(source.aux_head.state_dict())
    return folded.float().eval()


@torch.no_grad()
def _fill_block(new: FoldedBlock, block: rmt.Block) -> None:
    """Copy one block, folding the key scale and LayerScale into the Linear layers."""
    attention, ffn = block.retention, block.ffn
    copies = [
        (new.pos, block.pos.conv),
        (new.retention_layer_norm, block.retention_layer_norm),
        (new.lepe, attention.lepe.conv),
        (new.out_proj, attention.out_proj),
        (new.final_layer_norm, block.final_layer_norm),
        (new.fc1, ffn.fc1),
        (new.dwconv, ffn.dwconv.conv),
        (new.fc2, ffn.fc2),
    ]
    for target, origin in copies:
        target.load_state_dict(origin.state_dict())
    projections = [(attention.q_proj, 1.0), (attention.k_proj, attention.key_scale), (attention.v_proj, 1.0)]
    new.qkv.weight.copy_(torch.cat([x.weight * scale for x, scale in projections]))
    new.qkv.bias.copy_(torch.cat([x.bias * scale for x, scale in projections]))
    if block.has_layer_scale:
        for linear, gamma in ((new.out_proj, block.gamma_1), (new.fc2, block.gamma_2)):
            linear.weight.mul_(gamma.flatten()[:, None])
            linear.bias.mul_(gamma.flatten())
