"""Pages that load nothing and run no script. One look for all: page.html, which the other templates fill."""

from pathlib import Path
from typing import Any


def render(template: str, **values: Any) -> str:
    """A template of this package and what it is to show -> HTML. Text is escaped; a value that is missing raises."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
