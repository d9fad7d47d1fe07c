"""Sphinx's settings; ``make docs`` builds with them."""

from __future__ import annotations

import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils.nodes import TextElement
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "docs")]

from config_reference import reference  # noqa: E402

import sr_train  # noqa: E402

project, author, copyright = "sr-train", "the authors of sr-train", "the authors of sr-train"
release = sr_train.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"sr-train {release}"
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3  # every heading is an anchor, and a link to one that does not exist fails
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpicky = True  # a name in a docstring that does not exist fails; of other packages nothing is known here
nitpick_ignore_regex = [("py:.*", r"(?!sr_train\.).*")]


def _generate(app: Sphinx, name: str, source: list[str]) -> None:
    """Append the generated tables to the page that introduces them."""
    if name == "config-reference":
        source[0] += "\n" + reference()


def _exists(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: TextElement) -> TextElement | None:
    """Accept a name of ours that has no entry in the site, as plain text, if it can be imported."""
    try:
        resolve_name(str(node.get("reftarget")))
    except (ImportError, AttributeError, ValueError):
        return None
    return contnode


def setup(app: Sphinx) -> None:
    """Connect the generator of the configuration reference, and the check of names."""
    app.connect("source-read", _generate)
    app.connect("missing-reference", _exists)
