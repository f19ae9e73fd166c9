"""The reference, read from the sources without importing them: a page a module, with what its docstrings say.

Public is a function or class at the top level of a module of `scav_jax` whose name does not begin with an underscore.
Each has its signature and docstring here, and a class its fields and the methods with such names.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scav_jax"
Definition = ast.FunctionDef | ast.ClassDef


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name -> file of every module, a package before what is in it."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return dict(sorted(found.items()))


def public(module: str, path: Path) -> dict[str, Definition]:
    """Dotted name -> definition of all that is public in a module."""
    return {f"{module}.{node.name}": node for node in definitions(ast.parse(path.read_text()))}


def undocumented(package: Path = PACKAGE) -> list[str]:
    """Modules, and public names, without a docstring."""
    missing = []
    for module, path in modules(package).items():
        nodes = {module: ast.parse(path.read_text()), **public(module, path)}
        missing += [name for name, node in nodes.items() if not ast.get_docstring(node)]
    return missing


def definitions(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """The functions and classes directly in it whose names do not begin with an underscore."""
    for inner in node.body:
        if isinstance(inner, Definition) and not inner.name.startswith("_"):
            yield inner


def index(pages: dict[str, str]) -> str:
    """The first page: what is public, and every module with the beginning of its docstring. pages: module -> link."""
    rows = [f"| [{_literal(name)}]({pages[name]}) | {first_sentence(path)} |" for name, path in modules().items()]
    rule = (__doc__ or "").partition("\n\n")[2]
    return "\n".join(["# Reference", "", prose(rule), "", "| module | what it holds |", "|---|---|", *rows, ""])


def page(module: str, path: Path) -> str:
    """Markdown of one module."""
    source = path.read_text()
    parts = [f"# `{module}`", prose(ast.get_docstring(ast.parse(source)) or "")]
    for name, node in public(module, path).items():
        parts += entry(name, node, source.splitlines(), level=2)
    return "\n\n".join(parts) + "\n"


def entry(name: str, node: Definition, lines: list[str], level: int) -> Iterator[str]:
    """A heading, the signature as it is in the source, the docstring; of a class also its methods."""
    yield f"{'#' * level} `{node.name}` {{ #{anchor(name)} }}"
    yield f"```python\n{signature(node, lines)}\n```"
    yield prose(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        for method in definitions(node):
            yield from entry(f"{name}.{method.name}", method, lines, level + 1)


def signature(node: Definition, lines: list[str]) -> str:
    """Decorators and the head, up to the body; of a class also its fields, with their comments."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    shown = lines[first - 1 : max(node.lineno, node.body[0].lineno - 1)]
    if isinstance(node, ast.ClassDef):
        for field in node.body:
            if isinstance(field, ast.AnnAssign):
                shown += lines[field.lineno - 1 : field.end_lineno]
    indent = len(shown[0]) - len(shown[0].lstrip())
    return "\n".join(line[indent:] for line in shown if line.strip())


def anchor(name: str) -> str:
    """Of a dotted name; two underscores would be bold."""
    return name.replace("__", "")


def first_sentence(path: Path) -> str:
    """Of a module's docstring, for a cell of a table."""
    paragraph = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].replace("\n", " ")
    return prose(re.split(r"(?<=[a-z)])\. |:$", paragraph)[0])


def prose(docstring: str) -> str:
    """Markdown that shows a docstring as it is written: backticks, blank lines, indents and Args: mean something."""
    return "\n\n".join(map(_paragraph, docstring.split("\n\n")))


def _paragraph(text: str) -> str:
    heading, _, rest = text.partition("\n")
    if heading in ("Args:", "Raises:"):
        items = re.sub(r"\n    +", " ", rest).splitlines()
        return f"{heading}\n\n" + "\n".join(f"- {_inline(item.strip())}" for item in items)
    if re.search("^ ", text, re.MULTILINE):
        return f"```text\n{text}\n```"
    return _inline(text)


def _inline(text: str) -> str:
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else _literal(piece) for piece in pieces)


def _literal(text: str) -> str:
    for sign, entity in {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "~": "&#126;"}.items():
        text = text.replace(sign, entity)
    text = re.sub(r"([\\*_\[\]{}#!])", r"\\\1", text)
    return re.sub(r"^(\d*)([-+.])", r"\1\\\2", text, flags=re.MULTILINE)
