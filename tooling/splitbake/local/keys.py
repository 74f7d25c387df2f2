"""The access keys of one cloud: every account number has one, derived from the secret of this ``up``.

Nothing is stored for an account: its key id carries its number (as those of AWS do), so that the guard finds the
account of a call again, and an HMAC over it, so that nobody can make up a key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass, field

from splitbake.errors import LocalCloudError

_PREFIX = "AKIA"
#: Bytes of an account number, which has twelve digits, and of the HMAC beside it: ten make 16 letters of base32.
_HALF = 5


@dataclass(frozen=True)
class Key:
    """The access key of an account."""

    account: str
    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Keyring:
    """All keys of a cloud.

    Attributes:
        home: the key of the account that the cloud's own environment selects; the others are derived from its secret.
    """

    home: Key

    def of(self, account: str) -> Key:
        """Return the key of ``account``.

        Raises:
            LocalCloudError: that is no account number.
        """
        if account == self.home.account:
            return self.home
        if not re.fullmatch(r"[0-9]{12}", account):
            raise LocalCloudError(f"{account!r} is not the number of an AWS account.", hint="It has twelve digits.")
        number = int(account).to_bytes(_HALF, "big")
        key_id = _PREFIX + base64.b32encode(number + self._derive("id", account)[:_HALF]).decode()
        return Key(account, key_id, base64.urlsafe_b64encode(self._derive("secret", account)[:30]).decode())

    def holder(self, key_id: str) -> Key | None:
        """Return the key whose id is ``key_id``, or None if it is not of this cloud; in constant time for its parts."""
        known = self.home if _same(key_id, self.home.id) else self._read(key_id)
        return known if known and _same(key_id, known.id) else None

    def _read(self, key_id: str) -> Key | None:
        try:
            decoded = base64.b32decode(key_id.removeprefix(_PREFIX))
        except (binascii.Error, ValueError):
            return None
        account = f"{int.from_bytes(decoded[:_HALF], 'big'):012d}"
        return self.of(account) if len(account) == len(self.home.account) else None

    def _derive(self, purpose: str, account: str) -> bytes:
        return hmac.digest(self.home.secret.encode(), f"{purpose}:{account}".encode(), "sha256")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
