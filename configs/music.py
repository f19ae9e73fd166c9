"""MUSIC, as in the paper: its model and batch, CLIP at 4 frames a second and BEATs, clips of 10 s.

    python -m data.music list --json MUSIC_solo_videos.json MUSIC_duet_videos.json --media VIDEOS --out music-list.csv
    python -m scav_jax.features.extract --media music-list.csv --out FEATURES --clip-s 10 --cut --max-bad 1000 \\
      --visual clip --clip-weights model.safetensors --audio beats --beats-weights BEATs_iter3_plus_AS2M.pt
    python -m data.music pack --json MUSIC_solo_videos.json MUSIC_duet_videos.json --features FEATURES \\
      --media VIDEOS --out data/music/store
    python train.py --config=configs/music.py --workdir=runs/music [--config.method=cav]
    python eval.py --workdir=runs/music

Hardware: one accelerator of 16 GB or more.
Time: 20,000 steps of 32 clips; `--plan` tells their operations for your hardware (docs/scaling.md), and the training
log its steps a second. Extraction: benchmarks/results/encoders.md.
Numbers: none by this code yet, for want of the videos. The paper has R@1 9.3, CAV 3.8, on a gallery not known to us.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.store = "data/music/store"
    config.data.resident_gib = 4.0
    return config
