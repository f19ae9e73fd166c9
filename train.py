"""Trains one run; run again with the same workdir, it resumes.

python train.py --config=configs/marimba.py --workdir=runs/marimba [--config.steps=500 --config.distance.name=dtw ...]
python train.py --config=configs/base.py --plan [--topology=v5e:16x16]: what that would take, before anything is spent

On several hosts every one starts the same command. SIGTERM saves a checkpoint and exits with 75: start it again.
"""

import sys
import zlib
from contextlib import closing

import jax
from absl import flags
from ml_collections import FrozenConfigDict, config_flags
from tqdm import tqdm

import data.marimba.prepare as marimba
from configs import base
from scav_jax import all_pairs, cli, evaluation, files, parallel, plan_report, processes, training
from scav_jax import config as configs
from scav_jax import plan as plans
from scav_jax.batches import Batches, own_clips, resident_bytes
from scav_jax.checkpoint import Checkpoints
from scav_jax.diagnosis import TRAINING_REMEDY, Diagnosis
from scav_jax.features.staging import open_staged
from scav_jax.features.store import Store, read_ledger
from scav_jax.logs import MetricsWriter, NoWriter
from scav_jax.timing import StepClock

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/; --config.key=value changes a key.")
PLAN = flags.DEFINE_bool("plan", False, "Print what a run takes, compiled but not run, and stop. Needs no --workdir.")
TOPOLOGY = flags.DEFINE_string("topology", None, "With --plan: TPUs like v5e:16x16 instead of the devices here.")
CLIP_S = flags.DEFINE_float("clip_s", 10.0, "With --plan, where the store is still missing: seconds of a clip.")
MAX_SKIPPED = 10  # steps in a row without a finite gradient


def train(config, workdir: files.AnyPath) -> None:
    """One run from its newest checkpoint, or from the start, to config.steps."""
    configs.check(config)
    mesh = parallel.make_mesh()
    configs.check_devices(config, mesh.size)
    store = open_data(config, mesh)
    config = complete(config, store.ledger)
    batches = Batches(config, store, mesh)
    state = parallel.replicate(jax.jit(lambda: training.init(config))(), mesh)
    keep_config(config, workdir)
    with closing(Checkpoints(workdir, config.checkpoint.keep)) as checkpoints:
        loop(config, workdir, mesh, store, batches, state, checkpoints)


def loop(config, workdir: files.AnyPath, mesh, store: Store, batches: Batches, state, checkpoints: Checkpoints) -> None:
    """The steps from the newest checkpoint on: train, log, evaluate, save."""
    stop_request = processes.StopRequest()
    start, state = resume(workdir, state, batches, checkpoints)
    if start >= config.steps:
        print(f"{workdir} is complete at step {start}", flush=True)
        return

    encoder = evaluation.make_encoder(config, mesh)
    print(f"{workdir}: {configs.describe(config)}, {_sizes(state, batches)}; compiling", flush=True)
    programs = plans.Programs(config, plans.lengths(config, store.ledger), mesh, jax.default_backend())
    step_fn = programs.step(config.batch_size).compile()
    train_ids = store.facts(config.data.train_split).ids
    clock = StepClock(programs, split=config.log_time_split)
    save_every = configs.every_steps(config, config.checkpoint.every_fraction)
    eval_every = configs.every_steps(config, config.eval.every_fraction)
    first = processes.is_first()
    progress = tqdm(
        total=config.steps, initial=start, unit="step", desc=workdir.name, mininterval=1.0, disable=not first
    )
    writing = closing(MetricsWriter(workdir, start) if first else NoWriter())
    with writing as writer, progress as bar, closing(processes.Watchdog()) as watchdog:
        say = bar.write if first else lambda _: None
        diagnosis = Diagnosis(config, configs.trained_with(config), writer.earlier)

        def log(step, row):
            for line in diagnosis.lines(writer.write(step, row)):
                say(line)

        for step in range(start + 1, config.steps + 1):
            with clock.input():
                positions, batch = next(batches)
            state, metrics = step_fn(state, batch)
            last = step == config.steps
            if step % config.log_every_steps == 0 or step == 1 or last:
                _stop_if_diverged(state, train_ids[positions])
                metrics, order = jax.device_get(metrics), train_ids[parallel.gather(parallel.spread(positions, mesh))]
                row = {**metrics, "ids_crc32": zlib.crc32("\n".join(order).encode()), **clock.row()}
                log(step, row)
                loss, share = (float(metrics[key]) for key in ("loss", "loss_over_chance"))
                bar.set_postfix_str(f"loss {loss:.3f}, {share:.2f} of chance", refresh=False)
            if step % eval_every == 0 or last:
                with clock.aside(state):
                    scores = validate(config, encoder, mesh, state.parameters, store)
                log(step, scores)
                recalls = ", ".join(f"{d} {scores[f'eval_{d}_R@1']:.1f}" for d in all_pairs.DIRECTIONS)
                say(f"step {step}: {config.data.val_split} R@1 {recalls} %")
            stop = stop_request.at(step) and not last
            if step % save_every == 0 or last or stop:
                with clock.aside(state):
                    writer.flush()
                    checkpoints.save(step, state, batches.get_state())
            watchdog.alive()
            bar.update()
            if stop:
                say(f"{workdir} was told to stop and is saved at step {step}")
                raise SystemExit(processes.STOPPED)


def resume(workdir: files.AnyPath, state, batches: Batches, checkpoints: Checkpoints):
    """(Step, state) of the newest checkpoint, with the batches set to go on from there; (0, state) if there is none."""
    start = checkpoints.latest_step or 0
    if start:
        state, position = checkpoints.restore(state)
        batches.set_state(position)
        print(f"resuming {workdir} at step {start}", flush=True)
    return start, state


def validate(config, encoder, mesh, parameters, store: Store) -> dict[str, float]:
    """The recalls of the validation split."""
    split = config.data.val_split
    encoded = evaluation.encode_split(config, encoder, mesh, parameters, store, split)
    return evaluation.quick_metrics(config, encoded, mesh, store.facts(split))


def plan(config) -> str:
    """What the run takes, of the config's store if it is there."""
    configs.check(config)
    target = plans.target(TOPOLOGY.value)
    mesh = parallel.make_mesh(target.devices)
    configs.check_devices(config, mesh.size)
    store = files.at(config.data.store)
    ledger = read_ledger(store) if store.exists() else None
    if ledger:
        check_ledger(config, ledger)
        config = complete(config, ledger)
    programs = plans.Programs(config, plans.lengths(config, ledger, CLIP_S.value), mesh, target.backend)
    return plan_report.report(programs, target, resident_bytes(config, ledger, mesh.size) if ledger else 0)


def open_data(config, mesh) -> Store:
    """The config's store. A marimba's is made where it is missing: it needs no download."""
    marimba.prepare_missing(config.data.store)
    section = config.data
    ledger = read_ledger(files.at(section.store))
    check_ledger(config, ledger)
    needed = {section.val_split: [range(sys.maxsize)], section.train_split: own_clips(config, ledger, mesh)}
    return open_staged(section.store, section.stage, needed)


def check_ledger(config, ledger) -> None:
    """Raises ConfigError where the store lacks what the config asks for."""
    missing = [name for name in config.model if name not in ledger["modalities"]]
    if missing:
        raise configs.ConfigError(f"model: {config.data.store} has no features for {', '.join(missing)}")
    for key in ("train_split", "val_split"):
        if config.data[key] not in ledger["splits"]:
            splits = ", ".join(ledger["splits"])
            raise configs.ConfigError(f"data.{key}: expected one of {splits}, got {config.data[key]!r}")


def complete(config, ledger) -> FrozenConfigDict:
    """The config with what only the store knows: the features' widths and rates, which clips there are to train on."""
    config = config.copy_and_resolve_references()
    config.data.train_ids_sha256 = ledger["ids_sha256"][config.data.train_split]
    for name, tower in config.model.items():
        entry = ledger["modalities"][name]
        tower.feature_width, tower.rate_hz = entry["width"], float(entry["rate_hz"])
    return FrozenConfigDict(config)


def keep_config(config, workdir: files.AnyPath) -> None:
    """Writes RUN/config.json, or refuses to resume a run that began with another config: its checkpoints are others."""
    path = workdir / "config.json"
    if not path.exists():
        if processes.is_first():
            configs.save(config, path)
    elif changed := configs.differences(configs.load(path), config):
        raise configs.ConfigError(f"{workdir} was begun with another config ({'; '.join(changed)}); use a new workdir")


def _sizes(state, batches: Batches) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(state.parameters))
    resident = batches.resident_bytes
    features = f"features on each device: {resident / 2**20:.0f} MiB" if resident else "features streamed"
    return f"{count:,} parameters; {features}"


def _stop_if_diverged(state, clips) -> None:
    if int(state.skipped) < MAX_SKIPPED:
        return
    raise ValueError(
        f"the gradient was not finite for {int(state.skipped)} steps in a row, last at step {int(state.step)} with "
        f"clips {', '.join(clips[:5])}, ...; lower the learning rate or look at these clips"
    )


def main() -> None:
    for flag in (CONFIG,) if PLAN.value else (CONFIG, cli.WORKDIR):
        if not flag.present:
            raise configs.ConfigError(f"--{flag.name}: expected a value, got none; see --help")
    try:
        config = CONFIG.value.lock()
    except (OSError, AttributeError, KeyError, TypeError) as error:  # the file is read when its config is first used
        raise configs.ConfigError(f"--config: {' '.join(str(error).split())}") from error
    if PLAN.value:
        print(plan(config))
        return
    assert cli.WORKDIR.value is not None
    processes.start()
    train(config, files.at(cli.WORKDIR.value))


if __name__ == "__main__":
    cli.run(main, TRAINING_REMEDY, unknown_key=lambda key: configs.unknown_key(key, base.get_config()))
