"""`gpt4x teach` and runs of students by what it wrote, as a user gives the commands."""

import json
import shutil

import jax
import numpy as np
import pytest

from gpt4x import cli
from gpt4x.commands import reading
from gpt4x.data.teacher_cache import IDS, LOG_PROBS, Rows, TeacherCache
from gpt4x.partitioning import Partitioner
from tests.integration import corpus
from tests.integration.faults import trail

ONE_DEVICE = dict(Partitioner__data=1, Partitioner__num_devices=1)
# A memory that holds every document: what the teacher sees is then the same with any segments.
TEACHER = ONE_DEVICE | dict(TRAIN_STEPS=8, CHECKPOINT_PERIOD=8, EVAL_PERIOD=None, TransformerConfig__embed_dim=12,
                            TransformerConfig__num_layers=2, TransformerConfig__memory_length=2048)
STUDENT = ONE_DEVICE | dict(TRAIN_STEPS=4, CHECKPOINT_PERIOD=2, EVAL_PERIOD=4, EVAL_STEPS=1, train__microbatches=2,
                            TransformerConfig__loss_chunk=5)
SHORT = ["--gin.TransformerConfig.eval_memory_length=6"]


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory):
  """A corpus, a teacher, all it says, and a little of what it says when it sees six tokens."""
  folder = tmp_path_factory.mktemp("taught")
  corpus.write(folder / "text")
  assert cli.main(corpus.flags(folder / "text", folder / "teacher", **TEACHER)) == 0
  assert teach(folder, "all", "--top_k=260", "--split=train", "--split=validation") == 0
  assert teach(folder, "short", "--top_k=5", *SHORT) == 0
  return folder


def teach(folder, output, *flags):
  return cli.main(["teach", f"--model_dir={folder}/teacher", f"--output={folder / output}", *flags])


def student(folder, run, cache="all", **bindings):
  return corpus.flags(folder / "text", run, **STUDENT | {
      "OBJECTIVE": corpus.Reference("@CachedDistillation()"), "CachedDistillation__cache": str(folder / cache),
      **bindings})


def last_line(capsys):
  lines = capsys.readouterr().err.splitlines()
  assert not [line for line in lines if "Traceback" in line]
  return lines[-1]


def metrics(run, split="train"):
  lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  return [line for line in lines if line["split"] == split]


@pytest.fixture(name="run", scope="module")
def _run(made):
  assert cli.main(student(made, made / "run")) == 0
  return made / "run"


def rows_of(folder, cache, document):
  store, = reading.saved_experiment(str(folder / "teacher")).data.stores("train")
  rows = TeacherCache("CachedDistillation.cache", str(folder / cache)).of(store, True)
  assert isinstance(rows, Rows)
  rows.check()
  return store[document], rows.rows(document)


def test_a_row_is_what_the_model_says_of_its_token_by_the_document_before_it(made):
  """By one forward pass over the document alone, which sees six tokens at a time; ids the likeliest first."""
  experiment = reading.saved_experiment(str(made / "teacher"))
  model = experiment.language_model
  _, params = experiment.restore_params(str(made / "teacher"), Partitioner(data=1, num_devices=1))
  for document in (0, 7, 29):
    tokens, found = rows_of(made, "short", document)
    inputs = np.concatenate([[0], tokens[:-1]])[None].astype(np.int32)
    hidden = model.forward(params, inputs, model.initial_memory(1, 0), window=6).hidden
    log_probs = np.float64(jax.nn.log_softmax(model.unembed(params, hidden))[0])
    ids = np.argsort(-log_probs, -1, kind="stable")[:, :5]
    known = np.take_along_axis(log_probs, ids, 1)
    np.testing.assert_allclose(found[LOG_PROBS][:, :5], known, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found[LOG_PROBS][:, 5], np.log1p(-np.exp(known).sum(1)), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.take_along_axis(log_probs, found[IDS].astype(int), 1), known, rtol=1e-4)
    assert found[IDS].dtype == np.uint16 and found[LOG_PROBS].dtype == np.float16 and (found[IDS] == ids).mean() > 0.99


@pytest.mark.parametrize("flags", [
    ["--gin.TASK_FEATURE_LENGTHS={'targets': 50}"], ["--gin.BATCH_SIZE=3"], ["--gin.TransformerConfig.loss_chunk=3"]])
def test_rows_are_the_same_whatever_the_segments(made, tmp_path, flags):
  assert teach(made, tmp_path / "other", "--top_k=5", *SHORT, *flags) == 0
  for name in ("ids.bin", "log_probs.bin"):
    one, other = (np.fromfile(folder / "local_text_bytes-train" / name, np.uint16 if name == "ids.bin" else np.float16)
                  for folder in (made / "short", tmp_path / "other"))
    assert len(one) == len(other) > 1000
    if name == "ids.bin":
      assert (one == other).mean() > 0.999  # Of equal probabilities either may come first.
    else:
      np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4)


def test_what_it_prints_is_what_lies_there(made, tmp_path, capsys):
  assert teach(made, tmp_path / "few", "--top_k=2", "--temperature=2", *SHORT) == 0
  first, last = capsys.readouterr().out.splitlines()
  size = sum(path.stat().st_size for path in (tmp_path / "few").rglob("*.bin"))
  tokens = size // 10  # Two ids of 2 bytes, three numbers of 2.
  assert first == f"local_text_bytes/train: {tokens:,} tokens of 30 documents, {size:,} bytes"
  assert last == f"wrote {tmp_path}/few: step 8, 10 bytes a token"
  spec = json.loads((tmp_path / "few" / "spec.json").read_text())["teacher"]
  record = json.loads((made / "teacher" / "checkpoints" / "8" / "checkpoint.json").read_text())["record"]
  assert spec["directory"] == str(made / "teacher") and spec["step"] == record["step"] == 8
  assert (spec["temperature"], spec["window"], spec["vocab_size"]) == (2.0, 6, 260) and len(spec["checksum"]) == 64


def test_with_all_ids_a_student_is_as_with_the_teacher_itself(made, run, tmp_path, capsys):
  """Its losses, step by step, to the precision of half floats, and an evaluation of whole documents."""
  assert cli.main(corpus.flags(made / "text", tmp_path / "live", **STUDENT | {
      "OBJECTIVE": corpus.Reference("@Distillation()"), "Distillation__teacher": str(made / "teacher")})) == 0
  evaluated = [metrics(run), metrics(tmp_path / "live")]
  for directory, lines in zip((run, tmp_path / "live"), evaluated):
    capsys.readouterr()
    assert cli.main(["eval", f"--model_dir={directory}"]) == 0
    lines.append({name: float(value) for name, value in map(str.split, capsys.readouterr().out.splitlines())})
  assert [len(lines) for lines in evaluated] == [5, 5]
  for one, other in zip(*evaluated):
    for name in ("loss", "distillation"):
      assert one[name] == pytest.approx(other[name], rel=2e-3)


def test_a_run_that_stops_goes_on_as_if_it_had_not(made, run, tmp_path):
  """Bit for bit, with no teacher anywhere."""
  shutil.copytree(made / "all", tmp_path / "all")
  shutil.copytree(made / "text", tmp_path / "text")
  flags = student(tmp_path, tmp_path / "run", LocalText__files=f"{made}/text/*.txt")
  assert cli.main([*flags, "--gin.TRAIN_STEPS=2"]) == 0
  assert cli.main(["train", f"--model_dir={tmp_path / 'run'}", "--gin.TRAIN_STEPS=4"]) == 0
  assert [line for line in trail(tmp_path / "run") if "validation" not in str(line)] == [
      line for line in trail(run) if "validation" not in str(line)]


def test_eight_devices_are_one(made, tmp_path):
  mesh = {"Partitioner__num_devices": None, "Partitioner__data": 2, "Partitioner__fsdp": 2, "Partitioner__tensor": 2}
  plain = dict(EVAL_PERIOD=None, train__microbatches=1, TransformerConfig__dropout_rate=0.0)
  assert cli.main(student(made, tmp_path / "one", "short", **plain)) == 0
  assert cli.main(student(made, tmp_path / "eight", "short", **plain | mesh)) == 0
  losses = lambda run: [(line["loss"], line["distillation"]) for line in metrics(run)]
  assert losses(tmp_path / "eight") == [pytest.approx(one, rel=1e-4) for one in losses(tmp_path / "one")]


def test_an_evaluation_without_rows_has_the_likelihood(made, tmp_path, capsys):
  """Of a split that the teacher was not asked about; a model without its cache generates."""
  assert cli.main(student(made, tmp_path / "run", "short", TRAIN_STEPS=1)) == 0
  assert "distillation" in metrics(tmp_path / "run")[0]
  assert "distillation" not in metrics(tmp_path / "run", "validation")[0]
  config = tmp_path / "run" / "config.gin"
  config.write_text(config.read_text().replace(str(made / "short"), "nowhere"))
  assert cli.main(["generate", f"--model_dir={tmp_path / 'run'}", "--prompt=a", "--max_tokens=1"]) == 0
  assert cli.main(["eval", f"--model_dir={tmp_path / 'run'}", "--gin.OBJECTIVE=@NextToken()"]) == 0
  capsys.readouterr()
  assert cli.main(["eval", f"--model_dir={tmp_path / 'run'}"]) == 2
  assert "CachedDistillation.cache = 'nowhere' has no spec.json: make it by gpt4x teach" in last_line(capsys)


# Mistakes, and damage.


def test_a_run_goes_on_with_its_cache_alone(made, run, tmp_path, capsys):
  shutil.copytree(run, tmp_path / "run")
  for cache, message in (("short", "has what a teacher says of its tokens, ["), ("nowhere", "has no spec.json")):
    assert cli.main(["train", f"--model_dir={tmp_path / 'run'}", "--gin.TRAIN_STEPS=5",
                     f"--gin.CachedDistillation.cache='{made / cache}'"]) in (1, 2)
    assert message in last_line(capsys)


def test_rows_of_other_tokens_are_refused(made, tmp_path, capsys):
  shutil.copytree(made / "text", tmp_path / "text")
  (tmp_path / "text" / "0.txt").write_text("another beginning of it all\n" * 9)
  assert cli.main(student(made, tmp_path / "run", LocalText__files=f"{tmp_path}/text/*.txt")) == 1
  line = last_line(capsys)
  assert f"cache = '{made}/all' was made of other tokens of local_text_bytes/train (" in line
  assert f"by {made}/teacher at step 8: make it anew by gpt4x teach" in line
  assert not (tmp_path / "run" / "metrics.jsonl").exists()


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def rewritten(path, **changes):
  spec = json.loads(path.read_text())
  path.write_text(json.dumps({**spec, **changes}))


@pytest.mark.parametrize("damage, message", [
    (lambda folder: flip(folder / "local_text_bytes-train" / "ids.bin"), "its content is not what its hash says"),
    (lambda folder: (folder / "local_text_bytes-train" / "log_probs.bin").write_bytes(b"12"), "has 2 bytes in the"),
    (lambda folder: (folder / "local_text_bytes-train" / "ids.bin").unlink(), "ids.bin: No such file"),
    (lambda folder: rewritten(folder / "spec.json", version=2), "version 2, and this gpt4x reads 1"),
    (lambda folder: rewritten(folder / "spec.json", teacher={"step": 1}), "missing 6 required"),
    (lambda folder: rewritten(folder / "spec.json", splits={}), "says nothing of local_text_bytes/train, only of"),
    (lambda folder: rewritten(folder / "spec.json", splits={"local_text_bytes/train": 3}), "is damaged"),
])
def test_a_damaged_cache_is_one_line(made, tmp_path, capsys, damage, message):
  shutil.copytree(made / "short", tmp_path / "short")
  damage(tmp_path / "short")
  assert cli.main(student(tmp_path, tmp_path / "run", "short", LocalText__files=f"{made}/text/*.txt")) in (1, 2)
  line = last_line(capsys)
  assert message in line and f"CachedDistillation.cache = '{tmp_path}/short' " in line


@pytest.mark.parametrize("changes, message", [
    ({"TransformerConfig__vocab_size": 384}, "is of a teacher of 260 ids: make TransformerConfig.vocab_size = 384 as"),
    ({"DatasetConfig__feature_converter": "lm"}, "has rows for the tokens of a stream: set DatasetConfig.feature_conv"),
    ({"CachedDistillation__cache": "gs://bucket/cache"}, "is in a bucket, and its rows are read in place: copy it"),
])
def test_a_run_that_cannot_be_taught(made, tmp_path, capsys, changes, message):
  assert cli.main(student(made, tmp_path / "run", "short", **changes)) in (1, 2)
  assert message in last_line(capsys)


@pytest.mark.parametrize("flags, status, message", [
    (["--top_k=261"], 2, "--top_k=261 is more than the 260 ids that there are"),
    (["--top_k=0"], 2, "'0' is not a whole number of at least 1"),
    (["--temperature=0"], 2, "'0' is not a number from 0.01 to 100"),
    (["--split=nowhere"], 1, "has no split 'nowhere'"),
    (["--step=3"], 1, "no checkpoint of step 3"),
    (["--gin.DatasetConfig.feature_converter='lm'"], 1, "must be 'stream' for the tokens of a teacher to be those"),
])
def test_a_teacher_that_cannot_teach(made, tmp_path, capsys, flags, status, message):
  assert teach(made, tmp_path / "none", *flags) == status
  assert message in last_line(capsys)
  assert not (tmp_path / "none" / "spec.json").exists()


def test_a_cache_is_not_overwritten_and_lies_on_this_machine(made, capsys):
  assert teach(made, "all") == 1
  assert "has what a teacher says already: choose another --output" in last_line(capsys)
  assert cli.main(["teach", f"--model_dir={made}/teacher", "--output=gs://bucket/cache"]) == 2
  assert "--output=gs://bucket/cache: rows are read in place: give a folder of this machine" in last_line(capsys)


def test_a_plan_has_the_rows_and_no_teacher(made, capsys):
  flags = [flag for flag in student(made, made / "none", Partitioner__data=-1, Partitioner__num_devices=None)[1:]
           if not flag.startswith("--model_dir")]
  capsys.readouterr()
  assert cli.main(["plan", *flags, "--topology=v5p:2x2x1", "--json"]) == 0
  assert "frozen" not in json.loads(capsys.readouterr().out.splitlines()[-1])["memory"]
