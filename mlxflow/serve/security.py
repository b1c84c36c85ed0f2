"""Which requests are answered: made for this server, by its own page or by a program, of a sensible size.

A page on the web must not use the model behind the visitor's back. Its requests carry its own Origin, or say
`Sec-Fetch-Site: cross-site`; and if it makes its own name point here (DNS rebinding), they carry its name as
Host. All three are refused. A server that others can reach wants a token besides: `Authorization: Bearer
TOKEN`, or the cookie that the page gets for `/?token=TOKEN`.
"""

import hmac
import ipaddress
import json
import re
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from mlxflow.errors import MlxflowError

# A prompt has at most 1,000 characters; whatever is longer is no request of ours.
MAX_BODY = 64 * 1024
COOKIE = "mlxflow_token"

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


def is_local(host: str) -> bool:
    """Whether an address to bind to is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(token: str) -> None:
    """Raises MlxflowError for a token that is easy to guess, or that addresses and cookies do not carry."""
    if not re.fullmatch(r"[A-Za-z0-9._~-]{16,200}", token):
        raise MlxflowError("A token is 16 to 200 letters, digits and any of . _ ~ -")


def known_host(header: str, host: str) -> bool:
    """Whether a Host header names this machine, which is served at the address or name `host`.

    localhost always does. Where others may come, so do `host`, this machine's name and any address in
    numbers: that can be no one else's, while a name that anyone may register can be made to point here.
    """
    try:
        name = (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if is_local(name) or name.endswith(".localhost"):
        return True
    if is_local(host):
        return False
    own = socket.gethostname().lower()
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return name in (host.lower(), own, f"{own}.local", own.partition(".")[0])


class TooLarge(Exception):
    """The request's body is longer than MAX_BODY."""


class Security:
    """ASGI middleware: the checks above before the app, the headers above after it."""

    def __init__(self, app, *, host: str, token: str | None = None):
        self.app, self.host, self.token = app, host, token

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        state = {"begun": False}

        async def answer(message):
            if message["type"] == "http.response.start":
                state["begun"] = True
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        if refusal := self._refusal(scope, headers):
            await refuse(answer, *refusal)
        elif (token := self._token_in_address(scope)) is not None:
            await self._give_cookie(answer, token)
        else:
            try:
                await self.app(scope, limited(receive), answer)
            except TooLarge:
                if state["begun"]:
                    raise
                await refuse(answer, *TOO_LARGE)

    def _refusal(self, scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        host = headers.get("host", "")
        if not known_host(host, self.host):
            return 403, "wrong_host", "This server does not answer to the name in the Host header."
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            return 403, "wrong_origin", "Pages of other sites may not use this server."
        # A link to the page is harmless; pictures and requests from elsewhere are not.
        link = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
        if origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site") and not link:
            return 403, "wrong_origin", "Pages of other sites may not use this server."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return TOO_LARGE
        open_to_all = scope["path"] == "/health" or self._token_in_address(scope) is not None
        if self.token is not None and not open_to_all and not self._has_token(headers):
            return (
                401,
                "invalid_api_key",
                (
                    "This server wants a token: open the address that it printed, or send "
                    "'Authorization: Bearer TOKEN'."
                ),
            )
        return None

    def _has_token(self, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._right(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._right(cookie.value)

    def _right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def _token_in_address(self, scope) -> str | None:
        """The right token in `/?token=...`, or None."""
        if self.token is None or scope["path"] != "/":
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return given if self._right(given) else None

    @staticmethod
    async def _give_cookie(send, token: str) -> None:
        """Moves the token from the address, which browsers remember, into a cookie that no script reads."""
        cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000"
        await send(
            {
                "type": "http.response.start",
                "status": 303,
                "headers": [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0")],
            }
        )
        await send({"type": "http.response.body", "body": b""})


TOO_LARGE = (413, "too_large", f"The request is longer than {MAX_BODY:,} bytes.")


def limited(receive):
    """`receive` that raises TooLarge when a body without a length turns out too long."""
    seen = 0

    async def counted():
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise TooLarge
        return message

    return counted


async def refuse(send, status: int, code: str, sentence: str) -> None:
    """An error in the shape that OpenAI's clients read, which the page reads too."""
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    body = json.dumps({"error": {"message": sentence, "type": kind, "param": None, "code": code}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
