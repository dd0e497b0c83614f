"""meterd/source.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from meterd.domain.credentials import ALL_SCOPES, Keyring, Scope, new_key
from meterd.domain.errors import ConfigError
from meterd.keyfile import add_key
from meterd.source import ConfigSource, locate

TEXT, KEY = new_key(bytes(32), frozenset({Scope.READ}))


def source(folder: Path, text: str, **environ: str) -> ConfigSource:
    (folder / "systemconfig.toml").write_text(text)
    environment = {"METERD_DATA_DIR": str(folder / "data"), **environ}
    return ConfigSource(folder / "systemconfig.toml", environment)


def test_each_fault_is_told_with_the_file(tmp_path: Path) -> None:
    """So that a log that gathers several programs says where to look."""
    with pytest.raises(ConfigError) as raised:
        source(tmp_path, "dry_run = 1\nx = 2").read()
    path = tmp_path / "systemconfig.toml"
    assert [line.split(": ")[:2] for line in str(raised.value).splitlines()] == [
        [str(path), "line 1"],
        [str(path), "line 2"],
    ]


def test_reading_again_sees_the_change(tmp_path: Path) -> None:
    """A reload is another read."""
    config_source = source(tmp_path, "")
    assert config_source.read().dry_run is False
    (tmp_path / "systemconfig.toml").write_text("dry_run = true")
    assert config_source.read().dry_run is True


@pytest.mark.parametrize(
    ("text", "environ", "bind"),
    [
        ('[server]\nbind = "127.0.0.1:7"\n[[webhooks]]\nsecret_env = "UNSET"', {}, "127.0.0.1:7"),
        ('[server]\nbind = "127.0.0.1:7"\n[x]', {"METERD_BIND": "127.0.0.1:8"}, "127.0.0.1:8"),
        ("periods = [", {"METERD_BIND": "127.0.0.1:8"}, "127.0.0.1:8"),
        ("server = 1\n", {"METERD_BIND": "127.0.0.1:8"}, "127.0.0.1:8"),
        ("periods = [", {}, None),
        ('[server]\nbind = "nowhere"', {}, None),
    ],
)
def test_where_it_listens_is_told_beside_other_faults(
    tmp_path: Path, text: str, environ: dict[str, str], bind: str | None
) -> None:
    """A daemon that runs is asked for its health also while its file is being edited."""
    config_source = source(tmp_path, text, **environ)
    with pytest.raises(ConfigError):
        config_source.configured()
    if bind is None:
        with pytest.raises(ConfigError):
            config_source.server()
    else:
        assert config_source.server().bind == bind


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, or a folder: a configuration error that says which."""
    with pytest.raises(ConfigError, match=r"nothing\.toml: cannot be read: No such file"):
        ConfigSource(tmp_path / "nothing.toml", {}).read()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        ConfigSource(tmp_path, {}).read()


def test_an_endless_file_is_not_read_to_its_end() -> None:
    """A wrong path does not fill the memory."""
    with pytest.raises(ConfigError, match="/dev/zero: is longer than 262144 bytes"):
        ConfigSource(Path("/dev/zero"), {}).read()


def test_the_form_follows_the_name(tmp_path: Path) -> None:
    """``.json`` is the old system's, anything else TOML."""
    (tmp_path / "old.json").write_text('{"dry_run": true}')
    (tmp_path / "meterd.conf").write_text("dry_run = true")
    environ = {"METERD_DATA_DIR": str(tmp_path / "data")}
    assert ConfigSource(tmp_path / "old.json", environ).read().dry_run
    assert ConfigSource(tmp_path / "meterd.conf", environ).read().dry_run


def test_the_key_files_keys_are_among_the_keys(tmp_path: Path) -> None:
    """Those the command line made count like those of the configuration."""
    add_key(tmp_path / "data", KEY)
    config = source(tmp_path, "").read()
    assert config.keys == (KEY,)
    assert source(tmp_path, "").configured().keys == ()


def test_the_environments_key_wins_over_the_key_file(tmp_path: Path) -> None:
    """The same key with all scopes, whatever the file says of it."""
    add_key(tmp_path / "data", KEY)
    config = source(tmp_path, "", METERD_API_KEY=TEXT).read()
    found = Keyring(config.keys).authenticate(TEXT)
    assert found is not None
    assert found.scopes == ALL_SCOPES


def test_a_reload_reads_the_keys_of_the_folder_in_use(tmp_path: Path) -> None:
    """A storage.path that waits for a restart does not lock everybody out meanwhile."""
    add_key(tmp_path / "data", KEY)
    changed = source(tmp_path, "", METERD_DATA_DIR=str(tmp_path / "elsewhere"))
    assert changed.read().keys == ()
    assert changed.read(data_dir=str(tmp_path / "data")).keys == (KEY,)


@pytest.mark.parametrize(
    ("key_id", "hashed"), [(KEY.id, "0" * 64), ("another", KEY.hash)], ids=["id", "hash"]
)
def test_a_key_in_both_places_is_refused(tmp_path: Path, key_id: str, hashed: str) -> None:
    """Else revoking it in one place would leave it valid by the other."""
    add_key(tmp_path / "data", KEY)
    text = f'[[keys]]\nid = "{key_id}"\nhash = "{hashed}"\nscopes = ["read"]'
    with pytest.raises(ConfigError) as raised:
        source(tmp_path, text).read()
    assert str(raised.value) == (
        f"{tmp_path / 'systemconfig.toml'}: keys: {key_id} is in"
        f" {tmp_path / 'data' / 'keys.json'} too; remove one"
    )


def test_where_the_configuration_is_looked_for(tmp_path: Path) -> None:
    """What is given, METERD_CONFIG, systemconfig.toml, systemconfig.json: the first there is."""
    environ = {"METERD_CONFIG": "/etc/meterd.toml"}
    assert locate(Path("a.toml"), environ, tmp_path).path == Path("a.toml")
    assert locate(None, environ, tmp_path).path == Path("/etc/meterd.toml")
    (tmp_path / "systemconfig.json").write_text("{}")
    assert locate(None, {}, tmp_path).path == tmp_path / "systemconfig.json"
    (tmp_path / "systemconfig.toml").write_text("")
    assert locate(None, {"METERD_CONFIG": ""}, tmp_path).path == tmp_path / "systemconfig.toml"


def test_no_configuration_anywhere(tmp_path: Path) -> None:
    """The message says where was looked, and what to do."""
    with pytest.raises(ConfigError) as raised:
        locate(None, {}, tmp_path)
    assert str(raised.value) == (
        f"no configuration: there is no systemconfig.toml or systemconfig.json in {tmp_path};"
        " give --config PATH or set METERD_CONFIG"
    )
