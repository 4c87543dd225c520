"""The RMT variants as a table: adding one is adding a line.

Source: paper, table 1 and appendix (arXiv 2309.11523); the shapes of the public checkpoints' parameters. The public
code calls RMT-T, -S, -B, -L `RMT_T3`, `RMT_S`, `RMT_M2`, `RMT_L6`. `rmt_nano` is ours, for tests and the demo; so
is `rmt_pico`, the same with a narrow last stage: the backbone that bench/train_scenes.py trains detectors on.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Variant:
    """What distinguishes one RMT from another. Four-tuples hold one entry per stage."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    ffn_ratios: tuple[int, int, int, int]
    decay_ranges: tuple[int, int, int, int]
    decomposed: tuple[bool, bool, bool, bool]
    layer_scale: tuple[bool, bool, bool, bool] = (False, False, False, False)
    has_aux_head: bool = False
    classifier_dim: int = 1024  # width of the hidden layer before the head


VARIANTS = {
    "rmt_t": Variant(
        dims=(64, 128, 256, 512), depths=(2, 2, 8, 2), num_heads=(4, 4, 8, 16), ffn_ratios=(3, 3, 3, 3),
        decay_ranges=(4, 4, 6, 6), decomposed=(True, True, False, False),
    ),
    "rmt_s": Variant(
        dims=(64, 128, 256, 512), depths=(3, 4, 18, 4), num_heads=(4, 4, 8, 16), ffn_ratios=(4, 4, 3, 3),
        decay_ranges=(4, 4, 6, 6), decomposed=(True, True, True, False),
    ),
    "rmt_b": Variant(
        dims=(80, 160, 320, 512), depths=(4, 8, 25, 8), num_heads=(5, 5, 10, 16), ffn_ratios=(4, 4, 3, 3),
        decay_ranges=(5, 5, 6, 6), decomposed=(True, True, True, False), layer_scale=(False, False, True, True),
    ),
    "rmt_l": Variant(
        dims=(112, 224, 448, 640), depths=(4, 8, 25, 8), num_heads=(7, 7, 14, 20), ffn_ratios=(4, 4, 3, 3),
        decay_ranges=(6, 6, 6, 6), decomposed=(True, True, True, False), layer_scale=(False, False, True, True),
    ),
    "rmt_nano": Variant(
        dims=(32, 64, 128, 192), depths=(1, 2, 2, 1), num_heads=(2, 2, 4, 6), ffn_ratios=(3, 3, 3, 3),
        decay_ranges=(4, 4, 6, 6), decomposed=(True, True, False, False), classifier_dim=256,
    ),
    "rmt_pico": Variant(
        dims=(32, 64, 128, 96), depths=(1, 2, 2, 1), num_heads=(2, 2, 4, 3), ffn_ratios=(3, 3, 3, 3),
        decay_ranges=(4, 4, 6, 6), decomposed=(True, True, False, False), classifier_dim=128,
    ),
}  # fmt: skip
# S*, B*, L* of the paper: the same networks trained with token labels, for which they carry an auxiliary head.
VARIANTS |= {f"rmt_{x}_token_label": replace(VARIANTS[f"rmt_{x}"], has_aux_head=True) for x in "sbl"}
