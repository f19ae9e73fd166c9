"""Temporary memory of compiled values and gradients. Sizes are exact: no margin is for noise."""

import jax
import jax.numpy as jnp
import pytest
from cases import heavy_unless, program

FORMS = {
    "euclidean": ("euclidean", {}, False),
    "euclidean-plain": ("euclidean", {"squared": False}, False),
    "euclidean-ragged": ("euclidean", {}, True),
    "euclidean-plain-ragged": ("euclidean", {"resample": "y_to_x", "squared": False}, True),
    "dtw": ("dtw", {}, False),
    "dtw-debiased-ragged": ("dtw", {"debiased": True}, True),
    "wasserstein": ("wasserstein", {}, False),
    "wasserstein-debiased-ragged": ("wasserstein", {"debiased": True, "position_weight": 1.0}, True),
    "cosine-ragged": ("cosine", {}, True),
}


def temporaries(form, clips, tile_size):
    name, options, ragged = FORMS[form]

    def shape(*axes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((clips, *axes), dtype)

    masks = (shape(8, dtype=bool), shape(16, dtype=bool)) if ragged else (None, None)
    lowered = program(name, tile_size=tile_size, **options).lower(shape(8, 8), shape(16, 8), *masks, shape(clips))
    return lowered.compile().memory_analysis().temp_size_in_bytes


# A debiased form compiles three distances.
@pytest.mark.parametrize("form", [heavy_unless("debiased" not in form, form) for form in FORMS])
def test_twice_the_clips_take_twice_the_memory_beside_the_matrix(form):
    def beside_matrices(clips):
        """What is left beside four float32 matrices of distances: the tile, and what each clip needs."""
        return max(0, temporaries(form, clips, tile_size=8) - 4 * 4 * clips**2)

    assert beside_matrices(256) <= 2.1 * beside_matrices(128)


@pytest.mark.parametrize("form", ["dtw", "wasserstein-debiased-ragged", "euclidean-plain-ragged"])
def test_memory_is_bounded_by_the_tile(form):
    # 64 x 64 pairs against 8 x 8: 64 times fewer at a time.
    assert temporaries(form, 64, tile_size=8) < temporaries(form, 64, tile_size=64) / 8
