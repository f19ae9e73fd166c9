"""Is this the same model as in PyTorch, to how many digits, and does it train the same?

    python -m scav_jax.parity [--config=paper] [--workdir=RUN]     both sides here, needs torch: a table and a page
    python -m scav_jax.parity dump --out=ref.npz                   what torch computes, as one file
    python -m scav_jax.parity check ref.npz                        ours beside that file, or beside a dump of your own;
                                                                   needs no torch
    python -m scav_jax.parity export --workdir=RUN --out=run.safetensors    a run's parameters as a torch state dict

Exit status 0: everything agrees; 3: something differs; 1 or 2: it could not be compared.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax

DIFFERS = 3
DISTANCES = ("cosine", "euclidean", "dtw", "wasserstein")


def main(arguments: list[str] | None = None) -> int:
    """The command line; its exit status: 0 all agrees, 3 something differs, 1 or 2 it could not be compared."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if (chosen.action == "check") != (chosen.dump is not None):
        parser.error("check takes the file of a dump, nothing else does")
    if chosen.device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(chosen.device, chosen.device))
    try:
        return {"compare": _compare, "dump": _dump, "check": _check, "export": _export}[chosen.action](chosen)
    except ImportError as error:
        hint = ": pip install 'scav-jax[torch]'" if (error.name or "").startswith("torch") else ""
        print(f"error: {error}{hint}", file=sys.stderr)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scav_jax.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", default="compare", choices=["compare", "dump", "check", "export"])
    parser.add_argument("dump", nargs="?", type=Path, help="of check: the .npz file")
    parser.add_argument("--config", default="small", help="paper, small (the demo's), or a file of configs/")
    parser.add_argument("--workdir", help="a trained run: its config and its parameters")
    parser.add_argument("--precision", type=_names, default=[],
                        help="of ours, by commas: float64, float32, default (what matrix products here are unasked), "
                        "tensorfloat32, bfloat16; of dump: float32 (the default) or float64")  # fmt: skip
    parser.add_argument("--distances", type=_names, default=list(DISTANCES), help="(default: all four)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of training, 0 for none (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="of ours; the twin runs on the CPU")
    parser.add_argument("--every-row", action="store_true", help="print all rows, not the worst of each kind")
    parser.add_argument("--out", type=Path, help="folder of parity.html and parity.json (default: runs/parity), or the "
                        "file of dump and export")  # fmt: skip
    return parser


def _names(text: str) -> list[str]:
    return text.split(",")


def _problem(chosen: argparse.Namespace) -> Any:
    from scav_jax.parity import problem

    unknown = sorted(set(chosen.distances) - set(DISTANCES))
    if unknown:
        raise ValueError(f"--distances: expected some of {', '.join(DISTANCES)}, got {unknown[0]}")
    config = None if chosen.workdir else problem.read_config(chosen.config)
    return problem.make(config, workdir=chosen.workdir, batch_size=chosen.batch_size, steps=chosen.steps)


def _compare(chosen: argparse.Namespace) -> int:
    from scav_jax.parity import theirs

    given = _problem(chosen)
    asked = chosen.precision or list(theirs.DTYPES)
    # float64 also judges the others, all of which are held against theirs in float32.
    made = {
        precision: theirs.make(given.config, given.state, given.inputs, chosen.distances, precision)
        for precision in (["float64"] if asked == ["float64"] else theirs.DTYPES)
    }
    exact = made["float64"]
    by = exact.about | {"precision": " and ".join(made)}
    found = _new_report(f"{given.said}; batches of {chosen.batch_size}", by)
    for precision in asked:
        is_exact = precision == "float64"
        found.rows[precision] = _rows(exact, precision) if is_exact else _rows(made["float32"], precision, exact)
        found.save(_folder(chosen))
        for name in chosen.distances if chosen.steps and precision in theirs.DTYPES else []:
            found.curves.append(_trained(given, name, precision))
            found.save(_folder(chosen))  # the next may take an hour, and not come to its end
    return _verdict(chosen, found)


def _trained(given: Any, name: str, precision: str) -> Any:
    from scav_jax.parity import curves, theirs

    losses, learned_there = theirs.train(given.config, given.start, given.features, given.order, name, precision)
    curve, learned = curves.of_ours(given, name, precision, losses)
    if precision == "float32":
        curves.add_recall(curve, given, learned_there, learned)
    return curve


def _rows(reference: Any, precision: str, exact: Any = None) -> list[Any]:
    from scav_jax.parity import compare, ours

    judge = None if precision == "float64" else ours.make(reference, "float64")
    return compare.rows(reference, ours.make(reference, precision), judge, exact)


def _new_report(said: str, by: dict) -> Any:
    from scav_jax.parity import report

    return report.Report("scav-jax beside PyTorch", report.about(by, said), rows={})


def _folder(chosen: argparse.Namespace) -> Path:
    return chosen.out or Path("runs/parity")


def _verdict(chosen: argparse.Namespace, found: Any) -> int:
    found.complete = True
    found.save(_folder(chosen))
    print(found.text(every_row=chosen.every_row))
    print(f"report: {(_folder(chosen) / 'parity.html').resolve()}")
    return 0 if found.agrees else DIFFERS


def _dump(chosen: argparse.Namespace) -> int:
    from scav_jax.parity import theirs

    (precision,) = chosen.precision or ["float32"]
    if precision not in theirs.DTYPES:
        raise ValueError(f"--precision: a dump is in float32 or float64, got {precision}")
    given = _problem(chosen)
    record = theirs.make(given.config, given.state, given.inputs, chosen.distances, precision)
    if chosen.steps:
        record.add("start", **given.start)
        record.add("train", order=given.order, **given.features)
        for name in chosen.distances:
            losses, _ = theirs.train(given.config, given.start, given.features, given.order, name, precision)
            record.add("curve", **{name: losses})
    out = chosen.out or Path("ref.npz")
    record.save(out)
    print(f"{len(record.arrays)} arrays, {out.stat().st_size / 2**20:.1f} MiB: {out.resolve()}")
    return 0


def _check(chosen: argparse.Namespace) -> int:
    from scav_jax.parity import curves, record
    from scav_jax.parity.problem import Problem

    reference = record.load(chosen.dump)
    found = _new_report(str(chosen.dump), reference.about)
    for name in chosen.precision or ["float64", "float32", "default"]:
        found.rows[name] = _rows(reference, name)
    if not any(found.rows.values()):
        raise ValueError(f"{chosen.dump}: expected something to compare, found inputs and parameters only")
    found.save(_folder(chosen))
    train = reference.of("train")
    if chosen.steps and train:
        order = train.pop("order")
        state = reference.of("parameter")
        given = Problem(reference.config, state, reference.of("start") or state, {}, train, order, None, "")
        precision = reference.about.get("precision", "float32")
        for name, losses in reference.of("curve").items():
            found.curves.append(curves.of_ours(given, name, precision, losses)[0])
            found.save(_folder(chosen))
    return _verdict(chosen, found)


def _export(chosen: argparse.Namespace) -> int:
    from scav_jax import files, parallel, trained
    from scav_jax.parity import convert

    if chosen.workdir is None:
        raise ValueError("--workdir: expected the folder of a trained run")
    run = trained.load(files.at(chosen.workdir), parallel.make_mesh())
    state = convert.to_torch(jax.device_get(run.parameters))
    out = chosen.out or Path("run.safetensors")
    convert.write_safetensors(state, out)
    print(f"{len(state)} arrays of step {run.step}: {out.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
