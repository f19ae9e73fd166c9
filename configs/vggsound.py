"""VGGSound, as in the paper: its model and batch, CLIP at 4 frames a second and BEATs.

    python -m data.vggsound list --csv vggsound.csv --media VIDEOS --out vggsound-list.csv
    python -m scav_jax.features.extract --media vggsound-list.csv --out FEATURES --clip-s 10 --max-bad 10000 \\
      --visual clip --clip-weights model.safetensors --audio beats --beats-weights BEATs_iter3_plus_AS2M.pt
    python -m data.vggsound pack --csv vggsound.csv --features FEATURES --media VIDEOS --out data/vggsound/store
    python train.py --config=configs/vggsound.py --workdir=runs/vggsound [--config.method=cav]
    python eval.py --workdir=runs/vggsound

Hardware: one accelerator of 16 GB or more; 180,000 clips take 15 GB of disk as features.
Time: 50 epochs of 180,000 clips in batches of 32 are 281,000 steps; `--plan` tells their operations for your hardware
(docs/scaling.md), and the training log its steps a second. Extraction: benchmarks/results/encoders.md.
Numbers: none by this code yet, for want of the videos. The paper has R@1 22.6, CAV 12.2, on a gallery not known to us.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.steps = 281_000
    config.log_every_steps = 200
    config.data.store = "data/vggsound/store"
    config.data.resident_gib = 4.0  # of an accelerator's memory; what does not fit is streamed
    config.eval.every_fraction = 0.05
    config.checkpoint.every_fraction = 0.02
    return config
