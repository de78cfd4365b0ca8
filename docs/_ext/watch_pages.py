"""Builds the pages of trained agents into the site, from the data in `docs/pages`.

python docs/_ext/watch_pages.py PAGE.html    # writes docs/pages/PAGE.json from a page of `ntm-rl watch`
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from ntm_rl.agents.inspection.page.build import assemble

PAGES = Path(__file__).parents[1] / "pages"


def write_pages(app: Sphinx, error: Exception | None) -> None:
    """Writes the pages beside the other files of the site."""
    if error is None and app.builder.format == "html":
        folder = Path(app.outdir, "watch")
        folder.mkdir(exist_ok=True)
        for file in sorted(PAGES.glob("*.json")):
            (folder / f"{file.stem}.html").write_text(assemble(**json.loads(file.read_text())), encoding="utf-8")


def extract(page: Path) -> None:
    """Writes the data of a page into `docs/pages`."""
    text = page.read_text(encoding="utf-8")
    data = {
        name: re.search(rf'<script type="[^"]+" id="{name}">(.*?)</script>', text, re.DOTALL)[1]
        for name in ("document", "arrays")
    }
    (PAGES / f"{page.stem}.json").write_text(json.dumps(data, indent=0) + "\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the pages to a site."""
    app.connect("build-finished", write_pages)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        extract(Path(name))
