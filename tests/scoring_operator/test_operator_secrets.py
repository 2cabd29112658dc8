from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from scoring_operator.certificates import make_certificate, read_certificate
from scoring_operator.keys import choose_keys, make_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def secret(annotations=None, **data):
    encoded = {
        k.replace("_", "."): base64.b64encode(v.encode() if isinstance(v, str) else v).decode()
        for k, v in data.items()
    }
    return {"metadata": {"name": "s", "annotations": annotations or {}}, "data": encoded}


def test_stored_keys_are_kept():
    keys = choose_keys(secret(primary="p", secondary="s"))
    assert keys.values == {"primary": "p", "secondary": "s"}
    assert keys.rotated == ()


@pytest.mark.parametrize("stored", [None, secret(), secret(primary="p"), secret(secondary="")])
def test_missing_keys_are_made(stored):
    keys = choose_keys(stored).values
    assert all(len(k) >= 40 or k == "p" for k in keys.values())
    assert keys["primary"] != keys["secondary"]


def test_a_key_that_is_no_text_is_replaced():
    assert choose_keys(secret(primary=b"\xff\xfe", secondary="s")).values["primary"]


@pytest.mark.parametrize(
    ("asked", "rotated"),
    [("primary", ("primary",)), ("both", ("primary", "secondary")), ("nonsense", ())],
)
def test_an_annotation_says_which_keys_are_replaced(asked, rotated):
    stored = secret({"mlscoring.io/rotate": asked}, primary="p", secondary="s")
    keys = choose_keys(stored)
    assert keys.rotated == rotated
    assert (keys.values["primary"] != "p") == ("primary" in rotated)
    assert (keys.values["secondary"] != "s") == ("secondary" in rotated)


def test_keys_need_no_quoting():
    assert all(c.isalnum() or c in "-_" for _ in range(20) for c in make_key())


def test_a_made_certificate_is_for_its_host_alone_and_renewed_in_time():
    made = make_certificate("faq.example.com", days=90, now=NOW)
    view = read_certificate(secret(tls_crt=made.pem, tls_key=made.key_pem))
    assert view == made
    assert view.covers("faq.example.com")
    assert not view.covers("example.com")
    assert view.not_before < NOW < view.renew_at() < view.not_after
    assert view.not_after == NOW + timedelta(days=90)


def test_a_host_longer_than_a_common_name_gets_a_certificate_too():
    host = ".".join(["a" * 40] * 4) + ".example.com"
    assert make_certificate(host, days=1, now=NOW).covers(host)


def test_a_wildcard_covers_one_level():
    made = make_certificate("*.example.com", days=1, now=NOW)
    assert made.covers("faq.example.com")
    assert not made.covers("a.faq.example.com")


def test_what_is_wrong_with_a_pair_is_said():
    one = make_certificate("a.example.com", days=1, now=NOW)
    two = make_certificate("a.example.com", days=1, now=NOW)
    for stored, words in [
        (secret(), "tls.crt is missing"),
        (secret(tls_crt=one.pem), "tls.key is missing"),
        (secret(tls_crt=b"x", tls_key=one.key_pem), "tls.crt is no PEM"),
        (secret(tls_crt=one.pem, tls_key=b"x"), "tls.key is no PEM"),
        (secret(tls_crt=one.pem, tls_key=two.key_pem), "does not belong"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_certificate(stored)
