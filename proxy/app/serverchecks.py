"""``tillie gate check``, servers' ports: no certificate, no link (RFC 6120, 13.7.2).

We come as another server would: without TLS, without a certificate, with one that is
worth nothing, and, where ``--s2s-cert`` gives one, with a right one.  Whoever lets in
a server without a good certificate takes its stanzas for that domain's.
"""

from __future__ import annotations

from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto

from ..core.streams import SASL, STREAM_CONDITIONS, STREAMS, TLS, read_error
from ..errors import ConfigFault, Fault
from ..gate.outside import Finding
from ..net.connector import Connector
from ..net.dns import Resolver
from ..net.s2sprobe import probe
from ..net.tls import client_context, speaks_for
from ..net.visit import Visit
from ..suites.fields import b64
from ..wire.framing import SERVER_NS
from ..wire.stanza import Stanza
from .checking import Asked, Place, day
from .throwaway import self_signed

STRANGER: Final = "tillie-check.invalid"
"""Whose server we claim to be; nobody can have it (RFC 2606)."""
_SILENCE: Final = 3.0
_DIALBACK: Final = "{urn:xmpp:features:dialback}dialback"
_MECHANISMS: Final = f"{{{SASL}}}mechanisms"
_STARTTLS: Final = f"{{{TLS}}}starttls"


class ServerChecks:
    """The checks of one domain on its servers' places."""

    def __init__(self, reactor: Any, asked: Asked, resolver: Resolver) -> None:
        self._reactor = reactor
        self._asked = asked
        self._resolver = resolver

    async def of(self, place: Place, directory: str | None) -> list[Finding]:
        """Everything about one place.

        :param directory: the domain's directory, None where none is known.
        """
        found = await self._certificate(place, directory)
        if found[0].ok is False:
            return found
        if not place.direct:
            found.append(await self._clear(place))
        context = client_context(self._asked.ca)
        found.append(
            await self._refused("s2s-no-certificate", "no certificate", place, context)
        )
        certificate, key = self_signed(STRANGER)
        wrong = _with(client_context(self._asked.ca), [certificate], key)
        found.append(
            await self._refused(
                "s2s-wrong-certificate", "a self-signed certificate", place, wrong
            )
        )
        found += await self._own(place)
        return found

    # -- connecting ------

    def _visit(self, seconds: float | None = None) -> Visit:
        seconds = seconds or self._asked.seconds
        return Visit(self._reactor, content=SERVER_NS, seconds=seconds)

    def _connector(self, place: Place, context: SSL.Context | None = None) -> Connector:
        domain = self._asked.domain
        return Connector(
            self._reactor,
            self._resolver,
            servers={domain: (place.address, place.port)},
            tls={domain: "direct" if place.direct else "starttls"},
            trust_anchors=self._asked.ca,
            timeout=self._asked.seconds,
            role="server",
            context=context,
        )

    async def _enter(
        self, visit: Visit, place: Place, own: str, context: SSL.Context | None = None
    ) -> Stanza:
        """Connect as the server of *own*, and the features behind TLS."""
        domain = self._asked.domain
        await visit.connect(self._connector(place, context), domain)
        if not place.direct:
            await visit.open(domain, own)
            await visit.start_tls()
        return await visit.open(domain, own)

    # -- its certificate ------

    async def _certificate(self, place: Place, directory: str | None) -> list[Finding]:
        domain = self._asked.domain
        try:
            attempt = self._connector(place).attempt(domain)
            certificate = await probe(self._reactor, attempt, STRANGER, domain)
        except Fault as fault:
            hint = fault.hint or "other servers cannot reach this domain"
            return [Finding("s2s-tls", place.name, False, fault.text, hint)]
        until = day(certificate.not_valid_after_utc.timestamp())
        found = [
            Finding("s2s-tls", place.name, True, f"certificate valid until {until}")
        ]
        if directory is not None:
            found.append(_names_directory(certificate, directory, place))
        return found

    async def _clear(self, place: Place) -> Finding:
        """Whether a stream without TLS comes to anything."""
        check, domain = "s2s-no-tls", self._asked.domain
        # Prosody answers nothing at all here: silence must not take long.
        visit = self._visit(_SILENCE)
        try:
            await visit.connect(self._connector(place), domain)
            features = await visit.open(domain, STRANGER)
            offer = features.tree().find(_STARTTLS)
            if offer is None or offer.find(f"{{{TLS}}}required") is None:
                return Finding(
                    check,
                    place.name,
                    False,
                    "TLS is not required",
                    "tillie gate config prints the setting",
                )
            visit.send(
                f"<iq type='get' id='tillie-check' from='{STRANGER}' to='{domain}'>"
                "<ping xmlns='urn:xmpp:ping'/></iq>".encode()
            )
            answer = await visit.read()
        except Fault as fault:
            text = f"TLS is required, a stanza in clear comes to nothing ({fault.text})"
            return Finding(check, place.name, True, text)
        finally:
            visit.close()
        if (answer.ns, answer.name) == (STREAMS, "error"):
            return Finding(check, place.name, True, f"refused: {_said(answer)}")
        text = f"a stanza in clear was answered with <{answer.name}/>"
        return Finding(check, place.name, False, text)

    # -- bad certificates ------

    async def _refused(
        self, check: str, what: str, place: Place, context: SSL.Context
    ) -> Finding:
        """Come as STRANGER with *context*: nobody may be let in."""
        visit = self._visit()
        try:
            features = await self._enter(visit, place, STRANGER, context)
            if _DIALBACK in features.children:
                return Finding(
                    check,
                    place.name,
                    False,
                    f"with {what}, dialback is offered: DNS alone then says who"
                    " somebody is",
                    "take dialback away (tillie gate config)",
                )
            if _MECHANISMS not in features.children:
                text = f"with {what}, nothing is offered"
                return Finding(check, place.name, True, text)
            visit.send(_external(STRANGER))
            answer = await visit.read()
        except Fault as fault:
            return Finding(check, place.name, True, f"refused: {fault.text}")
        finally:
            visit.close()
        if (answer.ns, answer.name) == (SASL, "success"):
            text = f"with {what}, {STRANGER} was let in"
            return Finding(check, place.name, False, text, "tillie gate config")
        return Finding(check, place.name, True, f"refused: {_said(answer)}")

    # -- a good one ------

    async def _own(self, place: Place) -> list[Finding]:
        """With the certificate that was given: as whom it names, and as another."""
        check = "s2s-right-certificate"
        if self._asked.identity is None:
            text = "it takes --s2s-cert and --s2s-key of another domain's server"
            return [Finding(check, place.name, None, text)]
        chain, key = load_identity(*self._asked.identity)
        own = named_domain(chain[0])
        context = _with(client_context(self._asked.ca), chain, key)
        other = await self._refused(
            "s2s-other-name", f"the certificate of {own}", place, context
        )
        return [await self._accepted(check, place, own, context), other]

    async def _accepted(
        self, check: str, place: Place, own: str, context: SSL.Context
    ) -> Finding:
        visit = self._visit()
        try:
            features = await self._enter(visit, place, own, context)
            if _MECHANISMS not in features.children:
                text = f"{own} is not offered a login by its certificate"
                return Finding(check, place.name, False, text)
            visit.send(_external(own))
            answer = await visit.read()
        except Fault as fault:
            text = f"{own} is refused: {fault.text}"
            return Finding(check, place.name, False, text, fault.hint)
        finally:
            visit.close()
        if (answer.ns, answer.name) == (SASL, "success"):
            return Finding(check, place.name, True, f"{own} is let in")
        text = f"{own} is refused: {_said(answer)}"
        return Finding(check, place.name, False, text)


def _names_directory(
    certificate: x509.Certificate, directory: str, place: Place
) -> Finding:
    if speaks_for(certificate, directory, "server"):
        text = f"the certificate names {directory} too"
        return Finding("s2s-directory", place.name, True, text)
    return Finding(
        "s2s-directory",
        place.name,
        False,
        f"the certificate does not name {directory}: other servers cannot reach it",
        "have a certificate issued for both names",
    )


def _external(own: str) -> bytes:
    authzid = b64(own.encode())
    return f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>{authzid}</auth>".encode()


def _said(answer: Stanza) -> str:
    ns = STREAM_CONDITIONS if answer.ns == STREAMS else SASL
    condition, _, text = read_error(answer.tree(), ns)
    return f"{condition}: {text}" if text else condition or f"<{answer.name}/>"


# -- certificates that are given ----------------------------------------------


def load_identity(certificate: Any, key: Any) -> tuple[list[x509.Certificate], Any]:
    """The chain and the key in two PEM files.

    :raises ConfigFault: one of them cannot be used.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
        private = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise ConfigFault(
            f"{error.filename} cannot be read: {error.strerror}"
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigFault(
            "--s2s-cert and --s2s-key take PEM files, the key without a passphrase"
        ) from error
    if private.public_key() != chain[0].public_key():
        raise ConfigFault("--s2s-key does not belong to --s2s-cert")
    return chain, private


def named_domain(certificate: x509.Certificate) -> str:
    """The first domain that the certificate names.

    :raises ConfigFault: it names none.
    """
    try:
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    for name in names:
        if not name.startswith("*"):
            return name
    raise ConfigFault("the certificate of --s2s-cert names no domain")


def _with(context: SSL.Context, chain: list[x509.Certificate], key: Any) -> SSL.Context:
    context.use_certificate(chain[0])
    context.use_privatekey(key)
    for issuer in chain[1:]:
        context.add_extra_chain_cert(crypto.X509.from_cryptography(issuer))
    return context
