"""What a host that joined has of the platform's control, beside its own keys.

Written once, when it joins (`control.replicas` has what and why). Each part may be written again.
"""

from pathlib import Path

from godwit.base import errors, private_files
from godwit.control import replicas, residence
from godwit.host import identity
from godwit.keyring import roots
from godwit.wire.joining import ControlParts


def keep(data: Path, parts: ControlParts) -> None:
    """Put everything where control and keyring look for it.

    Raises:
        Failure: `failed_precondition` when the root keys are not for this host, or the cluster
            is not of this release.
    """
    unknown = set(parts.keys) - set(replicas.KEYS)
    if unknown:
        raise errors.Failure(
            "failed_precondition",
            f"the cluster sent keys that this release does not know: {', '.join(sorted(unknown))}",
            hint="join with the cluster's release of Godwit",
        )
    for name, text in parts.keys.items():
        private_files.write(data / "keys" / name, text)
    private = identity.read_sealing_key(data)
    if private is None:
        raise errors.Failure("failed_precondition", "this host has no key of its own")
    roots.put(data / "keyring", parts.roots, private)
    files = residence.Files(data / "control")
    files.residence.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    residence.write(files.residence, residence.Residence(url=parts.database, moved_from=""))
