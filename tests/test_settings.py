"""The configuration in force is replaced whole."""

from __future__ import annotations

from meterd.domain.config import Config
from meterd.domain.credentials import ALL_SCOPES, ApiKey, hash_of
from meterd.settings import Settings


def test_settings_are_replaced_whole() -> None:
    """A configuration and the keys that it names, never one without the other."""
    first = Config(keys=(ApiKey("one", hash_of("first"), ALL_SCOPES),))
    second = Config(keys=(ApiKey("two", hash_of("second"), ALL_SCOPES),))
    settings = Settings(first)
    assert settings.keyring().authenticate("first") == first.keys[0]
    settings.replace(second)
    assert settings.config() is second
    assert settings.keyring().authenticate("first") is None
    assert settings.keyring().authenticate("second") == second.keys[0]
