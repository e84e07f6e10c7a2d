"""The lock in a bucket: one writer at a time, and nobody can come in between."""

import json

import pytest

from gpt4x import storage
from gpt4x.errors import UserError
from gpt4x.launch import lock


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
  monkeypatch.setattr(lock.time, "sleep", lambda seconds: pytest.fail("waits"))


def write(place, **changes):
  content = json.dumps(lock.Lock(str(place))._owner | changes).encode()
  storage.write(place / "train.lock", content)
  return content


def test_the_second_is_refused_and_the_next_has_it(place):
  refused = pytest.raises(UserError, match=f"{place} is in use: process .* has been writing there")
  with lock.held(str(place)), refused, lock.held(str(place)):
    pytest.fail("two at a time")
  assert storage.files_below(place) == []
  with lock.held(str(place)):
    assert storage.files_below(place) == [place / "train.lock"]


def test_a_dead_owners_lock_becomes_ours(place):
  write(place, pid=2**22 + 1, started="long ago")  # Above all process numbers of Linux.
  with lock.held(str(place)) as owner:
    assert json.loads(storage.read(place / "train.lock"))["token"] == owner._owner["token"]


def test_of_two_who_find_a_dead_owner_one_has_it(place, monkeypatch):
  write(place, pid=2**22 + 1, started="long ago")
  put, other = storage._put_over, []

  def put_late(path, version, content):
    if not other:  # Another start is faster.
      other.append(lock.Lock(str(place)))
      assert other[0].acquire() == ""
    put(path, version, content)

  monkeypatch.setattr(storage, "_put_over", put_late)
  with pytest.raises(UserError, match="is in use"), lock.held(str(place)):
    pytest.fail("two at a time")
  other[0].release()
  assert storage.files_below(place) == []


def test_it_is_kept_fresh_until_another_has_it(place):
  with lock.held(str(place)) as owner:
    first = storage.read(place / "train.lock")
    owner._beat()
    assert storage.read(place / "train.lock") != first
    storage.write(place / "train.lock", first)  # A write that the store took without confirming it.
    owner._beat()
    owner.check()
    taken = write(place)
    owner._beat()
    with pytest.raises(UserError, match="was taken over by another run"):
      owner.check()
  assert storage.read(place / "train.lock") == taken  # What is another's is not removed.


def test_a_missing_bucket_is_one_line(store):
  with pytest.raises(UserError, match=f"there is no bucket {store}://nowhere"), lock.held(f"{store}://nowhere/run"):
    pytest.fail("there is one")
