import io
import sys
import wave

import numpy as np
import pytest

from gpt4x.errors import UserError
from gpt4x.media.files import sounds
from gpt4x.media.medium import Audio
from tests.media.tiny_files import frequency, tone, wav

WHOLE = np.array([0, 1, -1, 12345, -32768, 32767], np.int16)


@pytest.mark.parametrize("samples, kind, bits", [
    (WHOLE.astype("<i2"), 1, 16), (WHOLE.astype("<i4") * 256, 1, 24), (WHOLE.astype("<i4") * 65536, 1, 32),
    (WHOLE.astype("<f4") / 32768, 3, 32), (WHOLE.astype("<f8") / 32768, 3, 64)])
@pytest.mark.parametrize("extensible", [False, True])
def test_wav_of_every_width(tmp_path, samples, kind, bits, extensible):
  wav(tmp_path / "a.wav", samples, 11025, kind, bits, extensible=extensible)
  found = sounds.read(tmp_path / "a.wav")
  assert found.samples.dtype == np.int16 and found.rate == 11025
  np.testing.assert_array_equal(found.samples, WHOLE)


def test_wav_of_8_bits_has_no_sign(tmp_path):
  wav(tmp_path / "a.wav", np.array([0, 128, 255], np.uint8))
  assert sounds.read(tmp_path / "a.wav").samples.tolist() == [-32768, 0, 127 * 256]


def test_24_bits_and_floats_are_rounded_and_kept_in_range(tmp_path):
  wav(tmp_path / "a.wav", np.array([127, 129, -129, 0x7fffff], np.int32), bits=24)
  assert sounds.read(tmp_path / "a.wav").samples.tolist() == [0, 1, -1, 32767]
  wav(tmp_path / "b.wav", np.array([2.0, -2.0], np.float32), kind=3)
  assert sounds.read(tmp_path / "b.wav").samples.tolist() == [32767, -32768]


def test_stereo_is_the_mean(tmp_path):
  wav(tmp_path / "a.wav", np.array([[100, 300], [32767, 32767], [-32768, 32767]], np.int16))
  assert sounds.read(tmp_path / "a.wav").samples.tolist() == [200, 32767, 0]


@pytest.mark.parametrize("channels", [2, 3])
def test_several_channels_of_24_bits_are_their_mean(tmp_path, channels):
  samples = np.stack([WHOLE.astype("<i4") * 256] + [np.array([6, -6, 256, 0, 0, 300]) * 256] * (channels - 1), 1)
  wav(tmp_path / "a.wav", samples.astype("<i4"), 44100, bits=24)
  found = sounds.read(tmp_path / "a.wav")
  assert found.rate == 44100 and found.samples.tolist() == np.round(samples.mean(1) / 256).tolist()


def test_other_chunks_and_streams_without_a_size(tmp_path):
  odd = b"LIST" + (3).to_bytes(4, "little") + b"abc\0"  # Chunks begin at even places.
  wav(tmp_path / "a.wav", WHOLE, before=odd)
  wav(tmp_path / "b.wav", WHOLE, size=0xffffffff)
  for name in "ab":
    np.testing.assert_array_equal(sounds.read(tmp_path / f"{name}.wav").samples, WHOLE)


def test_seconds_are_the_first(tmp_path):
  wav(tmp_path / "a.wav", tone(100))
  np.testing.assert_array_equal(sounds.read(tmp_path / "a.wav", 0.1).samples, tone(100)[:800])


def test_wav_is_written_as_others_read_it(tmp_path):
  sounds.write(Audio(WHOLE, 8000), tmp_path / "deep" / "a.wav")
  with wave.open(str(tmp_path / "deep" / "a.wav")) as file:
    assert file.getparams()[:4] == (1, 2, 8000, len(WHOLE))
    assert file.readframes(100) == WHOLE.tobytes()
  np.testing.assert_array_equal(sounds.read(tmp_path / "deep" / "a.wav").samples, WHOLE)


def test_flac_is_exact_and_ogg_nearly(tmp_path):
  import soundfile
  sounds.write(Audio(WHOLE, 8000), tmp_path / "a.flac")
  found = sounds.read(tmp_path / "a.flac")
  np.testing.assert_array_equal(found.samples, WHOLE)
  np.testing.assert_array_equal(soundfile.read(tmp_path / "a.flac", dtype="int16")[0], WHOLE)
  soundfile.write(tmp_path / "b.ogg", np.stack([tone(440)] * 2, 1), 8000, format="OGG", subtype="VORBIS")
  found = sounds.read(tmp_path / "b.ogg")
  assert found.rate == 8000 and len(found.samples) == 2000
  assert np.abs(found.samples.astype(int) - tone(440)).mean() < 600


@pytest.mark.parametrize("format, codec, rate", [("mp3", "libmp3lame", 16000), ("ogg", "libopus", 48000),
                                                 ("mp4", "aac", 16000)])
def test_what_av_reads(tmp_path, format, codec, rate):
  import av
  buffer = io.BytesIO()
  with av.open(buffer, "w", format=format) as container:
    stream = container.add_stream(codec, rate=rate, layout="mono")
    block = av.AudioFrame.from_ndarray(tone(440, rate, rate // 2)[None], format="s16", layout="mono")
    block.rate = rate
    container.mux(stream.encode(block))
    container.mux(stream.encode(None))
  (tmp_path / "a.xyz").write_bytes(buffer.getvalue())
  found = sounds.read(tmp_path / "a.xyz")
  assert found.rate == rate and 0 <= len(found.samples) / rate - 0.5 < 0.1  # Encoders add silence.
  assert frequency(found.samples, rate) == pytest.approx(440, abs=10)
  assert 8000 < np.abs(found.samples).max() < 12_500


@pytest.mark.parametrize("old, new", [(8000, 16000), (16000, 8000), (44100, 8000), (8000, 11025)])
def test_resampling_keeps_the_pitch(old, new):
  found = sounds.resample(Audio(tone(1000, old, old), old), new)
  assert found.rate == new and len(found.samples) == new
  assert frequency(found.samples, new) == pytest.approx(1000, abs=2)
  assert np.abs(found.samples[new // 10:-new // 10]).max() == pytest.approx(10_000, rel=0.05)


def test_resampling_leaves_no_alias():
  found = sounds.resample(Audio(tone(6000, 16000, 16000), 16000), 8000)
  assert np.abs(found.samples[800:-800]).max() < 100


@pytest.mark.parametrize("write, message", [
    (lambda path: wav(path, WHOLE, size=100), "it ends after 12 of 100 bytes of samples"),
    (lambda path: wav(path, WHOLE[:0]), "it has no samples"),
    (lambda path: wav(path, WHOLE, kind=2, bits=4), "samples of kind 2 with 4 bits, 1 channels, 8000 a second"),
    (lambda path: wav(path, WHOLE, rate=0), "0 a second"),
    (lambda path: wav(path, np.array([np.nan], np.float32), kind=3), "some samples are not finite"),
    (lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVE"), "it has no samples"),
    (lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd"), "nothing says what its samples are"),
])
def test_bad_wav_is_one_line(tmp_path, write, message):
  write(tmp_path / "a.wav")
  with pytest.raises(UserError, match=r"a.wav cannot be read as a sound \(.*" + message) as error:
    sounds.read(tmp_path / "a.wav")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("content, library, name", [
    (b"fLaC....", "soundfile", "FLAC"), (b"OggS" + bytes(60), "soundfile", "Ogg"), (b"ID3....", "av", "MP3"),
    (b"OggS" + bytes(24) + b"OpusHead", "av", "Opus")])
def test_what_is_not_installed_is_said(tmp_path, monkeypatch, content, library, name):
  (tmp_path / "a.wav").write_bytes(content)
  monkeypatch.setitem(sys.modules, library, None)
  message = f"a.wav: {name} needs {library}, which is not installed: pip install 'gpt4x.media.'"
  with pytest.raises(UserError, match=message):
    sounds.read(tmp_path / "a.wav")


def test_damage_is_told_by_name(tmp_path):
  for content in (b"fLaC....", b"ID3....", b"no sound"):
    (tmp_path / "a.snd").write_bytes(content)
    with pytest.raises(UserError, match="a.snd cannot be read as a sound"):
      sounds.read(tmp_path / "a.snd")
  with pytest.raises(UserError, match="a.mp3: end the name in .wav or .flac"):
    sounds.write(Audio(WHOLE, 8000), tmp_path / "a.mp3")
