"""The model card beside the shipped detectors and segmenter: what they are, what they saw, what they reach."""

from pathlib import Path
from typing import Any

from scenes.backgrounds import PICTURES

TITLES = {"retinanet": "RetinaNet", "mask_rcnn": "Mask R-CNN", "semantic_fpn": "Semantic FPN"}


def write_card(path: Path, record: dict[str, Any]) -> None:
    """README.md of the folder."""
    heads = record["heads"]
    test = record["scenes"]["test"]
    rows = "\n".join(
        f"| {TITLES[head]} | `{row['file']}` | {row['parameters']:,} | {row['steps']:,} × {record['batch']} scenes, "
        f"{row['training_cpu_seconds'] / 60:.0f} min | {_scores(row['held_out'])} | **{_scores(row['test'])}** |"
        for head, row in heads.items()
    )
    hashes = "\n".join(f"- `{row['file']}`: `{row['sha256']}`" for row in heads.values())
    pictures = "\n".join(
        f"| {split} | skimage/data/{name} | {licence} |"
        for split, rows in PICTURES.items()
        for name, _, licence in rows
    )
    path.write_text(f"""# {record["variant"]} on composed scenes

Small and really trained detectors and a segmenter, for the demo, the tests and accuracy regressions: what INT8 costs
them is measured on the test scenes that lie here. **Real items, composed scenes**: the items are Fashion-MNIST's
photographs, what surrounds them is put together by `bench/scenes/compose.py`. Nothing here speaks for COCO or ADE20K.

| head | file | parameters | training (one core) | held-out scenes | test scenes |
|---|---|---|---|---|---|
{rows}

AP by pycocotools, IoU 0.5 to 0.95, in percent, and mIoU; in brackets the 95 % interval over images. All in float32 by
PyTorch, of the files as they lie here. All began from the reference classifier
(`../rmt_nano_fashion_mnist.safetensors`), which saw training items alone, held-out ones among them.

| | |
|---|---|
| items | Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv 1708.07747); MIT, (c) 2017 Zalando SE |
| scenes | 128×128, 1 to 6 items enlarged 1 to 4 times, overlapping, tinted, with distractors, noise and blur |
| training | {record["scenes"]["training"]:,} scenes of 55,000 training items, each seen several times, or mirrored |
| held out | {record["scenes"]["held_out"]} scenes of the other 5,000 training items, on the training backgrounds |
| test | {test} scenes of the 10,000 test items, on other photographs and other kinds of textures; scored once |
| calibration | {record["scenes"]["calibration"]} scenes of the 55,000 training items, none of those trained on |
| input | RGB 128×128 as it is, mean (123.675, 116.28, 103.53), deviation (58.395, 57.12, 57.375) |
| weights | stored in half precision, to stay small; float32 in memory |
| classes | the ten of Fashion-MNIST; the segmenter has the background as an eleventh, last |
| seed | {record["seed"]} |
| command | `{record["command"]}` |
| versions | {", ".join(f"{name} {version}" for name, version in record["versions"].items())} |

`test/images` and `test/annotations.json` (COCO, masks as run lengths), `test/labels` (one label map a picture,
as ADE20K has them; 10 is the background), `calibration/`: pictures alone.

## Licences
The items are MIT (../LICENSE-fashion-mnist). The photographs behind them, all in scikit-image 0.26.0, are in the public
domain by the word of its `skimage/data/_fetchers.py`:

| scenes | photograph | licence |
|---|---|---|
{pictures}

## sha256
{hashes}

Not for any use beyond this: they have seen clothes in 28x28 grey pixels, enlarged, and nothing else.
""")


def _scores(scores: dict[str, Any]) -> str:
    """AP of boxes and masks, or mIoU, with intervals, as one cell of a table."""
    if "mIoU" in scores:
        return f"mIoU {scores['mIoU']:.1f} [{scores['mIoU_low']:.1f}, {scores['mIoU_high']:.1f}]"
    what = {"bbox": "box", "segm": "mask"}
    return ", ".join(
        f"{what[kind]} AP {x['AP']:.1f} [{x['AP_low']:.1f}, {x['AP_high']:.1f}]" for kind, x in scores.items()
    )
