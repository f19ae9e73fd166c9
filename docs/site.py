"""What mkdocs.yml cannot say of the site: its pages lie all over the repository, and the reference is made here.

Every page keeps its path in the repository as its source, so that a link that works there works on the site.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from docs import reference

ROOT = Path(__file__).parents[1]
PAGES = "*.md", "docs/**/*.md", "data/*/*.md", "benchmarks/**/*.md"
LINKS = re.compile(r"\]\(([^)#\s]+)")
REFERENCE = "docs/reference"


def on_config(config: Any) -> Any:
    """The reference at its place in the navigation, a section a package."""
    packages: dict[str, list] = {}
    for module, path in reference.modules().items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        packages.setdefault(package, []).append({module.removeprefix("scav_jax."): _page(module)})
    sections = [f"{REFERENCE}/index.md", *({package: pages} for package, pages in packages.items())]
    config.nav = [{"Reference": sections} if "Reference" in entry else entry for entry in config.nav]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The theme's files, the repository's pages and what these link to, the reference."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    pages = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    for path in sorted(pages | {target for page in pages for target in _targets(page)}):
        source = path.relative_to(ROOT).as_posix()
        files.append(File(source, str(ROOT), config.site_dir, True, dest_uri=_address(source)))
    made = {f"{REFERENCE}/index.md": reference.index({name: f"{name}.md" for name in reference.modules()})}
    made |= {_page(module): reference.page(module, path) for module, path in reference.modules().items()}
    for source, text in made.items():
        file = File.generated(config, source, content=text)
        file.dest_uri = _address(source)
        files.append(file)
    return files


def on_post_build(config: Any) -> None:
    """A public name without a docstring, or without its place in the reference, is an error."""
    if missing := reference.undocumented():
        raise PluginError(f"without a docstring: {', '.join(missing)}")
    for module, path in reference.modules().items():
        html = (Path(config.site_dir) / _address(_page(module))).read_text()
        if absent := [name for name in reference.public(module, path) if f'id="{reference.anchor(name)}"' not in html]:
            raise PluginError(f"not in the reference: {', '.join(absent)}")


def _page(module: str) -> str:
    return f"{REFERENCE}/{module}.md"


def _address(source: str) -> str:
    """Where on the site a file of the repository is: docs/x.md at x/, a folder's README.md at the folder."""
    path = Path(source.removeprefix("docs/"))
    if path.suffix != ".md":
        return path.as_posix()
    if path.name == "index.md" or (path.name == "README.md" and path != Path("README.md")):
        return (path.parent / "index.html").as_posix()
    return (path.parent / path.stem.lower() / "index.html").as_posix()


def _targets(page: Path) -> set[Path]:
    """The files that a page links to, but other pages."""
    found = {(page.parent / link).resolve() for link in LINKS.findall(page.read_text()) if "://" not in link}
    return {path for path in found if path.is_file() and path.suffix != ".md"}
