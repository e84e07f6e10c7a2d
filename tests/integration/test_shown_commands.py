"""Every `gpt4x` command that the pages, gin files, tasks and examples show is run as it stands, at a tiny size.

What it finds in its folder is what the page has the reader make first. What cannot run here is read, with its gin
files and bindings, and named in ELSEWHERE with the reason.
"""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest
import seqio

from gpt4x import cli, configuration
from gpt4x.commands import reading, serve
from gpt4x.data import prepared, python_stdlib, vocabularies
from gpt4x.partitioning import planning_for
from gpt4x.planning import compiler
from gpt4x.preparation.pipeline import Preparation
from tests import shown
from tests.integration import corpus, crawl, media_folder
from tests.interop import hugging_face, llama

# By what is in the command: why it cannot run here, and the devices that it is for.
ELSEWHERE = {
    "--model_dir=gs://my-bucket/runs/pod": ("a TPU pod; test_hosts.py runs several hosts", 64),
    "--model_dir=/shared/runs/slurm": ("a SLURM cluster; test_clusters.py has its variables", 32),
    "--model_dir=/shared/runs/mpi": ("an MPI cluster; test_clusters.py has its variables", 32),
    "--model_dir=/shared/runs/hosts": ("several hosts; test_hosts.py runs them", 16),
    "--model_dir=gs://my-bucket/runs/gke": ("a Kubernetes cluster; test_hosts.py runs several hosts", 32),
    "gs://BUCKET/crawl": ("a cluster that runs Apache Beam; preparation/test_prepare.py has Beam's runner here", 1),
    "gs://BUCKET/corpus": ("a bucket; data/test_objects.py reads emulated ones", 1),
    "--task=c4_bytes": ("public text; data/test_public_text.py prepares some of it", 1),
    "@WeightsAndBiases": ("trackers' own packages; test_trackers.py runs them where they are installed", 1),
    "--loop=t5x": ("upstream t5x; test_t5x.py runs it where it is installed", 1),
    "serve --model_dir=": ("it serves until it is ended; serving/test_server.py ends it", 1),
    "train --gin_file=experiments/dense_70b.gin": ("a TPU pod, 32 chips", 32),
    "train --gin_file=experiments/mixture_8x7b.gin": ("a TPU pod, 16 chips", 16),
    "train --gin_file=experiments/multimodal_8x7b.gin": ("a TPU pod, 16 chips", 16),
    "train --gin_file=experiments/mixture_1t.gin": ("a TPU pod, 256 chips", 256),
    "train --gin_file=experiments/mixture_1.8t.gin": ("a TPU pod, 512 chips", 512),
}
MODEL = {"TransformerConfig.vocab_size": 512, "TransformerConfig.num_layers": 2, "TransformerConfig.embed_dim": 8,
         "TransformerConfig.num_heads": 2, "TransformerConfig.num_kv_heads": 2, "TransformerConfig.mlp_dim": 16,
         "TransformerConfig.memory_length": 8, "TransformerConfig.eval_memory_length": 8,
         "MoEConfig.num_experts": 4, "MoEConfig.mlp_dim": 8}
MEDIA_MODEL = MODEL | {"TransformerConfig.vocab_size": 4352}
# What an earlier command of the pages has made, by its name there.
EARLIER = {"runs/wt103": "converted", "runs/smollm": "llama", "runs/graph": "graph_run",
           "runs/denoising": "denoising_run",
           "runs/codec": "image_run", "CODEC": "image_run",
           **dict.fromkeys(("runs/draw", "runs/see", "runs/any"), "media_run")}
CODEC = {"CodecConfig.width": 4, "CodecConfig.depth": 1}
ONE_DEVICE = {"Partitioner.data": 1, "Partitioner.num_devices": 1}  # Which compiles faster.
RUN = {"TASK_FEATURE_LENGTHS": {"targets": 16}, "BATCH_SIZE": 16, "TRAIN_STEPS": 2, "EVAL_PERIOD": 2, "EVAL_STEPS": 1,
       "train.whole_final_eval": False, "CHECKPOINT_PERIOD": 1, "warmup_linear.warmup_steps": 1,
       "warmup_cosine.warmup_steps": 1}
LONG = {"TASK_FEATURE_LENGTHS": {"targets": 128}}  # So that there are fewer segments.
FROM_PREFIX = {"TASK_FEATURE_LENGTHS": {"inputs": 96, "targets": 96}}  # A prompt, and what is predicted.
# Small parts of the standard library, some of each split.
SOURCES = ("os.py", "ast.py", "abc.py", "asyncio/events.py", "asynchat.py", "contextlib.py")

_quickstart = subprocess.run(["make", "-n", "quickstart"], cwd=shown.ROOT, capture_output=True, text=True, check=True)
COMMANDS = [text for text, command in shown.every_command().items()
            if command.program == "gpt4x" and not command.inline]
COMMANDS += [line.removeprefix(".venv/bin/") for line in _quickstart.stdout.splitlines()
             if line.startswith(".venv/bin/gpt4x ")]
reason = lambda text: next((key for key in ELSEWHERE if key in text), None)


def gin(bindings: dict) -> list[str]:
  return [f"--gin.{name}={value!r}" for name, value in bindings.items()]


def sizes_of(text: str) -> dict:
  """What makes a new run of a command small."""
  if "_codec.gin" in text:  # Whose rows have the length of a medium.
    return {name: value for name, value in RUN.items() if name != "TASK_FEATURE_LENGTHS"} | CODEC
  if "pixels_tiny.gin" in text or "media_tiny.gin" in text:
    return MEDIA_MODEL | RUN
  if any(name in text for name in ("chat_tiny", "preference_tiny", "group_relative_tiny", "triples_tiny")):
    return MODEL | RUN | {"TASK_FEATURE_LENGTHS": {"targets": 160}, "Rollouts.max_tokens": 2}
  if "MediaTokens" in text:
    return MEDIA_MODEL | RUN | FROM_PREFIX
  return MODEL | RUN


def run(*arguments) -> None:
  assert cli.main([str(argument) for argument in arguments]) == 0, arguments


@pytest.fixture(name="library", scope="module")
def _library(tmp_path_factory):
  """A small standard library in the place of this Python's own, and a data directory that is prepared from it."""
  folder = tmp_path_factory.mktemp("library")
  for name in SOURCES:
    (folder / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
    source = pathlib.Path(sysconfig.get_path("stdlib"), name)
    (folder / "lib" / name).write_text(source.read_text() if source.exists() else "import asyncore\n" * 9)
  with pytest.MonkeyPatch.context() as patch:
    config, = python_stdlib.PythonStdlib.BUILDER_CONFIGS
    patch.setattr(config, "root", folder / "lib")
    patch.setenv("GPT4X_DATA_DIR", str(folder / "data"))
    patch.setattr(compiler, "topology_devices", _no_tpu_compiler)
    for name in ("local_text_spm", "stdlib_spm", "prepared_text"):
      vocabularies.train_sentencepiece(["how every page begins"] * 9, 280, vocabularies.model_path(name))
    yield


def write_chats(folder: pathlib.Path) -> None:
  """Records of conversations, of preferences and of prompts, in folders of their own."""
  for name, record in (("chats", {"completion": "b"}), ("pairs", {"chosen": "b", "rejected": "c"}), ("prompts", {})):
    (folder / name).mkdir()
    lines = [{"prompt": [{"role": "user", "content": f"a{i}"}], **record} for i in range(20)]
    (folder / name / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_graph(folder: pathlib.Path) -> None:
  """Triples of made-up names, of which pieces can be learned."""
  folder.mkdir()
  names = [f"{one} {two}" for one in ("memory", "segment", "layer", "past") for two in ("attends", "learns", "sees")]
  lines = [f"{name}\tfollowed_by\t{names[i - step]}\n" for i, name in enumerate(names) for step in (1, 2, 5)]
  (folder / "train.tsv").write_text("".join(lines))


def make_knowledge() -> None:
  """Runs of text and of conversations, a datastore that was tuned, and indexes of documents."""
  files = {"local_text": "--gin.LocalText.files='corpus/**/*.txt'", "chat": "--gin.LocalChat.files='chats/*.jsonl'"}
  for name, flag in files.items():
    experiment = f"experiments/{name}_tiny.gin"
    start = {} if name == "local_text" else {"train.init_from": None}
    sizes = sizes_of(experiment) | ONE_DEVICE | start
    run("train", f"--gin_file={experiment}", f"--model_dir={name}", flag, *gin(sizes))
  run("datastore", "--model_dir=local_text", "--output=store", "--max_tokens=300")
  run("eval", "--model_dir=local_text", "--datastore=store", "--tune", "--gin.evaluate.max_batches=1")
  for name, flags in (("index", []), ("dense", ["--dense", "--model_dir=local_text"])):
    run("index", f"--output={name}", files["local_text"], *flags)


def _no_tpu_compiler(*_):
  raise ImportError("the TPU compiler takes minutes")


@pytest.fixture(name="made", scope="module")
def _made(library, tmp_path_factory):
  """A folder with what the commands read: texts, a run, a model of Hugging Face, what is made of that."""
  folder = tmp_path_factory.mktemp("made")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    corpus.write(folder / "corpus")
    (folder / "corpus" / "more").mkdir()
    (folder / "corpus" / "more" / "a.jsonl").write_text(json.dumps({"text": "memory attends " * 200}) + "\n")
    words = ["<eos>", "<unk>", "the", ",", *(f"w{i}" for i in range(20))]
    for name in ("wiki.train.tokens", "wiki.valid.tokens", "mine.tokens"):
      (folder / name).write_text(" the w1 , w2 w3 \n" * 40)
    config = hugging_face.make_config(vocab_size=24)
    hugging_face.write(folder / "transfo-xl-wt103", config, hugging_face.make_tensors(config), "legacy")
    (folder / "transfo-xl-wt103" / "vocab.txt").write_text("\n".join(words))
    config = llama.make_config("smollm")
    llama.write(folder / "smollm", config, llama.make_tensors(config))
    llama.write_tokenizer(folder / "smollm")
    run("convert", "--from=huggingface", "--input=smollm", "--model_dir=llama")
    run("train", "--gin_file=experiments/stdlib_tiny.gin", "--model_dir=run", *gin(MODEL | RUN | ONE_DEVICE))
    run("convert", "--from=transfo_xl", "--input=transfo-xl-wt103", "--model_dir=converted")
    run("export", "--model_dir=run", "--output=exported")
    for name, flag in (("small", "--quantize=int8"), ("pruned", "--prune=magnitude:50%")):
      run("compress", "--model_dir=run", f"--output={name}", "--max_batches=0", flag)
    run("teach", "--model_dir=run", "--output=taught", "--top_k=4", *gin(LONG))
    write_chats(folder)
    write_graph(folder / "graph")
    flags = ["--gin_file=experiments/triples_tiny.gin", "--gin.LocalGraph.files='graph/*.tsv'"]
    run("train", *flags, "--model_dir=graph_run", *gin(sizes_of(flags[0]) | ONE_DEVICE))
    flags = ["--gin_file=experiments/denoising_tiny.gin", "--gin.LocalText.files='corpus/*.txt'"]
    run("train", *flags, "--model_dir=denoising_run", *gin(sizes_of(flags[0]) | ONE_DEVICE))
    make_knowledge()
    crawl.write(folder)
    media_folder.write(folder)
    for name, files in (("image", "images"), ("audio", "sounds")):
      flags = [f"--gin_file=experiments/{name}_codec.gin", f"--gin.LocalMedia.files='{files}/*.jsonl'"]
      run("train", *flags, f"--model_dir={name}_run", *gin(sizes_of(flags[0]) | ONE_DEVICE))
      run("export", f"--model_dir={name}_run", f"--output=codecs/{name}")
    flags = ["--gin_file=experiments/image_generate_tiny.gin", "--gin.LocalMedia.files='images/*.jsonl'",
             "--gin.MediaTokens.image='codecs/image'"]
    run("train", *flags, "--model_dir=media_run", *gin(sizes_of(flags[-1]) | ONE_DEVICE))
    (folder / "records.jsonl").write_text("".join(json.dumps(
        {"text": f"{i} {word}" * 5} | ({"label": word} if i < 9 else {})) + "\n"
        for i in range(20) for word in ("memory", "ATTENTION")))
    run("annotate", "--model_dir=run", "--input=records.jsonl", "--output=round1", "--review=4")
    review = folder / "round1" / "review.jsonl"
    review.write_text(review.read_text().replace("null", '"memory"', 1))  # As a person does.
    run("annotate", "--model_dir=media_run", "--input=images/lines.jsonl", "--output=labels", "--label_field=text")
  return folder


@pytest.mark.parametrize("text", [text for text in COMMANDS if not reason(text)])
def test_a_shown_command_runs(made, monkeypatch, tmp_path, capfd, text):
  monkeypatch.chdir(tmp_path)
  for name in ("corpus", "transfo-xl-wt103", "smollm", "wiki.train.tokens", "wiki.valid.tokens", "mine.tokens",
               "images", "sounds", "videos", "media", "pictures", "chats", "pairs", "prompts", "records.jsonl", "graph",
               "crawl", "books", "captioned", "spam", "fineweb", *crawl.FILES,
               *(["codecs"] if "export" not in text else [])):
    os.symlink(made / name, name)
  for name in ("boots.png", "a.png", "b.png"):
    os.symlink(made / "images" / "0.png", name)
  arguments = shown.Command(text).arguments
  parsed = cli._parse(arguments)
  command, new = parsed.command, bool(getattr(parsed, "gin_file", None))
  tuned = "init_from" in text and "/config.gin" in text  # Which has the sizes that its parameters have.
  needed = {}  # What an earlier command has made.
  reads = command in ("eval", "generate", "export", "report", "compress", "teach", "chat", "annotate", "links",
                      "datastore")
  if reads or (command == "train" and not new):
    needed[parsed.model_dir] = EARLIER.get("CODEC" if "--output=CODEC" in text else parsed.model_dir, "run")
  if "--suffix=" in text:
    needed[parsed.model_dir] = "denoising_run"
  if knowledge := [name for name in ("store", "index", "dense") if f"runs/{name}" in text]:
    if parsed.model_dir:
      needed[parsed.model_dir] = "chat" if parsed.model_dir == "runs/chat" else "local_text"
    needed |= {f"runs/{name}": name for name in knowledge if f"--output=runs/{name}" not in text}
  elif text == "gpt4x eval --model_dir=runs/chat":
    needed[parsed.model_dir] = "chat"
  if command == "train" and tuned:
    needed["runs/wt103"] = "converted"
  if command == "train":
    needed |= {f"runs/{name}": name for name in ("small", "pruned") if f"runs/{name}/" in text}
  if "preference_tiny" in text:
    needed["runs/chat"] = "run"
  if any(name in text for name in ("distillation_tiny.gin", "low_rank_tiny.gin", "chat_tiny.gin",
                                   "group_relative_tiny.gin", "'runs/stdlib_tiny'")):
    needed["runs/stdlib_tiny"] = "run"
  if "runs/taught" in text and command == "train":
    needed["runs/taught"] = "taught"
  needed |= {name: name for name in ("labels", "round1") if f"{name}/" in text}
  needed |= {f"prepared/{name}": f"prepared/{name}" for name in ("web", "books")
             if f"'prepared/{name}" in text and command != "prepare"}
  if command == "convert" and parsed.source == "safetensors":
    needed[parsed.input] = "exported"
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "memory"}')))
  for name, what in needed.items():
    shutil.copytree(made / what, name)
  if command == "cache":
    made_long_ago = prepared.place("tokens", "my_task", "train", "0")
    made_long_ago.mkdir(parents=True, exist_ok=True)
    (made_long_ago / prepared.TOKENS).touch()
    for path in (made_long_ago / prepared.TOKENS, made_long_ago):
      os.utime(path, (0, 0))
  if getattr(parsed, "trust", ()):
    pathlib.Path("my_tasks.py").touch()
  sizes = sizes_of(text) if new and not tuned else RUN | ({} if new else {"TRAIN_STEPS": 3})
  sizes |= {} if "Partitioner" in text else ONE_DEVICE
  back = ["--step=1"] if getattr(parsed, "step", None) and command == "train" else []  # Of the steps that there are.
  ending = pathlib.Path(getattr(parsed, "output", None) or "").suffix
  drawn = {".png": ["--size=8x8"], ".wav": ["--seconds=0.01"]}.get(ending)
  tiny = {"train": [*gin(sizes), *back], "vocabulary": ["--size=360"], "generate": drawn or ["--max_tokens=3"],
          "eval": ["--samples=2"] if getattr(parsed, "samples", None) else [],
          "compress": ["--calibration_batches=1", "--max_batches=1"], "teach": gin(LONG), "chat": ["--max_tokens=3"],
          "links": ["--max_triples=1"], "datastore": ["--max_tokens=300"]}
  assert cli.main([*arguments, *tiny.get(command, [])]) == 0, capfd.readouterr().err
  out, err = capfd.readouterr()
  assert "Traceback" not in err
  if command == "train":
    *_, last = pathlib.Path(parsed.model_dir, "metrics.jsonl").read_text().splitlines()
    assert json.loads(last)["step"] == (2 if new else 3)
  elif command == "generate" and not parsed.json:
    assert out.startswith("wrote " if drawn else (parsed.prompt or [""])[0])
  else:
    assert out


@pytest.mark.parametrize("text", [text for text in COMMANDS if reason(text)])
def test_a_command_for_another_place_is_read_whole(library, text):
  """Its flags, its files, its bindings, and the objects that they describe, on as many devices as it is for."""
  _, devices = ELSEWHERE[reason(text)]
  parsed = cli._parse(shown.Command(text).arguments)
  if parsed.command == "prepare":
    configuration.load(parsed.gin_file, parsed.gin, modules=configuration.PREPARATION_MODULES, needed=[Preparation])
    assert configuration.build(Preparation).steps
    return
  if parsed.command == "vocabulary":
    assert parsed.task in seqio.TaskRegistry.names()
    return
  if parsed.command == "serve":
    assert list(serve.named(parsed.model_dir)) == ["mine"]
    return
  with planning_for(devices):
    config = reading.new_run(parsed.gin_file, parsed.gin)
  assert config.experiment.model.config.num_params() > 0


def test_what_is_not_run_is_shown_and_has_a_reason():
  assert {reason(text) for text in COMMANDS} - {None} == set(ELSEWHERE)
  assert len(COMMANDS) > 40
