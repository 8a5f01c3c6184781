"""What stands in the manual, for tests that follow it to the letter."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The blocks of one language on a page of docs/, in order."""
    text = (DOCS / page).read_text("utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.M | re.S)
    assert found, f"no {language} in {page}"
    return [dedent(block) for _, block in found]
