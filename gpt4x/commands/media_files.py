"""The files of media that `gpt4x generate` takes and makes."""

from collections.abc import Sequence
import dataclasses
import importlib.util
import os
import pathlib

from gpt4x import storage
from gpt4x.errors import nearest, UserError
from gpt4x.media.files import images, sounds, videos
from gpt4x.media.medium import Audio, Image, Medium

# The media that a name's ending may stand for. One that is of two is of the first that the model makes.
ENDINGS = {".png": ("image",), ".jpg": ("image",), ".jpeg": ("image",), ".webp": ("image",), ".gif": ("video", "image"),
           ".wav": ("audio",), ".flac": ("audio",), ".mp4": ("video",), ".webm": ("video",)}
_LIBRARIES = {".flac": "soundfile", ".mp4": "av", ".webm": "av"}


def read(given: Sequence[tuple[str, str]]) -> list[Medium]:
  """The media of (medium, path), as much of each as the run's configuration has it in training."""
  if not given:
    return []
  from gpt4x.media.local_media import LocalMedia
  how, found = LocalMedia(), list[Medium]()
  for medium, path in given:
    if medium == "image":
      found.append(images.read(path))
    elif medium == "audio":
      found.append(sounds.read(path, how.seconds))
    else:
      found.append(videos.read(path, how.fps, how.seconds, how.stream))
  return found


def write(medium: Medium, file: str) -> None:
  """Writes a medium, in the format that the file's ending says."""
  if isinstance(medium, Image):
    images.write(medium, file)
  elif isinstance(medium, Audio):
    sounds.write(medium, file)
  else:
    videos.write(medium, file)


@dataclasses.dataclass(frozen=True)
class Target:
  """Where media go: into a file, or, several of any kind, into a directory.

  Attributes:
    path: the file or the directory.
    media: what the file may hold; none: it is a directory.
  """

  path: pathlib.Path
  media: tuple[str, ...] = ()

  def medium(self, known: Sequence[str]) -> str | None:
    """The medium that a model, which knows some, is to make; None: any."""
    return next((medium for medium in self.media if medium in known), self.media[-1] if self.media else None)

  def files(self, number: int, count: int, media: Sequence[str]) -> list[str]:
    """The names for the media of one of `count` continuations."""
    digits = str(number + 1).zfill(len(str(count)))  # As listings order them.
    if self.media:
      name = self.path.name if count == 1 else f"{self.path.stem}-{digits}{self.path.suffix}"
      return [str(self.path.with_name(name))] * (len(media) > 0)
    return [str(self.path / f"{digits}-{place}{_ending(medium)}") for place, medium in enumerate(media, 1)]


def target(text: str) -> Target:
  """Where --output says; a UserError, before minutes of work, if nothing can be written there."""
  path = storage.path(text)
  ending = path.suffix.lower()
  if text.endswith("/") or path.is_dir() or not ending:
    _check_writable(path, path / "1-1.png")
    return Target(path)
  if ending not in ENDINGS:
    raise UserError(f"--output={text}: {ending} is the ending of no file that can be made{nearest(ending, ENDINGS)}, or"
                    " end a directory's name with /")
  library = _LIBRARIES.get(ending)
  if library and importlib.util.find_spec(library) is None:
    raise UserError(f"--output={text} needs {library}, which is not installed: pip install 'gpt4x[media]', or choose"
                    f" {'.wav' if 'audio' in ENDINGS[ending] else '.gif'}")
  storage.check_file(path)
  _check_writable(path, path)
  return Target(path, ENDINGS[ending])


def _check_writable(named: pathlib.Path, file: pathlib.Path) -> None:
  if storage.is_remote(file):
    storage.check_writable(file)
    return
  folder = next((folder for folder in file.parents if os.path.lexists(folder)), file.parent)
  if not folder.is_dir() or not os.access(folder, os.W_OK):
    raise UserError(f"--output={named}: {folder} is not a folder that can be written: name another")


def _ending(medium: str) -> str:
  if medium == "video":  # A GIF has no sound, but needs nothing.
    return ".mp4" if importlib.util.find_spec("av") else ".gif"
  return {"image": ".png", "audio": ".wav"}[medium]
