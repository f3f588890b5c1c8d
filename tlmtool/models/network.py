"""Whether the Hub can be reached, found in a few seconds and without a request."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

LIMIT = 2.0  # seconds for one handshake; fewer would call a slow network none
WAIT = "HF_HUB_ETAG_TIMEOUT"  # with this variable the Hub's client waits longer, and so do we


def unreachable() -> str:
    """Why the Hub cannot be reached, in words; empty where it can be, or where only a request can
    tell. Where a proxy is set, the proxy is what has to answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        host, port = _address(constants.ENDPOINT)
        limit = float(os.environ.get(WAIT) or LIMIT)
    except ValueError:
        return ""
    told: list[str] = []

    def knock() -> None:
        try:
            socket.create_connection((host, port), limit).close()
            told.append("")
        except TimeoutError:
            pass
        except OSError as error:
            told.append(f"{host}: {error.strerror or error}")

    thread = Thread(target=knock, daemon=True)  # a look-up of a name knows no limit of time
    thread.start()
    thread.join(limit)
    return told[0] if told else f"{host}: no answer in {limit:g} seconds, {WAIT} can be more"


@contextmanager
def offline(really: bool = True) -> Iterator[None]:
    """Let the Hub's client and `datasets` read their caches only, without trying again."""
    from huggingface_hub import constants

    places = [constants, sys.modules.get("datasets.config")] if really else []
    held = [(place, place.HF_HUB_OFFLINE) for place in places if place is not None]
    try:
        for place, _ in held:
            place.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        yield
    finally:
        for place, before in held:
            place.HF_HUB_OFFLINE = before  # type: ignore[attr-defined]


def _address(endpoint: str) -> tuple[str, int]:
    """(host, port) to knock at. Raises ValueError for what has none."""
    proxies = getproxies()
    proxy = proxies.get(endpoint.partition(":")[0]) or proxies.get("all")
    if proxy and not proxy_bypass(urlsplit(endpoint).hostname or ""):
        endpoint = proxy if "://" in proxy else f"http://{proxy}"
    found = urlsplit(endpoint)
    if not found.hostname:
        raise ValueError(f"{endpoint} names no host")
    return found.hostname, found.port or (80 if endpoint.startswith("http:") else 443)
