"""The `gpt4x` command line: flags and sub-commands, each of which is a file of `commands`."""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import math
import os
import re
import signal
import sys
from typing import Any, NoReturn

from gpt4x import __version__, storage
from gpt4x.errors import CommandError, nearest, UserError


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command line and returns its exit status: 0 done, 1 failed, 2 wrong command, 75 preempted after saving."""
  _prepare_streams()
  try:
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    ends = argv is None and arguments.command not in ("train", "chat", "serve")  # Which have a use for Ctrl-C.
    if ends and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
      signal.signal(signal.SIGINT, _ending(os.dup(2)))
    from gpt4x.commands import running
    status, message = running.run(arguments)
  except CommandError as error:
    status, message = 2, f"error: {error}"
  except KeyboardInterrupt:
    status, message = 130, "interrupted"  # 128 + SIGINT, as shells have it.
  if message:
    with contextlib.suppress(OSError):  # Nobody may be reading that.
      print(f"gpt4x: {message}", file=sys.stderr, flush=True)
  return status


def _ending(stderr: int) -> Callable[..., NoReturn]:
  """A handler that ends the process at once: libraries swallow KeyboardInterrupt, or print a traceback and go on."""
  def handle(*_: Any) -> NoReturn:
    with contextlib.suppress(OSError):
      os.write(stderr, b"gpt4x: interrupted\n")
    os._exit(130)
  return handle


def _prepare_streams() -> None:
  """Opens those that are closed onto nothing, and lets them replace what a terminal cannot show."""
  for name in ("stdin", "stdout", "stderr"):
    if getattr(sys, name) is None:
      # Takes the lowest number that is free, the stream's own, which a file would have next, and all errors in it.
      setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w", encoding="utf-8"))
  for stream in (sys.stdout, sys.stderr):
    if reconfigure := getattr(stream, "reconfigure", None):  # A notebook's has none, and shows all.
      reconfigure(errors="replace")


class _Parser(argparse.ArgumentParser):
  """Argparse that raises CommandError with one line, and abbreviates no flag."""

  def __init__(self, **kwargs: Any):
    super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

  def error(self, message: str) -> NoReturn:
    raise CommandError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  gin_flags = [flag for flag in argv if flag.startswith("--gin.")]
  argv = [flag for flag in argv if not flag.startswith("--gin.")]
  parser, commands = _parsers()
  if not argv or argv[0] in ("-h", "--help", "--version"):
    parser.parse_args(argv)
  if argv[0] not in commands:
    raise CommandError(f"unknown command {argv[0]}{nearest(argv[0], commands)} (see gpt4x --help)")
  command = commands[argv[0]]
  flags = [flag for flag in command._option_string_actions if flag.startswith("--")]  # pylint: disable=protected-access
  # Checked before argparse, which would rather say that the flag that was meant is missing.
  for flag in argv + ([] if "--gin_file" in flags else gin_flags):
    if flag.startswith("--") and flag.split("=")[0] not in flags:
      raise CommandError(f"unknown flag {flag}{nearest(flag.split('=')[0], flags)} (see {command.prog} --help)")
  for flag in gin_flags:
    if "=" not in flag:
      raise CommandError(f"{flag}: write --gin.NAME=VALUE (see {command.prog} --help)")
    if flag.startswith("--gin.MODEL_DIR="):
      raise CommandError(f"{flag}: give the directory as --model_dir=DIR")
  try:
    gin = [_text(flag.removeprefix("--gin.")) for flag in gin_flags]
  except argparse.ArgumentTypeError as error:
    raise CommandError(str(error)) from None
  arguments = parser.parse_args(argv, argparse.Namespace(gin=gin))
  if argv[0] == "generate" and not (arguments.prompt or arguments.prompt_file or arguments.media or arguments.output):
    command.error("one of the arguments --prompt --prompt_file is required")
  return arguments


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
  """The parser of the whole command line, and that of each sub-command."""
  parser = _Parser(
      prog="gpt4x", description="Trains Transformer-XL language models from gin files.", epilog=(
          "example:\n  gpt4x train --gin_file=experiments/stdlib_tiny.gin --model_dir=runs/tiny\n"
          "  gpt4x generate --model_dir=runs/tiny --prompt='def main('"))
  parser.add_argument("--version", action="version", version=f"gpt4x {__version__}")
  commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

  def command(name: str, text: str, gin: str | None = None) -> Any:
    sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    if name not in ("vocabulary", "plan", "cache", "index", "prepare", "quality", "serve"):
      sub.add_argument("--model_dir", required=True, type=_directory, metavar="DIR", help="the directory of the run")
      sub.add_argument("--trust", action="append", default=[], type=_filled_text, metavar="MODULE",
                       help="a module that saved configurations may import from now on, though not gpt4x's")
    if gin:
      group = sub.add_argument_group("gin", (
          "--gin.NAME=VALUE sets a macro or a parameter after all files. VALUE is a gin literal, so a string has\n"
          "quotes of its own: --gin.MIXTURE_OR_TASK_NAME=\"'my_task'\". Both flags may be repeated."))
      group.add_argument("--gin_file", action="append", type=_path, default=[], metavar="FILE", help=gin)
    return sub

  train = command("train", "train a model, or continue the run in DIR", gin=(
      "an experiment, below the current directory or the shipped gin_configs/; without any, DIR's own configuration"))
  train.add_argument("--loop", choices=["gpt4x", "t5x"], default="gpt4x",
                     help="the train loop: our own, or upstream t5x's (default: %(default)s)")
  train.add_argument("--step", type=_number(int, 0), metavar="N",
                     help="go back to the checkpoint of this step; newer ones are kept under another name")
  train.add_argument("--profile_steps", type=_steps, metavar="START:STOP", help="write a profiler trace of these steps")

  evaluate = command("eval", "evaluate a checkpoint of the run in DIR", gin="changes to DIR's own configuration")
  evaluate.add_argument("--split", type=_filled_text, default="validation",
                        help="the split to evaluate (default: %(default)s)")
  evaluate.add_argument("--samples", type=_number(int, 1), metavar="N", help=(
      "media to draw for the split's conditions, to measure, and to show in DIR/samples"))
  evaluate.add_argument("--datastore", type=_path, metavar="STORE", help=(
      "also measure the model together with its nearest neighbours in what gpt4x datastore wrote"))
  evaluate.add_argument("--tune", action="store_true", help=(
      "find the weight and the temperature of the neighbours on this split, and keep them in STORE"))

  for sub in (train, evaluate):
    group = sub.add_argument_group("several processes", (
        "Found by themselves on a TPU pod, under srun or mpirun, and in JAX_COORDINATOR_ADDRESS,\n"
        "JAX_NUM_PROCESSES and JAX_PROCESS_ID; --num_processes=1 is a run by itself wherever it is started."))
    group.add_argument("--coordinator_address", type=_filled_text, metavar="HOST:PORT",
                       help="of process 0, with any free port")
    group.add_argument("--num_processes", type=_number(int, 1, _MANY), metavar="N", help="of the whole run")
    group.add_argument("--process_id", type=_number(int, 0, _MANY), metavar="I", help="this one's number, from 0")
    group.add_argument("--start_timeout", type=_number(int, 1, _YEAR), default=300, metavar="S",
                       help="seconds to wait for the others (default: %(default)s)")
    group.add_argument("--heartbeat_timeout", type=_number(int, 5, _YEAR), default=60, metavar="S",
                       help="seconds of silence before another counts as dead (default: %(default)s)")

  generate = command("generate", "continue prompts with the model in DIR")
  prompts = generate.add_mutually_exclusive_group()
  prompts.add_argument("--prompt", action="append", type=_text, metavar="TEXT",
                       help="the text to continue; may be repeated")
  prompts.add_argument("--prompt_file", type=_path, metavar="FILE",
                       help='a file, or - for standard input, with {"prompt": "..."} on each line')
  generate.add_argument("--suffix", type=_filled_text, metavar="TEXT", help=(
      "the text behind what is to be filled in, with the prompt before it; with --marks it is filled in as a hidden"
      " span is, by a model of denoising, whose mode such as [R] the prompt may begin with"))
  generate.add_argument("--marks", action="store_true", help=(
      "names of marks in the prompt, such as <extra_id_0> and [S], are marks; without --suffix, some may be written"))
  generate.add_argument("--num_samples", type=_number(int, 1), default=1, metavar="N",
                        help="continuations of each prompt (default: %(default)s)")
  generate.add_argument("--batch_size", type=_number(int, 1), default=16, metavar="B",
                        help="how many are decoded together at most (default: %(default)s)")
  generate.add_argument("--stop", action="append", type=_filled_text, default=[], metavar="TEXT",
                        help="end before this text; may be repeated")
  generate.add_argument("--json", action="store_true", help=(
      "print an object on a line for each continuation: prompt, sample, text, finish_reason (eos, stop or length),"
      " tokens, log_probs; with --retrieve also retrieved, the names of documents"))
  generate.add_argument("--max_tokens", type=_number(int, 1), metavar="N",
                        help="tokens to add at most (default: 256; with --output, what its length and size need)")
  generate.add_argument("--seed", type=_number(int, 0, 2**32 - 1), default=0, metavar="S", help=(
      "the same prompt with the same seed gives the same text, alone or among others (default: %(default)s)"))
  generate.add_argument("--datastore", type=_path, metavar="STORE", help=(
      "draw from the model together with its nearest neighbours in what gpt4x datastore wrote"))
  group = generate.add_argument_group("images, audio and video", (
      "The first three may be repeated. Marks <image>, <audio> and <video> in the prompt say where they belong;\n"
      "without marks they come before it, in the order of the command line."))
  for medium in ("image", "audio", "video"):
    group.add_argument(f"--{medium}", action=_Medium, type=_path, metavar="FILE", help=f"{medium} for the prompt")
  group.add_argument("--output", type=_path, metavar="FILE_OR_DIR", help=(
      "make one medium, by the ending: .png, .jpg, .webp, .gif, .wav, .flac, .mp4 or .webm; or a directory: text, which"
      " is printed, and whichever media come in it"))
  group.add_argument("--size", type=_size, metavar="HxW",
                     help="pixels of the image or video (default: the model decides)")
  group.add_argument("--seconds", type=_number(float, 0.001, 86400), metavar="S",
                     help="length of the audio or video (default: the model decides, up to 30)")
  group.add_argument("--guidance", type=_number(float, 0, 1000), default=1.0, metavar="G", help=(
      "how much more the prompt is to count; 1 is the model as it is, 2 to 5 are usual (default: %(default)s)"))
  generate.set_defaults(media=[])

  chat = command("chat", "talk with the model in DIR")
  chat.add_argument("--system", type=_filled_text, metavar="TEXT", help="what the model is told before all messages")
  chat.add_argument("--max_tokens", type=_number(int, 1), default=256, metavar="N",
                    help="of an answer (default: %(default)s)")
  chat.add_argument("--window", type=_number(int, 1, _MANY), metavar="W",
                    help="latest positions that the model has in view (default: those of its training)")
  for sub in (generate, chat):
    sub.add_argument("--temperature", type=_number(float, 0), default=1.0, metavar="T",
                     help="0 always takes the likeliest token (default: %(default)s)")
    sub.add_argument("--top_k", type=_number(int, 1), metavar="K", help="sample among the K likeliest tokens")
    sub.add_argument("--top_p", type=_number(float, 0, 1), metavar="P",
                     help="sample among the likeliest tokens that hold a probability of P together")
  chat.add_argument("--seed", type=_number(int, 0, 2**32 - 1), default=0, metavar="S",
                    help="the same messages with the same seed get the same answers (default: %(default)s)")

  serve = command("serve", "answer requests as OpenAI's API does, and show a page to try the models")
  serve.add_argument("--model_dir", required=True, action="append", type=_named_directory, metavar="[NAME=]DIR", help=(
      "the directory of a run, served by the name of its last part, or by NAME; may be repeated"))
  serve.add_argument("--trust", action="append", default=[], type=_filled_text, metavar="MODULE",
                     help="a module that saved configurations may import from now on, though not gpt4x's")
  serve.add_argument("--host", type=_filled_text, default="127.0.0.1", metavar="HOST", help=(
      "where to listen; other machines can ask only where there are keys (default: %(default)s)"))
  serve.add_argument("--port", type=_number(int, 0, 65535), default=8000, metavar="N",
                     help="0: any that is free (default: %(default)s)")
  serve.add_argument("--api_key_file", type=_path, metavar="FILE", help=(
      "keys, one on a line, of which each request must bring one"))
  serve.add_argument("--allowed_host", action="append", type=_filled_text, default=[], metavar="NAME", help=(
      "a name that the server is asked by, besides loopback's and --host; * for any; may be repeated"))
  serve.add_argument("--slots", type=_number(int, 1, 4096), default=16, metavar="N",
                     help="continuations of each model that are decoded together (default: %(default)s)")
  serve.add_argument("--max_queue", type=_number(int, 0, 10**6), default=64, metavar="N",
                     help="that wait for a slot; more are refused with status 429 (default: %(default)s)")
  serve.add_argument("--prefix_cache_mib", type=_number(int, 0, 2**24), default=256, metavar="M",
                     help="memory for beginnings of prompts that may come again, of each model (default: %(default)s)")
  serve.add_argument("--window", type=_number(int, 1, _MANY), metavar="W",
                     help="latest positions that models have in view (default: those of their training)")
  serve.add_argument("--speculate", action="store_true", help=(
      "guess what follows from what came, for a request that is alone: the same tokens, in fewer steps where texts"
      " repeat"))
  serve.add_argument("--draft_dir", type=_directory, metavar="DIR", help=(
      "guess by the small model of this run, which has the same vocabulary: the same tokens"))
  serve.add_argument("--mesh", type=_mesh, default={}, metavar="AXIS=N[,...]", help=(
      "split models over devices: tensor (heads, MLP, vocabulary), fsdp and expert (parameters) or data (slots), such"
      " as tensor=4 (default: one device)"))
  serve.add_argument("--max_body", type=_number(int, 1, _MANY), default=4 * 2**20, metavar="BYTES",
                     help="of a request (default: %(default)s)")
  serve.add_argument("--max_n", type=_number(int, 1, 1024), default=16, metavar="N",
                     help="continuations of one prompt (default: %(default)s)")
  serve.add_argument("--grace", type=_number(float, 0, 86400), default=30.0, metavar="S",
                     help="seconds that requests have to finish in after SIGTERM (default: %(default)s)")

  convert = command("convert", "make a model directory of a model in another format")
  convert.add_argument("--from", dest="source", required=True, choices=[
      "transfo_xl", "huggingface", "peft", "safetensors"], help=(
          "transfo_xl: a Transformer-XL directory of Hugging Face; huggingface: one of a Llama, Mistral, Qwen2 or"
          " Qwen3; peft: adapters of such a model, of PEFT; safetensors: what gpt4x export wrote"))
  convert.add_argument("--input", required=True, type=_directory, metavar="DIR", help="the directory to read")
  convert.add_argument("--base", type=_directory, metavar="DIR", help="the model directory of what --from=peft adapts")
  export = command("export", "write a checkpoint of the run in DIR in another format")
  export.add_argument("--format", default="safetensors", choices=[
      "safetensors", "huggingface", "peft", "onnx", "stablehlo", "tflite", "gguf", "gguf-f16", "gguf-q8_0"], help=(
          "safetensors: the parameters; huggingface: a Llama, Qwen2 or Qwen3 for transformers; peft: adapters of one"
          " alone; gguf: a file for llama.cpp, in float32, float16 or Q8_0; the others: a folder that decodes without"
          " gpt4x, by OUT/run.py (default: %(default)s)"))
  export.add_argument("--output", required=True, type=_directory, metavar="OUT", help="the directory to write")
  compress = command("compress", "make a smaller model of the run in DIR", gin="changes to DIR's own configuration")
  compress.add_argument("--output", required=True, type=_directory, metavar="OUT", help="the model directory to write")
  compress.add_argument("--quantize", choices=["int8", "int4", "int8-all"], help=(
      "int8, int4: the weights; int8-all: also what they multiply, and the memory of decoding"))
  compress.add_argument("--calibrate", choices=["round", "gptq", "awq"], help=(
      "how four bits fit the text of the training split (default: gptq)"))
  compress.add_argument("--prune", action="append", type=_filled_text, default=[], metavar="METHOD:AMOUNT", help=(
      "magnitude, wanda or sparsegpt, with 50%% or 2:4, for zeros among the weights; heads, mlp, layers or experts,"
      " with 25%%, for fewer of them; may be repeated"))
  compress.add_argument("--calibration_batches", type=_number(int, 1), default=16, metavar="N",
                        help="batches of the training split to fit to (default: %(default)s)")
  compress.add_argument("--split", type=_filled_text, default="validation",
                        help="the split to compare both models on (default: %(default)s)")
  compress.add_argument("--max_batches", type=_number(int, 0), default=16, metavar="N",
                        help="batches of it; 0: do not compare (default: %(default)s)")
  teach = command("teach", "write what the model in DIR says of each token of its data, for students", gin=(
      "changes to DIR's own configuration, such as another task"))
  teach.add_argument("--output", required=True, type=_directory, metavar="OUT", help="the folder to write")
  teach.add_argument("--top_k", type=_number(int, 1), default=32, metavar="K",
                     help="ids of each token's place to write down, the likeliest (default: %(default)s)")
  teach.add_argument("--temperature", type=_number(float, 0.01, 100), default=1.0, metavar="T",
                     help="what the logits of both models are divided by (default: %(default)s)")
  teach.add_argument("--split", action="append", type=_filled_text,
                     help="a split to go through; may be repeated (default: train)")
  datastore = command("datastore", "write the hidden states of a split, as neighbours for the model in DIR", gin=(
      "changes to DIR's own configuration, such as another task"))
  datastore.add_argument("--output", required=True, type=_directory, metavar="STORE", help="the folder to write")
  datastore.add_argument("--split", type=_filled_text, default="train",
                         help="the split to go through (default: %(default)s)")
  datastore.add_argument("--max_tokens", type=_number(int, 1), metavar="N",
                         help="tokens to take, from all over the split (default: all)")
  datastore.add_argument("--layer", type=_filled_text, metavar="NAME", help=(
      "the states: final, or layers.I.NAME with mlp_input, output, attention or mlp (default: the last layer's"
      " mlp_input)"))
  datastore.add_argument("--lists", type=_number(int, 1, _MANY), metavar="N", help=(
      "parts to search in (default: 1 up to 50,000 tokens, else their root)"))
  annotate = command("annotate", "label records by the model in DIR, and choose which a person should look at")
  annotate.add_argument("--input", required=True, type=_path, metavar="FILE", help=(
      'a file with {"text": "...", "label": "..."} on each line, some without a label; also "image", "audio", "video"'))
  annotate.add_argument("--output", required=True, type=_directory, metavar="OUT", help=(
      "the folder to write: labelled.jsonl, review.jsonl, suspects.jsonl, report.json"))
  annotate.add_argument("--labels", type=_labels, metavar="A,B,...", help="all labels there are (default: those found)")
  annotate.add_argument("--label_field", type=_filled_text, default="label", metavar="NAME",
                        help="the field of the label (default: %(default)s)")
  annotate.add_argument("--corrections", action="append", type=_path, default=[], metavar="FILE", help=(
      "a review.jsonl or suspects.jsonl that a person has edited; may be repeated, and the last counts"))
  annotate.add_argument("--review", type=_number(int, 0, _MANY), default=50, metavar="N",
                        help="records to choose for a person (default: %(default)s)")
  annotate.add_argument("--folds", type=_number(int, 2, 100), default=5, metavar="N",
                        help="parts of the labelled records, each judged by the others (default: %(default)s)")
  annotate.add_argument("--seed", type=_number(int, 0, 2**32 - 1), default=0, metavar="S",
                        help="of the parts, and of what is chosen (default: %(default)s)")
  links = command("links", "rank the ends of held-out triples among all entities, by the model in DIR", gin=(
      "changes to DIR's own configuration, such as --gin.LocalGraph.files=\"'graph/*.tsv'\""))
  links.add_argument("--split", choices=["validation", "test"], default="validation",
                     help="the triples to ask about (default: %(default)s)")
  links.add_argument("--max_triples", type=_number(int, 1), metavar="N",
                     help="ask about so many of them, chosen by the seed (default: all)")
  links.add_argument("--seed", type=_number(int, 0, 2**32 - 1), default=0, metavar="S",
                     help="of the triples that are chosen (default: %(default)s)")
  links.add_argument("--beam", type=_number(int, 1), metavar="B", help=(
      "follow the B likeliest beginnings of names alone: faster, and approximate (default: all that may matter)"))
  links.add_argument("--normalize", action="store_true", help="compare names by their log-likelihood per token")
  links.add_argument("--json", action="store_true", help="print one object of JSON")
  index = command("index", "make an index of documents, for models to look things up in", gin=(
      "what names the documents, if it is not --gin.LocalText.files=\"'docs/**/*.txt'\""))
  index.add_argument("--output", required=True, type=_directory, metavar="INDEX", help="the folder to write")
  index.add_argument("--dense", action="store_true", help="find documents also by the vectors of the model in DIR")
  index.add_argument("--model_dir", type=_directory, metavar="DIR", help="the directory of that model's run")
  index.add_argument("--trust", action="append", default=[], type=_filled_text, metavar="MODULE",
                     help="a module that saved configurations may import from now on, though not gpt4x's")
  for sub in (evaluate, generate):
    sub.add_argument("--retrieve", type=_path, metavar="INDEX", help=(
        "put what is found for a prompt, in what gpt4x index wrote, ahead of it"))
    sub.add_argument("--documents", type=_number(int, 1, 1000), default=1, metavar="N",
                     help="how many for each prompt (default: %(default)s)")
  for sub in (evaluate, generate, chat, export, compress, teach, datastore, index, annotate, links, serve):
    sub.add_argument("--step", type=_number(int, 0), metavar="N", help="the checkpoint's step (default: the latest)")
  vocabulary = command("vocabulary", "train a SentencePiece vocabulary on the text of a task", gin=(
      "what the task needs from gin, such as an import of its module"))
  vocabulary.add_argument("--task", type=_filled_text, required=True, help="a seqio task, such as stdlib_bytes")
  vocabulary.add_argument("--size", type=_number(int, 1, _MANY), required=True, metavar="V", help="number of pieces")
  vocabulary.add_argument("--output", required=True, type=_path, metavar="NAME_OR_PATH",
                          help="a name, for $GPT4X_DATA_DIR/vocabularies/NAME.model, or a .model file's path or URL")
  prepare = command("prepare", "turn crawls, dumps and folders into documents that train", gin=(
      "the steps, such as data/web.gin, below the current directory or the shipped gin_configs/"))
  prepare.add_argument("--input", required=True, action="append", type=_path, metavar="GLOB",
                       help="files to read; quote it, and ** stands for folders of any depth; may be repeated")
  prepare.add_argument("--output", required=True, type=_directory, metavar="DIR", help=(
      "the folder to write; the same command goes on with one that was not finished"))
  prepare.add_argument("--workers", type=_number(int, 1, 10_000), default=os.cpu_count() or 1, metavar="N",
                       help="processes of this machine (default: one for each core)")
  prepare.add_argument("--runner", type=_filled_text, metavar="NAME", help=(
      "run on Apache Beam instead, such as FnApiRunner, DataflowRunner, FlinkRunner, SparkRunner"))
  prepare.add_argument("--beam_option", action="append", type=_filled_text, default=[], metavar="FLAG", help=(
      "an option of Beam or its runner, such as --beam_option=--project=NAME; may be repeated"))
  quality = command("quality", "train a classifier of documents, for the step Quality of gpt4x prepare")
  quality.add_argument("--good", required=True, action="append", type=_path, metavar="GLOB",
                       help="files whose documents are to be kept; quote it; may be repeated")
  quality.add_argument("--bad", required=True, action="append", type=_path, metavar="GLOB",
                       help="files whose documents are not")
  quality.add_argument("--output", required=True, type=_path, metavar="FILE", help="the .npz file to write")
  quality.add_argument("--max_documents", type=_number(int, 1), metavar="N",
                       help="documents of each to take, from the first on (default: all)")
  cache = command("cache", "list or remove the tokens that are kept of tasks in $GPT4X_DATA_DIR")
  cache.add_argument("--remove", type=_filled_text, metavar="GLOB",
                     help="remove what has such a name; quote it: --remove='my_task-*'")
  cache.add_argument("--older_than", type=_number(float, 0), default=0.0, metavar="DAYS",
                     help="only what has not been used for so long")
  plan = command("plan", "what a step of training or decoding needs on TPUs that are not at hand", gin="an experiment")
  plan.add_argument("--topology", type=_filled_text, required=True, metavar="CHIP:SHAPE",
                    help="such as v5p:8x16x16, the slice of a pod")
  plan.add_argument("--slices", type=_number(int, 1, _MANY), default=1, metavar="N", help="(default: %(default)s)")
  plan.add_argument("--json", action="store_true", help="for scripts")
  kind = plan.add_mutually_exclusive_group()
  kind.add_argument("--search", action="store_true", help="rank meshes and remat policies of training, by formula")
  kind.add_argument("--decode", action="store_true", help="plan a step of decoding, for weights of each form")
  plan.add_argument("--batch_size", type=_number(int, 1, _MANY), metavar="B",
                    help="rows that are decoded together (default: 16)")
  plan.add_argument("--window", type=_number(int, 1, _MANY), metavar="W",
                    help="positions that a decoded token attends to (default: as in generate)")
  report = command("report", "compare the run in DIR with gzip and xz on the same held-out text, and write report.html")
  report.add_argument("--prompt", action="append", type=_text, metavar="TEXT", help=(
      "of the samples in report.html; may be repeated (default: the beginnings of held-out texts)"))
  report.add_argument("--num_samples", type=_number(int, 0), default=1, metavar="N",
                      help="continuations of each prompt; 0: no samples (default: %(default)s)")
  return parser, commands.choices


class _Medium(argparse.Action):
  """Puts (flag's name, value) into one list, `media`, so that the order on the command line is kept across flags."""

  def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
               option_string: str | None = None) -> None:
    namespace.media = [*namespace.media, (self.dest, values)]


_YEAR, _MANY = 365 * 86400, 2**31 - 1  # What the libraries behind can still take, and more than anyone needs.


def _number(kind: type, low: float, high: float = math.inf) -> Callable[[str], Any]:
  """An argparse type: a finite number of this kind from low to high."""
  def parse(text: str):
    with contextlib.suppress(ValueError):
      if low <= (value := kind(text)) <= high and value != math.inf:
        return value
    limit = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
    raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number {limit}")
  return parse


def _text(argument: str) -> str:
  """An argparse type: text. What the terminal's encoding could not decode is read as UTF-8."""
  try:
    argument.encode()
    return argument
  except UnicodeEncodeError:
    try:
      return os.fsencode(argument).decode()
    except UnicodeError:
      raise argparse.ArgumentTypeError(f"{argument!r} is not UTF-8: set the terminal's encoding to UTF-8") from None


def _filled_text(argument: str) -> str:
  if not argument:
    raise argparse.ArgumentTypeError("the value is empty (a variable that is not set?)")
  return _text(argument)


def _path(argument: str) -> str:
  """An argparse type: a path, or a name. Shells leave a ~ behind an equals sign as it is."""
  if not argument:
    raise argparse.ArgumentTypeError("the value is empty (a variable that is not set?)")
  if (path := os.path.expanduser(argument)).startswith("~"):
    raise argparse.ArgumentTypeError(f"{argument!r}: the system knows no such home directory: write the path in full,"
                                     " or set HOME")
  return path


def _directory(argument: str) -> str:
  """An argparse type: a local directory, or one in a bucket."""
  try:
    storage.check(argument)
  except UserError as error:
    raise argparse.ArgumentTypeError(str(error)) from None
  return _path(argument)


def _named_directory(argument: str) -> str:
  """An argparse type: DIR, or NAME=DIR. A path may have an = in it, behind its first slash."""
  name, equals, directory = argument.partition("=")
  return f"{name}={_directory(directory)}" if equals and "/" not in name else _directory(argument)


def _labels(argument: str) -> list[str]:
  labels = [label.strip() for label in _filled_text(argument).split(",")]
  if len(set(labels)) < len(labels) or len(labels) < 2 or "" in labels:
    raise argparse.ArgumentTypeError(f"{argument!r} is not two or more labels that differ, such as yes,no,maybe")
  return labels


def _size(text: str) -> tuple[int, int]:
  if not (found := re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)):
    raise argparse.ArgumentTypeError(f"{text!r} is not HxW, height and width in pixels, such as 28x28")
  return int(found[1]), int(found[2])


def _mesh(text: str) -> dict[str, int]:
  found = re.findall(r"(data|fsdp|expert|tensor)=([1-9]\d{0,5})(?:,|$)", text)
  if not found or ",".join(f"{axis}={size}" for axis, size in found) != text or len(dict(found)) < len(found):
    raise argparse.ArgumentTypeError(f"{text!r} is not AXIS=N,... with data, fsdp, expert or tensor, such as tensor=4")
  return {axis: int(size) for axis, size in found}


def _steps(text: str) -> tuple[int, int]:
  start, _, stop = text.partition(":")
  if not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
    raise argparse.ArgumentTypeError(f"{text!r} is not START:STOP with two step numbers, the smaller first")
  return int(start), int(stop)


if __name__ == "__main__":
  sys.exit(main())
