"""The words: links lead somewhere, names, commands and keys exist, and tables hold what the code holds."""

import pkgutil
import re
from importlib.util import find_spec

import pytest
from conftest import REPOSITORY

from configs import base, marimba
from data.marimba import score
from scav_jax import config as configs

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "data/*/*.md", "benchmarks/**/*.md")
    for page in REPOSITORY.glob(pattern)
)
EVERYTHING = "\n".join(page.read_text() for page in PAGES)
EXTERNAL = re.compile(r"https://[\w-]+(\.[\w-]+)+(/\S*)?$")
FENCES = re.compile(r"^```\n(.*?)^```$", re.DOTALL | re.MULTILINE)
README = (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_to_files_and_headings(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_images_have_the_command_that_makes_them_beside_them(page):
    assert unmade_images(page.read_text()) == []


def test_broken_links_and_images_without_a_command_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One & two\n[a](page.md#one--two) [b](#one--two) [c](#one-two) [d](gone.md) [e](https://arxiv.org/#x)\n\n"
        "[i](https:/x.org)\n\n"
        "```\n[f](fenced.md)\n# no heading\n```\n[g](page.md#no-heading)\n\n[h]: lost.md\n\n"
        "![p](page.md)\n\n*Made by `python\n-m docs.figures mean`.*\n\nWords.\n\nWords.\n\n"
        "![q](page.md)\n\n*Made by `python -m docs.painted`.*\n"
    )
    assert broken_links(page) == ["#one-two", "gone.md", "https:/x.org", "page.md#no-heading", "lost.md"]
    assert unmade_images(page.read_text()) == ["![q](page.md)"]


def broken_links(page):
    """Links of a page to a file or heading, as GitHub names it, that is not there, or to what is no address."""
    text = unfenced(page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE)
    return [target for target in targets if not (EXTERNAL.match(target) or leads(page, target))]


def leads(page, target):
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not anchor or anchor in anchors(file.read_text()))


def unfenced(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """Names of a page's headings: lower case, without marks, blanks as hyphens, and numbered where one comes again."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", unfenced(text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading.strip().lower())
        name = re.sub(r"[^\w\s-]", "", shown).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return found


def unmade_images(text):
    """Images with no command of this repository in the block before or the two after them."""
    blocks, unmade = text.split("\n\n"), []
    for place, block in enumerate(blocks):
        images = re.findall(r"!\[[^\]]*\]\([^)]*\)", block)
        near = " ".join(" ".join(blocks[max(place - 1, 0) : place + 3]).split()) if images else ""
        modules = re.findall(r"python -m ([\w.]+)", near)
        made = any(map(find_spec, modules)) or any(map(is_target, re.findall(r"` ?make (\w+)", near)))
        unmade += [] if made else images
    return unmade


def is_target(name):
    return re.search(rf"^{name}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def test_everything_that_the_paper_page_names_exists():
    """A dotted name in backticks is a config key, or a module, class or function below scav_jax or the root."""
    names = set(re.findall(r"`(\w+(?:\.\w+)+)`", (REPOSITORY / "docs" / "paper.md").read_text()))
    assert {"models.encoder.apply", "distance.gamma"} <= names
    assert [name for name in names if not (exists(f"scav_jax.{name}") or exists(name) or exists_as_key(name))] == []


def test_everything_that_the_architecture_page_names_exists():
    names = set(re.findall(r"`([\w/]+\.py)`", (REPOSITORY / "docs" / "architecture.md").read_text()))
    assert {"train.py", "features/media.py"} <= names
    assert [name for name in names if not any((REPOSITORY / top / name).exists() for top in ("", "scav_jax"))] == []


def exists(name):
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def exists_as_key(key):
    return not configs.unknown_key(key, base.get_config())


def test_config_keys_of_commands_exist():
    keys = re.findall(r"--config\.([\w.]+)=", EVERYTHING.replace("--config.key=value", ""))
    assert keys
    assert [key for key in keys if not exists_as_key(key)] == []


def test_make_targets_exist():
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = {line.partition(" #")[0] for fence in FENCES.findall(EVERYTHING) for line in fence.splitlines()}
    targets = {word for line in targets if line.startswith("make ") for word in line.split()[1:]}
    assert {"demo", "install"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_own_clips_take_the_same_three_commands_on_both_pages():
    commands = FENCES.findall((REPOSITORY / "data" / "own" / "README.md").read_text())[0]
    assert len(commands.splitlines()) == 3
    assert commands in README


def test_the_demo_has_the_winners_of_the_grid():
    table = (REPOSITORY / "benchmarks" / "results" / "grid.md").read_text()
    rates = [float(rate) for rate in re.findall(r"learning rate ([\d.]+)", table)]
    winners = {}
    for name, temperature, *cells in re.findall(r"^\| (\w+) \| ([\d.]+) \|(.*)\|(.*)\|(.*)\|$", table, re.MULTILINE):
        for rate, cell in zip(rates, cells, strict=True):
            if "**" in cell:
                winners[name] = rate, float(temperature)
    recipe = marimba.get_config().recipe
    assert winners == {name: (section.learning_rate, section.temperature) for name, section in recipe.items()}


def test_marimba_counts_and_chances_are_those_of_the_score():
    rows = re.findall(
        r"^\| (train|val|test) \| (\w*) ?\| (\d+) x (\d+) \| (\d+) \|([^|]*)\|([^|]*)\|$",
        (REPOSITORY / "data" / "marimba" / "README.md").read_text(),
        re.MULTILINE,
    )
    counts = {}
    for split, subset, groups, size, clips, chance, guess in rows:
        counts.setdefault(split, {})[subset] = int(groups), int(size)
        assert int(clips) == int(groups) * int(size)
        if split != "train":
            assert chance.strip() == f"{100 / int(clips):.2f} %"
            assert guess.strip() == (f"{100 / int(size):.1f} %" if size != "1" else "")
    assert counts == score.COUNTS
    total = sum(groups * size for subsets in counts.values() for groups, size in subsets.values())
    assert f"{total:,} such clips" in README
