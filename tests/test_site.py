"""The site of the documentation: it builds without a warning, loads nothing from elsewhere, has every public name."""

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import markdown
import pytest
from conftest import REPOSITORY

from docs import reference


class Page(HTMLParser):
    """The text of a page, its ids, and what it loads."""

    def __init__(self, html):
        super().__init__()
        self.words, self.ids, self.loaded = "", set(), []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.ids.add(named.get("id"))
        if tag in ("script", "img", "iframe") or (tag == "link" and named.get("rel") != "canonical"):
            self.loaded += [value for key, value in attributes if key in ("src", "href")]

    def handle_data(self, data):
        self.words += data


def collapsed(text):
    return re.sub(r"[\s`]", "", text)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of the built site, by its path."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={folder}"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert built.stdout + built.stderr == ""
    return {path.relative_to(folder).as_posix(): Page(path.read_text()) for path in folder.rglob("*.html")}


def test_the_site_has_the_pages_and_loads_nothing_from_elsewhere(site):
    pages = {"index", "concepts/index", "paper/index", "architecture/index", "data/own/index", "reference/index"}
    assert {f"{page}.html" for page in pages} <= site.keys()
    loaded = {address for page in site.values() for address in page.loaded}
    assert any(address.endswith(".css") for address in loaded)
    assert [address for address in loaded if re.match(r"(\w+:)?//", address)] == []


def test_every_public_name_is_in_the_reference_with_its_docstring(site):
    """The names by another rule than the reference's own: lines of the sources that begin with def or class."""
    documented, missing = 0, []
    for module, path in reference.modules().items():
        source = path.read_text()
        page = site[f"reference/{module}/index.html"]
        words = collapsed(page.words)
        docstrings = {node.name: ast.get_docstring(node) for node in reference.definitions(ast.parse(source))}
        for name in re.findall(r"^(?:async )?(?:def|class) ([a-zA-Z]\w*)", source, re.MULTILINE):
            shown = reference.anchor(f"{module}.{name}") in page.ids
            said = docstrings.get(name) and collapsed(docstrings[name]) in words
            documented += bool(shown and said)
            missing += [] if shown and said else [f"{module}.{name}"]
    print(f"documented: {documented} of {documented + len(missing)} public names")
    assert documented > 400
    assert missing == []


def test_a_name_without_a_docstring_is_found(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\n')
    lines = "def told():", '    """It."""', "def untold():", "    pass", "def _own():", "    pass"
    (package / "part.py").write_text("\n".join(lines))
    assert reference.undocumented(package) == ["package.part", "package.part.untold"]


@pytest.mark.parametrize(
    "docstring",
    ["<P, C> + a*b*c", "-gamma log", "(i + 0.5) * w_x [id](x)", "1. not a list", "# no heading", "a | b ~~c~~ \\d"],
)
def test_a_docstring_is_shown_as_it_is_written(docstring):
    extensions = ["tables", "attr_list", "pymdownx.superfences"]
    shown = Page(markdown.markdown(reference.prose(docstring), extensions=extensions)).words
    assert shown == docstring
