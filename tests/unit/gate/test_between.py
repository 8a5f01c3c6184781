from __future__ import annotations

import pytest

from proxy.errors import PeerFault
from proxy.gate.between import BAD_MS, Domains, Outcome, words


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        (None, None),
        ("juliet@capulet.example/balcony", None),
        ("capulet.example", None),
        ("room@conference.capulet.example/nick", None),
        ("b.example", None),
        ("romeo@montague.example/orchard", "montague.example"),
        ("Conference.Montague.Example", "conference.montague.example"),
        ("evilcapulet.example", "evilcapulet.example"),
        ("example", "example"),
        ("ju\u00adliet@capulet.example", None),
    ],
)
def test_which_domain_a_stanza_concerns(
    address: str | None, domain: str | None
) -> None:
    domains = Domains(("capulet.example", "b.example"), lambda: 0)
    assert domains.concerned(address) == domain


@pytest.mark.parametrize("address", ["not an@address@at all", "romeo@"])
def test_id_12_what_is_no_domain_is_judged_as_nobodys(address: str) -> None:
    with pytest.raises(PeerFault):
        Domains(("capulet.example",), lambda: 0).concerned(address)


def test_res_06_what_is_remembered_is_bounded() -> None:
    domains = Domains(("capulet.example",), lambda: 0)
    for n in range(20_000):
        domains.learn(f"d{n}.example", Outcome(keyed=True))
    assert domains.known("d19999.example") == Outcome(keyed=True)
    assert domains.known("d0.example") is None
    assert len(domains._known) == 5_000


def test_a_later_outcome_takes_the_place_of_an_earlier() -> None:
    now = 0
    domains = Domains(("capulet.example",), lambda: now)
    domains.learn("x.example", Outcome(keyed=False, text="expired"))
    assert "expired" in words("x.example", domains.known("x.example") or Outcome(True))
    domains.learn("x.example", Outcome(keyed=True))
    now += BAD_MS
    assert domains.known("x.example") == Outcome(keyed=True)
