"""What the page of preparing data reads: web archives, books, a dump of Wikipedia, pictures, and what was prepared."""

import bz2
import io
import json
import pathlib

import numpy as np
from PIL import Image
import pyarrow as pa
from pyarrow import parquet

from tests.preparation import preparing

FILES = ("enwiki-1-pages-articles.xml.bz2",)
_TEXT = "A page of the archive says that memory attends to what was before it, and that is of use to the {} reader. "
_PAGE = "<html><body><article><p>{}</p></article></body></html>"
_DUMP = """<mediawiki><page><title>Memory</title><ns>0</ns><id>1</id><revision>
<timestamp>2024-01-01T00:00:00Z</timestamp>
<text>'''Memory''' is [[attention|attended]] to. {}</text></revision></page></mediawiki>"""


def write(folder: pathlib.Path) -> None:
  """The files, and prepared/web and prepared/books, of documents that were kept as they are."""
  for name in ("crawl", "books", "captioned", "spam", "fineweb"):
    (folder / name).mkdir()
  words = [" ".join(_TEXT.format(word) for word in (f"first{i}", f"second{i}", "third")) for i in range(12)]
  (folder / "crawl" / "a.warc.gz").write_bytes(_archive([_PAGE.format(text) for text in words]))
  (folder / "books" / "book.txt").write_text("\n\n".join(words))
  (folder / FILES[0]).write_bytes(bz2.compress(_DUMP.format(" ".join(words)).encode()))
  (folder / "spam" / "a.jsonl").write_text("".join(json.dumps({"text": f"buy {i} now"}) + "\n" for i in range(12)))
  parquet.write_table(pa.table({"text": words, "url": ["http://example.org"] * 12}), folder / "fineweb" / "a.parquet")
  pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
  Image.fromarray(pixels).save(folder / "captioned" / "a.png")
  (folder / "captioned" / "a.txt").write_text("noise of all colors")
  for name in ("web", "books"):
    preparing.run(preparing.write(folder / f"{name}_texts", [f"{name} {text}" for text in words * 20]),
                  folder / "prepared" / name, _as_it_is)


def _as_it_is(document):
  return document


def _archive(pages: list[str]) -> bytes:
  from warcio.statusandheaders import StatusAndHeaders
  from warcio.warcwriter import WARCWriter
  output = io.BytesIO()
  writer = WARCWriter(output, gzip=True)
  for number, page in enumerate(pages):
    headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record(
        f"http://example.org/{number}", "response", payload=io.BytesIO(page.encode()), http_headers=headers))
  return output.getvalue()
