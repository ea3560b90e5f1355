"""What mkdocs.yml calls: the site has the repository's pages, in its folders, so every relative link holds."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import eventbus_mp
import eventbus_mp.testing

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("*.md", "LICENSE", "docs/**/*.md", "benchmarks/*.md")
FILES = ("docs/**/*.png", "docs/**/*.svg", "docs/metrics/*", "benchmarks/*.png")
SHOWN_AS_TEXT = ("examples/**/*.py",)
DOCSTRINGS = "docs/reference/docstrings.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of `docs_dir`, keeping those of the theme and the plugins."""
    kept = [file for file in files if not file.is_documentation_page() and file.src_dir != config.docs_dir]
    paths = [path for pattern in (*PAGES, *FILES, *SHOWN_AS_TEXT) for path in sorted(ROOT.glob(pattern))]
    pages = [File(str(path.relative_to(ROOT)), str(ROOT), config.site_dir, config.use_directory_urls) for path in paths]
    return Files([*kept, *pages, File.generated(config, DOCSTRINGS, content=_docstrings())])


def _docstrings() -> str:
    """The page of all public names."""
    names = [f"eventbus_mp.{name}" for name in eventbus_mp.__all__]
    names += [f"eventbus_mp.testing.{name}" for name in eventbus_mp.testing.__all__]
    return "# Docstrings\n\n" + "".join(f"::: {name}\n\n" for name in names)
