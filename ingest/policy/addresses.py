"""Which addresses belong to the public internet, and which address a host's spelling stands for.

Pure: resolves no name. `ipaddress` knows what is registered as private; what it lets pass is listed here: addresses
that stand for others (IPv4 in IPv6), multicast, and whatever is no unicast address that anybody was given.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias

__all__ = ["Address", "is_local_name", "is_public", "meant_address"]

Address: TypeAlias = IPv4Address | IPv6Address

GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
# All that IANA has given out (https://www.iana.org/assignments/ipv6-address-space). Outside of it lie also the
# deprecated site-local and IPv4-compatible addresses, which `is_global` calls global.

NAT64: Final = IPv6Network("64:ff9b::/96")
# RFC 6052: on a network without IPv4, every IPv4 host is resolved to such an address.

NOT_GIVEN: Final = (
    IPv4Network("192.0.0.0/24"),  # RFC 6890: protocol assignments; a cloud has its metadata at .192
    IPv4Network("192.88.99.0/24"),  # RFC 7526: relays of 6to4, deprecated
    IPv6Network("2001::/23"),  # IETF protocol assignments, Teredo among them
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),  # RFC 9637: documentation
)

NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


def is_public(address: Address) -> bool:
    """Whether it is a unicast address of the public internet, and stands for none that isn't."""
    if isinstance(address, IPv6Address):
        if (carried := _carried(address)) is not None:
            return is_public(carried)
        if address not in GLOBAL_UNICAST:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in NOT_GIVEN if network.version == address.version)
    )


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which a packet for this one goes in the end."""
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def is_local_name(host: str) -> bool:
    """Whether the name means this machine wherever it is resolved (RFC 6761, section 6.3)."""
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def meant_address(host: str) -> Address | None:
    """The address that a host stands for, in any spelling that a resolver takes; None where it is a name.

    Beside the usual forms these are one to four numbers, each decimal, octal or hexadecimal, of which the last fills
    what is left (`inet_aton(3)`): `2130706433`, `0x7f.1` and `0177.0.0.1` are 127.0.0.1. `ValueError` where it ends in
    a number and is no address.
    """
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return ip_address(bare.rstrip("."))
    except ValueError:
        if ":" in bare:
            raise
    parts = bare.rstrip(".").split(".")
    if (
        NUMBER.fullmatch(parts[-1]) is None
    ):  # as the URL standard tells them apart (https://url.spec.whatwg.org/#host-parsing)
        return None
    if len(parts) > 4 or not all(map(NUMBER.fullmatch, parts)):
        raise ValueError("ends in a number and is no address")
    *first, last = [_number(part) for part in parts]
    if any(number > 0xFF for number in first) or last >= 256 ** (4 - len(first)):
        raise ValueError("is out of range")
    return IPv4Address(sum(number << (24 - 8 * place) for place, number in enumerate(first)) + last)


def _number(text: str) -> int:
    if text[:2].lower() == "0x":
        return int(text[2:] or "0", 16)
    return int(text, 8) if text[0] == "0" else int(text)
