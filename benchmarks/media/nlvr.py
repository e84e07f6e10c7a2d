"""Questions about NLVR's pictures: what the decoder gains by looking at them, and that it does look.

    media/nlvr_count_gain      points of accuracy above what is reached without pictures
    media/nlvr_count_shuffled  points above that with the pictures of other scenes
    media/nlvr_truth           per cent of people's sentences that are judged rightly, true or false

Questions are of how many objects there are, of which colour, shape and box, whether there is one, and of colours. Their
answers follow from what the set says of each scene. `scenes.drawn` asks less often for what is not there, whoever is
asked. Without pictures an equal model learns from the same questions, or the commonest answer to each is given: the
better of the two counts. Models and the codec learn from `dev` and `test`, and are judged on `hidden`. Each training
scene is there several times, with its boxes in another order.

Of the sentences 55.4% are true, and from so few nothing below 58.6% is more than chance.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import Row
from benchmarks.media import data, runs, scenes
from benchmarks.media.scenes import Scene
from benchmarks.quickstart import mean_and_error

GAIN, SHUFFLED, MAJORITY = 20.0, 3.0, 55.4
COPIES, TESTED = 6, 4  # Of a training scene; and questions about one of the test.
SIZE = 40, 120  # Pixels of a picture: a block of a tower is a patch.
PICTURE, BLANK = 84, 6  # Tokens of a picture, and of one patch.
STEPS, STEPS_ON_SENTENCES = 2500, 200


def rows(bench: runs.Bench) -> Iterator[Row]:
  commonest = write(bench)
  bench.gpt4x("vocabulary", "--task=local_text_bytes", "--size=512", f"--output={bench.folder / 'words'}",
              **{"LocalText.files": str(bench.folder / "text.txt")})
  codec = bench.codec("codec", "experiments/image_codec.gin", TRAIN_STEPS=2000, EVAL_PERIOD=None, **{
      "LocalMedia.files": str(bench.folder / "codec.jsonl"),
      "LocalMedia.validation_files": str(bench.folder / "test.jsonl"), "LocalMedia.size": SIZE,
      "LocalMedia.channels": 3, "LocalMedia.shift": 0, "LocalMedia.flip": False, "CodecConfig.channels": 3,
      "CodecConfig.patch": 8, "CodecConfig.kernel": 1, "CodecConfig.width": 96, "Reconstruction.size": SIZE,
      "TASK_FEATURE_LENGTHS": {"targets": SIZE[0] * SIZE[1] * 3}})

  def measure(seed: int) -> tuple[float, float, float]:
    seeing, blind, sentences = f"seeing{seed}", f"blind{seed}", f"sentences{seed}"
    accuracy = lambda directory, file, **bindings: 100 * bench.evaluate(directory, **bindings, **{
        "LocalMedia.validation_files": str(bench.folder / file)})["local_media_to_text/accuracy"]

    def train(name: str, file: str, lengths: tuple[int, int], steps: int, **bindings: Any) -> str:
      return bench.train(name, "experiments/image_classify_tiny.gin", SEED=seed, TRAIN_STEPS=steps, **{
          "LocalMedia.files": str(bench.folder / file), "MediaTokens.image": codec,
          "LocalMedia.validation_files": str(bench.folder / file.replace("train", "test")),
          "TASK_FEATURE_LENGTHS": dict(zip(("inputs", "targets"), lengths))} | settings(bench) | bindings)

    seeing = train(seeing, "train.jsonl", (PICTURE + 14, 20), STEPS)
    blind = train(blind, "train_blind.jsonl", (BLANK + 14, 20), STEPS // 4, **{"MediaTokens.image_size": (8, 8)})
    without = max(commonest, accuracy(blind, "test_blind.jsonl"))
    found = accuracy(seeing, "test.jsonl"), accuracy(seeing, "test.jsonl", **{"evaluate.shuffle_media": True})
    sentences = train(sentences, "train_sentences.jsonl", (PICTURE + 30, 4), STEPS_ON_SENTENCES, **{
        "train.init_from": seeing, "warmup_linear.peak": 0.002})
    judged = accuracy(sentences, "test_sentences.jsonl")
    print(f"seed {seed}: {found[0]:.1f}% with pictures, {found[1]:.1f} with others', {without:.1f} without (commonest"
          f" answers {commonest:.1f}); {judged:.1f}% of sentences", flush=True)
    return found[0] - without, found[1] - without, judged

  gain, shuffled, judged = zip(*bench.each_seed(measure))
  yield runs.row("nlvr_count_gain", gain, "points", ">=", GAIN)
  yield runs.row("nlvr_count_shuffled", shuffled, "points", "<", SHUFFLED)
  value, error = mean_and_error(judged)
  yield Row("media/nlvr_truth", value, "%", MAJORITY, value / MAJORITY, error=error)


def settings(bench: runs.Bench) -> dict[str, Any]:
  return {"MediaTokens.text": str(bench.folder / "words"), "MediaTokens.image_size": SIZE,
          "BATCH_SIZE": 16, "warmup_linear.peak": 0.004,  # With 0.015 it never learns to count.
          "TransformerConfig.vocab_size": 1664, "TransformerConfig.num_layers": 2, "TransformerConfig.embed_dim": 128,
          "TransformerConfig.mlp_dim": 512, "TransformerConfig.memory_length": 0,
          "TransformerConfig.eval_memory_length": 0, "TransformerConfig.dropout_rate": 0.0,
          "EVAL_PERIOD": None, "CHECKPOINT_PERIOD": 1000, "train.trackers": ()}


def write(bench: runs.Bench) -> float:
  """Writes all files; returns the accuracy of the commonest answers, in per cent."""
  folder, rng = bench.folder, np.random.default_rng(0)
  found = scenes.write(bench.source, folder, COPIES)
  data.write_images(folder, "blank", [np.full((8, 8, 3), 211, np.uint8)], [{}])
  training = [scenes.asked(file, *pair) for file, scene in found["train"]
              for pair in [*scenes.drawn(scene, rng, 2), *scenes.drawn(scene, rng, 2, scenes.lists(scene))]]
  rng.shuffle(training)
  tested = [scenes.asked(file, *pair) for file, scene in found["test"] for pair in scenes.drawn(scene, rng, TESTED)]
  for name, records in (("train", training), ("test", tested)):
    data.write_records(folder / f"{name}.jsonl", records)
    data.write_records(folder / f"{name}_blind.jsonl", [one | {"image": "blank/00000.png"} for one in records])
    data.write_records(folder / f"{name}_sentences.jsonl", [
        scenes.asked(file, *said) for file, scene in found[name] if (said := scenes.sentence(scene))])
  # Scattered objects are harder to code than towers of blocks, which are twice as many.
  data.write_records(folder / "codec.jsonl", [
      {"image": file} for number, (file, scene) in enumerate(found["train"]) if number % 8 == 0 or not scene.is_towers])
  words = [f"{one['question']} {one['answer']}" for one in training]
  words += [" ".join(said) for _, scene in found["train"] if (said := scenes.sentence(scene))]
  (folder / "text.txt").write_text("".join(f"{line}\n" for line in words))
  return commonest_answers([scene for _, scene in found["train"]], tested, rng)


def commonest_answers(training: Sequence[Scene], tested: Sequence[dict[str, str]], rng: np.random.Generator) -> float:
  counts = defaultdict[str, Counter[str]](Counter)
  for scene in training:
    for question, answer in scenes.drawn(scene, rng, TESTED):
      counts[question][answer] += 1
  return 100 * float(np.mean([counts[one["question"]].most_common(1)[0][0] == one["answer"] for one in tested]))


if __name__ == "__main__":
  runs.main(rows)
