"""What of an evaluation a person looks at and listens to, as files."""

from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import importlib.util
import pathlib
import re

from gpt4x import run_directory, storage
from gpt4x.evaluation.contact_sheet import Cell, contact_sheet
from gpt4x.media.files import images, sounds, videos
from gpt4x.media.medium import Audio, Image, Video

_ON_SHEET, _FILES = 64, 16  # At most.


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
  """Media with captions."""

  cells: Sequence[Cell]

  @functools.cached_property
  def sheet(self) -> Image | None:
    """The first of them, each sound and video under the number of its file; None of none."""
    named = [dataclasses.replace(cell, caption=f"{number}: {cell.caption}" if _moves(cell) else cell.caption)
             for number, cell in enumerate(self.cells[:_ON_SHEET])]
    return contact_sheet(named) if named else None

  @property
  def sounds(self) -> dict[str, Audio]:
    """The first sounds, by the number of their file."""
    return {f"{number:03}": medium for number, cell in enumerate(self.cells[:_FILES])
            for medium in cell.media[-1:] if isinstance(medium, Audio)}

  def write(self, directory: pathlib.Path) -> None:
    """Writes the sheet, and the first sounds and videos by their numbers, originals too; nothing of none.

    Without the package for MP4, a video is a GIF, and its sound lies beside it.
    """
    if self.sheet is None:
      return
    images.write(self.sheet, directory / run_directory.SHEET)
    moving = ".mp4" if importlib.util.find_spec("av") else ".gif"
    for number, cell in enumerate(self.cells[:_FILES]):
      for medium, what in zip(reversed(cell.media), ("", "_original")):
        path = directory / f"{number:03}{what}"
        if isinstance(medium, Video):
          videos.write(medium, path.with_suffix(moving))
        sound = medium if isinstance(medium, Audio) else medium.sound if isinstance(medium, Video) else None
        if sound is not None and (medium is sound or moving == ".gif"):
          sounds.write(sound, path.with_suffix(".wav"))


def _moves(cell: Cell) -> bool:
  return not isinstance(cell.media[-1], Image)


def place(model_dir: str, step: int) -> pathlib.Path:
  """Where the gallery of a step is."""
  return storage.path(model_dir) / run_directory.SAMPLES / f"step_{step}"


def newest_sheet(model_dir: str) -> tuple[int, bytes] | None:
  """The step and the PNG of the latest contact sheet of a run; None if it has none."""
  folder = storage.path(model_dir) / run_directory.SAMPLES
  with contextlib.suppress(OSError):
    found = {int(name[1]): path for path in folder.iterdir() if (name := re.fullmatch(r"step_(\d+)", path.name))}
    for step in sorted(found, reverse=True):
      if (content := storage.read(found[step] / run_directory.SHEET)) is not None:
        return step, content
  return None
