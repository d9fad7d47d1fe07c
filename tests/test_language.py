"""Docstrings, messages, comments and pages keep the rules of plain technical English that a program can check."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted([*(ROOT / "sr_train").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
TESTS = sorted((ROOT / "tests").rglob("*.py"))
YAML = sorted((ROOT / "conf").rglob("*.yaml"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "data").glob("*.md")])
FIRST = re.compile(r"(What|Whether|Of|Where|How|Which)\b")
WORDS = {  # not: but
    r"afresh|begun anew|begins? anew": "newly initialized, started from scratch",
    r"whole numbers?": "integer",
    r"told of": "reported, printed",
    r"films?": "video",
    r"enlarge[sd]?|enlarging": "upscale",
    r"beside": "next to, besides",
    r"ledgers?": "step timer",
    r"is none of (its|ours)": "does not belong to",
    r"colour\w*": "color",
    r"grey\w*": "gray",
    r"normalis\w+|initialis\w+|optimis\w+|quantis\w+|recognis\w+|summaris\w+|serialis\w+": "-ize",
    r"behaviours?|neighbours?|neighbouring|favourites?|honours?": "-or",
    r"centre\w*|centring": "center",
    r"licence[sd]?": "license",
}
FORBIDDEN = re.compile("|".join(rf"(?<![\w./`-])(?:{words})(?![\w/-]|\.\w)" for words in WORDS), re.IGNORECASE)


def _docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "the file"), text


def _prose(source):
    """Return (line, text) of the comments and strings of a Python file; one word in quotes or a name in backquotes is code."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            if re.fullmatch(r"""(['"])\w+\1""", token.string):  # a key or a value, such as "centre" of score:
                continue
            yield token.start[0], re.sub(r"``[^`]*``|`[^`]*`", "", token.string)


def _found(lines):
    return [f"{number}: {m[0]}" for number, text in lines for m in FORBIDDEN.finditer(text)]


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=lambda p: str(p.relative_to(ROOT)))
def test_docstrings_begin_with_a_verb_or_a_noun_phrase(path):
    found = [f"{name}: {text[:60]}" for name, text in _docstrings(ast.parse(path.read_text())) if FIRST.match(text)]
    assert not found


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_words_of_the_code(path):
    assert not _found(_prose(path.read_text()))


@pytest.mark.parametrize("path", [*YAML, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_words_of_pages_and_recipes(path):
    text = re.sub(r"```.*?```", lambda m: "\n" * m[0].count("\n"), path.read_text(), flags=re.DOTALL)
    assert not _found(enumerate((re.sub(r"`[^`]*`|score: centre", "", line) for line in text.splitlines()), 1))
