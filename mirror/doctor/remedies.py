"""What to do where there is no answer: from the mirror, or from an upstream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.doctor.call import Cause

if TYPE_CHECKING:
    from yarl import URL

_START = (
    "start the mirror (mirror serve); if it runs, its log says where it listens. One that listens on 127.0.0.1 (as it "
    "does unless told otherwise) is reached from its own host only: server.listen: 0.0.0.0:5000"
)
_ROUTE = "see to the route, and to the firewalls, between this host and {where}"
_CLOCK = "set the clock of this host right (timedatectl set-ntp true)"

_MIRROR = {
    Cause.NAME: "give {host} an address in DNS or /etc/hosts, or name the mirror by its address",
    Cause.REFUSED: _START,
    Cause.NO_SOCKET: _START,
    Cause.TIMEOUT: "open {where} in the firewalls on the way; if it is open, the mirror hangs: look at its log",
    Cause.UNREACHABLE: _ROUTE,
    Cause.PROXY: _ROUTE,
    Cause.SPEAKS_TLS: "write https:// in its URL (server.public_url, the clients' files), or take server.tls away",
    Cause.SPEAKS_PLAIN: "write http:// in its URL (server.public_url, the clients' files), or give it server.tls",
    Cause.EXPIRED: (
        "renew it: put a new one where server.tls.cert_file and key_file are; the mirror loads it by itself"
    ),
    Cause.NOT_YET: _CLOCK + ", or wait until then",
    Cause.WRONG_NAME: "use a name that it has, or get a certificate that has {host} among its subjectAltName",
    Cause.UNTRUSTED: (
        "put the authority's certificate where the clients look: /etc/docker/certs.d/{where}/ca.crt for Docker, "
        "`ca = …` in hosts.toml for containerd, /etc/containers/certs.d/{where}/ca.crt for Podman and CRI-O; or among "
        "the system's (/usr/local/share/ca-certificates, then update-ca-certificates)"
    ),
    Cause.TLS: "look at the mirror's log, and at server.tls: certificate, chain and key",
    Cause.NOT_HTTP: (
        "something else has port {port}: find out what with `ss -ltnp`, and end it, or give the mirror another port "
        "(server.listen, and the clients' files)"
    ),
}

_OUT = "see whether {where} is right, and whether a firewall lets the mirror out{by_proxy}"
_ADDRESS = "see whether {entry}.url is a registry's address, with the right port"

_UPSTREAM = {
    Cause.NAME: "see to this host's DNS (/etc/resolv.conf), or correct {entry}.url{by_proxy}",
    Cause.REFUSED: _OUT,
    Cause.NO_SOCKET: _OUT,
    Cause.TIMEOUT: _OUT,
    Cause.UNREACHABLE: _OUT,
    Cause.PROXY: (
        "correct http_proxy and https_proxy in the mirror's environment, or {entry}.proxy; if {host} needs no proxy, "
        "name it in no_proxy, or {entry}.proxy: none"
    ),
    Cause.SPEAKS_TLS: "write https:// in {entry}.url",
    Cause.SPEAKS_PLAIN: "write http:// in {entry}.url, if nobody between can read along or change what comes",
    Cause.EXPIRED: "have whoever runs it renew its certificate; if that date is still to come, " + _CLOCK,
    Cause.NOT_YET: _CLOCK,
    Cause.WRONG_NAME: "write a name into {entry}.url that its certificate has",
    Cause.UNTRUSTED: (
        "if that authority is your own (a private registry, or a firewall that looks into TLS), name its certificate: "
        "{entry}.ca_file: /path/ca.pem; if not, somebody stands in between"
    ),
    Cause.TLS: _ADDRESS,
    Cause.NOT_HTTP: _ADDRESS,
}


def mirror(cause: Cause, url: URL) -> str:
    """Return what to do where the mirror does not answer at `url`."""
    return _MIRROR[cause].format(host=url.host, port=url.port, where=f"{url.host}:{url.port}")


def upstream(cause: Cause, entry: str, url: URL, *, proxied: bool) -> str:
    """Return what to do where an upstream does not answer at `url`, which the configuration has at `entry`.

    `proxied`: it is asked by way of a proxy.
    """
    by_proxy = "" if proxied else "; where the way out is a proxy, set https_proxy (and no_proxy) for the mirror"
    where = f"{url.host}:{url.port}"
    return _UPSTREAM[cause].format(host=url.host, where=where, entry=entry, by_proxy=by_proxy)
