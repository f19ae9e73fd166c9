"""Values and gradients do not depend on the tiles: any tile_size, and the tiles that None chooses for large batches."""

import jax
import pytest
from cases import CASES, assert_close, clips, compiled, heavy_unless, masks, value_and_gradients

from scav_jax import distances
from scav_jax.distances import tiling

# One a form of the fast path that holds more than a matrix product.
FORMS = ("euclidean", "euclidean-plain-grid", "dtw-hard-debiased", "wasserstein-debiased", "cosine")


@pytest.mark.parametrize("case", [heavy_unless("debiased" not in case, case) for case in CASES])
def test_two_clips_a_tile(case, rng):
    x, y, weighting = clips(rng)
    arguments = (x, y, *masks(), weighting)  # two and two clips of x, two and one of y
    assert_close(compiled(case, tile_size=2)(*arguments), compiled(case)(*arguments), 1e-5, 2e-5)


@pytest.mark.parametrize("case", [heavy_unless("debiased" not in form, form) for form in FORMS])
@pytest.mark.parametrize(("tile_size", "ragged"), [(1, True), (3, False), (100, True)])
def test_any_tile_size(case, tile_size, ragged, rng):
    x, y, weighting = clips(rng)
    arguments = (x, y, *(masks() if ragged else (None, None)), weighting)
    assert_close(compiled(case, tile_size=tile_size)(*arguments), compiled(case)(*arguments), 1e-5, 2e-5)


@pytest.mark.parametrize("implementation", ["fast", "reference"])
@pytest.mark.parametrize("name", distances.DISTANCES)
def test_tiles_chosen_for_large_batches(name, implementation, rng, monkeypatch):
    """As where a batch outgrows a tile's memory: two pairs a tile."""
    x, y, weighting = clips(rng)
    arguments = (x, y, *masks(), weighting)
    whole = compiled(name, implementation=implementation)(*arguments)
    choose, chosen = tiling.choose, []

    def small_memory(*arguments, pair_bytes, cpu_tile_bytes, **more):
        chosen.append(choose(*arguments, pair_bytes=pair_bytes, cpu_tile_bytes=2 * pair_bytes, **more))
        return chosen[-1]

    monkeypatch.setattr(tiling, "choose", small_memory)
    options = {**CASES[name][1], "implementation": implementation}
    assert_close(jax.jit(value_and_gradients(name, **options))(*arguments), whole, 1e-5, 2e-5)
    assert all(1 <= tiles.pairs <= 2 for tiles in chosen)
    assert chosen
    if (name, implementation) == ("wasserstein", "fast"):
        assert chosen[-1].keep
