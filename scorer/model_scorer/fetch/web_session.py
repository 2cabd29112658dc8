"""One HTTP connection after another: proxies, TLS, redirects under rules, credentials for one origin only.

Built on `http.client`, because a model's bytes should go from the socket into a buffer of ours and nowhere else, and
because the rules on redirects must hold for the address that is connected to, not for one looked up a moment before.
"""

import base64
import http.client
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from model_scorer.errors import ModelForbidden, ModelUnreachable
from model_scorer.fetch.addresses import Network, Zone, is_address
from model_scorer.fetch.location import redact_uri
from model_scorer.fetch.retry import TransientError

log = logging.getLogger(__name__)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 10

Origin = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class WebOptions:
    """How requests are made.

    Attributes:
        connect_timeout_seconds: for the connection, proxy and TLS handshake each.
        read_timeout_seconds: longest silence on a connection.
        environ: where proxies and credentials come from.
        network: names and addresses.
    """

    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 60.0
    environ: Mapping[str, str] = field(default_factory=lambda: MappingProxyType(dict(os.environ)))
    network: Network = field(default_factory=Network)


def build_authorization(environ: Mapping[str, str]) -> str:
    """Return the Authorization header's value from the environment, or an empty string."""
    token = environ.get("HTTP_BEARER_TOKEN", "").strip()
    if token:
        return f"Bearer {token}"
    user = environ.get("HTTP_USERNAME", "")
    if user:
        pair = f"{user}:{environ.get('HTTP_PASSWORD', '')}".encode()
        return "Basic " + base64.b64encode(pair).decode()
    return ""


def build_ssl_context() -> ssl.SSLContext:
    """Return a context that verifies, with the system's authorities or those of `SSL_CERT_FILE`."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"] and not os.environ.get("SSL_CERT_FILE"):
        try:  # a slim image may come without the system's certificates
            import certifi
        except ImportError:
            return context
        context.load_verify_locations(certifi.where())
    return context


class WebSession:
    """Requests of one thread, over a connection that is kept while it lasts.

    Args:
        start_url: the URL that the model URI names; credentials are for its origin alone.
        options: timeouts, environment, network.
    """

    def __init__(self, start_url: str, options: WebOptions) -> None:
        self._options = options
        self._start_origin = _origin_of(urlsplit(start_url))
        self._authorization = build_authorization(options.environ)
        self._query = options.environ.get("HTTP_QUERY", "").strip().lstrip("?")
        self._proxies = {
            scheme: options.environ.get(f"{scheme}_proxy")
            or options.environ.get(f"{scheme.upper()}_PROXY", "")
            for scheme in ("http", "https")
        }
        self._ssl_context: ssl.SSLContext | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._connected_to: Origin | None = None
        self._zone = Zone.PUBLIC

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._connected_to = None

    def get(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """Send a GET request and follow redirects.

        Args:
            url: absolute; `HTTP_QUERY` is added when it is on the start URL's origin and has no query.
            headers: sent with each hop; Authorization is added for the start URL's origin only.

        Returns:
            The response of the last hop, its body unread, whatever its status. Call `close()` unless it was read to
            its end.

        Raises:
            TransientError: no answer.
            ModelForbidden: a redirect leads where it must not.
            ModelUnreachable: TLS is not trusted, or too many redirects.
        """
        first_zone: Zone | None = None
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._send(url, headers, first_zone)
            first_zone = first_zone or self._zone
            if response.status not in _REDIRECTS:
                return response
            target = response.headers.get("Location", "")
            self.close()  # cheaper than reading a body that nobody wants
            url = self._follow(url, target)
        raise ModelUnreachable(
            f"{redact_uri(url)} redirects more than {_MAX_REDIRECTS} times.",
            hint="Name the URL where the redirects end.",
        )

    def _follow(self, url: str, target: str) -> str:
        try:
            followed = urljoin(url, target)
            parts = urlsplit(followed)
            parts.port  # noqa: B018 (raises ValueError when it is not a number)
        except ValueError:
            parts, followed = urlsplit(""), target
        if not target or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ModelForbidden(
                f"{redact_uri(url)} redirects to {redact_uri(followed)!r}, which is no http(s) URL.",
                hint="Name a URL that answers with the model itself.",
            )
        if urlsplit(url).scheme == "https" and parts.scheme == "http":
            raise ModelForbidden(
                f"{redact_uri(url)} redirects from https to {redact_uri(followed)}.",
                hint="Name the model's URL at a server that stays on https.",
            )
        log.info("redirected", extra={"uri": redact_uri(url), "to": redact_uri(followed)})
        return followed

    def _send(
        self, url: str, headers: Mapping[str, str], first_zone: Zone | None
    ) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        origin = _origin_of(parts)
        display = redact_uri(url)
        target = parts.path or "/"
        sent = {
            "Host": parts.netloc.rpartition("@")[2],
            "User-Agent": "model-scorer-fetch",
            **headers,
        }
        query = parts.query
        if origin == self._start_origin:
            query = query or self._query
            if self._authorization:
                sent["Authorization"] = self._authorization
        target = _quote(f"{target}?{query}" if query else target)
        try:
            reused = self._connected_to == origin and self._connection is not None
            try:
                return self._request(origin, first_zone, target, sent)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                if not reused:
                    raise
                # The server closed a kept connection while it was idle: that is no failure.
                self.close()
                return self._request(origin, first_zone, target, sent)
        except ssl.SSLCertVerificationError as err:
            self.close()
            raise ModelUnreachable(
                f"The certificate of {display} is not trusted: {err.verify_message}.",
                hint="Use a certificate of a known authority, or give the authority's file in SSL_CERT_FILE (spec.env).",
            ) from err
        except socket.gaierror as err:
            self.close()
            raise TransientError(
                ModelUnreachable(
                    f"The host of {display} is not known: {err.strerror}.",
                    hint="Check the host's spelling, and that the pod's DNS knows it.",
                )
            ) from err
        except (OSError, http.client.HTTPException) as err:
            self.close()
            raise TransientError(
                ModelUnreachable(
                    f"{display} did not answer: {describe_error(err)}.",
                    hint="Check that the server is up and that the pod may reach it (network policies, proxies).",
                )
            ) from err

    def _request(
        self, origin: Origin, first_zone: Zone | None, target: str, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        if self._connection is None or self._connected_to != origin:
            self.close()
            self._connect(origin, first_zone)
        connection = self._connection
        assert connection is not None
        proxied = origin[0] == "http" and self._proxy_for(origin) is not None
        if proxied:
            target = f"http://{headers['Host']}{target}"
        connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        # The digest is of the bytes as stored; a transfer encoding of the moment would change them.
        connection.putheader("Accept-Encoding", "identity")
        if proxied and (proxy := self._proxy_for(origin)) is not None:
            for name, value in _proxy_headers(proxy).items():
                connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse()

    def _connect(self, origin: Origin, first_zone: Zone | None) -> None:
        scheme, host, port = origin
        options = self._options
        connection = http.client.HTTPConnection(host, port, timeout=options.read_timeout_seconds)
        proxy = self._proxy_for(origin)
        if proxy is not None:
            self._zone = self._check_zone(host, [host] if is_address(host) else [], first_zone)
            sock = self._open_socket(
                options.network.resolve(proxy.hostname or "", proxy.port or 80), proxy.port or 80
            )
            if scheme == "https":
                try:
                    _open_tunnel(sock, host, port, _proxy_headers(proxy))
                except BaseException:
                    sock.close()
                    raise
        else:
            addresses = options.network.resolve(host, port)
            self._zone = self._check_zone(host, addresses, first_zone)
            sock = self._open_socket(addresses, port)
        if scheme == "https":
            self._ssl_context = self._ssl_context or build_ssl_context()
            try:
                # A connection cut without TLS's goodbye must look cut, not complete.
                sock = self._ssl_context.wrap_socket(
                    sock, server_hostname=host, suppress_ragged_eofs=False
                )
            except BaseException:
                sock.close()
                raise
        sock.settimeout(options.read_timeout_seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = sock
        self._connection, self._connected_to = connection, origin

    def _check_zone(self, host: str, addresses: list[str], first_zone: Zone | None) -> Zone:
        zones = {self._options.network.zone_of(address) for address in addresses}
        # One bad address spoils the name: which of several is connected to would be the name server's choice.
        if Zone.FORBIDDEN in zones:
            raise ModelForbidden(
                f"{host} has a link-local or reserved address ({', '.join(addresses)}), "
                "where the node's own credentials are handed out.",
                hint="Name a server that is not the platform's metadata service.",
            )
        if Zone.PRIVATE in zones and first_zone is Zone.PUBLIC:
            raise ModelForbidden(
                f"A public server redirects to {host}, a private address ({', '.join(addresses)}).",
                hint="Name the private server in spec.modelURI itself, if it is meant.",
            )
        return Zone.PRIVATE if Zone.PRIVATE in zones else Zone.PUBLIC

    def _open_socket(self, addresses: list[str], port: int) -> socket.socket:
        failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
        for address in addresses:
            try:
                return socket.create_connection(
                    (address, port), self._options.connect_timeout_seconds
                )
            except OSError as err:
                failure = err
        raise failure

    def _proxy_for(self, origin: Origin) -> SplitResult | None:
        scheme, host, _ = origin
        value = self._proxies[scheme]
        environ = self._options.environ
        excluded = environ.get("no_proxy") or environ.get("NO_PROXY", "")
        if not value or _is_excluded(host, excluded):
            return None
        return urlsplit(value if "://" in value else f"http://{value}")


def describe_error(err: Exception) -> str:
    """Say in few words what went wrong on a connection."""
    if isinstance(err, TimeoutError):
        return "it took too long"
    if isinstance(err, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(err, ConnectionResetError | BrokenPipeError | http.client.RemoteDisconnected):
        return "the connection was closed"
    if isinstance(err, http.client.IncompleteRead):
        return "the connection was closed in the middle of the body"
    if isinstance(err, OSError) and err.strerror:
        return err.strerror.rstrip(".")
    return f"{type(err).__name__}: {err}".rstrip(": ")


def _origin_of(parts: SplitResult) -> Origin:
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)


def _is_excluded(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY names the host: itself, a domain it is in, `*`, or a network (10.0.0.0/8)."""
    for entry in (entry.strip().lower() for entry in no_proxy.split(",")):
        name = entry.lstrip("*").lstrip(".").partition(":")[0] if entry.count(":") < 2 else entry
        if entry == "*" or (name and (host == name or host.endswith(f".{name}"))):
            return True
        if is_address(host) and "/" in entry:
            try:
                if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue
    return False


def _quote(target: str) -> str:
    """Percent-encode what must not stand in a request line, and leave what is encoded alone."""
    return "".join(
        character
        if "!" <= character <= "~"
        else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in target
    )


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair).decode()}


def _open_tunnel(sock: socket.socket, host: str, port: int, headers: Mapping[str, str]) -> None:
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    response = http.client.HTTPResponse(sock, method="CONNECT")
    response.begin()
    if response.status != 200:
        raise OSError(f"the proxy answered {response.status} {response.reason}")
