"""Where everything is in a checkout of the book, and the list of its chapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from dm_utils.base.errors import BuildError, require
from dm_utils.world.profiles import profile_names


@dataclass(frozen=True)
class Layout:
    """Where everything is, from the root of the checkout and the profile that is built."""

    root: Path
    profile: str = "lab"

    @classmethod
    def find(cls, profile: str = "lab", start: Path | None = None) -> Layout:
        """Find the checkout that holds the working directory. A profile that does not exist is refused: it names a folder."""
        require(profile, profile_names(), "profile")
        start = (start or Path.cwd()).resolve()
        for folder in (start, *start.parents):
            if (folder / "_config.yml").exists() and (folder / "book/_toc.yml").exists():
                return cls(folder, profile)
        raise BuildError(f"{start} is not inside a checkout of the book: no _config.yml and book/_toc.yml above it")

    @property
    def build(self) -> Path:
        """Everything that is generated."""
        return self.root / "_build"

    @property
    def executed(self) -> Path:
        """Executed copies of the chapters under this profile, their keys and their tables."""
        return self.build / "executed" / self.profile

    @property
    def store(self) -> Path:
        """Measurements that chapters share."""
        return self.build / "store"

    @property
    def source(self) -> Path:
        """What Sphinx reads: the book's pages and the executed chapters."""
        return self.build / "source"

    @property
    def html(self) -> Path:
        """The built site."""
        return self.build / "html"


def chapters(layout: Layout) -> list[str]:
    """Return the chapters in reading order, as ``book/_toc.yml`` lists them.

    Raises
    ------
    BuildError
        If the list and the folder of notebooks disagree.
    """
    toc = yaml.safe_load((layout.root / "book/_toc.yml").read_text())
    files = [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]
    listed = [name.removeprefix("notebooks/") for name in files if name.startswith("notebooks/")]
    present = {path.stem for path in (layout.root / "notebooks").glob("*.ipynb")}
    if set(listed) != present:
        raise BuildError(
            f"book/_toc.yml and notebooks/ disagree; only in the list: {sorted(set(listed) - present)}, "
            f"only in the folder: {sorted(present - set(listed))}"
        )
    return listed
