"""The paper's model and method; every other config is a small change of this one.

python train.py --config=configs/base.py --workdir=runs/own --config.data.store=runs/own/store

What the paper leaves open is a value here; docs/paper.md tells which is whose choice.
"""

from ml_collections import ConfigDict


def tower(num_layers: int, feature_width: int, rate_hz: float) -> ConfigDict:
    """One trained encoder: MLP -> relative positions -> Transformer."""
    return ConfigDict(
        dict(
            feature_width=feature_width,  # D of the features, and their rate: train.py takes both from the store
            rate_hz=rate_hz,
            width=512,  # d, common to all towers
            mlp_width=2048,
            mlp_hidden_layers=1,
            num_layers=num_layers,
            num_heads=8,
            ffn_width=2048,
            norm="pre",  # pre | post
            activation="gelu",  # gelu | relu
            dropout=0.1,
            output_norm=True,
            positions="bias",  # bias (T5 buckets) | shaw | rotary | none
            position_buckets=32,
            max_distance_s=10.0,  # farther apart than this counts as this far; positions are in seconds
            scan_layers=True,  # False unrolls: a longer compile, faster steps on CPU
            remat=False,  # True keeps of each block only its input for the backward pass and computes the rest again
            compute_dtype="float32",  # float32 | bfloat16; parameters, distances and softmaxes are float32 always
        )
    )


def recipe(learning_rate: float, temperature: float, normalization: str) -> ConfigDict:
    """What each training distance wants of its own."""
    return ConfigDict(
        dict(
            learning_rate=learning_rate,
            temperature=temperature,
            temperature_learned=True,
            normalization=normalization,  # none | zscore | mean | minmax
        )
    )


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.steps = 20_000
    config.batch_size = 32  # global
    config.micro_batch_size = 0  # global: clips that the towers see at a time; 0: all of batch_size
    config.stream_distances = False  # never more of the distances than a block: computed three times, not stored
    config.seed = 0
    config.log_every_steps = 50
    config.log_time_split = True  # before training, distances and update are compiled and timed by themselves
    config.method = "scav"  # cav (cosine of means) | scav (config.distance)
    config.pairs = (("visual", "audio"),)  # x and y of every distance

    config.distance = ConfigDict(
        dict(
            name="euclidean",  # euclidean | dtw | wasserstein; each takes of the options below those it knows
            unit_norm=True,
            precision="float32",
            implementation="fast",
            tile_size=0,  # 0: chosen from the shapes
            resample="x_to_y",  # euclidean: x_to_y | y_to_x | "32" positions as text, best for ragged sets
            squared=True,  # euclidean
            gamma=0.1,  # dtw
            cost="sqeuclidean",  # dtw, wasserstein
            normalize=True,  # dtw
            epsilon=0.1,  # wasserstein
            num_iterations=100,  # wasserstein
            position_weight=1.0,  # wasserstein; 0 ignores order
            solver="own",  # wasserstein: own | ott
            debiased=False,  # dtw, wasserstein
        )
    )

    config.model = ConfigDict(dict(visual=tower(8, 512, 4.0), audio=tower(2, 768, 6.2)))

    config.recipe = ConfigDict(
        dict(
            cosine=recipe(1e-4, 0.07, "none"),
            euclidean=recipe(1e-4, 1.0, "zscore"),
            dtw=recipe(1e-4, 1.0, "zscore"),
            wasserstein=recipe(1e-4, 1.0, "zscore"),
        )
    )
    config.optimizer = ConfigDict(
        dict(
            warmup_fraction=0.05,
            end_fraction=0.01,  # of the learning rate, where the cosine ends
            weight_decay=0.01,
            b1=0.9,
            b2=0.98,
            clip_norm=1.0,
        )
    )

    config.data = ConfigDict(dict(store="data/marimba/store", train_split="train", val_split="val", test_split="test"))
    config.data.stage = ""  # local folder for a copy of the store; "": of one in a bucket, in the user's cache
    config.data.slices = 1  # of the train split; see docs/scaling.md
    config.data.resident_gib = 1.0  # of each device's memory that the train split's features may take; 0 streams them
    config.data.train_ids_sha256 = ""  # filled by train.py, so that a run never goes on with other clips
    config.eval = ConfigDict(dict(every_fraction=0.2, batch_size=64, hybrid_k=(10, 50)))
    config.checkpoint = ConfigDict(dict(every_fraction=0.1, keep=2))
    return config.lock()  # a config file that misspells a key fails at that line
