"""The import rules of docs/architecture.md, held against the imports that the files have."""

import ast
import functools
import re

import pytest
from conftest import REPOSITORY

OURS = "scav_jax"
ENTRY_POINTS = "train", "eval", "demo"
TOPS = OURS, "configs", "data", "benchmarks", *ENTRY_POINTS
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()


def rules(heading):
    """The rows of the page's table under a heading row, each cell as the names in it."""
    table = PAGE.partition(heading)[2].partition("\n\n")[0]
    return [[re.findall(r"`([\w.]+)`", cell) for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]


LAYERS = rules("| code | imports | and when called |")
UNLOADED = rules("| importing | loads no | but for |")


def sources():
    """Dotted name of each module of the repository -> its text."""
    found = {}
    for top in TOPS:
        for path in [REPOSITORY / f"{top}.py", *(REPOSITORY / top).rglob("*.py")]:
            if path.exists():
                parts = path.relative_to(REPOSITORY).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


@functools.cache
def written(text):
    """(module, name taken from it or None, whether only a call imports it) of every import."""
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda)]
    called = {id(node) for function in functions for node in ast.walk(function)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, None, id(node) in called) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import, which these rules cannot read"
            found |= {(node.module, alias.name, id(node) in called) for alias in node.names}
    return found


def imports(text, modules):
    """(what, whether only a call imports it): modules of ours by their whole name, others as they are written."""
    whole = {(f"{module}.{name}", module, when_called) for module, name, when_called in written(text)}
    return {(name if name in modules else module, when_called) for name, module, when_called in whole}


def row_of(module):
    """The row with the longest name that the module is or is below."""
    named = [(name, row) for row in LAYERS for name in row[0] if below(module, name)]
    assert named, f"{module} has no row in docs/architecture.md"
    return max(named, key=lambda pair: len(pair[0]))


def below(module, name):
    return f"{module}.".startswith(f"{name}.")


def violations(texts):
    """Sentences that name what imports what against the page's first table and the lines below it."""
    found = []
    for module, text in texts.items():
        top, _, rest = module.partition(".")
        for target, when_called in sorted(imports(text, texts)):
            target_top, _, target_rest = target.partition(".")
            if target_top not in TOPS or (top == target_top and top != OURS):
                continue
            if top == OURS and rest and target_top == OURS:
                allowed = allows(rest, target_rest, when_called)
            elif top == "data":
                allowed = below(target, f"{OURS}.files") or below(target, f"{OURS}.features")
            else:
                allowed = top in (*ENTRY_POINTS, "benchmarks") and target_top not in ENTRY_POINTS
                allowed &= target != f"{OURS}.report" or top in ENTRY_POINTS
            if not allowed:
                found.append(f"{module} imports {target}")
    return found


def allows(module, target, when_called):
    name, (_, always, later) = row_of(module)
    named = [name.split(".")[0], *always, *(later if when_called else [])]
    return any(below(target, one) for one in named) and (target == module or "__main__" not in target)


def loaded(module, texts):
    """What importing the module loads: modules of ours, through each other, and others' packages."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in texts:
            waiting += [target for target, when_called in imports(texts[name], texts) if not when_called]
    return seen


def heavy_loads(texts):
    """Sentences that name what importing loads against the page's second table."""
    found = []
    for names, packages, exceptions in UNLOADED:
        names = [name if name == OURS else f"{OURS}.{name}" for name in names]
        spared = {f"{OURS}.{name}" for name in exceptions}
        for module in texts:
            if any(below(module, name) for name in names) and module not in spared:
                loads = {name.split(".")[0] for name in loaded(module, texts)}
                found += [f"importing {module} loads {package}" for package in packages if package in loads]
    return found


def test_every_import_is_one_that_the_page_allows():
    assert violations(sources()) == []


def test_importing_loads_nothing_heavy():
    assert heavy_loads(sources()) == []


def test_the_table_points_one_way_and_names_what_exists():
    modules = {module.partition(".")[2] for module in sources() if module.startswith(f"{OURS}.")}
    above = set()
    for code, always, later in LAYERS:
        assert set(always + later) <= above, f"{code} imports {set(always + later) - above}, which is not above it"
        assert set(code) <= modules
        above |= set(code)
    assert len(above) == sum(len(code) for code, _, _ in LAYERS)
    assert {name for row in UNLOADED for name in (*row[0], *row[2])} <= modules | {OURS}


@pytest.mark.parametrize(
    ("module", "line", "target"),
    [
        ("scav_jax.metrics", "from scav_jax import distances", "scav_jax.distances"),
        ("scav_jax.distances.dtw", "import scav_jax.losses", "scav_jax.losses"),
        ("scav_jax.features.store", "from scav_jax.parallel import make_mesh", "scav_jax.parallel"),
        ("scav_jax.evaluation", "def f():\n    from scav_jax import report", "scav_jax.report"),
        ("scav_jax.training", "from scav_jax.parity import twin", "scav_jax.parity.twin"),
        ("scav_jax.cli", "import train", "train"),
        ("scav_jax.config", "from configs import base", "configs.base"),
        ("data.own.__main__", "from scav_jax import training", "scav_jax.training"),
        ("configs.base", "from scav_jax import shapes", "scav_jax.shapes"),
        ("benchmarks.grid", "from scav_jax import report", "scav_jax.report"),
        ("scav_jax.features.media", "from scav_jax.models import clip", "scav_jax.models.clip"),
    ],
)
def test_a_planted_import_is_found(module, line, target):
    texts = sources()
    texts[module] += f"\n{line}\n"
    assert violations(texts) == [f"{module} imports {target}"]


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("scav_jax.distances.ground", "import flax.linen", "importing scav_jax.distances.pairwise loads flax"),
        ("scav_jax.features.media", "import av", "importing scav_jax.cli loads av"),
        ("scav_jax.features.health", "from jax import numpy", "importing scav_jax.features.extract loads jax"),
        ("scav_jax.trained", "import torch", "importing scav_jax.mteb_models loads torch"),
    ],
)
def test_a_planted_load_is_found_through_what_imports_it(module, line, found):
    texts = sources()
    texts[module] += f"\n{line}\n"
    assert found in heavy_loads(texts)


def test_a_module_without_a_row_is_told():
    with pytest.raises(AssertionError, match="novel has no row"):
        violations(sources() | {"scav_jax.novel": "from scav_jax import shapes"})
