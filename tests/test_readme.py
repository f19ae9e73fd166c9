"""README.md as a newcomer uses it: its commands are read by the programs that they start, its code runs as it is.

A command must be read here, and its program must be run for real by the test that RUN_BY names; any other one fails.
"""

import argparse
import ast
import importlib
import json
import re
import shlex
import subprocess
import tomllib

import numpy as np
import pytest
from conftest import REPOSITORY
from test_entry import SMALL_TOWERS

from data.marimba import score
from data.marimba.prepare import SEED
from scav_jax import config as configs

README = (REPOSITORY / "README.md").read_text()
RESULTS = (REPOSITORY / "docs" / "results.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = FENCE.findall(README)
CODE = [text for language, text in BLOCKS if language == "python"]
IN_BLOCKS = [line for language, text in BLOCKS if language == "" for line in text.splitlines()]
IN_PROSE = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", README))]
START = re.compile(r"(\w+=\S* )*(make|pip|python) ")
COMMANDS = list(dict.fromkeys(IN_BLOCKS + list(filter(START.match, IN_PROSE))))

# By program: the test that runs it on something small.
RUN_BY = {
    "make": "test_demo.py::test_demo_trains_evaluates_and_reports_once",
    "pip": "test_package.py::test_the_wheel_is_enough_for_the_readme",
    "train.py": "test_entry.py::test_every_config_method_and_distance_runs",
    "train.py --plan": "test_plan.py::test_the_papers_step_compiles_for_every_pod",
    "eval.py": "test_entry.py::test_every_config_method_and_distance_runs",
    "data.own": "test_readme.py::test_features_are_packed_trained_on_and_reported",
    "scav_jax.features.extract": "test_extract.py::test_command_exit_codes",
    "scav_jax.parity": "test_parity.py::test_a_dump_is_checked_without_torch",
    "scav_jax.report": "test_readme.py::test_features_are_packed_trained_on_and_reported",
    "scav_jax.retrieval": "test_retrieval_shell.py::test_a_file_finds_what_its_stored_features_find",
}
ACTIVATE = "source .venv/bin/activate"

# Reads all command lines of a program that absl reads, of which a process can have one.
READ_BY_ABSL = """
import importlib, json, sys
from absl import flags
importlib.import_module(sys.argv[1])
for sys.argv in json.loads(sys.argv[2]):
    assert flags.FLAGS(sys.argv)[1:] == [], sys.argv
"""


class Read(Exception):
    """The command line was read without complaint."""


def words(command):
    return [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S*", word)]


def program(command):
    head, *rest = words(command)
    if head != "python":
        return head
    name = rest[1] if rest[0] == "-m" else rest[0]
    return f"{name} --plan" if "--plan" in rest else name


def of(*names):
    return [command for command in COMMANDS if program(command) in names]


def module_commands():
    return [command for command in COMMANDS if words(command)[:2] == ["python", "-m"]]


def test_blocks_are_commands_or_say_what_they_are():
    assert {language for language, _ in BLOCKS} == {"", "python", "text", "bibtex"}
    assert ACTIVATE in COMMANDS
    assert len(module_commands()) > 8


def test_the_program_of_every_command_is_run_by_a_test():
    started = {program(command) for command in COMMANDS if command != ACTIVATE}
    assert started == RUN_BY.keys()
    for where in RUN_BY.values():
        file, _, name = where.partition("::")
        tree = ast.parse((REPOSITORY / "tests" / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, where


@pytest.mark.parametrize("command", module_commands())
def test_modules_take_their_arguments(command, monkeypatch):
    def read(parser, arguments=None, namespace=None):
        assert parser.parse_known_args(arguments, namespace)[1] == []
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read)
    _, _, name, *arguments = words(command)
    package = REPOSITORY / name.replace(".", "/")
    main = importlib.import_module(f"{name}.__main__" if package.is_dir() else name).main
    with pytest.raises(Read):
        main(arguments)


@pytest.mark.parametrize("file", ["train", "eval"])
def test_entry_points_take_their_flags(file, shell):
    commands = [words(command)[1:] for command in of(f"{file}.py", f"{file}.py --plan")]
    assert len(commands) > 1
    done = shell("-c", READ_BY_ABSL, file, json.dumps(commands))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [command for command in COMMANDS if "make " in command])
def test_make_takes_its_targets_and_variables(command):
    variables = [word for word in shlex.split(command) if "=" in word]
    assert all(re.search(rf"^{variable.partition('=')[0]} \?=", MAKEFILE, re.MULTILINE) for variable in variables)
    subprocess.run(["make", "--dry-run", *words(command)[1:]], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def test_the_environment_is_where_make_puts_it():
    assert "VENV := .venv\n" in MAKEFILE


def test_pip_is_given_this_project_and_extras_that_it_has():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    commands = of("pip")
    assert "pip install ." in commands
    for command in commands:
        found = re.fullmatch(r"pip (install|wheel)( -e)? \.(?:\[(\w+)\])?( --no-deps)?", " ".join(words(command)))
        assert found, command
        assert found[3] is None or found[3] in extras


def test_files_of_commands_exist_or_are_made_by_one():
    named = {word.rpartition("=")[2] for command in COMMANDS for word in words(command)}
    paths = {word for word in named if re.match(r"(configs|data|docs|runs)/", word)}
    films = {f"data/marimba/world/media/{clip.split}/{clip.id}.mp4" for clip in score.clips(SEED)}
    made = {word for command in of("train.py", "scav_jax.retrieval") for word in re.findall(r"=(runs/\S+)", command)}
    assert made & paths
    assert [path for path in paths - films - made if not (REPOSITORY / path).exists()] == []


def test_ten_lines_are_a_training_step():
    code, names = CODE[0], {}
    assert len(list(filter(None, code.splitlines()))) == 10
    exec(code, names)
    assert np.isfinite(names["value"])
    before = {"video": names["normal"](0, 48, 64), "audio": names["normal"](1, 80, 64)}
    step = {name: float(np.abs(before[name] - names["weights"][name]).max()) for name in before}
    assert all(0 < largest < np.inf for largest in step.values())


def test_the_example_of_a_config_can_be_run():
    (code,), names = CODE[1:], {}
    exec(code, names)
    configs.check(names["get_config"]())


def test_numbers_are_those_of_the_results():
    short = README[README.index("## Results") :].partition("\n## ")[0]
    cells = re.findall(r"[\d.]+ \[[\d.]+-[\d.]+\]", short.replace("**", ""))
    assert len(cells) == 8
    assert [cell for cell in cells if cell not in RESULTS] == []
    first = README.partition("## Install")[0]
    (gallery, scav, cav, chance) = re.search(
        r"gallery of (\d+) clips.* first for ([\d.]+) % of the pictures, CAV for ([\d.]+) %; chance is ([\d.]+) %",
        first.replace("\n", " "),
    ).groups()
    assert f"order<br>gallery {gallery}<br>groups of 8<br>chance {chance} |" in RESULTS
    assert [cells[0].split()[0], cells[5].split()[0]] == [cav, scav]


@pytest.mark.heavy
def test_features_are_packed_trained_on_and_reported(shell, tmp_path, rng):
    """The last block of "Your own clips", on random features without rates or splits; and a page of its run."""
    for name in ("train.py", "eval.py", "configs", "data", "scav_jax"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "FEATURES").mkdir()
    for clip in range(60):
        visual, audio = rng.normal(size=(rng.integers(4, 9), 6)), rng.normal(size=(12, 5))
        np.savez(tmp_path / "FEATURES" / f"clip{clip}.npz", visual=visual, audio=audio)
    block = README[README.index("## Your own clips") :].partition("\n## ")[0]
    commands = [words(line)[1:] for line in FENCE.findall(block)[-1][1].splitlines()]
    assert [command[0] for command in commands] == ["-m", "train.py", "eval.py"]
    commands[1] += ["--config.steps=2", "--config.batch_size=8", *SMALL_TOWERS]
    for command in [*commands, ["-m", "scav_jax.report", "runs/own", "--out", "compare.html"]]:
        done = shell(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "runs" / "own" / "eval" / "metrics.json").read_text())
    assert written["protocol"]["dataset"] == "own"
    assert {row["subset"] for row in written["results"]} == {"all"}
    assert {row["k"] for row in written["results"]} == {None, 10, 50}
    for page in (tmp_path / "runs" / "own" / "eval" / "report.html", tmp_path / "compare.html"):
        assert "<html" in page.read_text()
