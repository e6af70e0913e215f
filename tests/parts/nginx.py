"""nginx with the site that is deployed, in front of a mirror."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.parts.process import Program, answers, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

SITE = Path(__file__).parents[2] / "deploy/nginx/registry-mirror.conf"
_MAIN = """\
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/temp/body;
    proxy_temp_path {directory}/temp/proxy;
    fastcgi_temp_path {directory}/temp/fastcgi;
    uwsgi_temp_path {directory}/temp/uwsgi;
    scgi_temp_path {directory}/temp/scgi;
    include {directory}/site.conf;
}}
"""


class Nginx(Program):
    """nginx on https, as `deploy/nginx` sets it up; only addresses and the certificate are those of the test."""

    def __init__(self, directory: Path, *, server: str, cert_file: Path, key_file: Path) -> None:
        """`server` is where the mirror is: `127.0.0.1:PORT` or `unix:/path`."""
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"https://{self.host}"
        self.temp = directory / "temp"
        self.temp.mkdir()
        (directory / "site.conf").write_text(
            _with(
                SITE.read_text(),
                {
                    "server 127.0.0.1:5000;": f"server {server};",
                    "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
                    "listen [::]:443 ssl;": "",
                    "/etc/nginx/mirror.crt": str(cert_file),
                    "/etc/nginx/mirror.key": str(key_file),
                },
            )
        )
        main = directory / "nginx.conf"
        main.write_text(_MAIN.format(directory=directory))
        super().__init__(["nginx", "-p", directory, "-c", main, "-e", "stderr"], directory / "nginx.log")

    def ready(self) -> bool:
        return answers(("127.0.0.1", self.port))


def _with(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(f" {old}") == 1, f"{SITE} is to have {old!r} once"
        text = text.replace(f" {old}", f" {new}")
    return text
