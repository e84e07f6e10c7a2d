"""Batches of answers: better and worse ones to one prompt, and those that a model has drawn itself."""

import numpy as np

PAIR, ANSWER = 12, 9  # Tokens of a row.


def pairs(rows=4, seed=0):
  """Rows with a chosen and a rejected sequence of unequal lengths, of which the ends count."""
  rng = np.random.default_rng(seed)
  batch = {name: np.zeros((rows, PAIR), np.int32) for name in (
      "decoder_target_tokens", "decoder_input_tokens", "decoder_segment_ids")}
  batch["decoder_loss_weights"] = np.zeros((rows, PAIR), np.float32)
  for row in range(rows):
    place = 0
    for segment, length in ((1, rng.integers(3, 7)), (2, rng.integers(3, 6))):
      part, tokens = (row, slice(place, place + length)), rng.integers(1, 11, length)
      batch["decoder_target_tokens"][part], batch["decoder_segment_ids"][part] = tokens, segment
      batch["decoder_input_tokens"][part] = [0, *tokens[:-1]]
      batch["decoder_loss_weights"][row, place + length - rng.integers(1, length):place + length] = 1
      place += length
  return batch


def drawn(made, rows=4, seed=0, shift=0.0):
  """Prompts of three tokens and answers of several lengths, drawn with probabilities that are `shift` off."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, 11, (rows, ANSWER)).astype(np.int32)
  inputs = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
  lengths = rng.integers(4, ANSWER + 1, rows)
  places = np.arange(ANSWER)
  log_probs = np.take_along_axis(np.asarray(made.log_probs(made.params, inputs, made.lm.initial_memory(rows, 0))[0]),
                                 tokens[..., None], -1)[..., 0]
  return {"decoder_input_tokens": inputs, "decoder_target_tokens": tokens,
          "decoder_segment_ids": (places < lengths[:, None]).astype(np.int32),
          "decoder_loss_weights": ((places >= 3) & (places < lengths[:, None])).astype(np.float32),
          "sampled_log_probs": (log_probs + shift * rng.normal(size=log_probs.shape)).astype(np.float32),
          "advantages": rng.normal(size=rows).astype(np.float32), "rewards": rng.normal(size=rows).astype(np.float32),
          "ended": np.ones(rows, np.float32)}
