"""The small files of a model directory, gin text and command lines, and what reads them."""

import contextlib
import hashlib
import io
import json
import pathlib
import random
from typing import Any
import zlib

from benchmarks.fuzzing import mutations
from benchmarks.fuzzing.kinds import Kind
from gpt4x.errors import CommandError, UserError

_TEXT = mutations.any_of(*mutations.BYTES, *[mutations.edit_text] * 6)
_JSON = mutations.any_of(*mutations.BYTES, mutations.edit_text, *[mutations.edit_json] * 5)


# Checkpoints.

_STATE = "checkpoints/1"


def _checkpoint(folder: pathlib.Path) -> None:
  from gpt4x.checkpoints.manager import CheckpointConfig, Checkpoints
  from tests.checkpoints import states
  checkpoints = Checkpoints(str(folder), CheckpointConfig())
  checkpoints.save(1, states.make_state(1), states.DATA, states.CONFIG, seed=3, wait=True)
  checkpoints.close()


def _read_checkpoint(folder: pathlib.Path) -> None:
  from gpt4x.checkpoints.manager import Checkpoints
  from tests.checkpoints import states
  checkpoints = Checkpoints(str(folder))
  checkpoints.restore(states.abstract(states.make_state(1)))
  checkpoints.check_seed(1, 3)
  assert isinstance(checkpoints.config_text(), str), "a configuration that is no text"


def _in_record(rng: random.Random, content: bytes) -> bytes:
  """Changes the record and gives it the checksum that it then has."""
  try:
    changed = json.loads(mutations.edit_json(rng, json.dumps(json.loads(content)["record"]).encode()))
    crc = zlib.crc32(json.dumps(changed, sort_keys=True).encode())
    return json.dumps({"crc32": crc, "record": changed}).encode()
  except Exception:
    return mutations.flip_bits(rng, content)


# A vocabulary and metrics.

_WORDS = ["<eos>", "<unk>", "the", "ünïcödé", ","]


def _vocabulary_json(folder: pathlib.Path) -> None:
  from gpt4x.data import vocabularies
  vocabularies.save(vocabularies.write_words(_WORDS, folder), folder)


def _bytes_json(folder: pathlib.Path) -> None:
  import seqio

  from gpt4x.data import vocabularies
  vocabularies.save(seqio.ByteVocabulary(), folder)


def _sentencepiece(folder: pathlib.Path) -> None:
  from gpt4x.data import vocabularies
  vocabularies.train_sentencepiece(["the cat sat on the mat and the dog"] * 5, 275, folder / "sentencepiece.model")
  _seal(folder, "LosslessSentencePieceVocabulary", "sentencepiece.model")


def _seal(folder: pathlib.Path, kind: str, file: str) -> None:
  """Writes vocabulary.json with the checksum that a file now has."""
  digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
  (folder / "vocabulary.json").write_text(json.dumps({"class": kind, "sha256": digest}))


def _read_vocabulary(folder: pathlib.Path) -> None:
  from gpt4x.data import vocabularies
  vocabulary = vocabularies.load(folder)
  vocabulary.decode(vocabulary.encode("the cat"))
  assert 0 < vocabulary.vocab_size and len(vocabularies.token_bytes(vocabulary)) == vocabulary.vocab_size


def _read_sealed_words(folder: pathlib.Path) -> None:
  _seal(folder, "WordVocabulary", "words.txt")
  _read_vocabulary(folder)


def _read_sealed_sentencepiece(folder: pathlib.Path) -> None:
  import seqio
  seqio.vocabularies._load_model_internal.cache_clear()  # Which goes by the file's name.
  _seal(folder, "LosslessSentencePieceVocabulary", "sentencepiece.model")
  _read_vocabulary(folder)


def _metrics(folder: pathlib.Path) -> None:
  lines = [{"step": step, "split": split, "loss": 2.5, "bits_per_byte": 3.1, "tokens": 100.0, "tokens_per_second": 9.5,
            "mfu": None} for step in range(4) for split in ("train", "validation")]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _read_metrics(folder: pathlib.Path) -> None:
  from gpt4x.training import metrics
  for line in metrics.read_metrics(str(folder)):
    assert isinstance(line["step"], int) and isinstance(line["split"], str), "a line without its step and split"
  metrics.MetricsWriter(str(folder)).truncate(2)


def _in_a_line(rng: random.Random, content: bytes) -> bytes:
  lines = content.split(b"\n")
  i = rng.randrange(len(lines))
  lines[i] = mutations.edit_json(rng, lines[i])
  return b"\n".join(lines)


# Gin.

_EXPERIMENT = """# An experiment.
import gpt4x.tasks
include 'data/local_text_bytes.gin'

TransformerConfig:
  vocab_size = 260
  num_layers = 1
  embed_dim = 8
  num_heads = 2
  adaptive_cutoffs = (20, 200)
TransformerConfig.dropout_rate = 0.1
LocalText.files = '*.txt'
TASK_FEATURE_LENGTHS = {'targets': 16}
BATCH_SIZE = 8
TRAIN_STEPS = 40
PERIOD = 16
EVAL_PERIOD = %PERIOD
CHECKPOINT_PERIOD = %TRAIN_STEPS
OPTIMIZER = @adamw()
adamw.learning_rate = @warmup_linear()
warmup_linear.peak = 1e-2
warmup_linear.warmup_steps = 3
warmup_linear.total_steps = %TRAIN_STEPS
"""
_BINDINGS = ("BATCH_SIZE=16", "LocalText.files='a.txt'", "TransformerConfig.moe=@MoEConfig()",
             "MoEConfig.num_experts=4",
             "TASK_FEATURE_LENGTHS={'targets': 32}", "adamw.b1=0.9", "train.seed=3", "EVAL_STEPS=None",
             "TransformerConfig.adaptive_cutoffs=[10, 20]")


def _gin(folder: pathlib.Path) -> None:
  (folder / "experiment.gin").write_text(_EXPERIMENT)


def _read_gin(folder: pathlib.Path) -> None:
  from gpt4x.commands import reading
  reading.new_run([str(folder / "experiment.gin")])


def _saved_gin(folder: pathlib.Path) -> None:
  from gpt4x import configuration
  _gin(folder)
  configuration.load(("runs/train.gin", str(folder / "experiment.gin")))
  (folder / "config.gin").write_text(configuration.config_text())


def _read_saved_gin(folder: pathlib.Path) -> None:
  from gpt4x.commands import reading
  reading.saved_run(str(folder))


def _bindings(folder: pathlib.Path) -> None:
  _gin(folder)
  (folder / "bindings").write_text("\0".join(_BINDINGS))


def _one_argument(rng: random.Random, content: bytes) -> bytes:
  """Changes one argument of several, or their order."""
  parts = content.split(b"\0")
  i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
  match rng.randrange(8):
    case 0:
      parts[i], parts[j] = parts[j], parts[i]
    case 1:
      del parts[i]
    case 2:
      parts.insert(i, parts[j])
    case 3:
      parts[i] = parts[i].partition(b"=")[0] + b"=" + parts[j].partition(b"=")[2]
    case _:
      parts[i] = rng.choice((mutations.edit_text, mutations.edit_text, mutations.flip_bits, mutations.splice))(
          rng, parts[i]).replace(b"\0", b"")
  return b"\0".join(parts)


def _arguments(path: pathlib.Path) -> list[str]:
  """As the system gives them, which knows no text."""
  return [part.decode("utf-8", "surrogateescape") for part in path.read_bytes().split(b"\0")]


def _read_bindings(folder: pathlib.Path) -> None:
  from gpt4x.commands import reading
  reading.new_run([str(folder / "experiment.gin")], _arguments(folder / "bindings"))


# Command lines. Those of commands that write are parsed alone.

_PARSED = (
    "train --gin_file=a.gin --model_dir=runs/a --profile_steps=2:4 --loop=gpt4x --num_processes=2 --process_id=0"
    " --gin.BATCH_SIZE=3", "convert --from=transfo_xl --input=a --model_dir=b",
    "export --model_dir=a --output=b --step=3",
    "vocabulary --task=stdlib_bytes --size=300 --output=a",
    "plan --gin_file=a.gin --topology=v5p:2x2x1 --slices=2 --json")
_RUN = ("generate --model_dir=model --prompt=the --max_tokens=3 --temperature=0.5 --top_k=3 --top_p=0.9 --seed=1",
        "eval --model_dir=model --split=validation --gin.BATCH_SIZE=3 --step=1", "report --model_dir=model", "--help",
        "--version")


def _command_lines(lines: tuple[str, ...]) -> Any:
  def make(folder: pathlib.Path) -> None:
    for i, line in enumerate(lines):
      (folder / f"command{i}").write_text(line.replace("=model", f"={folder}/model").replace(" ", "\0"))
  return Kind(make, {f"command{i}": mutations.any_of(_one_argument) for i in range(len(lines))},
              _parse if lines is _PARSED else _run, ("error: ", "--help)"))


def _parse(folder: pathlib.Path) -> None:
  from gpt4x import cli
  for path in folder.glob("command*"):
    try:
      with contextlib.redirect_stdout(io.StringIO()):
        cli._parse(_arguments(path))
    except SystemExit as error:  # --help.
      assert not error.code, f"status {error.code}"
    except CommandError as error:
      raise UserError(f"error: {error}") from error


def _run(folder: pathlib.Path) -> None:
  from gpt4x import cli
  for path in folder.glob("command*"):
    errors = io.StringIO()
    try:
      with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = cli.main(_arguments(path))
    except SystemExit as error:
      status = error.code or 0
    text = errors.getvalue()
    if "Traceback" in text:
      raise AssertionError(f"{' '.join(text.splitlines()[-3:])[-200:]}")
    last = text.rstrip("\n").splitlines()[-1:] if status else []
    assert status in (0, 1, 2) and (not status or last[0].startswith("gpt4x: error: ")), f"status {status}: {last}"


KINDS = {
    "checkpoint": Kind(_checkpoint, {f"{_STATE}/checkpoint.json": mutations.any_of(
        *mutations.BYTES, mutations.edit_json, *[_in_record] * 8)}, _read_checkpoint),
    "vocabulary_json": Kind(_vocabulary_json, {"vocabulary.json": _JSON}, _read_vocabulary),
    "bytes_json": Kind(_bytes_json, {"vocabulary.json": _JSON}, _read_vocabulary),
    "words": Kind(_vocabulary_json, {"words.txt": _TEXT}, _read_sealed_words),
    "sentencepiece": Kind(_sentencepiece, {"sentencepiece.model": mutations.any_of(*mutations.BYTES)},
                          _read_sealed_sentencepiece),
    "metrics": Kind(_metrics, {"metrics.jsonl": mutations.any_of(*mutations.BYTES, mutations.edit_text,
                                                                *[_in_a_line] * 4)}, _read_metrics),
    "saved_gin": Kind(_saved_gin, {"config.gin": _TEXT}, _read_saved_gin, ("--gin.",)),
    "gin": Kind(_gin, {"experiment.gin": _TEXT}, _read_gin, ("gin_configs/",)),
    "bindings": Kind(_bindings, {"bindings": mutations.any_of(_one_argument)}, _read_bindings, ("--gin.",)),
    "parsed_command": _command_lines(_PARSED),
    "command": _command_lines(_RUN),
}
