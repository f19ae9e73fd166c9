"""Runs as processes of their own: started, waited for, and what they wrote."""

import json
import subprocess
import sys

from conftest import REPOSITORY


def begin(*command, environment, **options):
    """python COMMAND in the repository root, its output kept."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=REPOSITORY, env=environment, **pipes, **options)


def finish(process, code=0):
    """(stdout, stderr) of a process that ends with this exit code."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


def rows(workdir):
    """The whole lines of RUN/metrics.jsonl so far."""
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
