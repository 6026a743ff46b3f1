"""A certificate authority in a directory, and kubeconfigs for the identities it signs.

Idempotent: what exists and was asked for in the same words is kept, so that running clients stay valid; the authority
itself is never replaced. Keys are readable by root only. Made with the openssl command, which every Debian can have.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster import files
from localcluster.console import CannotRun

_DAYS = "3650"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Identity:
    """A certificate and its key. ``name`` is the common name: to Kubernetes, the user."""

    certificate: Path
    key: Path


class Authority:
    """The one CA of a cluster: it signs servers and clients alike."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "ca.crt"
        self.key = directory / "ca.key"
        self._config = directory / "openssl.cnf"

    def ensure(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        # The distribution's own configuration would add extensions we did not ask for.
        self._config.write_text("[req]\ndistinguished_name = name\n[name]\n")
        if not (self.certificate.exists() and self.key.exists()):
            extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
            self._request(Identity(self.certificate, self.key), "/CN=aifactory-localcluster", extensions, ())

    def issue(self, name: str, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Identity:
        """A certificate in files called ``name``: for a server at ``hosts`` if any are given, for a client always."""
        identity = Identity(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        usage = "clientAuth,serverAuth" if hosts else "clientAuth"
        extensions = ["basicConstraints=critical,CA:FALSE", f"extendedKeyUsage={usage}"]
        if hosts:
            names = (f"IP:{host}" if host.replace(".", "").isdigit() else f"DNS:{host}" for host in hosts)
            extensions.append(f"subjectAltName={','.join(names)}")
        asked = self.directory / f"{name}.json"
        terms = json.dumps([subject, extensions])
        if not (asked.exists() and asked.read_text() == terms and identity.certificate.exists()):
            self._request(identity, subject, extensions, ("-CA", str(self.certificate), "-CAkey", str(self.key)))
            asked.write_text(terms)
        return identity

    def service_account_keys(self) -> tuple[Path, Path]:
        """(private, public): signs the tokens of service accounts."""
        private, public = self.directory / "service-accounts.key", self.directory / "service-accounts.pub"
        if not public.exists():
            _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private))
            _openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
        return private, public

    def _request(self, identity: Identity, subject: str, extensions: Sequence[str], signer: Sequence[str]) -> None:
        added = [argument for extension in extensions for argument in ("-addext", extension)]
        _openssl(
            *("req", "-x509", "-config", str(self._config), *_NEW_KEY, "-days", _DAYS, "-subj", subject),
            *(*added, *signer, "-keyout", str(identity.key), "-out", str(identity.certificate)),
        )

    def kubeconfig(self, path: Path, server: str, identity: Identity) -> Path:
        """Write a kubeconfig that carries its certificates in itself, so that it can be copied. Owner-readable only."""
        text = _KUBECONFIG.format(
            server=server,
            authority=_encoded(self.certificate),
            certificate=_encoded(identity.certificate),
            key=_encoded(identity.key),
        )
        return files.write(path, text)


_KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters:
- name: aifactory-local
  cluster: {{server: "{server}", certificate-authority-data: {authority}}}
users:
- name: user
  user: {{client-certificate-data: {certificate}, client-key-data: {key}}}
contexts:
- name: aifactory-local
  context: {{cluster: aifactory-local, user: user}}
current-context: aifactory-local
"""


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _openssl(*arguments: str) -> None:
    mask = os.umask(0o077)
    try:
        result = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotRun("needs the openssl command: apt-get install openssl") from None
    finally:
        os.umask(mask)
    if result.returncode:
        raise CannotRun(f"openssl {arguments[0]} failed: {result.stderr.strip()}")
