"""The trained towers: an independent NumPy tower, masks, positions in seconds, dropout by clip, and the config."""

import copy
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from scipy.special import erf

from configs import base
from scav_jax.models import encoder, positions
from scav_jax.shapes import prefix_mask

apply = jax.jit(encoder.apply, static_argnames="config")


def small(**changes):
    """A two-block tower small enough to compile in a moment; frozen, so that it can be a static argument."""
    config = base.tower(num_layers=2, feature_width=6, rate_hz=4.0)
    config.update(dict(width=16, mlp_width=12, num_heads=2, ffn_width=20, position_buckets=8) | changes)
    return FrozenConfigDict(config)


def perturbed(config, seed=0):
    """Parameters away from their initial zeros and ones, which would hide a forgotten bias or scale."""
    numbers = np.random.default_rng(seed)
    tree = jax.eval_shape(lambda: encoder.init(jax.random.key(0), config))
    draw = lambda path, leaf: numbers.normal(path[-1].key == "scale", 0.25, leaf.shape)  # noqa: E731
    return jax.tree.map_with_path(lambda path, leaf: jnp.asarray(draw(path, leaf), leaf.dtype), tree)


def clips(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def numpy_tower(parameters, config, features):
    """The bias tower for one full clip, in float64, with a loop over layers, heads and queries."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), parameters)

    def linear(x, w):
        return x @ w["kernel"] + w["bias"]

    def norm(x, w):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w["scale"] + w["bias"]

    def act(x):
        return x * 0.5 * (1 + erf(x / math.sqrt(2))) if config.activation == "gelu" else np.maximum(x, 0)

    def bucket(query, key):
        half = config.position_buckets // 2
        exact = half // 2
        seconds, linear_s = abs(key - query) / config.rate_hz, config.max_distance_s / 10
        if seconds < linear_s:
            step = exact * seconds / linear_s
        else:
            step = exact + (half - exact) * math.log10(seconds / linear_s)
        return min(math.floor(step + 0.5), half - 1) + (half if key > query else 0)

    def attention(x, w):
        n, size = len(x), config.width // config.num_heads
        q, k, v = np.split(linear(x, w["query_key_value"]), 3, axis=-1)
        out = np.zeros((n, config.width))
        for head in range(config.num_heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(n):
                bias = [w["position_table"][bucket(i, j), head] for j in range(n)]
                weights = np.exp(k[:, part] @ q[i, part] / math.sqrt(size) + bias)
                out[i, part] = weights @ v[:, part] / weights.sum()
        return linear(out, w["output"])

    x = features.astype(np.float64)
    for index in range(config.mlp_hidden_layers):
        hidden = linear(x, p["mlp"][f"hidden_{index}"])
        x = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
    x = linear(x, p["mlp"]["output"])
    for layer in range(config.num_layers):
        w = jax.tree.map(lambda stacked, layer=layer: stacked[layer], p["blocks"])
        ffn = lambda x, w=w: linear(act(linear(x, w["ffn"]["inner"])), w["ffn"]["outer"])  # noqa: E731
        if config.norm == "pre":
            x = x + attention(norm(x, w["attention_norm"]), w["attention"])
            x = x + ffn(norm(x, w["ffn_norm"]))
        else:
            x = norm(x + attention(x, w["attention"]), w["attention_norm"])
            x = norm(x + ffn(x), w["ffn_norm"])
    return norm(x, p["output_norm"]) if config.output_norm else x


@pytest.mark.parametrize(
    "changes",
    [dict(), dict(norm="post", activation="relu", output_norm=False, mlp_hidden_layers=2, max_distance_s=2.0)],
)
def test_agrees_with_a_numpy_tower(rng, changes):
    config = small(**changes)
    parameters, features = perturbed(config), clips(rng, 2, 9, 6)
    got = apply(parameters, config, features, None)
    for clip in range(2):
        expected = numpy_tower(parameters, config, np.asarray(features[clip]))
        np.testing.assert_allclose(got[clip], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("length", "width", "feature_width"), [(1, 8, 3), (7, 16, 6)])
def test_shape_and_type(rng, length, width, feature_width):
    config = small(width=width, feature_width=feature_width)
    out = apply(perturbed(config), config, clips(rng, 3, length, feature_width), None)
    assert out.shape == (3, length, width)
    assert out.dtype == jnp.float32
    assert np.isfinite(out).all()


def test_any_object_with_the_attributes_is_a_config(rng):
    config = small()
    parameters, features = perturbed(types.SimpleNamespace(**config)), clips(rng, 2, 9, 6)
    got = jax.jit(lambda p, x: encoder.apply(p, types.SimpleNamespace(**config), x, None))(parameters, features)
    np.testing.assert_array_equal(got, apply(parameters, config, features, None))


# --- masks


@pytest.mark.parametrize("kind", ["bias", "shaw", "rotary"])
def test_padding_reaches_nothing(rng, kind):
    config = small(positions=kind)
    parameters, lengths = perturbed(config), jnp.array([1, 4, 6])
    features, mask = clips(rng, 3, 6, 6), prefix_mask(lengths, 6)
    out = apply(parameters, config, features, mask)
    garbage = jnp.where(mask[:, :, None], features, jnp.nan)
    longer = jnp.pad(garbage, ((0, 0), (0, 3), (0, 0)), constant_values=jnp.inf)
    np.testing.assert_array_equal(apply(parameters, config, garbage, mask), out)
    out_longer = apply(parameters, config, longer, prefix_mask(lengths, 9))
    np.testing.assert_allclose(out_longer[:, :6], out, atol=1e-5)
    assert (np.asarray(out)[~np.asarray(mask)] == 0).all()
    assert (out_longer[:, 6:] == 0).all()


def test_a_padded_clip_is_the_clip_alone_and_a_full_mask_is_none(rng):
    config = small()
    parameters, features = perturbed(config), clips(rng, 2, 9, 6)
    full = apply(parameters, config, features, None)
    padded = jnp.pad(features, ((0, 0), (0, 2), (0, 0)))
    np.testing.assert_allclose(apply(parameters, config, features, jnp.ones((2, 9), bool)), full, atol=1e-5)
    out = apply(parameters, config, padded, prefix_mask(jnp.array([9, 9]), 11))
    np.testing.assert_allclose(out[:, :9], full, atol=1e-5)


def test_padding_gets_and_gives_no_gradient(rng):
    config = small()
    parameters, features = perturbed(config), clips(rng, 2, 5, 6)
    mask = prefix_mask(jnp.array([2, 5]), 5)
    garbage = jnp.where(mask[:, :, None], features, jnp.nan)
    loss = lambda p, x: (apply(p, config, x, mask) ** 3).sum()  # noqa: E731
    gradients = jax.jit(jax.grad(loss, (0, 1)))
    by_parameters, by_features = gradients(parameters, garbage)
    clean, _ = gradients(parameters, jnp.where(mask[:, :, None], features, 0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), by_parameters, clean)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(by_parameters))
    assert (np.asarray(by_features)[~np.asarray(mask)] == 0).all()
    assert (np.abs(np.asarray(by_features)[np.asarray(mask)]) > 0).any(axis=-1).all()


# --- positions


@pytest.mark.parametrize("kind", positions.CHOICES)
def test_order_matters_unless_positions_are_none(rng, kind):
    config = small(positions=kind)
    parameters, features, order = perturbed(config), clips(rng, 1, 6, 6), jnp.array([3, 0, 5, 1, 4, 2])
    permuted = apply(parameters, config, features[:, order], None)
    difference = np.abs(permuted - apply(parameters, config, features, None)[:, order]).max()
    assert difference < 1e-5 if kind == "none" else difference > 1e-2


def test_buckets_are_those_of_their_definition():
    # 8 buckets, 10 s: per side widths of 0.5 s around 0 and 0.5 s, then log10(s) of two buckets a decade, rounded.
    seconds = [0, 0.2, 0.3, 0.7, 1.0, 1.7, 1.8, 9.0, 100.0]
    past = [0, 0, 1, 1, 2, 2, 3, 3, 3]
    expected = [bucket + 4 * (s > 0) for s, bucket in zip(seconds, past, strict=True)]
    row = positions.time_buckets(1001, 10.0, 8, 10.0)
    assert [row[0, round(10 * s)] for s in seconds] == expected
    assert [row[round(10 * s), 0] for s in seconds] == past


def test_positions_are_seconds_not_indices():
    slow = positions.time_buckets(20, 4.0, 32, 10.0)
    fast = positions.time_buckets(40, 8.0, 32, 10.0)
    np.testing.assert_array_equal(fast[::2, ::2], slow)
    np.testing.assert_array_equal(
        positions.rotary_angles(40, 8.0, 8, 10.0)[::2], positions.rotary_angles(20, 4.0, 8, 10.0)
    )
    assert len(np.unique(slow[0, :5])) == 5  # one second around a frame tells every frame at 4 Hz


def test_rotary_scores_depend_on_the_difference_alone(rng):
    angles = positions.rotary_angles(12, 4.0, 8, 10.0)
    query, key = (jnp.tile(clips(rng, 1, 1, 8), (12, 1, 1)) for _ in range(2))
    scores = np.einsum("qhd,khd->qk", positions.rotate(query, angles), positions.rotate(key, angles))
    for offset in range(-11, 12):
        np.testing.assert_allclose(np.diff(np.diag(scores, offset)), 0, atol=1e-4)
    np.testing.assert_allclose(scores[0, 0], np.vdot(query[0], key[0]), rtol=1e-5)
    assert np.ptp(scores[0]) > 1e-2


def test_shaw_adds_a_key_vector_per_bucket(rng):
    """One vector added to every row of the table shifts all scores of a query alike: its output stays."""
    config = small(positions="shaw")
    parameters, features = perturbed(config), clips(rng, 1, 6, 6)
    moved = copy.deepcopy(parameters)
    moved["blocks"]["attention"]["position_table"] += clips(rng, 2, 1, 8)
    out = apply(parameters, config, features, None)
    np.testing.assert_allclose(apply(moved, config, features, None), out, atol=1e-4)
    moved["blocks"]["attention"]["position_table"] *= 2
    assert np.abs(apply(moved, config, features, None) - out).max() > 1e-2


# --- dropout


def test_dropout_follows_the_clip_key(rng):
    config = small(dropout=0.5)
    parameters, features = perturbed(config), clips(rng, 4, 5, 6)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.arange(4))
    out = apply(parameters, config, features, None, rng=keys)
    order = jnp.array([2, 0, 3, 1])
    moved = apply(parameters, config, features[order], None, rng=keys[order])
    np.testing.assert_allclose(moved, out[order], atol=1e-5)
    np.testing.assert_allclose(apply(parameters, config, features[1:2], None, rng=keys[1:2]), out[1:2], atol=1e-5)
    twins = apply(parameters, config, jnp.tile(features[:1], (4, 1, 1)), None, rng=keys)
    assert np.abs(twins[0] - twins[1]).max() > 1e-2


def test_every_layer_and_branch_drops_by_itself(rng):
    """Branches reduced to their output biases 1, 2, 4 and 8 sum to a number whose binary digits are the four masks."""
    config = small(dropout=0.25, output_norm=False)
    parameters, features = perturbed(config), clips(rng, 1, 4, 6)
    for branch, bias in ((parameters["blocks"]["attention"]["output"], 1), (parameters["blocks"]["ffn"]["outer"], 2)):
        branch["kernel"] = jnp.zeros_like(branch["kernel"])
        branch["bias"] = jnp.full((2, 16), bias) * jnp.array([[1.0], [4.0]])
    many, keys = jnp.tile(features, (50, 1, 1)), jax.random.split(jax.random.key(0), 50)
    without = apply(parameters, config, features, None) - 15
    sums = 0.75 * np.asarray(apply(parameters, config, many, None, rng=keys) - without)
    np.testing.assert_allclose(sums, np.round(sums), atol=1e-4)
    kept = np.round(sums).astype(int)[..., None] >> np.arange(4) & 1
    spread = 5 / math.sqrt(kept[..., 0].size)  # five standard errors and more
    for first in range(4):
        assert abs(kept[..., first].mean() - 0.75) < spread
        for second in range(first):
            assert abs((kept[..., first] * kept[..., second]).mean() - 0.75**2) < spread


def test_no_rate_and_no_keys_are_no_dropout(rng):
    parameters, features = perturbed(small()), clips(rng, 2, 5, 6)
    off = apply(parameters, small(dropout=0.0), features, None, rng=jax.random.split(jax.random.key(0), 2))
    np.testing.assert_allclose(off, apply(parameters, small(), features, None), atol=1e-6)


# --- structure


@pytest.mark.parametrize("with_dropout", [False, True])
def test_scan_is_the_unrolled_loop_and_jit_is_eager(rng, with_dropout):
    features, mask = clips(rng, 2, 5, 6), prefix_mask(jnp.array([3, 5]), 5)
    keys = jax.random.split(jax.random.key(0), 2) if with_dropout else None
    parameters = perturbed(small())
    scanned, unrolled = (small(scan_layers=scan) for scan in (True, False))
    expected = apply(parameters, unrolled, features, mask, rng=keys)
    np.testing.assert_allclose(apply(parameters, scanned, features, mask, rng=keys), expected, atol=1e-5)
    eager = encoder.apply(parameters, unrolled, features, mask, rng=keys)
    np.testing.assert_allclose(eager, expected, atol=1e-5)


def gradient_program(config, clips=8, length=32):
    """The compiled gradient of a tower in its parameters, dropout on, features (clips, length, 6)."""

    def loss(parameters, features, keys):
        return jnp.sin(encoder.apply(parameters, config, features, None, rng=keys).astype(jnp.float32)).sum()

    keys = jax.random.split(jax.random.key(0), clips)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(clips, length, 6)), jnp.float32)
    parameters = perturbed(config)
    return jax.jit(jax.grad(loss)).lower(parameters, features, keys).compile(), (parameters, features, keys)


def test_remat_changes_the_memory_alone():
    kept, inputs = gradient_program(small(num_layers=6))
    again, _ = gradient_program(small(num_layers=6, remat=True))
    for found, expected in zip(*(jax.tree.leaves(program(*inputs)) for program in (again, kept)), strict=True):
        np.testing.assert_allclose(found, expected, 1e-4, 1e-4)
    assert temporaries(again) < 0.6 * temporaries(kept)


def temporaries(program):
    return program.memory_analysis().temp_size_in_bytes


def test_bfloat16_computes_in_half_and_keeps_parameters_whole(rng):
    features, mask = clips(rng, 2, 5, 6), prefix_mask(jnp.array([3, 5]), 5)
    parameters, half = perturbed(small()), small(compute_dtype="bfloat16")
    expected = apply(parameters, small(), features, mask)
    found = apply(parameters, half, features, mask)
    assert found.dtype == jnp.bfloat16
    assert 1e-4 < np.linalg.norm(found.astype(jnp.float32) - expected) / np.linalg.norm(expected) < 2e-2
    gradient = jax.grad(lambda p: apply(p, half, features, mask).astype(jnp.float32).sum())(parameters)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradient))


def test_gradients_are_those_of_finite_differences(rng):
    config = small(positions="shaw")
    parameters, features = perturbed(config), clips(rng, 2, 4, 6)
    mask = prefix_mask(jnp.array([3, 4]), 4)
    with jax.enable_x64(True):
        parameters, features = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (parameters, features))
        loss = jax.jit(jax.value_and_grad(lambda p: jnp.sin(apply(p, config, features, mask)).sum()))
        _, gradient = loss(parameters)
        direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), parameters)
        step = lambda sign: jax.tree.map(lambda p, d: p + sign * 1e-5 * d, parameters, direction)  # noqa: E731
        central = (loss(step(1))[0] - loss(step(-1))[0]) / 2e-5
        along = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    np.testing.assert_allclose(along, central, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_init_is_deterministic_and_layers_differ():
    config = small(positions="shaw")
    init = jax.jit(encoder.init, static_argnames="config")
    first, again, other = (init(jax.random.key(seed), config) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for kernel in ("inner", "outer"):
        layers = first["blocks"]["ffn"][kernel]["kernel"]
        assert np.abs(layers[0] - layers[1]).max() > 1e-2
        assert np.abs(layers - other["blocks"]["ffn"][kernel]["kernel"]).max() > 1e-2


def test_parameters_are_a_nested_dict_of_float32_with_stacked_layers():
    def check(node):
        if isinstance(node, dict):
            return all(isinstance(name, str) and check(child) for name, child in node.items())
        return node.dtype == jnp.float32

    tree = jax.eval_shape(lambda: encoder.init(jax.random.key(0), small(num_layers=3)))
    assert check(tree)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(tree["blocks"])} == {3}


@pytest.mark.parametrize(("modality", "feature_width", "layers"), [("visual", 512, 8), ("audio", 768, 2)])
def test_parameter_count_of_the_paper(modality, feature_width, layers):
    """Counted by hand from the description: MLP, blocks, final norm; d = 512, hidden and feed-forward width 2,048."""
    d, hidden, heads, buckets = 512, 2048, 8, 32
    mlp = (feature_width + 1) * hidden + (hidden + 1) * d
    block = 4 * d * (d + 1) + (d + 1) * hidden + (hidden + 1) * d + 2 * 2 * d + heads * buckets
    config = base.get_config().model[modality]
    tree = jax.eval_shape(lambda: encoder.init(jax.random.key(0), config))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) == mlp + layers * block + 2 * d


# --- errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_heads=3), "width: expected a multiple of num_heads = 3, got 16"),
        (dict(norm="mid"), "norm: expected one of pre, post, got 'mid'"),
        (dict(activation="silu"), "activation: expected one of gelu, relu, got 'silu'"),
        (dict(positions="sine"), "positions: expected one of bias, shaw, rotary, none, got 'sine'"),
        (dict(positions="rotary", width=6), "width: expected an even multiple"),
        (dict(position_buckets=5), "position_buckets: expected an even number"),
        (dict(dropout=1.0), "dropout: expected in"),
        (dict(rate_hz=0.0), "rate_hz: expected positive"),
        (dict(max_distance_s=float("inf")), "max_distance_s: expected positive and finite"),
        (dict(num_layers=0), "num_layers: expected at least 1, got 0"),
        (dict(mlp_hidden_layers=-1), "mlp_hidden_layers: expected at least 0"),
    ],
)
def test_a_bad_config_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        encoder.init(jax.random.key(0), small(**changes))


def test_bad_input_is_named(rng):
    config = small()
    parameters, features = perturbed(config), clips(rng, 2, 3, 6)
    with pytest.raises(ValueError, match="features: expected feature_width 6"):
        encoder.apply(parameters, config, clips(rng, 2, 3, 5), None)
    with pytest.raises(ValueError, match="features_mask: expected a prefix"):
        encoder.apply(parameters, config, features, jnp.array([[True, False, True]] * 2))
    with pytest.raises(ValueError, match="rng: expected one key a clip"):
        encoder.apply(parameters, config, features, None, rng=jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ValueError, match=r"parameters.*: expected shape \(3, .*got \(2, "):
        encoder.apply(parameters, small(num_layers=3), features, None)
    with pytest.raises(ValueError, match=r"parameters.*position_table.*: expected shape None"):
        encoder.apply(parameters, small(positions="none"), features, None)
