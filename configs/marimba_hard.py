"""The demo's harder sibling."""

from ml_collections import ConfigDict

from configs import marimba


def get_config() -> ConfigDict:
    config = marimba.get_config()
    config.data.store = "data/marimba/hard/store"
    for tower in config.model.values():
        tower.max_distance_s = 8.0
    return config
