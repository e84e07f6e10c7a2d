"""The tests' own process reaches no other machine, and reaches this one."""

import asyncio
import socket
import threading
import urllib.request

import pytest

from tests.offline import Refused


@pytest.mark.parametrize("family, address", [
    (socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_INET, ("example.org", 80)),
    (socket.AF_INET6, ("2001:db8::1", 80, 0, 0))])
@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_other_machines_are_refused(family, address, method):
  with socket.socket(family) as one, pytest.raises(Refused, match=address[0]):
    one.setblocking(False)  # Lest it waits for the network if it is not refused.
    getattr(one, method)(address)


@pytest.mark.parametrize("look_up", [
    lambda: socket.getaddrinfo("example.org", 80), lambda: socket.create_connection((b"example.org", 80), timeout=0.01),
    lambda: urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://example.org", timeout=0.01),
    lambda: asyncio.run(asyncio.open_connection("example.org", 80))])
def test_names_of_other_machines_are_refused(look_up):
  with pytest.raises(Refused, match="looks up .*example.org"):
    look_up()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_this_machine_answers(host):
  with socket.create_server(("127.0.0.1", 0)) as server:
    answer = threading.Thread(target=lambda: server.accept()[0].close())
    answer.start()
    with socket.create_connection((host, server.getsockname()[1])) as one:
      assert one.recv(1) == b""
    answer.join()
  assert socket.getaddrinfo(None, 80) and socket.getaddrinfo("192.0.2.1", 80)


def test_unix_sockets_are_left_alone(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # Their paths have about a hundred characters at most.
  with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as one:
    server.bind("s")
    server.listen()
    one.connect("s")
