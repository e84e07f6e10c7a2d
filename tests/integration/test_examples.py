"""Every example runs as its header says, with few steps and a small model, each on what those before it left."""

import os
import subprocess
import sys

from gpt4x.media.files import images

SMALL = ["TransformerConfig.num_layers=2", "TransformerConfig.embed_dim=32", "TransformerConfig.mlp_dim=64",
         "BATCH_SIZE=4", "EVAL_STEPS=2"]


def run(repository, folder, name, *arguments):
  """What an example prints, started in an empty folder on a machine with one device."""
  environment = {**os.environ, "PYTHONPATH": str(repository), "TF_CPP_MIN_LOG_LEVEL": "3", "XLA_FLAGS": ""}
  result = subprocess.run([sys.executable, repository / "examples" / name, *arguments], cwd=folder, env=environment,
                          capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  return result.stdout.splitlines()


def test_train_then_fine_tune_and_sample(repository, tmp_path):
  small = [f"--gin={binding}" for binding in SMALL]
  trained = run(repository, tmp_path, "train.py", "--steps=2", *small)
  assert [line.split(":")[0] for line in trained] == ["step 0", "step 2"]

  tuned = run(repository, tmp_path, "fine_tune.py", "--steps=2", *small)
  count, total = (int(word.replace(",", "")) for word in tuned[0].split() if word[0].isdigit())
  assert 0 < count < total and len(tuned) == 3

  sampled = run(repository, tmp_path, "sample.py", "--tokens=4")
  assert [line.split(":")[0] for line in sampled[-3:]] == ["embedding", "layers.0.output", "layers.1.output"]
  assert sum("nats a token" in line for line in sampled) == 3


def test_draw(repository, tmp_path):
  small = [f"--gin={binding}" for binding in SMALL]
  *losses, last = run(repository, tmp_path, "draw.py", "--steps=2", "--pictures=60", *small)
  assert [line.split(":")[0] for line in losses] == ["step 0", "step 2"] and last == "wrote drawings.png"
  assert images.read(tmp_path / "drawings.png").pixels.shape == (3 * 12 * 8, 4 * 12 * 8, 1)


def test_trainer(repository, tmp_path):
  """Then on with its own run, from the model in that."""
  (tmp_path / "letters.txt").write_text("so much depends upon a red wheel barrow " * 20)
  for flags, steps in (["--steps=2"], 2), (["--steps=3", "--resume", "--model=runs/trainer"], 3):
    what, bits, text = run(repository, tmp_path, "trainer.py", "--file=letters.txt", *flags)
    assert what == f"letters.txt: 12 blocks, {steps} steps" and bits.startswith("bits per byte: ")
    assert text.startswith("'def main(")


def test_each_is_short_and_run(repository):
  examples = sorted((repository / "examples").glob("*"))
  assert [path.name for path in examples if path.suffix] == [
      "draw.py", "fine_tune.py", "sample.py", "train.py", "trainer.py"]
  assert all(len(path.read_text().splitlines()) <= 120 for path in examples if path.suffix)
