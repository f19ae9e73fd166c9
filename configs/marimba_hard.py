"""The demo's harder sibling: clips twice as long and denser, with more false strokes (data/marimba/README.md).

python train.py --config=configs/marimba_hard.py --workdir=runs/hard [--config.method=cav] [--config.distance.name=dtw]

Two to five minutes a run on two CPU cores. R@1 in percent on `order` (gallery 192, chance 0.52), picture to sound and
back, 95 % intervals over groups of clips and two seeds: SCAV Euclidean 34.6 [29.2-41.1] and 40.4 [34.1-47.4],
Wasserstein 25.8 [20.8-30.7] and 32.0 [27.1-37.5], DTW 14.1 [9.9-18.2] and 12.5 [9.4-16.1], CAV, by average, 12.5
[8.9-16.7] and 13.0 [8.9-16.7]. `python -m benchmarks.hard` makes benchmarks/results/hard.md, which has every subset.
"""

from ml_collections import ConfigDict

from configs import marimba


def get_config() -> ConfigDict:
    config = marimba.get_config()
    config.data.store = "data/marimba/hard/store"
    for tower in config.model.values():
        tower.max_distance_s = 8.0
    return config
