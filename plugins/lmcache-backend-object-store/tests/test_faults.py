"""Servers that refuse, fail and cut off; addresses and credentials that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import obstore
import pytest

from lmcache_core.api import PutStatus
from lmcache_core.errors import BackendError, ConfigError, LMCacheError
from lmcache_core.testing.material import sample_frame
from tests.net.http_proxy import HttpProxy
from tests.net.ports import free_port
from tests.net.proxy import Proxy
from tests.net.seaweedfs import OPEN_BUCKET

MIB = 1 << 20


@pytest.fixture
def proxy(server: Any) -> Iterator[HttpProxy]:
    with HttpProxy(server.port) as running:
        yield running


@pytest.fixture
def wire(server: Any) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", server.port) as running:
        yield running


# -- while it is used


@pytest.mark.parametrize("status", [403, 500, 503])
@pytest.mark.parametrize("nbytes", [8192, 12 * MIB])
def test_an_answer_that_is_no_answer_is_an_error_and_passes(
    make_s3: Callable[..., Any], proxy: HttpProxy, status: int, nbytes: int
) -> None:
    frames = make_s3(proxy.endpoint).open()
    frames.put(1, nbytes)
    proxy.answer = lambda _method, _path, _headers: status
    calls = [
        lambda: frames.get(1, nbytes),
        lambda: frames.put(2, nbytes),
        lambda: frames.stat(1),
        lambda: frames.remove(1),
        lambda: list(frames.backend.scan()),
    ]
    for call in calls:
        with pytest.raises(BackendError, match=str(status)):
            call()
    proxy.answer = lambda _method, _path, _headers: None
    assert frames.get(1, nbytes) == bytes(sample_frame(1, nbytes))
    assert frames.stat(2) is None


def test_what_is_not_found_is_a_miss(make_s3: Callable[..., Any], proxy: HttpProxy) -> None:
    frames = make_s3(proxy.endpoint).open()
    frames.put(1)
    proxy.answer = lambda _method, _path, _headers: 404
    assert frames.get(1) is None
    assert frames.stat(1) is None
    assert frames.remove(1) is False
    with pytest.raises(BackendError, match="a bucket is not made here"):
        frames.put(2)


def test_one_moment_of_too_much_is_tried_again(
    make_s3: Callable[..., Any], proxy: HttpProxy
) -> None:
    frames = make_s3(proxy.endpoint).open()
    failures = iter([503, 500])
    proxy.answer = lambda _method, _path, _headers: next(failures, None)
    assert frames.put(1) is PutStatus.STORED
    assert frames.get(1) == bytes(sample_frame(1, 8192))


@pytest.mark.parametrize("nbytes", [MIB, 12 * MIB])
def test_a_connection_that_breaks_in_the_middle_serves_nothing_false(
    make_s3: Callable[..., Any], wire: Proxy, nbytes: int
) -> None:
    frames = make_s3(f"http://127.0.0.1:{wire.port}").open()
    frames.put(1, nbytes)
    wire.cut_each_after = nbytes // 8
    wire.reset()
    # The client takes up where it was cut off, as long as it gets on.
    with suppress(BackendError):
        assert frames.get(1, nbytes) in {None, bytes(sample_frame(1, nbytes))}
    wire.cut_each_after = 40
    wire.reset()
    with pytest.raises(BackendError):
        frames.get(1, nbytes)
    with pytest.raises(BackendError):
        frames.stat(1)
    wire.cut_each_after = None
    wire.reset()
    assert frames.get(1, nbytes) == bytes(sample_frame(1, nbytes))


def test_a_put_that_is_cut_off_leaves_a_whole_frame_or_none(
    make_s3: Callable[..., Any], wire: Proxy
) -> None:
    frames = make_s3(f"http://127.0.0.1:{wire.port}").open()
    sizes = {1: MIB, 2: 12 * MIB}
    wire.cut_each_after = 10
    wire.reset()
    for number, nbytes in sizes.items():
        with pytest.raises(BackendError):
            frames.put(number, nbytes)
    wire.cut_each_after = None
    wire.reset()
    for number, nbytes in sizes.items():
        whole = bytes(sample_frame(number, nbytes))
        assert frames.get(number, nbytes) in {None, whole}
        assert frames.put(number, nbytes) in {PutStatus.STORED, PutStatus.PRESENT}
        assert frames.get(number, nbytes) == whole


def test_a_server_that_is_gone_is_an_error_at_once(
    make_s3: Callable[..., Any], wire: Proxy
) -> None:
    frames = make_s3(f"http://127.0.0.1:{wire.port}").open()
    wire.refuses = True
    wire.reset()
    with pytest.raises(BackendError, match="see that the endpoint is right"):
        frames.get(1)


# -- a store that cannot be used at all


def test_wrong_credentials_are_told_at_the_start(s3: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("secret_access_key: not-the-secret\n")
    with pytest.raises(BackendError, match=r"403 SignatureDoesNotMatch.*credentials") as failure:
        s3.open(credentials_file=str(wrong))
    assert "not-the-secret" not in str(failure.value)


def test_credentials_that_may_not_write_are_told_at_the_start(
    s3: Any, server: Any, tmp_path: Path
) -> None:
    s3.open()
    reader = tmp_path / "reader.yaml"
    reader.write_text("".join(f"{name}: {value}\n" for name, value in server.reader.items()))
    with pytest.raises(BackendError, match=r"403 AccessDenied.*may read, write, delete and list"):
        s3.open(credentials_file=str(reader), options={})


def test_a_missing_bucket_is_told_at_the_start(s3: Any) -> None:
    with pytest.raises(BackendError, match=r"no-such-bucket.*NoSuchBucket.*not made here"):
        s3.open(url="s3://no-such-bucket/kv")


def test_a_server_that_does_not_answer_is_told_at_the_start(s3: Any, server: Any) -> None:
    with pytest.raises(BackendError, match="see that the endpoint is right"):
        s3.open(endpoint=f"http://127.0.0.1:{free_port()}")


def test_a_frozen_server_is_told_at_the_start(
    s3: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcache_backend_object_store.backend.OPEN_SECONDS", 0.3)
    server.freeze()
    try:
        with pytest.raises(BackendError, match="did not answer within"):
            s3.open()
    finally:
        server.thaw()


def test_what_is_not_ours_is_left_alone(place: Any) -> None:
    obstore.put(place.client, "store-id", b"something else")
    with pytest.raises(BackendError, match="use another prefix"):
        place.open()
    assert place.names() == ["store-id"]


def test_an_unknown_setting_is_a_configuration_error(s3: Any) -> None:
    with pytest.raises(ConfigError, match="virtual_hosted_style"):
        s3.open(options={"virtual_hosted_style": True})


@pytest.mark.parametrize("content", [None, "- a\n- b\n", "{", "secret_access_key: 5\n"])
def test_a_bad_credentials_file_is_a_configuration_error(
    s3: Any, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "bad.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        s3.open(credentials_file=str(file))


# -- servers without conditional writes


def test_a_server_that_knows_no_conditions_is_asked_first(
    make_s3: Callable[..., Any], proxy: HttpProxy
) -> None:
    def refuse(_method: str, _path: str, headers: Any) -> int | None:
        return 501 if "If-None-Match" in headers or "If-Match" in headers else None

    proxy.answer = refuse
    place = make_s3(proxy.endpoint)
    one, other = place.open(), place.open()
    assert one.backend.store_id == other.backend.store_id
    assert one.put(1) is PutStatus.STORED
    assert other.put(1) is PutStatus.PRESENT
    assert other.get(1) == bytes(sample_frame(1, 8192))
    assert one.get(1)
    assert one.quarantine(1) is True
    assert other.get(1) is None


def test_a_server_that_ignores_conditions_is_found_out(
    server: Any, make_s3: Callable[..., Any], proxy: HttpProxy
) -> None:
    proxy.dropped = {"if-none-match", "if-match"}
    place = make_s3(
        proxy.endpoint,
        url=f"s3://{OPEN_BUCKET}/ignores",
        credentials_file=None,
        options={"skip_signature": True},
    )
    place.client = server.client("ignores", OPEN_BUCKET)
    one, other = place.open(), place.open()
    assert one.backend.store_id == other.backend.store_id
    assert one.put(1) is PutStatus.STORED
    proxy.seen.clear()
    assert other.put(1) is PutStatus.PRESENT
    assert [method for method, _ in proxy.seen] == ["HEAD"]


def test_errors_are_errors_of_ours(make_s3: Callable[..., Any], proxy: HttpProxy) -> None:
    frames = make_s3(proxy.endpoint).open()
    for status in (301, 400, 401, 409, 410, 416, 429, 502, 507):
        proxy.answer = lambda _method, _path, _headers, status=status: status
        for call in (lambda: frames.get(1), lambda: frames.put(1), lambda: frames.stat(1)):
            try:
                assert call() in {None, PutStatus.FAILED, PutStatus.FULL, PutStatus.PRESENT}
            except LMCacheError:
                continue
