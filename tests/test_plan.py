"""Operations counted, programs compiled for devices that are not there, and the plan that train.py prints."""

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from cases import heavy_unless

from benchmarks.pods import LENGTHS, TOPOLOGIES
from configs import base
from scav_jax import parallel, plan, plan_report
from scav_jax.operations import operations


@pytest.fixture
def libtpu(monkeypatch):
    """The compiler for TPUs, which `make test` puts beside the environment, where no other program finds it."""
    library = Path(sys.prefix) / "libtpu" / "libtpu" / "libtpu.so"
    if library.exists():
        monkeypatch.setenv("TPU_LIBRARY_PATH", str(library))
    else:
        assert importlib.util.find_spec("libtpu"), f"expected libtpu in {library.parent}: make test installs it there"


def paper(**changes):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    return config


def small(**changes):
    config = paper(batch_size=16, **changes)
    for tower in config.model.values():
        tower.update(width=16, mlp_width=16, num_heads=2, num_layers=2, ffn_width=16)
    return config


def programs(config, devices):
    return plan.Programs(config, LENGTHS, parallel.make_mesh(devices), plan.target(None).backend)


def test_operations_are_counted_through_loops_branches_and_gradients():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    product = 2 * 3 * 5 * 7
    assert operations(jnp.matmul, a, b) == product
    assert operations(jax.jit(lambda a, b: jnp.exp(a @ b)), a, b) == product + 21
    assert operations(lambda a: jax.lax.scan(lambda c, _: (c * 2, None), a, length=4)[0], a) == 4 * 15
    assert operations(lambda a: jax.lax.cond(True, lambda a: a * a, lambda a: a * a * a, a), a) == 2 * 15
    # Of sum(exp(a @ b)) the gradient multiplies twice more, once for each side.
    gradient = operations(jax.grad(lambda a, b: jnp.sum(jnp.exp(a @ b)), (0, 1)), a, b)
    assert 3 * product < gradient < 3 * product + 6 * 21
    spread = jax.shard_map(
        lambda a: a * a, mesh=parallel.make_mesh(), in_specs=jax.P(parallel.CLIPS), out_specs=jax.P(parallel.CLIPS)
    )
    assert operations(spread, jnp.ones((16, 2))) == 2 * 2  # of one device


@pytest.mark.parametrize(
    "changes",
    [
        heavy_unless("micro_batch_size" in changes, changes)
        for changes in ({}, {"micro_batch_size": 8}, {"stream_distances": True})
    ],
    ids=str,
)
def test_parts_make_up_the_step(changes):
    alone, spread = programs(small(**changes), jax.devices()[:1]), programs(small(**changes), jax.devices())
    parts = alone.operations(16)
    assert all(count > 0 for count in parts.values())
    assert parts["towers"] > parts["distances and loss"]
    again = 4 / 3 if changes.get("micro_batch_size") else 1  # a second encoding
    plain = programs(small(), jax.devices()[:1]).operations(16)
    assert parts["towers"] == pytest.approx(again * plain["towers"], rel=0.1)
    assert spread.operations(16)["towers"] == pytest.approx(parts["towers"] / 8, rel=0.1)


@pytest.mark.heavy
def test_the_report_tells_memory_operations_and_the_largest_batch(monkeypatch):
    monkeypatch.setattr(plan_report, "SWEPT", ("euclidean",))
    monkeypatch.setattr(plan_report, "TILES", (0,))
    target = plan.target(None)
    found = programs(small(), target.devices)
    text = plan_report.report(found, target)
    step = found.step(16).memory()
    assert f"in all {step.total / 2**20:.1f} fits into" in " ".join(text.split())
    row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["euclidean"])
    largest = int(row[1].replace(",", ""))
    assert largest % 8 == 0
    # What it promises: the whole step of that batch, compiled, fits, and uses what there is.
    assert 0.5 * target.device_bytes < found.step(largest).memory(hasty=True).total <= target.device_bytes


def test_an_unknown_topology_is_refused(libtpu):
    with pytest.raises(ValueError, match="v5e:16x16"):
        plan.target("v99:2x2")


def check_on_tpu(topology, distance):
    target = plan.target(topology)
    config = paper(**{"distance.name": distance, "batch_size": 16 * len(target.devices)})
    mesh = parallel.make_mesh(target.devices)
    compiled = plan.Programs(config, LENGTHS, mesh, target.backend).step(config.batch_size).compile(hasty=True)
    text = compiled.as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text


@pytest.mark.heavy
def test_the_papers_step_compiles_for_a_pod(libtpu):
    check_on_tpu(TOPOLOGIES[0], "euclidean")


@pytest.mark.heavy
@pytest.mark.parametrize("distance", ["euclidean", "dtw", "wasserstein"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_papers_step_compiles_for_every_pod(topology, distance, libtpu):
    check_on_tpu(topology, distance)
