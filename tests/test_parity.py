"""Ours beside the PyTorch twin: everything agrees, and whatever is planted is found where it was planted."""

import json
import math
import re
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import oracle
import pytest
import torch
from cases import heavy_unless
from conftest import REPOSITORY
from ml_collections import ConfigDict, FrozenConfigDict
from torch import nn

from configs import base
from scav_jax.models.weights import WeightsError
from scav_jax.parity import compare, convert, curves, ours, problem, record, theirs, twin, twin_distances
from scav_jax.parity.__main__ import DIFFERS, main
from scav_jax.parity.report import Report

NAMES = ("cosine", "euclidean", "dtw", "wasserstein")


def small(**changes):
    config = ConfigDict(base.get_config().to_dict())
    for tower, width, rate_hz in ((config.model.visual, 12, 5.0), (config.model.audio, 9, 8.0)):
        tower.update(feature_width=width, rate_hz=rate_hz, width=8, mlp_width=16, ffn_width=16, num_heads=2)
        tower.update(dict(num_layers=3, max_distance_s=1.4, position_buckets=8) | changes)
    config.distance.num_iterations = 20
    config.data.store = "nowhere"
    return config


@pytest.fixture(scope="module")
def given():
    return problem.make(small(), workdir=None, batch_size=5, steps=4)


@pytest.fixture(scope="module")
def reference(given):
    return theirs.make(given.config, given.state, given.inputs, NAMES, "float64")


# Without what takes long to compile: gradients and updates.
UP_TO_DISTANCES = ("input", "parameter", "activation", "distance")


def rows(given, names=NAMES, model=twin.Twin, state=None, precision="float64", kinds=None):
    """Ours with the parameters given, beside theirs; kinds: of what theirs holds, all if None."""
    found = theirs.make(given.config, state or given.state, given.inputs, names, precision, twin=model)
    found.arrays |= {f"parameter/{name}": array for name, array in given.state.items()}
    if kinds is not None:
        found.arrays = {name: array for name, array in found.arrays.items() if name.partition("/")[0] in kinds}
    return compare.rows(found, ours.make(found, precision))


def first(found):
    return next(f"{row.kind} {row.name}" for row in found if not row.agrees)


def test_everything_agrees_in_float64(reference):
    found = compare.rows(reference, ours.make(reference, "float64"))
    assert {row.kind for row in found} == set(compare.TOLERANCES["float64"])
    assert [row for row in found if not row.agrees] == []
    modules = [row.name for row in found if row.kind == "module"]
    assert len(modules) == 2 * (1 + 3 * 5 + 1)
    assert [row.name for row in found if row.kind in ("distance", "loss")] == [*NAMES, *NAMES]
    assert sum(row.kind == "gradient" for row in found) == len(NAMES) * len(reference.of("parameter"))


TOWERS_AND_NORMALIZATIONS = {
    "none": dict(positions="shaw", mlp_hidden_layers=0),
    "mean": dict(positions="rotary", mlp_hidden_layers=2, scan_layers=False),
    "minmax": dict(positions="none", norm="post", activation="relu", output_norm=False),
}


@pytest.mark.parametrize(
    ("normalization", "changes"),
    [
        heavy_unless(normalization == "minmax", normalization, changes)
        for normalization, changes in TOWERS_AND_NORMALIZATIONS.items()
    ],
)
def test_every_kind_of_tower_and_normalization_agrees(normalization, changes):
    config = small(num_layers=2, **changes)
    config.recipe.euclidean.normalization = normalization
    given = problem.make(config, workdir=None, batch_size=4, steps=1)
    found = rows(given, ("euclidean",))
    assert len(found) > 30
    assert [row for row in found if not row.agrees] == []


OPTIONS = [
    ("euclidean", dict(resample="y_to_x", squared=False, unit_norm=False)),
    ("euclidean", dict(resample="9")),
    ("dtw", dict(cost="cosine", debiased=True)),
    ("dtw", dict(gamma=0.0, normalize=False)),
    ("wasserstein", dict(debiased=True, position_weight=0.0)),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_every_option_agrees_on_ragged_clips(name, options, rng):
    config = small(num_layers=1)
    config.distance.update(options)
    given = problem.make(config, workdir=None, batch_size=4, steps=1)
    for modality in given.config.model:
        length = given.inputs[modality].shape[1]
        given.inputs[f"{modality}_mask"] = np.arange(length) < rng.integers(1, length + 1, (4, 1))
    found = rows(given, (name,), kinds=UP_TO_DISTANCES)
    assert [row for row in found if not row.agrees] == []
    assert [row.name for row in found if row.kind == "distance"] == [name]


# What is planted, and the first row that is to differ.


def test_one_weight_is_found(given):
    name = "towers.audio.blocks.1.ffn.0.weight"
    state = {**given.state, name: given.state[name].copy()}
    state[name][3, 2] += 0.01
    assert first(rows(given, ("euclidean",), state=state)) == "module towers.audio.blocks.1.ffn"


def test_swapped_layers_are_found(given):
    def other(name):
        return (
            name.replace("blocks.0.", "blocks.x.").replace("blocks.2.", "blocks.0.").replace("blocks.x.", "blocks.2.")
        )

    state = {name: given.state[other(name)] if "visual" in name else array for name, array in given.state.items()}
    assert first(rows(given, ("euclidean",), state=state)) == "module towers.visual.blocks.0.attention_norm"


def test_a_turned_square_matrix_is_found(given):
    name = "towers.visual.blocks.2.attention.output.weight"
    state = {**given.state, name: given.state[name].T.copy()}
    assert first(rows(given, ("euclidean",), state=state)) == "module towers.visual.blocks.2.attention"


class Approximate(twin.Twin):
    def __init__(self, config):
        super().__init__(config)
        self.towers["audio"].mlp[1] = nn.GELU(approximate="tanh")


class OtherEpsilon(twin.Twin):
    def __init__(self, config):
        super().__init__(config)
        self.towers["visual"].blocks[1].ffn_norm.eps = 1e-6


def test_other_modules_are_found(given):
    assert first(rows(given, ("cosine",), Approximate)) == "module towers.audio.mlp"
    assert first(rows(given, ("cosine",), OtherEpsilon)) == "module towers.visual.blocks.1.ffn_norm"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("euclidean", dict(align_corners=True)),
        ("dtw", dict(gamma=0.1 * 1.01)),
        ("wasserstein", dict(epsilon=0.101)),
        ("wasserstein", dict(position_weight=1.01)),
    ],
)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_other_distances_are_found(given, monkeypatch, name, wrong, precision):
    options = twin.options
    monkeypatch.setattr(
        twin, "options", lambda which, section: options(which, section) | (wrong if which == name else {})
    )
    assert first(rows(given, (name,), precision=precision, kinds=UP_TO_DISTANCES)) == f"distance {name}"


def test_another_loss_is_found(given, monkeypatch):
    def sample_variance(distances, normalization):
        return (distances - distances.mean(1, keepdim=True)) / (distances.var(1, keepdim=True) + 1e-6).sqrt()

    monkeypatch.setattr(twin, "normalized", sample_variance)
    assert first(rows(given, ("euclidean",))) == "loss euclidean"


def decay_everything(model, name):
    optimizer = OPTIMIZER(model, name)
    optimizer.adamw.param_groups[1]["weight_decay"] = optimizer.adamw.param_groups[0]["weight_decay"]
    return optimizer


def larger_epsilon(model, name):
    optimizer = OPTIMIZER(model, name)
    for group in optimizer.adamw.param_groups:
        group["eps"] = 1e-6
    return optimizer


def larger_b2(model, name):
    optimizer = OPTIMIZER(model, name)
    for group in optimizer.adamw.param_groups:
        group["betas"] = (group["betas"][0], 0.999)
    return optimizer


OPTIMIZER = twin.Optimizer


@pytest.mark.parametrize("planted", [decay_everything, larger_epsilon])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_another_optimizer_is_found(given, monkeypatch, planted, precision):
    monkeypatch.setattr(theirs, "Optimizer", planted)
    found = rows(given, ("euclidean",), precision=precision)
    assert first(found).startswith("update euclidean: ")
    assert {row.kind for row in found if not row.agrees} == {"update"}


@pytest.mark.parametrize("name", NAMES)
def test_training_runs_overlay_in_float64(given, name):
    losses, learned = theirs.train(given.config, given.start, given.features, given.order, name, "float64")
    curve, own = curves.of_ours(given, name, "float64", losses)
    assert curve.agrees
    assert curve.apart < 1e-9
    for key, array in convert.to_torch(own).items():
        np.testing.assert_allclose(array, learned[key], atol=1e-7)


def test_an_optimizer_that_differs_later_is_seen_in_the_curve(given, monkeypatch):
    monkeypatch.setattr(theirs, "Optimizer", larger_b2)
    losses, _ = theirs.train(given.config, given.start, given.features, given.order, "euclidean", "float64")
    assert not curves.of_ours(given, "euclidean", "float64", losses)[0].agrees


def test_float32_curves_are_measured_by_our_own_rounding(given):
    losses, _ = theirs.train(given.config, given.start, given.features, given.order, "euclidean", "float32")
    curve, _ = curves.of_ours(given, "euclidean", "float32", losses)
    assert curve.losses.keys() == {curves.THEIRS, curves.OURS, *curves.OTHER_RUNS}
    assert 0 < curve.limit < 1e-4
    assert curve.apart < 1e-4
    shifted = curves.Curve("euclidean", "float32", {**curve.losses, curves.THEIRS: losses + 1e-3})
    assert not shifted.agrees


@pytest.mark.parametrize(("theirs_loss", "agrees"), [(1.15, True), (1.6, True), (1.7, False), (0.7, False)])
def test_a_curve_is_measured_by_the_nearest_run_of_ours(theirs_loss, agrees):
    runs = {"ours": 1.0, "ours, batches reversed": 1.1, "ours, begun a last place lower": 1.25}
    ours = {name: np.full(3, loss) for name, loss in runs.items()}
    curve = curves.Curve("dtw", "float32", {curves.THEIRS: np.array([1.1, theirs_loss, 1.1]), **ours})
    assert curve.limit == pytest.approx(0.25)
    assert curve.agrees is agrees


def test_float64_tells_whose_rounding_it_is():
    """A row is excused by theirs in float64 alone: where that differs too, the difference is no rounding."""
    row = compare.Row("gradient", "x", 1.0, 2e-4, 1.0, 1e-4, ours_off=1e-6, theirs_off=2e-4)
    assert (row.agrees, row.verdict) == (False, "DIFFERS")
    excused = compare.Row("gradient", "x", 1.0, 2e-4, 1.0, 1e-4, ours_off=1e-6, theirs_off=2e-4, excused=True)
    assert (excused.agrees, excused.verdict) == (True, "theirs rounds")
    assert not compare.Row("module", "x", 1.0, math.nan, 1.0, 1e-4).agrees


def test_a_planted_error_is_never_excused(given):
    name = "towers.audio.blocks.1.ffn.0.weight"
    state = {**given.state, name: given.state[name] * np.float32(1.01)}
    reference, exact = (
        theirs.make(given.config, state, given.inputs, ("euclidean",), precision)
        for precision in ("float32", "float64")
    )
    for found in (reference, exact):
        found.arrays |= {f"parameter/{key}": array for key, array in given.state.items()}
    found = compare.rows(reference, ours.make(reference, "float32"), ours.make(reference, "float64"), exact)
    assert not any(row.excused for row in found)
    assert "gradient" in {row.kind for row in found if not row.agrees}


# Conversion.


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_round_trip_is_bit_identical(dtype, tmp_path):
    config = FrozenConfigDict(small())
    rng = np.random.default_rng(0)
    parameters = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), ours.like(config))
    convert.write_safetensors(convert.to_torch(parameters), tmp_path / "state.safetensors")
    back = convert.from_torch(convert.read_state(tmp_path / "state.safetensors"), ours.like(config))
    assert jax.tree.structure(back) == jax.tree.structure(parameters)
    for one, other in zip(jax.tree.leaves(parameters), jax.tree.leaves(back), strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


def test_the_twin_loads_the_state_strictly_and_saves_what_is_read(given, tmp_path):
    model = theirs.load(twin.Twin, given.config, given.state, torch.float32)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    assert given.state.keys() == model.state_dict().keys()
    for name, array in convert.read_state(tmp_path / "state.pt").items():
        np.testing.assert_array_equal(array, given.state[name])


def test_a_state_that_does_not_fit_is_refused_with_all_names(given):
    state = dict(given.state)
    del state["towers.audio.blocks.2.ffn_norm.bias"]
    state["towers.audio.blocks.9.ffn_norm.bias"] = np.zeros(8, np.float32)
    state["towers.visual.mlp.0.weight"] = state["towers.visual.mlp.0.weight"].T
    with pytest.raises(WeightsError) as error:
        convert.from_torch(state, ours.like(given.config))
    for expected in (
        "3 of ",
        "missing towers.audio.blocks.2.ffn_norm.bias (8,)",
        "unexpected towers.audio.blocks.9.ffn_norm.bias (8,)",
        "towers.visual.mlp.0.weight: expected shape (16, 12), got (12, 16)",
    ):
        assert expected in str(error.value)


# The command.


@pytest.mark.heavy
def test_a_dump_is_checked_without_torch(shell_environment, tmp_path):
    given = problem.make(small(num_layers=1), workdir=None, batch_size=5, steps=4)
    reference = theirs.make(given.config, given.state, given.inputs, ("cosine",), "float64")
    reference.add("start", **given.start)
    reference.add("train", order=given.order, **given.features)
    losses, _ = theirs.train(given.config, given.start, given.features, given.order, "cosine", "float64")
    reference.add("curve", cosine=losses)
    dump = tmp_path / "ref.npz"
    reference.save(dump)
    without = "import sys; sys.modules['torch'] = None; from scav_jax.parity.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", without, "check", dump, "--precision=float64,default", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=shell_environment)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert written["agrees"]
    assert written["complete"]
    assert written["rows"].keys() == {"float64", "default"}
    assert Report.load(tmp_path / "out").text() in done.stdout
    assert [curve["distance"] for curve in written["curves"]] == ["cosine"]
    assert "<svg" in (tmp_path / "out" / "parity.html").read_text()


def test_a_dump_of_ones_own_is_read_by_name(given, reference, tmp_path, capsys):
    """Whatever it holds is compared: here one module, which differs, and modules that we do not know."""
    own = record.Record(given.config)
    own.arrays = {name: array for name, array in reference.arrays.items() if name.startswith(("input/", "parameter/"))}
    own.add("activation", **{"towers.visual.mlp": reference.of("activation")["towers.visual.mlp"] + 1e-3, "mine": [0]})
    own.save(tmp_path / "own.npz")
    code = main(["check", str(tmp_path / "own.npz"), "--precision=float32", f"--out={tmp_path / 'out'}"])
    assert code == DIFFERS
    assert "first to differ: module towers.visual.mlp" in capsys.readouterr().out


def test_the_snippet_of_the_docs_writes_what_is_read(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "parity.md").read_text(), re.DOTALL)

    def my_loss(model, batch):
        padded = batch | {f"{name}_mask": None for name in batch}
        return model.loss("euclidean", model.distances("euclidean", model(padded), padded))

    names = dict(json=json, np=np, torch=torch, partial=partial, my_loss=my_loss, config=given.config)
    names["batch"] = {name: torch.tensor(array) for name, array in given.inputs.items()}
    exec(snippet, names | {"model": theirs.load(twin.Twin, given.config, given.state, torch.float32)})
    assert main(["check", "ref.npz", "--precision=float32", "--out=out"]) == 0
    kinds = {row.kind for row in Report.load(tmp_path / "out").rows["float32"]}
    assert kinds == {"module", "towers", "whole loss", "gradient"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(config=None), "expected an entry 'config'"),
        (dict(config=np.array('{"steps": 1}')), "config: "),
        ({"weights/x": np.zeros(1)}, "weights/x: expected a name that begins with one of input, parameter"),
        ({"input/audio": None}, "expected input/audio, found none"),
        ({"parameter/log_temperature.visual_audio": None}, "missing log_temperature.visual_audio ()"),
    ],
)
def test_bad_dumps_are_named(reference, tmp_path, capsys, change, message):
    reference.save(tmp_path / "ref.npz")
    content = {**np.load(tmp_path / "ref.npz"), **change}
    np.savez(tmp_path / "ref.npz", **{name: array for name, array in content.items() if array is not None})
    assert main(["check", str(tmp_path / "ref.npz")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_usage_errors_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        (["check", "none.npz"], "none.npz: expected a dump, found no such file"),
        (["--config=large"], "--config: expected paper, small or a file of configs/, got large"),
        (["export"], "--workdir: expected the folder of a trained run"),
        (["dump", "--precision=bfloat16"], "--precision: a dump is in float32 or float64, got bfloat16"),
        (["--distances=manhattan"], "--distances: expected some of cosine, euclidean, dtw, wasserstein, got manhattan"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["check"])


def test_what_was_trained_is_kept_when_the_next_fails(given, tmp_path, monkeypatch, capsys):
    train = theirs.train

    def fails_at_euclidean(config, start, features, order, name, precision):
        if name == "euclidean":
            raise RuntimeError("no more")
        return train(config, start, features, order, name, precision)

    monkeypatch.setattr(problem, "make", lambda *_, **__: given)
    monkeypatch.setattr("scav_jax.parity.__main__._rows", lambda *_: [])
    monkeypatch.setattr(theirs, "train", fails_at_euclidean)
    assert main(["--distances=cosine,euclidean", "--precision=float64", f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err.endswith("error: no more\n")
    left = Report.load(tmp_path)
    assert [curve.distance for curve in left.curves] == ["cosine"]
    assert left.verdict == "agrees so far"


def test_the_report_names_the_first_that_differs(given):
    found = rows(given, ("cosine",), Approximate)
    report = Report("title", {}, {"float64": found}, complete=True)
    assert not report.agrees
    text = report.text(every_row=True)
    assert "first to differ: module towers.audio.mlp" in text
    assert text.splitlines()[-1] == "DIFFERS"
    assert sum(line.startswith("gradient ") for line in text.splitlines()) >= len(given.state)


# The twin's own distances against other packages, or plain loops.


def frames(rng, *shape):
    return torch.tensor(rng.normal(size=shape))


def test_twin_soft_dtw_is_the_definition(rng):
    """As plain loops have it, which test_oracle.py sets beside all paths."""
    x, y = frames(rng, 2, 7, 3), frames(rng, 3, 5, 3)
    found = twin_distances.distance("dtw", x, y, normalize=False, gamma=0.3)
    expected = [[oracle.dtw(a.numpy(), b.numpy(), gamma=0.3, normalize=False)[0] for b in y] for a in x]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_twin_sinkhorn_is_pots(rng):
    import ot

    x, y = frames(rng, 2, 6, 3), frames(rng, 2, 4, 3)
    found = twin_distances.distance("wasserstein", x, y, epsilon=0.5, num_iterations=500)
    for i, j in np.ndindex(2, 2):
        costs = ((x[i, :, None] - y[j, None]) ** 2).sum(-1).numpy()
        a, b = np.full(6, 1 / 6), np.full(4, 1 / 4)
        plan = ot.sinkhorn(a, b, costs, reg=0.5, numItermax=5000, stopThr=1e-14)
        expected = (plan * costs).sum() + 0.5 * (plan * np.log(plan / np.outer(a, b))).sum()
        np.testing.assert_allclose(found[i, j], expected, rtol=1e-9)


def test_twin_interpolation_is_that_of_images(rng):
    """F.interpolate of one clip, and the mean over positions by hand."""
    x, y = frames(rng, 2, 6, 3), frames(rng, 2, 4, 3)
    found = twin_distances.distance("euclidean", x, y)
    for i, j in np.ndindex(2, 2):
        resampled = torch.nn.functional.interpolate(x[i].T[None], 4, mode="linear")[0].T
        np.testing.assert_allclose(found[i, j], ((resampled - y[j]) ** 2).sum() / 4, rtol=1e-12)
