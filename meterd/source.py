"""Where the configuration comes from: a file, the environment, and the keys in the data folder.

Reading it again is a reload. What is written in the file means is decided in domain/config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from meterd.domain.addresses import Server, bind_address
from meterd.domain.config import OF_ENVIRONMENT, Config, decode
from meterd.domain.credentials import ENVIRONMENT_KEY_ID
from meterd.domain.errors import ConfigError
from meterd.domain.sections import Refused
from meterd.domain.source_text import TEXT_MAX, Form, parse
from meterd.keyfile import KEY_FILE, read_keys

# In the working directory, the first that is there. The second is the old system's.
DEFAULT_FILES: Final = ("systemconfig.toml", "systemconfig.json")


class ConfigSource(msgspec.Struct, frozen=True):
    """A configuration file, and the environment that wins over it. ``.json`` is JSON, else TOML."""

    path: Path
    environ: Mapping[str, str]

    def configured(self) -> Config:
        """What file and environment say, without the key file. Raises as read does."""
        try:
            with self.path.open("rb") as file:
                text = file.read(TEXT_MAX + 1)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from error
        try:
            return decode(text, form=self._form, environ=self.environ)
        except ConfigError as error:
            placed = (
                line if line.startswith(OF_ENVIRONMENT) else f"{self.path}: {line}"
                for line in str(error).splitlines()
            )
            raise ConfigError("\n".join(placed)) from error

    def server(self) -> Server:
        """Where a daemon listens that was started with this, whatever else is wrong in it by now:
        a daemon that runs keeps what it has, and a shell lacks the secrets of its environment.

        Raises ConfigError where that cannot be told.
        """
        try:
            return self.configured().server
        except ConfigError:
            server = self._server_alone()
            if server is None:
                raise
            return server

    def _server_alone(self) -> Server | None:
        section: Any = {}
        with suppress(ConfigError, OSError):
            text = self.path.read_bytes()[: TEXT_MAX + 1]
            section = parse(text, self._form).values.get("server", {})
        if not isinstance(section, dict):
            section = {}
        try:
            address = self.environ.get("METERD_BIND") or section.get("bind")
            server = bind_address(address) if address or not section else Server()
        except Refused:
            return None
        return msgspec.structs.replace(
            server, tls_certificate=str(section.get("tls_certificate", ""))
        )

    @property
    def _form(self) -> Form:
        return "json" if self.path.suffix == ".json" else "toml"

    def read(self, *, data_dir: str | None = None) -> Config:
        """The whole configuration, with the key file's keys first.

        A reload passes the data folder in use: while a changed ``storage.path`` waits for a
        restart, the keys are still those of the old folder. Raises ConfigError, each line with its
        file.
        """
        config = self.configured()
        folder = Path(data_dir or config.storage.path)
        made = read_keys(folder)
        for key in config.keys:
            if key.id == ENVIRONMENT_KEY_ID:
                continue
            if any(key.id == other.id or key.hash == other.hash for other in made):
                raise ConfigError(
                    f"{self.path}: keys: {key.id} is in {folder / KEY_FILE} too; remove one"
                )
        return msgspec.structs.replace(config, keys=(*made, *config.keys))


def locate(given: Path | None, environ: Mapping[str, str], folder: Path) -> ConfigSource:
    """The file given, else METERD_CONFIG, else the first default that is in the folder.

    Raises ConfigError if there is none.
    """
    if given is not None:
        return ConfigSource(given, environ)
    if environ.get("METERD_CONFIG"):
        return ConfigSource(Path(environ["METERD_CONFIG"]), environ)
    for name in DEFAULT_FILES:
        if (folder / name).is_file():
            return ConfigSource(Path(name) if folder == Path() else folder / name, environ)
    raise ConfigError(
        f"no configuration: there is no {' or '.join(DEFAULT_FILES)} in {folder.absolute()};"
        " give --config PATH or set METERD_CONFIG"
    )
