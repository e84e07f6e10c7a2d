"""`gpt4x generate` with media as a user runs it: files go into a prompt, and files come out."""

import json
import pathlib

import numpy as np
import pytest

from gpt4x import cli
from gpt4x.experiment import Experiment
from gpt4x.media import codec_files
from gpt4x.media.files import images, sounds, videos
from gpt4x.media.medium import Audio, Image
from gpt4x.media.vocabulary import MediaTokens
from tests.inference import media_model
from tests.media import codecs


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """A folder of files, and of models: one that knows images and sounds, one videos, one text."""
  folder, draw = tmp_path_factory.mktemp("commands"), np.random.default_rng(0)
  media_model.write(folder, MediaTokens(image="grey", audio="pcm:8000"), IMAGE=4.0, AUDIO=4.0, EOS=3.0, AUDIO_END=5.0,
                    SIZE2=9.0, SIZE3=9.0)
  media_model.write(folder / "text", MediaTokens(), "local_text_bytes")
  codec_files.save(folder / "codec", codecs.codec("video"))
  media_model.write(folder / "moving", MediaTokens(video=str(folder / "codec")))
  for name in ("a", "b"):
    images.write(Image(draw.integers(0, 256, (2, 3, 1), np.uint8)), folder / f"{name}.png")
  sounds.write(Audio(draw.integers(-99, 99, 9, np.int16), 8000), folder / "c.wav")
  (folder / "damaged.png").write_bytes((folder / "a.png").read_bytes()[:40])
  (folder / "empty.wav").touch()
  (folder / "file").touch()
  return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch, tmp_path):
  """Each test is in a folder of its own, beside the files."""
  for path in folder.iterdir():
    (tmp_path / path.name).symlink_to(path)
  monkeypatch.chdir(tmp_path)


def run(capsys, *flags, model="."):
  assert cli.main(["generate", f"--model_dir={model}", *flags]) == 0, capsys.readouterr().err
  return capsys.readouterr()


def failure(capsys, *flags, model="."):
  status = cli.main(["generate", f"--model_dir={model}", *flags])
  captured = capsys.readouterr()
  assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("gpt4x: error: ")
  return status, captured.err


def test_files_in_a_prompt(capsys):
  """In the order of the command line whichever their flags, or at the marks; printed as it was written."""
  media = ["--image=a.png", "--audio=c.wav", "--image=b.png"]
  tokens = {}
  for flags in (media, media[::-1], ["--prompt=<image><audio><image>", *media],
                ["--prompt=<audio> <image><image>", *media]):
    one = json.loads(run(capsys, *flags, "--max_tokens=5", "--temperature=0", "--json").out)
    prompt = next((flag.removeprefix("--prompt=") for flag in flags if flag.startswith("--prompt")), "")
    assert one["prompt"] == prompt and len(one["tokens"]) == len(one["log_probs"]) <= 5 and "files" not in one
    tokens[" ".join(flags)] = one["log_probs"]
  forward, backward, marked, other = tokens.values()
  assert forward == marked and forward != backward != other
  printed = run(capsys, "--prompt=see <image>", "--image=a.png", "--max_tokens=5").out
  assert printed.startswith("see <image>") and printed.endswith("\n")


def test_several_questions_about_one_image(capsys):
  out = run(capsys, "--prompt=what?", "--prompt=how <image> many?", "--image=a.png", "--max_tokens=3").out
  assert "--- prompt 1, sample 1\nwhat?" in out and "--- prompt 2, sample 1\nhow <image> many?" in out


@pytest.mark.parametrize("name", ["a.jpg", "a.WEBP", "new/folder/a.gif"])
def test_an_image_is_made(capsys, name):
  assert run(capsys, "--prompt=x", f"--output=out/{name}", "--size=4x6").out == f"wrote out/{name}\n"
  assert images.read(f"out/{name}").pixels.shape[:2] == (4, 6)


def test_a_sound_of_some_seconds_is_made(capsys):
  out = run(capsys, "--prompt=x", "--output=x.wav", "--seconds=0.0125", "--guidance=2")
  assert out.out == "wrote x.wav\n" and out.err == "", "the task drops conditions"
  sound = sounds.read("x.wav")
  assert (len(sound.samples), sound.rate) == (100, 8000)


def test_flac(capsys):
  pytest.importorskip("soundfile")
  run(capsys, "--output=x.flac", "--seconds=0.01")
  assert len(sounds.read("x.flac").samples) == 80


@pytest.mark.parametrize("ending", ["gif", "mp4", "webm"])
def test_a_video_of_some_seconds_is_made(capsys, ending):
  """Of a length that is none of whole latent frames; a GIF is a video where the model makes videos."""
  if ending != "gif":
    pytest.importorskip("av")
  fps = codecs.CONFIGS["video"].fps
  out = run(capsys, f"--output=x.{ending}", "--size=16x8", f"--seconds={4 / fps}", model="moving").out
  video = videos.read(f"x.{ending}")
  assert out == f"wrote x.{ending}\n" and video.frames.shape[:3] == (4, 16, 8)
  assert video.fps == pytest.approx(fps, rel=0.05)


def test_several_are_numbered(capsys):
  flags = ["--prompt=x", "--prompt=y", "--num_samples=5", "--batch_size=4", "--output=o/x.png", "--size=2x2"]
  out = run(capsys, *flags).out
  names = [f"o/x-{number:02}.png" for number in range(1, 11)]
  assert out.splitlines() == [f"wrote {name}" for name in names]
  assert sorted(map(str, pathlib.Path("o").iterdir())) == names
  pixels = [images.read(name).pixels.tobytes() for name in names]
  assert len(set(pixels)) > 5


def test_json_lists_the_files(capsys):
  out = run(capsys, "--prompt=x", "--num_samples=2", "--output=x.png", "--size=1x2", "--json").out
  lines = [json.loads(line) for line in out.splitlines()]
  assert [line["files"] for line in lines] == [["x-1.png"], ["x-2.png"]]
  assert all(line["text"] == "<image>" and line["finish_reason"] == "eos" for line in lines)


def test_text_with_media_into_a_directory(capsys):
  """A mark in the text for each file, which has what the mark says."""
  out = run(capsys, "--prompt=x", "--num_samples=6", "--output=mixed/", "--max_tokens=60", "--json").out
  kinds = set()
  for number, line in enumerate(map(json.loads, out.splitlines()), 1):
    marks = [part.partition(">")[0] for part in line["text"].split("<")[1:]]
    marks = [mark for mark in marks if mark in ("image", "audio", "video")]
    endings = {"image": "png", "audio": "wav"}
    whole = marks[:len(line["files"])]  # Nothing may have come of the last.
    assert line["files"] == [f"mixed/{number}-{place}.{endings[mark]}" for place, mark in enumerate(whole, 1)]
    assert len(marks) - len(whole) <= (line["finish_reason"] == "length")
    for mark, file in zip(whole, line["files"]):
      (images if mark == "image" else sounds).read(file)
    kinds |= set(whole)
  assert kinds == {"image", "audio"}
  printed = run(capsys, "--prompt=x", "--output=mixed", "--max_tokens=60", "--seed=1").out
  assert printed.startswith("x") and printed.count("\nwrote mixed/1-") == printed.count("wrote")


def test_a_stream_that_is_cut(capsys):
  captured = run(capsys, "--output=x.png", "--size=4x3", "--max_tokens=12")
  assert images.read("x.png").pixels.shape == (2, 3, 1)
  assert captured.err == ("gpt4x: warning: x.png has only a part, for 12 tokens ended before the medium did: raise"
                          " --max_tokens\n")
  status, line = failure(capsys, "--output=y.png", "--size=4x3", "--max_tokens=3")
  assert status == 1 and "nothing came for 1 of 1 files" in line and "--max_tokens" in line


def test_an_empty_sound_makes_no_file(capsys):
  """The others are written, and the last line of standard error says how many were not."""
  captured = run(capsys, "--output=s.wav", "--num_samples=8", "--json", "--max_tokens=400")
  lines = [json.loads(line) for line in captured.out.splitlines()]
  empty = [len(line["tokens"]) == 3 for line in lines]  # Its begin, its end and that of the document.
  assert len(lines) == 8 and 0 < sum(empty) < 8
  for number, (line, none) in enumerate(zip(lines, empty), 1):
    assert line["files"] == ([] if none else [f"s-{number}.wav"]) and pathlib.Path(f"s-{number}.wav").exists() != none
  assert captured.err.splitlines()[-1].startswith(f"gpt4x: warning: nothing came for {sum(empty)} of 8 files")


def test_the_same_command_makes_the_same_file(capsys):
  for _ in range(2):  # Which replaces the first.
    run(capsys, "--prompt=x", "--output=x.png", "--size=3x3", "--seed=5")
    found = images.read("x.png").pixels
    pathlib.Path("x.png").rename("earlier.png") if not pathlib.Path("earlier.png").exists() else None
  np.testing.assert_array_equal(found, images.read("earlier.png").pixels)


def test_guidance_without_dropped_conditions_is_told(capsys, folder):
  """Neither a task of another kind, nor one that drops none."""
  captured = run(capsys, "--prompt=x", "--guidance=2", "--max_tokens=2", model="text")
  assert captured.err.startswith("gpt4x: warning: --guidance=2 ") and "LocalMedia.drop_condition" in captured.err
  pathlib.Path("other").mkdir()
  for path in folder.iterdir():
    pathlib.Path("other", path.name).symlink_to(path)
  text = pathlib.Path("other/config.gin").read_text()
  pathlib.Path("other/config.gin").unlink()
  pathlib.Path("other/config.gin").write_text(f"{text}LocalMedia.drop_condition = 0.0\n")
  flags = ["--output=x.png", "--size=1x1", "--guidance=2"]
  assert "drop_condition" in run(capsys, *flags, model="other").err and run(capsys, *flags).err == ""


@pytest.mark.parametrize("flags, status, words", [
    # Files that are read.
    ("--image=none.png", 1, ["none.png"]),
    ("--image=damaged.png", 1, ["damaged.png", "image"]),
    ("--audio=empty.wav", 1, ["empty.wav", "0 bytes"]),
    ("--audio=a.png", 1, ["a.png", "an image (PNG)", "not a sound"]),
    ("--prompt=<image> --audio=c.wav", 1, ["<image> 1 times", "0 image files"]),
    ("--prompt=<image>", 1, ["<image> 1 times", "0 image files"]),
    ("--prompt=<image> --image=a.png --image=b.png", 1, ["<image> 1 times", "2 image files"]),
    ("--video=moves.gif", 1, ["moves.gif", "knows no video", "image, audio"]),
    ("--audio=c.wav --audio=fast.wav", 1, ["fast.wav", "16000 samples a second", "takes 8000", "convert it"]),
    ("--image=a.png --image=large.png", 1, ["large.png", "2 x 65 cells", "MediaTokens.sizes = 64", "image_size"]),
    # Files that are written.
    ("--output=x.pgn --prompt=a", 1, ["--output=x.pgn", ".pgn", "did you mean .png?", "directory"]),
    ("--output=x.mp3", 1, [".mp3", "ending"]),
    ("--output=file/x.png", 1, ["--output=file/x.png", "file is not a folder"]),
    ("--output=file/more/", 1, ["--output=file/more", "file is not a folder"]),
    # What is made.
    ("--output=x.mp4", 1, ["--output=x.mp4", "knows no video", "text, image, audio", "MediaTokens.video"]),
    ("--output=x.png --size=65x2", 1, ["65x2", "sizes up to 64", "at most 64x64"]),
    ("--output=x.png --seconds=2", 1, ["2 seconds is for audio or video", "the output is image"]),
    ("--output=x.wav --size=2x2", 1, ["2x2 is for an image or a video"]),
    ("--output=some/ --size=2x2", 1, ["2x2", "text with any media"]),
    ("--prompt=a --size=2x2", 1, ["--size", "--output"]),
    ("--prompt=a --seconds=2", 1, ["--seconds", "--output"]),
    ("--output=x.png --size=2", 2, ["--size", "'2'", "HxW", "28x28"]),
    ("--output=x.png --size=0x4", 2, ["--size", "'0x4'"]),
    ("--output=x.wav --seconds=0", 2, ["--seconds", "'0'"]),
    ("--output=x.png --guidance=-1", 2, ["--guidance", "'-1'"]),
])
def test_a_mistake_is_one_line_before_anything_is_compiled(capsys, monkeypatch, flags, status, words):
  monkeypatch.setattr(Experiment, "restore_params", lambda *_: pytest.fail("parameters are read"))
  videos.write(videos.Video(np.zeros((2, 2, 2, 1), np.uint8), 10.0), "moves.gif")
  sounds.write(Audio(np.zeros(9, np.int16), 16000), "fast.wav")
  images.write(Image(np.zeros((2, 65, 1), np.uint8)), "large.png")
  found, line = failure(capsys, *flags.split())
  assert found == status and all(word in line for word in words), line


@pytest.mark.parametrize("flags, words", [
    ("--image=a.png", ["knows no image, only text", "MediaTokens.image"]),
    ("--audio=c.wav", ["knows no audio, only text"]), ("--output=x.png", ["knows no image, only text"]),
    ("--output=x.wav", ["knows no audio"]), ("--output=x.gif", ["knows no image"]), ("--output=all/", ["text alone"])])
def test_a_model_of_text_alone(capsys, monkeypatch, flags, words):
  monkeypatch.setattr(Experiment, "restore_params", lambda *_: pytest.fail("parameters are read"))
  found, line = failure(capsys, flags, model="text")
  assert found == 1 and all(word in line for word in words), line


@pytest.mark.parametrize("flags, words", [
    ("--output=x.png", ["--output=x.png", "knows no image, only text, video"]),
    ("--output=x.wav", ["--output=x.wav", "knows no audio, only text, video", "MediaTokens.audio"]),
    ("--image=a.png", ["a.png", "knows no image, only text, video"]),
    ("--video=odd.gif", ["odd.gif", "3 high and 2 wide", "multiples of 2"])])
def test_a_model_of_videos_alone(capsys, monkeypatch, flags, words):
  monkeypatch.setattr(Experiment, "restore_params", lambda *_: pytest.fail("parameters are read"))
  videos.write(videos.Video(np.zeros((2, 3, 2, 1), np.uint8), 10.0), "odd.gif")
  found, line = failure(capsys, flags, model="moving")
  assert found == 1 and all(word in line for word in words), line


def test_a_folder_that_may_not_be_written(capsys, monkeypatch):
  from gpt4x.commands import media_files
  monkeypatch.setattr(media_files.os, "access", lambda path, mode: False)
  for name in ("x.png", "all/"):
    status, line = failure(capsys, f"--output={name}")
    assert status == 1 and "is not a folder that can be written" in line


def test_without_a_library_its_format_is_refused_at_once(capsys, monkeypatch):
  from gpt4x.commands import media_files
  monkeypatch.setattr(media_files.importlib.util, "find_spec", lambda name: None)
  for name, words in (("x.flac", ["soundfile", "gpt4x[media]", ".wav"]), ("x.mp4", ["av", "gpt4x[media]", ".gif"])):
    status, line = failure(capsys, f"--output={name}")
    assert status == 1 and all(word in line for word in words)
