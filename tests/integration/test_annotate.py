"""`gpt4x annotate` as a user goes round with it: annotate, edit, annotate again."""

import json
import pathlib

import numpy as np
import pytest

from gpt4x import cli
from gpt4x.media import records
from gpt4x.media.files import images
from gpt4x.media.medium import Image
from gpt4x.media.vocabulary import MediaTokens
from tests.inference import media_model

WORDS = {"fruit": ["apple", "pear", "plum"], "tool": ["HAMMER", "SAW", "DRILL"], "year": ["1912", "2004", "1777"]}
COUNT, LABELLED = 150, 90
WRONG = (3, 31)  # Lines whose labels are errors.


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Models of random parameters, which tell texts apart all the same; texts and pictures, some of them labelled."""
  folder, draw = tmp_path_factory.mktemp("annotate"), np.random.default_rng(0)
  (folder / "images").mkdir()
  media_model.write(folder / "images", MediaTokens(image="grey"))
  (folder / "text").mkdir()
  media_model.write(folder / "text", MediaTokens(), "local_text_bytes")
  truth = [list(WORDS)[i % 3] for i in range(COUNT)]
  texts = [" ".join(draw.choice(WORDS[kind], 4 + i % 3)) for i, kind in enumerate(truth)]
  lines = [{"id": i, "text": f"{text} {i:03}"} for i, text in enumerate(texts)]
  for i, line in enumerate(lines[:LABELLED]):
    line["label"] = truth[(i + 1) % 3] if i in WRONG else truth[i]
  (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  (folder / "empty.jsonl").touch()
  (folder / "other.jsonl").write_text('{"text": "apples", "label": "fruit"}')
  (folder / "truth.json").write_text(json.dumps(truth))
  pictures = []
  for i in range(16):
    images.write(Image((draw.integers(0, 3, (4, 4, 1)) + 190 * (i % 2)).astype(np.uint8)), folder / f"{i}.png")
    pictures.append({"image": f"{i}.png"} | ({"text": ["dark", "light"][i % 2]} if i < 8 else {}))
  (folder / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in pictures))
  return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch, tmp_path):
  """Each test is in a folder of its own, beside the files."""
  for path in folder.iterdir():
    (tmp_path / path.name).symlink_to(path)
  monkeypatch.chdir(tmp_path)


def annotate(capsys, *flags, model="text"):
  capsys.readouterr()
  assert cli.main(["annotate", f"--model_dir={model}", *flags]) == 0, capsys.readouterr().err
  captured = capsys.readouterr()
  return json.loads(captured.out), captured.err


def lines(path):
  return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def write(path, records):
  pathlib.Path(path).write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_round_of_annotating_and_correcting(capsys):
  truth = json.loads(pathlib.Path("truth.json").read_text())
  report, err = annotate(capsys, "--input=texts.jsonl", "--output=one", "--review=9")
  assert err == "" and json.loads(pathlib.Path("one/report.json").read_text()) == report
  assert {name: report[name] for name in ("records", "given", "predicted", "review", "checked", "step")} == {
      "records": COUNT, "given": LABELLED, "predicted": COUNT - LABELLED, "review": 9, "checked": 0, "step": 0}
  assert report["accuracy"] > 0.8 > report["majority"] and sum(report["labels"].values()) == LABELLED
  assert 0 <= report["ece_calibrated"] <= 1 and report["label_errors"] < 0.2 and report["temperature"] > 0

  labelled, review, suspects = (lines(f"one/{name}.jsonl") for name in ("labelled", "review", "suspects"))
  assert [one["id"] for one in labelled] == list(range(COUNT))
  assert [one["source"] for one in labelled] == ["given"] * LABELLED + ["model"] * (COUNT - LABELLED)
  assert np.mean([one["label"] == truth[one["id"]] for one in labelled[LABELLED:]]) > 0.8
  assert all(one["prompt"] == one["text"] and one["completion"] == one["label"] and 0 <= one["confidence"] <= 1
             for one in labelled)
  assert {one["id"] for one in suspects} >= set(WRONG) and len(suspects) == report["suspects"] <= 8
  assert [one["margin"] for one in suspects] == sorted(one["margin"] for one in suspects)
  assert all(one["suggested"] == truth[one["id"]] for one in suspects if one["id"] in WRONG)
  assert len(review) == 9 and all(one["id"] >= LABELLED and one["label"] is None for one in review)
  assert all(list(one["suggestions"]) == sorted(one["suggestions"], key=one["suggestions"].get, reverse=True)
             for one in review)

  write("reviewed.jsonl", [one | {"label": truth[one["id"]]} for one in review[:5]] + review[5:])
  write("mended.jsonl", [one | {"label": truth[one["id"]], "checked": True} for one in suspects])
  again, _ = annotate(capsys, "--input=texts.jsonl", "--output=two", "--corrections=reviewed.jsonl",
                      "--corrections=empty.jsonl",  # As suspects.jsonl may be.
                      "--corrections=mended.jsonl", "--labels=year,tool,fruit")
  assert (again["given"], again["checked"]) == (LABELLED + 5, 5 + len(suspects))
  found = lines("two/labelled.jsonl")
  assert all(one["label"] == truth[one["id"]] for one in found if one["source"] == "given" or one.get("checked"))
  assert not {one["id"] for one in suspects} & {one["id"] for one in lines("two/suspects.jsonl")}
  assert not {one["id"] for one in review[:5]} & {one["id"] for one in lines("two/review.jsonl")}

  # What it has written is its input as well, and there its own labels count for none.
  third, _ = annotate(capsys, "--input=two/labelled.jsonl", "--output=three", "--labels=year,tool,fruit")
  assert third == again
  assert lines("three/labelled.jsonl") == found


def test_pictures_whose_text_is_the_label(capsys):
  """Of a model that knows them; the training task of media finds the label behind each."""
  report, _ = annotate(capsys, "--input=pictures.jsonl", "--output=out", "--label_field=text", "--folds=2",
                       model="images")
  assert report["given"] == report["predicted"] == report["review"] == 8 and report["accuracy"] == 1
  found = lines("out/labelled.jsonl")
  assert [one["text"] for one in found] == ["dark", "light"] * 8
  assert found[9]["parts"] == [{"image": "../9.png"}, "light"]
  with open("out/labelled.jsonl", "rb") as file:
    examples = [records.examples(one, "to_text")[0] for one in records.read("out/labelled.jsonl", file, pytest.fail)]
  assert [one.parts[-1] for one in examples] == ["dark", "light"] * 8


def test_a_model_that_tells_nothing_is_no_help(capsys):
  draw = np.random.default_rng(0)
  write("noise.jsonl", [{"text": f"{draw.integers(10**9)}", "label": "yes" if i % 4 else "no"} for i in range(24)])
  report, err = annotate(capsys, "--input=noise.jsonl", "--output=out")
  assert report["accuracy"] <= report["majority"] == 0.75
  assert err.count("\n") == 1 and "the commonest label alone is right for 75.0% of the labelled records" in err


@pytest.mark.parametrize("flags, status, words", [
    (["--input=none.jsonl"], 1, "no file none.jsonl: correct --input"),
    (["--input=empty.jsonl"], 1, "empty.jsonl has no records: write"),
    (["--input=texts.jsonl", "--label_field=verdict"], 1, "no record has a label in 'verdict': label at least 2 of"),
    (["--input=texts.jsonl", "--labels=fruit,tool"], 1, "is none of --labels: known are fruit, tool"),
    (["--input=texts.jsonl", "--labels=fruit,tool,year,animal"], 1, "0 of 'animal': label at least 2 of each class"),
    (["--input=texts.jsonl", "--labels=fruit"], 2, "--labels: 'fruit' is not two or more labels that differ, such as"),
    (["--input=texts.jsonl", "--label_field=image"], 2, "--label_field=image is a field that has another meaning"),
    (["--input=texts.jsonl", "--corrections=pictures.jsonl"], 1, "no line of pictures.jsonl has a label in 'label':"),
    (["--input=texts.jsonl", "--corrections=other.jsonl"], 1, "other.jsonl:1: no record of --input has this content"),
    (["--input=texts.jsonl", "--step=7"], 1, "7"),
    (["--input=pictures.jsonl", "--label_field=text"], 1, "pictures.jsonl:1: the model knows no image, only text"),
    (["--input=texts.jsonl", "--folds=1"], 2, "--folds: '1' is not a whole number from 2 to 100"),
])
def test_each_mistake_is_one_line(capsys, flags, status, words):
  assert cli.main(["annotate", "--model_dir=text", "--output=out", *flags]) == status
  captured = capsys.readouterr()
  assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err, captured.err
  assert not pathlib.Path("out").exists(), "nothing is left behind"


def test_a_person_s_work_is_not_overwritten(capsys):
  annotate(capsys, "--input=texts.jsonl", "--output=out")
  before = pathlib.Path("out/review.jsonl").read_text()
  assert cli.main(["annotate", "--model_dir=text", "--input=texts.jsonl", "--output=out"]) == 1
  assert "out has annotations already (labelled.jsonl)" in capsys.readouterr().err
  assert pathlib.Path("out/review.jsonl").read_text() == before
