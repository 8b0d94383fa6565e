"""Where the service is, and with which key."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamo_batch.errors import SettingsError
from dreamo_batch.service.config import Secret, Settings, is_loopback_host, resolve

KEY = "sk-example-key"
keys = st.from_regex(r"[!#-&(-~][!-~]{0,39}", fullmatch=True)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch):
    monkeypatch.delenv("DREAMO_API_KEY", raising=False)
    monkeypatch.delenv("DREAMO_BASE_URL", raising=False)


def test_arguments_go_before_the_environment_and_the_environment_before_the_default(monkeypatch):
    """Key and base URL are settled one by one, in this order."""
    assert resolve() == Settings("https://cloud.vtrix.ai", None)
    monkeypatch.setenv("DREAMO_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("DREAMO_BASE_URL", "https://other.example/")
    assert resolve() == Settings("https://other.example", Secret(KEY))
    assert resolve("sk-mine", "http://[::1]:80").api_key == Secret("sk-mine")


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_a_blank_key_is_no_key(blank, monkeypatch):
    """An empty variable is what a shell leaves behind, not a key."""
    monkeypatch.setenv("DREAMO_API_KEY", blank or "")
    assert resolve(blank).api_key is None


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.example",
        "http://127.0.0.1.example",
        "http://localhost.example",
        "http://0.0.0.0:80",
        "ftp://127.0.0.1",
        "gateway.example",
        "//gateway.example",
        "https://",
        "https://:443",
        "https://me@gateway.example",
        "https://me:pass@gateway.example",
        "https://gateway.example?a=b",
        "https://gateway.example?",
        "https://gateway.example/#top",
        "https://gateway.example\\@evil.example",
        "https://gateway.example:99999",
        "https://gateway.example:0",
        "https://gateway.example:",
        "https://gateway.example:port",
        "https://[::1",
        "https://gate way.example",
        "https://b\u00fccher.example",
        "https://gateway.example/a/../b",
        "https://gateway.example/a b",
        "https://-x.example",
        "",
    ],
)
def test_urls_that_could_give_the_key_away_or_mean_two_things_are_refused(url):
    """Plain http beyond loopback, user information, queries, other schemes, odd hosts and paths."""
    with pytest.raises(SettingsError):
        Settings(url, Secret(KEY))


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@gateway.example", "https://gateway.example?token=hunter2"]
)
def test_a_refused_url_is_not_quoted_where_it_may_hold_a_password(url):
    """The message says what is wrong without repeating it."""
    with pytest.raises(SettingsError) as caught:
        Settings(url, None)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8000", "loopback"),
        ("http://127.9.9.9", "loopback"),
        ("https://LOCALHOST:9/", "loopback"),
        ("http://[::1]:80/a/b/", "loopback"),
        ("https://Gateway.Example", "gateway.example:443"),
        ("https://gateway.example:8443/api", "gateway.example:8443"),
        ("https://[2001:db8::1]", "[2001:db8::1]:443"),
    ],
)
def test_services_are_named_by_host_and_port_or_as_loopback(url, name):
    """Whatever the spelling, one service has one name."""
    settings = Settings(url, None)
    assert settings.service_name == name
    assert settings.is_loopback == (name == "loopback")
    assert not settings.base_url.endswith("/")


def test_a_path_below_the_host_is_kept():
    """Gateways are often mounted below a path."""
    assert Settings(" https://gateway.example/api/v2/ ", None).base_url == "https://gateway.example/api/v2"


@pytest.mark.parametrize("name", ["connect_timeout_s", "read_timeout_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_timeouts_are_positive_and_finite(name, value):
    """Everything that could wait for ever is refused."""
    with pytest.raises(SettingsError, match=name):
        resolve(KEY, **{name: value})


@pytest.mark.parametrize(
    "key", ["", "  ", "a b", "Bearer sk", "a\nb", "a\x00b", "schl\u00fcssel", "sk-\u200bzero", '"sk"']
)
def test_keys_that_no_header_can_carry_are_refused_without_being_shown(key):
    """A pasted line break or the word Bearer is told, the key is not."""
    with pytest.raises(SettingsError) as caught:
        Secret(key)
    assert not key.strip() or key not in str(caught.value)


@given(keys)
def test_no_text_of_a_secret_shows_the_key(key):
    """repr, str, format, and those of the settings around it."""
    secret = Secret(key)
    settings = Settings("http://127.0.0.1", secret)
    texts = (repr(secret), str(secret), f"{secret}", f"{secret:>10}".strip(), repr(settings).split("***")[0])
    assert texts[:4] == ("Secret('***')", "***", "***", "***")
    assert texts[4] == "Settings(base_url='http://127.0.0.1', api_key=Secret('"
    assert secret.reveal() == key


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_secret_is_never_pickled_or_copied(take):
    """What leaves the process leaves without the key."""
    for holder in (Secret(KEY), Settings("http://127.0.0.1", Secret(KEY))):
        if take is not copy.copy or isinstance(holder, Secret):
            with pytest.raises(TypeError, match="pickled"):
                take(holder)
    assert not hasattr(Secret(KEY), "__dict__")


def test_secrets_are_equal_by_their_key():
    """Two clients with the same key have the same settings."""
    assert Secret(KEY) == Secret(f" {KEY} ")
    assert Secret(KEY) != Secret("sk-other")
    assert Secret(KEY) != KEY
    assert len({Secret(KEY), Secret(KEY)}) == 1


@given(keys.filter(lambda key: len(key) >= 4), st.text(max_size=30), st.data())
def test_a_masked_text_shows_neither_the_key_nor_its_beginning_at_a_cut(key, around, data):
    """Wherever the key stands, and wherever the text ends within it, only the mask is left."""
    shown = data.draw(st.integers(4, len(key)))
    masked = Secret(key).mask(f"{around} {key} {around} {key[:shown]}")
    assert key not in masked.replace("***", "")
    assert not masked.removesuffix("***").endswith(f" {key[:shown]}")


def test_spellings_of_the_key_are_masked_too():
    """Services echo keys percent-encoded and JSON-escaped."""
    secret = Secret('sk/"=+key')
    assert (
        secret.mask('a sk/"=+key b sk%2F%22%3D%2Bkey c sk/\\"=+key d sk\\/\\"=+key')
        == "a *** b *** c *** d ***"
    )


@pytest.mark.parametrize(
    ("host", "is_loopback"), [("localhost.", True), ("127.1", False), ("::ffff:8.8.8.8", False)]
)
def test_only_certain_loopback_counts(host, is_loopback):
    """A spelling that needs a resolver to understand is not loopback."""
    assert is_loopback_host(host) is is_loopback
