"""The demo's harder sibling: clips twice as long and denser, with more false strokes (data/marimba/README.md).

python train.py --config=configs/marimba_hard.py --workdir=runs/hard [--config.method=cav] [--config.distance.name=dtw]

Two to five minutes a run on two CPU cores. R@1 in percent on `order` (gallery 192, chance 0.52), picture to sound and
back, 95 % intervals over groups of clips and three seeds: SCAV Euclidean 33.9 [28.1-39.1] and 40.1 [33.5-47.4],
Wasserstein 23.6 [17.7-29.0] and 30.6 [25.0-36.3], DTW 13.4 [9.4-17.2] and 12.5 [9.2-15.6], CAV, by average, 11.1
[7.5-15.5] and 12.5 [9.4-15.8]. `python -m benchmarks.hard` makes benchmarks/results/hard.md, which has every subset.
"""

from ml_collections import ConfigDict

from configs import marimba


def get_config() -> ConfigDict:
    config = marimba.get_config()
    config.data.store = "data/marimba/hard/store"
    for tower in config.model.values():
        tower.max_distance_s = 8.0
    return config
