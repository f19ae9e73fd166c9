"""What pip installs: scav_jax alone, enough for the example of the README, under the version that the code says."""

import re
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest
import yaml
from conftest import REPOSITORY

import scav_jax

BESIDE_CODE = {"scav_jax/py.typed", "scav_jax/page.html", "scav_jax/report.html", "scav_jax/parity/parity.html"}
OF_EXTRAS = {"torch", "mteb", "datasets"}  # the last comes with mteb
# Every module is imported; those that cannot be name what is missing.
IMPORT_ALL = """
import importlib, pkgutil, scav_jax
for found in pkgutil.walk_packages(scav_jax.__path__, "scav_jax."):
    try:
        importlib.import_module(found.name)
    except ImportError as error:
        print(error.name.partition(".")[0])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built as the README says, by `pip wheel . --no-deps`."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", str(REPOSITORY), "--no-deps", f"--wheel-dir={folder}")
    (path,) = folder.iterdir()
    return path


@pytest.fixture
def python(tmp_path):
    """The interpreter of an empty environment, which is gone after the test: it grows to more than 1 GB."""
    venv.create(tmp_path / "env", with_pip=True)
    yield str(tmp_path / "env" / "bin" / "python")
    shutil.rmtree(tmp_path / "env")


def pip(*arguments, python=sys.executable):
    done = subprocess.run([python, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.heavy
def test_the_wheel_holds_the_package_alone(wheel):
    assert wheel.name == f"scav_jax-{scav_jax.__version__}-py3-none-any.whl"
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "scav_jax").rglob("*.py")}
    assert held == code | BESIDE_CODE


@pytest.mark.heavy
def test_the_wheel_is_enough_for_the_readme(wheel, python, tmp_path):
    """With what pip finds for the declared dependencies and nothing else. A minute, most of it
    pip's; with the packages of this environment lent to it an undeclared one would go unseen."""
    pip("install", "--disable-pip-version-check", "--no-compile", str(wheel), python=python)
    example = re.search(r"^```python\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.DOTALL | re.MULTILINE)

    def run(code):
        command = [python, "-I", "-c", code]
        return subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True).stdout

    assert float(run(f"{example[1]}\nprint(value)")) > 0
    assert run("import scav_jax; print(scav_jax.__file__)").startswith(str(tmp_path))
    missing = run(IMPORT_ALL).split()
    assert "torch" in missing
    assert set(missing) <= OF_EXTRAS


def test_the_citation_names_the_paper_and_leaves_the_version_to_the_code():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert "version" not in citation
    paper = citation["preferred-citation"]
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    bibtex = (REPOSITORY / "README.md").read_text().replace("{\\`a}", "à").partition("```bibtex")[2]
    assert f"author    = {{{' and '.join(names)}}}" in bibtex
    assert f"title     = {{{paper['title']}}}" in bibtex
    assert f"year      = {{{paper['year']}}}" in bibtex
    assert paper["url"].endswith("2407.05782")
