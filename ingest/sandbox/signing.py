"""Signs upload URLs in the manner of S3, and checks them.

No bytes, no database: a secret, a clock that is an argument, and text. The algorithm is the sandbox's own; only the
names in the query are S3's, as clients must treat the whole URL as opaque.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from ingest.sandbox.answers import StorageRefusal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["UploadSigner"]

TIME_FORMAT: Final = "%Y%m%dT%H%M%SZ"
SIGNED_HEADERS: Final = "content-type;host"


class UploadSigner:
    """Presigned PUTs, each good for one object, one Content-Type and one host until it expires."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, path: str, *, host: str, content_type: str, at_s: float, expires_s: int) -> str:
        """The query string that allows a PUT to `path`."""
        date = datetime.fromtimestamp(at_s, UTC).strftime(TIME_FORMAT)
        return urlencode(
            {
                "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                "X-Amz-Credential": f"SANDBOX/{date[:8]}/local/s3/aws4_request",
                "X-Amz-Date": date,
                "X-Amz-Expires": str(expires_s),
                "X-Amz-SignedHeaders": SIGNED_HEADERS,
                "X-Amz-Signature": self._signature(path, host, content_type, date, str(expires_s)),
            }
        )

    def check(self, path: str, query: Mapping[str, str], *, host: str, content_type: str, now_s: float) -> None:
        """Nothing when the upload is allowed, else the StorageRefusal that S3 would give."""
        date, expires = query.get("X-Amz-Date", ""), query.get("X-Amz-Expires", "")
        signature = query.get("X-Amz-Signature")
        if signature is None:
            raise StorageRefusal(403, "AccessDenied", "Access Denied")
        wanted = self._signature(path, host, content_type, date, expires)
        # Compared as bytes: a forged signature need not be ASCII.
        if not hmac.compare_digest(signature.encode(errors="replace"), wanted.encode()):
            raise StorageRefusal(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your key and signing method.",
            )
        # Past the signature, both were written by `sign`.
        signed_at = datetime.strptime(date, TIME_FORMAT).replace(tzinfo=UTC)
        if now_s > signed_at.timestamp() + int(expires):
            raise StorageRefusal(403, "AccessDenied", "Request has expired")

    def _signature(self, path: str, host: str, content_type: str, date: str, expires: str) -> str:
        text = "\n".join(["PUT", quote(path), host, content_type, date, expires])
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
