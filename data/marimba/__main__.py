"""python -m data.marimba: renders the world and makes it a store (see prepare.py)."""

import argparse
import sys

from data.marimba.prepare import LIGHT, NETWORKS, ROOTS, SEED, prepare


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data.marimba", description="Render marimba clips and pack a store."
    )
    parser.add_argument(
        "--out", help=f"folder for world/ (media, features) and store/ (default: {' or '.join(ROOTS.values())})"
    )
    parser.add_argument("--difficulty", default="demo", choices=ROOTS, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiplies the number of clips (default: %(default)s)"
    )
    parser.add_argument("--extractor", default=LIGHT, choices=(LIGHT, NETWORKS), help="(default: %(default)s)")
    parser.add_argument("--clip-weights", help="CLIP ViT-B/32's file (default: random weights)")
    parser.add_argument("--beats-weights", help="BEATs checkpoint (default: random weights)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    options = parser.parse_args()
    try:
        prepare(
            options.out,
            difficulty=options.difficulty,
            seed=options.seed,
            scale=options.scale,
            extractor=options.extractor,
            clip_weights=options.clip_weights,
            beats_weights=options.beats_weights,
            num_workers=options.workers,
        )
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
