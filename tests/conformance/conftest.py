"""The brokers that a process of the tests shares: one of each kind, started when it is first asked for."""

from __future__ import annotations

import pytest
from brokers.queues import AmqpQueue, NatsQueue, RedisQueue, SqsQueue
from brokers.servers import MotoServer, NatsServer, RabbitServer, RedisServer, running

KINDS = {RedisServer: RedisQueue, RabbitServer: AmqpQueue, NatsServer: NatsQueue, MotoServer: SqsQueue}


@pytest.fixture(scope="session", params=KINDS, ids=lambda server: server.name)
def server(request, tmp_path_factory):
    with running(request.param, tmp_path_factory.mktemp(request.param.name)) as server:
        yield server


@pytest.fixture
async def queue(server, monkeypatch):
    """A fresh one, and the credentials that moto takes."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    made = KINDS[type(server)](server)
    await made.make()
    return made
