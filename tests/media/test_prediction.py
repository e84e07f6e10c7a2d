"""Residuals of an adaptive predictor: nothing is lost, nothing is known too early, and voices get smaller."""

import numpy as np
import pytest

from gpt4x.media import exact, prediction
from gpt4x.media.medium import Audio

RNG = np.random.default_rng(0)


def voice(length, seed=0):
  """A loud resonance with noise, that changes its pitch on the way."""
  rng, samples = np.random.default_rng(seed), np.zeros(length + 2)
  for t in range(length):
    samples[t + 2] = 2 * 0.98 * np.cos(0.3 + 0.2 * (t > length // 2)) * samples[t + 1] - 0.96 * samples[t]
    samples[t + 2] += rng.normal() * 300
  return np.clip(np.rint(samples[2:]), -32768, 32767).astype(np.int16)


SOUNDS = {
    "nothing": np.zeros(0), "one": np.full(1, -32768), "silence": np.zeros(400),
    "square": np.tile([32767] * 15 + [-32768] * 15, 20), "lowest": np.full(300, -32768),
    "alternating": np.tile([32767, -32768], 200), "noise": RNG.integers(-32768, 32768, 500),
    "8 bits": RNG.integers(-128, 128, 300) * 256,
    "8 bits, then 16": np.concatenate([RNG.integers(-128, 128, 200) * 256, RNG.integers(-32768, 32768, 200)]),
    "a click in silence": np.eye(1, 400, 200)[0] * 32767, "voice": voice(600),
}
SOUNDS = {name: sound.astype(np.int16) for name, sound in SOUNDS.items()}


def residuals(sound):
  found, = prediction.residuals([sound])
  return found


@pytest.mark.parametrize("name", SOUNDS)
def test_the_way_back_is_exact(name):
  again, = prediction.samples([residuals(SOUNDS[name])])
  np.testing.assert_array_equal(again, SOUNDS[name])
  assert again.dtype == np.int16


def test_any_residuals_are_those_of_a_sound():
  for given in SOUNDS.values():
    sound, = prediction.samples([given])
    np.testing.assert_array_equal(residuals(sound), given)


def test_alone_or_among_others_a_sound_has_the_same_residuals():
  for sound, found in zip(SOUNDS.values(), prediction.residuals(list(SOUNDS.values())), strict=True):
    np.testing.assert_array_equal(found, residuals(sound))


def test_what_comes_later_changes_no_earlier_residual():
  sound = SOUNDS["voice"]
  for count in (0, 1, 17, 300):
    np.testing.assert_array_equal(residuals(sound[:count]), residuals(sound)[:count])


def test_the_predictor_is_that_of_the_textbook(monkeypatch):
  """Least squares over all that came before, weighted and solved anew for each sample (Haykin, chapter 10)."""
  monkeypatch.setattr(prediction, "_MOST_UNSURE", np.inf)
  sound, order, forgetting = voice(150).astype(np.float64), prediction.ORDER, prediction._FORGETTING
  first = np.eye(order)[0]
  normal, answers, past = np.eye(order) / prediction._UNSURE, first / prediction._UNSURE, np.zeros(order)
  expected = []
  for sample in sound:
    expected.append(sample - np.rint(np.linalg.solve(normal, answers) @ past))
    normal = forgetting * normal + np.outer(past, past)
    answers = forgetting * answers + sample * past
    past = np.concatenate([[sample], past[:-1]])
  np.testing.assert_allclose(residuals(sound.astype(np.int16)), expected, atol=1)


def test_a_voice_leaves_little_over():
  sound = voice(1500)
  left = residuals(sound).astype(np.float64)
  assert np.std(sound) > 3 * 300 and np.std(left[100:]) < 1.15 * 300


def test_samples_of_8_bits_leave_multiples_of_their_last_bit():
  """As residuals of 1 and not of 256, which take fewer bits."""
  sound = (voice(600) // 256 * 256).astype(np.int16)
  left = residuals(sound)[100:].astype(np.float64)
  assert np.std(left) < 1.5 * 300 / 256


def test_it_never_overflows(monkeypatch):
  """Long silence makes nothing unsure without bounds, and rounding that does is noticed."""
  state = prediction._Predictor(1)
  for _ in range(6000):
    state.learn(np.zeros(1, np.int64))
  assert state.unsure.max() < 3 * prediction._MOST_UNSURE
  state.unsure[:] = -state.unsure
  for sample in SOUNDS["noise"]:
    state.learn(np.array([sample], np.int64))
  assert np.isfinite(state.weights).all() and (np.linalg.eigvalsh(state.unsure[0]) > 0).all()


# As codes.


def test_each_residual_has_codes_of_its_own():
  every = np.arange(-32768, 32768)
  codec = exact.Residual(8000)
  codes = codec._codes(every)
  np.testing.assert_array_equal(codec._residuals(codes), every)
  assert (np.diff(codes[:, 0]) >= 0).all()  # In order.
  assert len(np.unique(codes[:, 0])) == codec.num_codes[0] and len(np.unique(codes[:, 1])) == codec.num_codes[1]
  small = np.abs(every + 0.5) < 16
  assert (codes[small, 1] == 0).all() and len(np.unique(codes[small, 0])) == small.sum()


def test_any_codes_can_be_decoded():
  codec = exact.Residual(8000)
  codes = np.stack(np.meshgrid(*map(np.arange, codec.num_codes)), -1).reshape(-1, 2).astype(np.int32)
  assert len(np.unique(codec._residuals(codes))) == 65536
  sound = codec.decode(RNG.integers(0, codec.num_codes, (300, 2)).astype(np.int32))
  assert isinstance(sound, Audio) and sound.samples.dtype == np.int16 and len(sound.samples) == 300
