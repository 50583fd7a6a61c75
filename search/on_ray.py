"""A run whose workers are actors of a Ray cluster, which share no file system with the run's folder.

The command that begins the run has its folder. The coordinator is an actor on the same node, which Ray starts again
where it dies. Each worker is an actor with a replica of the folder, and works as any other worker does.
"""

import os
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from mergesearch.copies import copied
from mergesearch.errors import UserError, in_words
from mergesearch.files import cache_folder
from mergesearch.merge_ops.checkpoint.sharing import SHARERS
from mergesearch.say import Say
from mergesearch.search.config import Config
from mergesearch.search.copies import Named, brought, files_of, read_part
from mergesearch.search.crew_run import finished_by
from mergesearch.search.optimize.crew import BAD_INPUT, INTERRUPTED, Crew, Post
from mergesearch.search.ray_shares import Share, share_of
from mergesearch.search.study.coordinator import Coordinator
from mergesearch.search.study.exchange import Exchange, silence
from mergesearch.search.study.replica import Replica
from mergesearch.text import shown
from mergesearch.trust import trust_code

LOCAL = "local"
"""The address of a cluster that is started here, and ends with the run."""
COPIES = "MERGESEARCH_COPIES"
"""The variable with a node's folder for copies of models and data, to which then all are copied; see ``Files``."""
PATIENCE = 10.0
"""Seconds for a cluster's head to answer."""
NO_RAY = "ray: is not installed; `pip install mergesearch[ray]` installs it"
Ending = tuple[int, list[str]]
"""How a worker ended: the exit code of its command, and what it says."""


def run_on_ray(  # noqa: PLR0913, PLR0917 - a run, where its workers are, and who is told of it
    config: Config,
    called: str,
    results: Path,
    address: str,
    say: Say,
    look: Callable[[], None],
) -> None:
    """Runs a config by workers on a Ray cluster, or resumes the run of its name.

    Args:
        config: of the run, which says how many workers there are. Its paths must be valid on every node.
        called: what messages call it.
        results: the folder that has the run's folder; this machine's alone.
        address: of the cluster, as Ray takes it, from one of its nodes; or ``local``.
        say: is told of workers that died.
        look: is called about five times a second.

    Raises:
        UserError: there is no Ray, no such cluster, or too few GPUs; or as ``run`` does.
        Stopped: the workers were asked to stop.
    """
    if (config.search.storage or "").startswith("sqlite"):
        raise UserError("search.storage: a file of SQLite is on one node; leave it out, and the coordinator keeps all")
    silence()  # what is wrong with it is said once
    folder, session = (results / config.output.name).resolve(), uuid.uuid4().hex
    with _cluster(address) as ray:
        share, options = _share(ray, config)
        coordinator = _coordinator(ray, folder, session)
        try:
            content = config.dump()
            files = Files(files_of(content), _on_this_node(ray, Reader))
            start = partial(RayMember, ray, coordinator, options, (files, content, called, share.on_a_node))
            posts = [Post("on Ray, 1 GPU" if share.gpus else "on Ray", {})] * share.workers
            Crew(start, posts, lambda member: _finished(ray, coordinator, folder, config, member), say).run(look)
        finally:
            with suppress(Exception):
                ray.get(coordinator.close.remote(), timeout=10)
            ray.kill(coordinator)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster."""
    try:
        import ray
    except ImportError:
        raise UserError(NO_RAY) from None
    check_address(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    own = {"include_dashboard": False} if address == LOCAL else {}
    ended_by = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, **own, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--ray: cannot connect to {address}: {in_words(error)}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ended_by)  # Ray's own would end the command without a word
    try:
        yield ray
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raises UserError for the address of a client, and where nothing answers at HOST:PORT: Ray waits for minutes."""
    if address.startswith("ray://"):
        raise UserError(f"--ray: found {address}; run this on a node of the cluster (`ray job submit`) with --ray auto")
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--ray: cannot connect to {address}: {in_words(error)}") from None


def _share(ray: Any, config: Config) -> tuple[Share, dict[str, Any]]:
    """What the workers have of the cluster, and as options of an actor. Raises UserError where there is too little."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [(node.get("CPU", 0), node.get("GPU", 0)) for node in resources]
    share = share_of(nodes, config.workers, config.device)
    return share, {"num_gpus": share.gpus, "num_cpus": share.processors, "scheduling_strategy": "SPREAD"}


def _coordinator(ray: Any, folder: Path, session: str) -> Any:
    """The handle of the run's coordinator, on this node."""
    coordinator = _on_this_node(ray, Coordinator, folder, session)
    try:
        ray.get(coordinator.name_of.remote(""))
    except ray.exceptions.RayActorError as error:
        raise UserError(f"{folder}: its coordinator cannot begin: {shown(error)}") from None
    return coordinator


def _on_this_node(ray: Any, kind: type, *arguments: Any) -> Any:
    """An actor beside this command, which Ray starts again where it dies."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(kind)
    return actor.remote(*arguments)


def _finished(ray: Any, coordinator: Any, folder: Path, config: Config, member: str) -> int:
    name = ray.get(coordinator.name_of.remote(member))
    return finished_by(folder, config.search.storage, name) if name else 0


class RayExchange:
    """The ``Exchange`` with a coordinator that is an actor. Ray makes a call again where the actor is started again."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    def __getattr__(self, name: str) -> Callable[..., Any]:
        import ray

        return lambda *arguments: ray.get(getattr(self._coordinator, name).remote(*arguments))


@dataclass(frozen=True)
class Files:
    """What the config names, and the actor that reads it where the command runs."""

    named: Sequence[Named]
    reader: Any

    def brought(self) -> dict[str, str]:
        """Copies what this node lacks, once for all of its workers; see ``brought``."""
        import ray

        folder = os.environ.get(COPIES) or cache_folder() / "copies"
        return brought(
            self.named,
            lambda file, offset: cast(bytes, ray.get(self.reader.read.remote(file, offset))),
            Path(folder),
            everything=COPIES in os.environ,
        )


class Reader:
    """What the actor does that reads files. Ray passes what it returns on as objects, which stay in no memory."""

    def read(self, file: str, offset: int) -> bytes:
        """See ``read_part``."""
        return read_part(file, offset)


class Worker:
    """What an actor of a worker does."""

    def work(  # noqa: PLR0913, PLR0917 - a run, and where its parts are
        self, coordinator: Any, files: Files, config: Mapping[str, Any], called: str, sharers: int, member: str
    ) -> Ending:
        """Works at the run until it ends. Raises whatever a worker dies of."""
        _hear_interrupts()
        os.environ[SHARERS] = str(sharers)
        try:
            with (
                trust_code(bool(config.get("trust"))),
                tempfile.TemporaryDirectory(prefix="mergesearch-") as folder,
                copied(files.brought()),
            ):
                self._work(coordinator, Config.model_validate(config), called, member, Path(folder))
        except UserError as error:
            return BAD_INPUT, list(error.problems)
        except KeyboardInterrupt:
            return INTERRUPTED, []
        return 0, []

    def _work(self, coordinator: Any, config: Config, called: str, member: str, folder: Path) -> None:
        from mergesearch.search.candidates.plan import open_plan
        from mergesearch.search.run import work

        exchange = cast(Exchange, RayExchange(coordinator))
        work(Replica(folder / config.output.name, exchange, member), open_plan(config, called))


def _hear_interrupts() -> None:
    """Lets this process be interrupted; those of Ray are not, so that Ctrl-C ends the command alone."""
    if threading.current_thread() is threading.main_thread():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)


class RayMember:
    """A worker that is an actor; see ``Member``."""

    def __init__(
        self, ray: Any, coordinator: Any, share: Mapping[str, Any], given: tuple[Any, ...], post: Post
    ) -> None:
        self.id = f"{post.place} {uuid.uuid4().hex}"
        self._ray, self._coordinator = ray, coordinator
        self._actor = ray.remote(**share)(Worker).remote()
        self._end = self._actor.work.remote(coordinator, *given, self.id)
        self._words: list[str] = []

    def code(self) -> int | None:
        """See ``Member.code``. The death of an actor has no code of its own."""
        if not self._ray.wait([self._end], timeout=0)[0]:
            return None
        try:
            code, self._words = self._ray.get(self._end)
        except Exception as error:
            code, self._words = 1, [shown(error).strip().splitlines()[-1]]
            self._ray.get(self._coordinator.lost.remote(self.id))
        return int(code)

    def last_words(self) -> list[str]:
        """See ``Member.last_words``."""
        return self._words

    def send(self, number: int) -> None:
        """See ``Member.send``: they are all asked to end together."""
        if number != signal.SIGKILL:
            self._coordinator.end.remote()
        else:
            self.close()

    def wait(self, seconds: float) -> None:
        """See ``Member.wait``."""
        self._ray.wait([self._end], timeout=seconds)

    def close(self) -> None:
        """See ``Member.close``."""
        self._ray.kill(self._actor)
