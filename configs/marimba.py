"""The demo: small towers on rendered marimba clips, minutes on two CPU cores.

python train.py --config=configs/marimba.py --workdir=runs/marimba [--config.method=cav] [--config.distance.name=dtw]
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.steps = 250
    config.batch_size = 64
    config.log_every_steps = 10
    config.log_time_split = False  # a run of a minute does not pay for it
    for tower, width, rate_hz in ((config.model.visual, 192, 5.0), (config.model.audio, 64, 8.0)):
        tower.update(
            feature_width=width,
            rate_hz=rate_hz,
            width=64,
            mlp_width=128,
            ffn_width=128,
            num_heads=4,
            num_layers=2,
            max_distance_s=4.0,
            scan_layers=False,
        )
    config.distance.position_weight = 4.0  # at 1, order costs little beside frames of unit norm
    config.distance.num_iterations = 30  # the worst marginal error stays near 0.1 of 2
    # Chosen on the validation split by benchmarks/grid.py: benchmarks/results/grid.md
    chosen = {"cosine": (2e-3, 0.02), "euclidean": (2e-3, 2.0), "dtw": (2e-3, 1.0), "wasserstein": (4e-3, 2.0)}
    for name, (learning_rate, temperature) in chosen.items():
        config.recipe[name].update(learning_rate=learning_rate, temperature=temperature)
    config.eval.every_fraction = 0.5
    config.checkpoint.every_fraction = 0.25
    return config
