"""Packs your own features into a store.

python -m data.own --features FOLDER --out STORE [--clips clips.csv]
python -m data.own --visual FOLDER --audio FOLDER --out STORE [--clips clips.csv]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scav_jax.features.checks import report
from scav_jax.features.clips import SPLITS
from scav_jax.features.extract import read_record
from scav_jax.features.plan import describe_plan, plan_store
from scav_jax.features.store import write_store

PAPER_RATES_HZ = {"visual": 4.0, "audio": 6.2}  # CLIP at 4 frames a second, BEATs at 6.2 steps a second


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data.own",
        description="Packs features into a store for train.py --config.data.store=STORE.",
        epilog="data/own/README.md describes the formats.",
    )
    layout = parser.add_argument_group("features, in one of two layouts")
    layout.add_argument("--features", help="folder of <id>.npz with arrays named visual and audio, (length, width)")
    layout.add_argument("--visual", help="folder of <id>.npy, with --audio")
    layout.add_argument("--audio", help="folder of <id>.npy of the same stems, with --visual")
    parser.add_argument("--out", required=True, help="the store's folder, made anew")
    parser.add_argument("--clips", help=".csv with header id,split,label,group,subset (all but id optional)")
    parser.add_argument("--visual-rate-hz", type=float, help="frames a second (default: extraction.json's, else 4)")
    parser.add_argument("--audio-rate-hz", type=float, help="steps a second (default: extraction.json's, else 6.2)")
    parser.add_argument("--name", default="own", help="name of the data set in reports")
    parser.add_argument("--media", help="folder of the clips' video files, <id>.mp4, for the report's pictures")
    parser.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    options = parser.parse_args(arguments)
    if bool(options.features) == bool(options.visual or options.audio):
        parser.error("give either --features or --visual and --audio")
    if not options.features and not (options.visual and options.audio):
        parser.error("--visual and --audio go together")
    features = options.features or {"visual": options.visual, "audio": options.audio}
    given = {"visual": options.visual_rate_hz, "audio": options.audio_rate_hz}
    rates_hz = {modality: rate_hz for modality, rate_hz in given.items() if rate_hz is not None}
    try:
        if Path(options.out).exists():
            raise ValueError(f"--out: expected a new folder, {options.out} is there already")
        if not options.features or read_record(options.features) is None:
            rates_hz = PAPER_RATES_HZ | rates_hz
        plan = plan_store(
            features, options.clips, name=options.name, rates_hz=rates_hz, media=options.media, progress=True
        )
        print(describe_plan(plan))
        for split in SPLITS:
            if split not in plan.splits:
                print(f"warning: split {split} has no clips; give splits in --clips", file=sys.stderr)
        if not options.dry_run:
            write_store(plan, options.out)
            print(f"wrote {options.out}")
    except (ValueError, OSError) as error:
        return report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
