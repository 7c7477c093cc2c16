"""The pages of the documentation, and what the tests take from them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A block behind this comment isn't run; the comment says why.
SKIPPED = r"<!-- (?:draft|not run): [^\n]*-->\n"


def name(page):
    return str(page.relative_to(ROOT))


def commands(page):
    """The arguments of the commands of this package, in shell blocks and indented lines."""
    lines = r"^[ \t]*(?:[A-Z]+=\S+ )?(?:python|(?:srun )?torchrun .*) -m ftbc_pl (.*?)(?:\s+#.*)?$"
    return re.findall(lines, page.read_text(), flags=re.M)


def examples(page):
    """The Python blocks, in their order, without those that are marked as not to be run."""
    found = re.findall(rf"({SKIPPED})?^```python\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    return [code for skipped, code in found if not skipped]


def prose(page):
    """The text without blocks of code and code between backticks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    found = []
    for heading in re.findall(r"^#+ +(.*?) *$", text, flags=re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found
