"""What preparation is worth: a model of prepared text beside one of the same pages as they were crawled.

The pages are made from WikiText-2's training articles, as text with all that stood on the page: each article between
menus, links and footers, a third of them a second time with 1% of the words changed, one in eight in the wrong
encoding, and for every fourth article a page of keywords without sentences. STEPS prepare them. Both models are those
of experiments/stdlib_tiny.gin, on bytes, for 300 steps, and both are asked for the bits of twelve clean articles that
were held out.

  prepared_gain           bits a byte of their paragraphs that the model of prepared text needs less; the peer is the
                          model of unprepared text
  prepared_gain/articles  the same of all of the articles: C4's rules drop headings and blank lines, which a model that
                          has never seen any finds hard. Where headings are wanted, leave `@C4()` out

    python -m benchmarks.preparation.prepared_gain --data=DIR [--seeds=3] [--folder=DIR] [--dry_run]
"""

from collections.abc import Iterator
import pathlib
import random

from benchmarks import quickstart
from benchmarks.harness import Row
from benchmarks.media import runs
from benchmarks.preparation import texts

STEPS = """Preparation.steps = [
    @RepairEncoding(), @Language(), @GopherRepetition(), @GopherQuality(), @C4(), @NearDuplicates(), @RepeatedLines()]
"""
MENU = ("Home", "Log in | Register", "Main page", "Random article", "Recent changes", "Share this on social media",
        "Cookies help us deliver our services.", "Skip to content", "Categories", "Search this site")
FOOTER = ("Terms of use | Privacy | Contact", "All rights reserved.", "Powered by our own engine", "Back to top",
          "Subscribe to our newsletter!", "This page was last edited on a Monday.", "Mobile view", "Sitemap")


def rows(bench: runs.Bench) -> Iterator[Row]:
  write(bench.source, bench.folder)
  (bench.folder / "steps.gin").write_text(STEPS)
  print(bench.gpt4x("prepare", f"--gin_file={bench.folder / 'steps.gin'}", f"--input={bench.folder / 'crawled.jsonl'}",
                    f"--output={bench.folder / 'prepared'}"), flush=True)
  found = bench.each_seed(lambda seed: [bits(bench, name, files, seed) for name, files in (
      ("crawled", "crawled.jsonl"), ("prepared", "prepared/part-*.jsonl.zst"))], "bits")
  for name, of in (("prepared_gain", "paragraphs"), ("prepared_gain/articles", "articles")):
    pairs = [(crawled[of], prepared[of]) for crawled, prepared in found]
    for crawled, prepared in pairs:
      print(f"{of}: {crawled:.4f} bits a byte from pages as they are, {prepared:.4f} from prepared ones", flush=True)
    gain, error = quickstart.mean_and_error([crawled - prepared for crawled, prepared in pairs])
    peer, _ = quickstart.mean_and_error([crawled for crawled, _ in pairs])
    goal = "value > 0" if of == "paragraphs" else ""
    yield Row(f"preparation/{name}", gain, "bits/byte", peer, error=error, goal=goal)


def bits(bench: runs.Bench, name: str, files: str, seed: int) -> dict[str, float]:
  """Bits a byte of the clean articles and of their paragraphs, of a model that was trained on some files."""
  directory = bench.train(f"{name}{seed}", "experiments/stdlib_tiny.gin", MIXTURE_OR_TASK_NAME="local_text_bytes",
                          SEED=seed, EVAL_PERIOD=None, TRAIN_STEPS=300, **{
                              "train.trackers": (), "LocalText.files": str(bench.folder / files),
                              "LocalText.validation_files": str(bench.folder / "articles.jsonl")})
  return {of: bench.evaluate(directory, **{"LocalText.validation_files": str(bench.folder / f"{of}.jsonl")})[
      "bits_per_byte"] for of in ("articles", "paragraphs")}


def write(source: str, folder: pathlib.Path) -> None:
  """crawled.jsonl, the pages in any order, and articles.jsonl and paragraphs.jsonl of the validation articles."""
  draw, articles = random.Random(0), texts.articles(source, 10_000)
  titles = [article.strip().partition("\n")[0].strip("= ") for article in articles]
  words = sorted({word for article in articles[:50] for word in article.split() if word.isalpha()})
  pages = [page(article, titles, draw) for article in articles]
  pages += [page(texts.changed(article, 0.01, draw), titles, draw) for article in articles[::3]]
  pages = [text.encode().decode("cp1252", "replace") if draw.random() < 1 / 8 else text for text in pages]
  pages += ["\n".join(" ".join(draw.choices(words, k=8)) for _ in range(draw.randrange(20, 400)))
            for _ in articles[::4]]
  draw.shuffle(pages)
  texts.write(folder / "crawled.jsonl", pages)
  held_out = texts.validation_articles(source)[:12]
  texts.write(folder / "articles.jsonl", held_out)
  texts.write(folder / "paragraphs.jsonl", [
      "\n".join(line for line in article.splitlines() if len(line) > 100) for article in held_out])


def page(article: str, titles: list[str], draw: random.Random) -> str:
  """An article as it stands on a page: with a menu, links to others, and what is below."""
  links = draw.sample(titles, 20)
  return "\n".join([*draw.sample(MENU, 6), *links[:10], article, "See also", *links[10:], *draw.sample(FOOTER, 6)])


if __name__ == "__main__":
  runs.main(rows)
