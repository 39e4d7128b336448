"""The types of apps' secret keys (spec/machines.md §1.2); what each does is in `keyring.kms`.

Apart from `wire.keyring`, so that who only names them, as the command line, loads no cryptography.
"""

from typing import Literal

KeyType = Literal[
    "hs256",
    "hs384",
    "hs512",
    "es256",
    "nacl_auth",
    "nacl_sign",
    "xaes256gcm",
    "nacl_box",
    "nacl_secretbox",
]
