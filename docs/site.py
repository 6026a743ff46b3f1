"""Lays the pages out for MkDocs, as they lie in the repository, with the files that they lead to; and writes llms.txt.

    python docs/site.py      (make docs)

Links stay as they are, for readers of the repository and for MkDocs, which checks every one of them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build/pages"


def main() -> None:
    """Write everything anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    pages = [path for _, path in _nav()]
    for page in pages:
        _lay(page)
        for target in _targets(page):
            if target.is_file() and target.suffix != ".md":
                _lay(target)
    (PAGES / "llms.txt").write_text(llms(), encoding="utf-8")


def llms() -> str:
    """The index for language models: https://llmstxt.org."""
    settings = _settings()
    lines = [f"# {settings['site_name']}", "", f"> {settings['site_description']}"]
    section = None
    for title, page in _nav():
        if title != section:
            section = title
            lines += ["", f"## {title}", ""]
        heading = re.search(r"^# (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert heading is not None, page
        place = page.relative_to(ROOT).with_suffix(".html").as_posix().replace("README", "index")
        lines.append(f"- [{heading[1]}]({place})")
    return "\n".join(lines) + "\n"


def _nav() -> Iterator[tuple[str, Path]]:
    for entry in _settings()["nav"]:
        for title, pages in entry.items():
            for page in [pages] if isinstance(pages, str) else pages:
                yield title, ROOT / page


def _settings() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "docs/mkdocs.yml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def _targets(page: Path) -> Iterator[Path]:
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            yield (page.parent / target).resolve()


def _lay(path: Path) -> None:
    there = PAGES / path.relative_to(ROOT)
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, there)


if __name__ == "__main__":
    main()
