"""A mounted secret: its files are read anew for each use, so that a rotated one takes effect."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from aifactory_contract.errors import FactoryError, Reason

AUTHORITY_KEYS = ("ca.crt", "AWS_CA_BUNDLE")
"""Under which a secret has the certificate of a private CA: the first is what cert-manager writes."""


@dataclass(frozen=True)
class Secret:
    """A secret of the namespace, by its name and the directory it is mounted in."""

    name: str
    folder: Path

    def value(self, key: str) -> str | None:
        """What is under a key; None if it is missing or empty. Raises FactoryError (AccessDenied) if it is no text."""
        try:
            return (self.folder / key).read_text().strip() or None
        except OSError:
            return None
        except UnicodeDecodeError as error:
            message = f"secret {self.name}: {key} is not text; write the key as it was given out"
            raise FactoryError(Reason.ACCESS_DENIED, message) from error

    def authority(self) -> Path | None:
        """File with the certificate of a private CA, checked. Raises FactoryError (AccessDenied) if it is none."""
        path = next((self.folder / key for key in AUTHORITY_KEYS if self.value(key) is not None), None)
        if path is None:
            return None
        try:
            ssl.create_default_context(cafile=str(path))
        except (OSError, ValueError) as error:  # SSLError is an OSError
            message = (
                f"secret {self.name}: {path.name} is no certificate in PEM form ({error}); write the CA's certificate"
            )
            raise FactoryError(Reason.ACCESS_DENIED, message) from error
        return path

    def needs(self, *keys: str) -> FactoryError:
        """What to say when none of the keys that are of use is there."""
        words = " and ".join(keys)
        message = f"secret {self.name} needs the keys {words} (looked in {self.folder})"
        return FactoryError(Reason.ACCESS_DENIED, message)
