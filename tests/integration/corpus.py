"""A small corpus of text files, and the flags that train the smallest run on it."""

import pathlib
import random

GIN_FILE = pathlib.Path(__file__).parent / "tiny.gin"


def write(folder: pathlib.Path) -> pathlib.Path:
  """Thirty files of made-up sentences."""
  draw = random.Random(0)
  folder.mkdir(exist_ok=True)
  for i in range(30):
    words = ["memory", "segment", "attends", "to", "its", "past", "and", "layer", "ünïcödé"]
    text = " ".join(draw.choice(words) for _ in range(draw.randrange(40, 200)))
    (folder / f"{i}.txt").write_text(f"{text}.\n", encoding="utf-8")
  return folder


class Reference(str):
  """A gin reference, which has no quotes."""

  __repr__ = str.__str__


def flags(corpus: pathlib.Path, model_dir: pathlib.Path, **bindings: object) -> list[str]:
  """The arguments of `gpt4x train`; NAME=VALUE bindings beside those of tiny.gin."""
  values = {"LocalText.files": f"{corpus}/*.txt"} | {name.replace("__", "."): value for name, value in bindings.items()}
  return ["train", f"--gin_file={GIN_FILE}", f"--model_dir={model_dir}",
          *(f"--gin.{name}={value!r}" for name, value in values.items())]
