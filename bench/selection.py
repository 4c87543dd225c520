"""Make bench/reference/selection.npz: 2,000 labelled images to choose quantisation on.

    python bench/selection.py

They are of the 5,000 training images of Fashion-MNIST that train_reference.py held out, in its order: neither trained,
calibrated nor tested on. Images whose pixels occur in calibration.npz or test.npz too are passed over.
Data: Debian's package dataset-fashion-mnist (MIT licence).
"""

import argparse
from pathlib import Path

import numpy as np
from train_reference import HELD_OUT, SEED

from rmt_edge.data.dataset import open_dataset
from rmt_edge.search.overlap import image_hashes
from rmt_edge.writing import written_whole

IMAGES = 2_000
REFERENCE = Path(__file__).parent / "reference"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output", type=Path, default=REFERENCE / "selection.npz")
    args = parser.parse_args()
    training = open_dataset(args.data / "train-images-idx3-ubyte.gz")
    held_out = np.random.default_rng(SEED).permutation(len(training))[:HELD_OUT]
    others = [open_dataset(REFERENCE / f"{name}.npz") for name in ("calibration", "test")]
    known = {digest for other in others for digest in image_hashes(other).values()}
    digests = image_hashes(training)
    apart = [i for i in held_out if digests[i] not in known][:IMAGES]
    assert len(apart) == IMAGES, len(apart)
    images = np.stack([np.asarray(training.read(int(i))) for i in apart])
    with written_whole(args.output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, images=images, labels=training.labels[apart].astype(np.uint8))
    print(args.output)


if __name__ == "__main__":
    main()
