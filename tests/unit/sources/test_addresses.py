"""The URLs of queues: what they say, what is left out, what is wrong, and that no password comes back out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import UsageError
from ingest.sources.addresses import (
    AmqpAddress,
    NatsAddress,
    RedisAddress,
    SqsAddress,
    is_queue,
    password_of,
    queue_address,
)


def test_redis() -> None:
    assert queue_address("redis://host?stream=images") == RedisAddress(
        host="host",
        port=6379,
        database=0,
        user=None,
        password=None,
        is_tls=False,
        stream="images",
        group="ingest",
        dead="images:dead",
        lease_s=60.0,
        prefetch=256,
    )
    assert queue_address("rediss://me:p%3A%40@[::1]:1/3?stream=a&group=g&dead=d&lease=1.5&prefetch=7") == RedisAddress(
        host="::1",
        port=1,
        database=3,
        user="me",
        password="p:@",
        is_tls=True,
        stream="a",
        group="g",
        dead="d",
        lease_s=1.5,
        prefetch=7,
    )


def test_amqp() -> None:
    assert queue_address("amqp://host?queue=images") == AmqpAddress(
        host="host",
        port=5672,
        vhost="/",
        user="guest",
        password="guest",
        is_tls=False,
        queue="images",
        dead="images.dead",
        ack_timeout_s=1800.0,
        prefetch=256,
    )
    address = queue_address("amqps://u:p@host/a%2Fb?queue=images&ack_timeout=60")
    assert isinstance(address, AmqpAddress)
    assert (address.port, address.vhost, address.is_tls, address.ack_timeout_s) == (5671, "a/b", True, 60.0)


def test_nats() -> None:
    assert queue_address("nats://host?stream=IMAGES") == NatsAddress(
        host="host",
        port=4222,
        user=None,
        password=None,
        token=None,
        stream="IMAGES",
        subject="images",
        durable="ingest",
        dead="IMAGES_DEAD",
        lease_s=60.0,
        prefetch=256,
    )
    address = queue_address("nats://t0ken@host?stream=A&subject=a.*.b")
    assert isinstance(address, NatsAddress)
    assert (address.user, address.password, address.token, address.subject) == (None, None, "t0ken", "a.*.b")


def test_sqs() -> None:
    assert queue_address("sqs://Images_1?region=eu-central-1") == SqsAddress(
        queue="Images_1", url=None, region="eu-central-1", endpoint=None, dead=None, lease_s=60.0, prefetch=256
    )
    address = queue_address("sqs://sqs.eu-west-1.amazonaws.com/123456789012/Images?dead=Dead")
    assert isinstance(address, SqsAddress)
    assert address.url == "https://sqs.eu-west-1.amazonaws.com/123456789012/Images"
    assert (address.queue, address.region, address.dead) == ("Images", "eu-west-1", "Dead")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://host", "'stream' is missing"),
        ("redis://host?stream=", "'stream' is empty"),
        ("redis://host?stream=a&stream=b", "'stream' is there twice"),
        ("redis://host?strem=a", "'strem' is not known"),
        ("redis://host?stream=a%20b", "'stream' is no name"),
        ("redis://?stream=a", "no host"),
        ("redis://host/zero?stream=a", "no number of a database"),
        ("redis://host:port?stream=a", "can't be read"),
        ("redis://host:99999?stream=a", "can't be read"),
        ("redis://host?stream=a&lease=soon", "'lease' can't be used"),
        ("redis://host?stream=a&lease=nan", "'lease' can't be used"),
        ("redis://host?stream=a&lease=0", "'lease' can't be used"),
        ("redis://host?stream=a&prefetch=1.5", "'prefetch' can't be used"),
        ("redis://host?stream=a&prefetch=0", "'prefetch' can't be used"),
        ("amqp://host/v", "'queue' is missing"),
        ("amqp://host/v?queue=a&group=b", "'group' is not known"),
        ("nats://host/path?stream=a", "has a path"),
        ("nats://host?stream=a.b", "'stream' is no name"),
        ("sqs://", "names no queue"),
        ("sqs://a b", "names no queue"),
        ("sqs://id:secret@images", "holds credentials"),
        ("sqs://images.fifo", "FIFO"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_write(url: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        queue_address(url)
    assert told in str(caught.value)
    assert caught.value.code == "bad_queue_url"
    assert caught.value.hint


SECRET = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=6, max_size=12).map("sEcReT".__add__)


@given(
    secret=SECRET,
    kind=st.sampled_from(["redis", "amqp", "nats", "sqs"]),
    rest=st.sampled_from(["", "/x", "?stream=a&queue=b", "/0?bad"]),
)
def test_no_password_comes_back_out_however_it_is_written(secret: str, kind: str, rest: str) -> None:
    url = f"{kind}://me:{secret}@host{rest}"
    try:
        address = queue_address(url)
    except UsageError as error:
        shown = f"{error} {error.hint} {error.__cause__}"
    else:
        shown = f"{address!r} {address} {address.place}"
        assert password_of(address)
    assert "sEcReT" not in shown


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("redis://a", True),
        ("REDISS://a", True),
        ("sqs://a", True),
        ("https://a", False),
        ("redis", False),
        ("/a", False),
    ],
)
def test_which_texts_are_queues(text: str, is_one: bool) -> None:
    assert is_queue(text) is is_one
