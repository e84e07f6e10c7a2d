"""Web archives: whole ones as another reader reads them, and damaged ones to the last record that can be read."""

import bz2
import gzip
import io
import random
import re
import zlib

import pytest

pytest.importorskip("fastwarc")

from gpt4x.preparation.sources import warc

HTML = b"Content-Type: text/html; charset=utf-8\r\n"


def http(body, head=HTML, status=b"200 OK"):
  return b"HTTP/1.1 " + status + b"\r\n" + head + b"\r\n" + body


def record(block, kind="response", url="http://a/", length=None, content_type="application/http; msgtype=response"):
  header = (f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:1>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
            f"WARC-Target-URI: {url}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(block) if length is None else length}\r\n\r\n")
  return header.encode() + block + b"\r\n\r\n"


def page(letter, **options):
  return record(http(f"<p>{letter}</p>".encode() * 30), url=f"http://{letter}/", **options)


def read(data):
  """(the documents, what was said)."""
  said = []
  return list(warc.read("f", lambda: io.BufferedReader(io.BytesIO(data)), said.append)), said


def urls(data):
  documents, said = read(data)
  return "".join(re.match("http://(.)/", one.fields["url"])[1] for one in documents), said


def members(*records):
  return b"".join(map(gzip.compress, records))


PACKERS = {"plain": lambda *records: b"".join(records), "members": members,
           "one member": lambda *records: gzip.compress(b"".join(records)),
           "pairs": lambda *records: b"".join(gzip.compress(b"".join(records[i:i + 2]))
                                              for i in range(0, len(records), 2)),
           "bzip2": lambda *records: bz2.compress(b"".join(records))}


@pytest.mark.parametrize("packer", PACKERS)
def test_pages_are_read_whatever_the_packing(packer):
  pages = [record(b"software: x\r\n", "warcinfo", content_type="application/warc-fields"), page("a"),
           record(b"GET / HTTP/1.1\r\n\r\n", "request"), page("b"), page("c")]
  documents, said = read(PACKERS[packer](*pages))
  assert not said
  assert [one.name for one in documents] == ["f:2", "f:4", "f:5"]
  assert documents[0].content == b"<p>a</p>" * 30 and not documents[0].text
  assert documents[0].fields == {"url": "http://a/", "date": "2024-01-01T00:00:00Z", "content_type": "text/html",
                                 "charset": "utf-8"}


@pytest.mark.parametrize("packer", PACKERS)
def test_large_files_are_read_as_warcio_reads_them(packer):
  archiveiterator = pytest.importorskip("warcio.archiveiterator")
  draw = random.Random(0)
  records = [record(http(draw.randbytes(draw.choice([10, 1000, 70_000])).hex().encode()), url=f"http://{number}/")
             for number in range(40)]
  documents, said = read(PACKERS[packer](*records))
  expected = [(one.rec_headers["WARC-Target-URI"], one.content_stream().read())
              for one in archiveiterator.ArchiveIterator(io.BytesIO(members(*records)))]
  assert not said
  assert [(one.fields["url"], one.content) for one in documents] == expected


@pytest.mark.parametrize("head, status, found", [
    (HTML, b"200 OK", True), (HTML, b"404 Not Found", False), (HTML, b"301 Moved", False),
    (b"Content-Type: application/xhtml+xml\r\n", b"200 OK", True), (b"content-type: TEXT/PLAIN\r\n", b"200", True),
    (b"Content-Type: image/png\r\n", b"200 OK", False), (b"Content-Type: application/pdf\r\n", b"200 OK", False),
    (b"X: y\r\n", b"200 OK", False)])
def test_pages_and_texts_that_were_found_are_kept(head, status, found):
  documents, said = read(record(http(b"hello", head, status)))
  assert bool(documents) == found and not said


def test_a_page_of_no_declared_type_is_known_by_its_beginning():
  documents, _ = read(record(http(b"\n<!DOCTYPE html><p>a", b"")))
  assert documents[0].fields["content_type"] == "text/html"


def test_headers_that_end_in_line_feeds_alone_are_read():
  documents, said = read(record(b"HTTP/1.1 200 OK\nContent-Type: text/html\n\nhello"))
  assert [one.content for one in documents] == [b"hello"] and not said
  header, _, block = page("a").partition(b"\r\n\r\n")
  documents, said = read(header.replace(b"\r\n", b"\n") + b"\n\n" + block)
  assert [len(one.content) for one in documents] == [240] and not said


def test_brackets_and_quotes_that_some_writers_set_are_taken_off():
  documents, _ = read(record(http(b"hello", b'Content-Type: text/html; charset="UTF-8"\r\n'), url="<http://b/>"))
  assert documents[0].fields["url"] == "http://b/" and documents[0].fields["charset"] == "utf-8"


def test_conversions_are_texts():
  documents, said = read(record("für\r\ndich".encode(), "conversion", content_type="text/plain")
                         + record(b"\xff", "conversion", content_type="text/plain") + page("c"))
  assert [(one.name, one.text) for one in documents] == [("f:1", "für\ndich"), ("f:3", "")]
  assert len(said) == 1 and said[0].startswith("f:2: ") and "UTF-8" in said[0]


def chunked(data, size=3):
  pieces = [data[i:i + size] for i in range(0, len(data), size)]
  return b"".join(b"%x;x=y\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def raw_deflate(data):
  stream = zlib.compressobj(wbits=-15)
  return stream.compress(data) + stream.flush()


@pytest.mark.parametrize("encoding, encode", [
    ("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate),
    ("identity", bytes), ("unheard-of", bytes),
    ("br", lambda data: pytest.importorskip("brotli").compress(data)),
    ("zstd", lambda data: pytest.importorskip("zstandard").compress(data))])
@pytest.mark.parametrize("transfer", [None, chunked])
def test_bodies_are_decoded_and_those_that_are_already_stay(encoding, encode, transfer):
  body = b"<p>hello</p>" * 50
  head = HTML + b"Content-Encoding: " + encoding.encode() + b"\r\n"
  head += b"Transfer-Encoding: chunked\r\n" if transfer else b""
  wire = (transfer or bytes)(encode(body))
  documents, said = read(members(record(http(wire, head)), record(http(body, head)), page("c")))
  assert [one.content for one in documents[:2]] == [body, body] and len(documents) == 3 and not said


def test_two_encodings_are_undone_from_the_last():
  body = zlib.compress(gzip.compress(b"hello"))
  documents, _ = read(record(http(body, HTML + b"Content-Encoding: gzip, deflate\r\n")))
  assert documents[0].content == b"hello"


def test_what_cannot_be_decoded_is_said_and_the_next_is_read():
  damaged = bytearray(gzip.compress(random.Random(0).randbytes(500)))
  damaged[20:30] = bytes(10)
  large = gzip.compress(bytes(80_000_000))
  head = HTML + b"Content-Encoding: gzip\r\n"
  found, said = urls(members(record(http(bytes(damaged), head)), record(http(large, head)), page("c")))
  assert found == "c" and [one.split(":")[1] for one in said] == ["1", "2"]


@pytest.mark.parametrize("body", [b"not http at all", b""])
def test_a_response_that_is_none_is_said(body):
  found, said = urls(record(body) + page("c"))
  assert found == "c" and len(said) == 1 and said[0].startswith("f:1: ")


def test_header_without_an_end_is_said():
  found, said = urls(page("a") + record(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\nx") + page("c"))
  assert found == "ac" and len(said) == 1 and said[0].startswith("f:2: ")


# Damage.


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("off", [-250, -20, -5, -1, 5, 20, 300, 100_000, 10**15])
def test_a_wrong_content_length_costs_its_record_alone(packer, off):
  wrong = page("b", length=len(http(b"<p>b</p>" * 30)) + off)
  found, said = urls(PACKERS[packer](page("a"), wrong, page("c"), page("d")))
  assert found == "acd"
  assert len(said) == 1 and said[0].startswith("f:2: ")


@pytest.mark.parametrize("length", ["x", "-5", ""])
def test_a_record_without_a_length_costs_itself_alone(length):
  found, said = urls(members(page("a"), page("b", length=length), page("c")))
  assert found == "ac" and len(said) == 1 and "Content-Length" in said[0]


@pytest.mark.parametrize("packer", PACKERS)
def test_bodies_may_hold_whole_records(packer):
  inner = page("x") + b"\r\nWARC/1.0\r\n" + page("y")
  found, said = urls(PACKERS[packer](page("a"), record(http(inner), url="http://b/"), page("c")))
  assert found == "abc" and not said


def test_a_damaged_record_whose_body_has_lines_of_records_is_left_out():
  body = http(b"\r\nWARC/1.0\r\nand WARC/1.1\r\n\r\n" * 5)
  found, said = urls(page("a") + record(body, length=len(body) + 7) + page("c"))
  assert found == "ac" and len(said) == 1


@pytest.mark.parametrize("packer", ["plain", "members", "one member", "pairs"])
def test_a_file_cut_off_anywhere_gives_what_is_whole_and_says_that_it_ends(packer):
  records = [page(letter) for letter in "abcd"]
  data = PACKERS[packer](*records)
  ends = [len(part) for count in range(5) if data.startswith(part := PACKERS[packer](*records[:count]))]
  for cut in range(1, len(data), 7):
    found, said = urls(data[:cut])
    assert "abcd".startswith(found), cut
    blank = packer == "plain" and any(end - 4 <= cut for end in ends[1:] if end >= cut)  # What is missing is blank.
    assert len(said) == (cut not in ends and not blank), (cut, said)
    if packer == "members":
      # Without the last bytes of a member its record may be whole.
      assert sum(end <= cut for end in ends[1:]) <= len(found) <= sum(end - 12 <= cut for end in ends[1:]), cut


def test_a_damaged_member_costs_itself_alone_and_is_said():
  draw = random.Random(0)
  packed = [gzip.compress(page(letter)) for letter in "abc"]
  for _ in range(200):
    damaged = bytearray(packed[1])
    place = draw.randrange(len(damaged))
    damaged[place:place + draw.randint(1, 40)] = draw.randbytes(draw.randint(1, 40))
    if gzip_is_sound(bytes(damaged)):
      continue
    found, said = urls(packed[0] + bytes(damaged) + packed[2])
    assert found in ("ac", "abc") and len(said) >= 1, (place, found, said)


def gzip_is_sound(data):
  try:
    return gzip.decompress(data) == page("b")
  except (OSError, EOFError, zlib.error):
    return False


def test_what_lies_between_records_is_said():
  assert urls(page("a") + b"garbage garbage\n\n" + page("c"))[0] == "ac"
  found, said = urls(gzip.compress(page("a")) + b"garbage garbage" + gzip.compress(page("c")))
  assert found == "ac" and len(said) == 1
  assert urls(gzip.compress(page("a")) + bytes(100) + gzip.compress(page("c"))) == ("ac", [])  # Blocks of a tape.


def test_empty_and_foreign_files_are_said():
  assert read(b"")[0] == [] and len(read(b"")[1]) == 1
  assert read(b"GIF89a" * 100_000)[0] == [] and len(read(b"GIF89a" * 100_000)[1]) == 1
  assert read(b"BZh9" + bytes(100))[0] == [] and len(read(b"BZh9" + bytes(100))[1]) == 1


def test_noise_raises_nothing():
  draw, whole = random.Random(1), members(page("a"), page("b")) + page("c")
  for _ in range(300):
    noisy = bytearray(whole)
    for _ in range(draw.randint(1, 5)):
      noisy[draw.randrange(len(noisy))] = draw.randrange(256)
    read(bytes(noisy))
