"""What 8 bits save by the estimate: bytes moved and latency of recipes over FP16, on some devices, at every batch size.

    python bench/estimates.py --variant rmt_s --record bench/results/estimates_rmt_s.json

No weights, no images, no GPU: the roofline over the plugin form (rmt_edge/latency). Bytes are of activations, for one
image. `has_issue_times` says whether instructions of the plugin's kernels were counted in (latency/issue.toml). The
last line of output is the record.
"""

import argparse
import json
from pathlib import Path

from record import header

from rmt_edge.device.profile import load_profile
from rmt_edge.latency.issue import TABLE
from rmt_edge.latency.roofline import Network, is_dequantize_fused, latency_ms, network_kernels
from rmt_edge.model.variants import VARIANTS
from rmt_edge.quantization.recipe import load_recipe
from rmt_edge.writing import write_json

BATCHES = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, default="rmt_s")
    parser.add_argument("--recipes", nargs="+", default=["int8", "int8-inner", "int8-linear"])
    parser.add_argument("--devices", nargs="+", default=["jetson-agx-orin-64gb", "rtx-4090"])
    parser.add_argument("--record", type=Path, help="also write the record to this file")
    args = parser.parse_args()
    network = Network(args.variant, 1000, 224, 224)
    layers = {name: load_recipe(name).int8_layers(args.variant) for name in ("fp16", *args.recipes)}
    rows = []
    for device in args.devices:
        profile = load_profile(device)
        row = {"device": device, "fp16_ms": {}, "speedup": {name: {} for name in args.recipes}, "bytes": {}}
        for name, chosen in layers.items():
            kernels = network_kernels(network, frozenset(chosen), is_dequantize_fused(profile))
            row["bytes"][name] = sum(x.activation_bytes for x in kernels)
        for batch in BATCHES:
            times = {name: latency_ms(network, profile, batch, chosen) for name, chosen in layers.items()}
            row["fp16_ms"][batch] = round(times["fp16"], 4)
            for name in args.recipes:
                row["speedup"][name][batch] = round(times["fp16"] / times[name], 3)
        rows.append(row)
    record = header("estimates") | {"variant": args.variant, "has_issue_times": TABLE.is_file(), "devices": rows}
    if args.record:
        write_json(args.record, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
