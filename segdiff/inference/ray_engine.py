"""Prediction beyond one machine: a pool of Ray actors, each with a detector of its own.

Images and prediction folder lie on a file system that all machines share: pairs travel as paths, results as files.
"""

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from data_pipelines.layouts import Pair
from segdiff import __version__
from segdiff.inference.folder_run import DetectorPlan, LocalEngine, OnRows
from segdiff.inference.manifest import digest
from segdiff.inference.pair_writer import PairWriter, WrittenPair
from segdiff.inference.predictor import FailedPair
from segdiff.inference.rasters import is_raster
from segdiff.model_files import Augmentation, PostProcessing, Settings, resolve_model

_AT_ONCE = 8
"""Pairs of ordinary images that an actor is given at a time, to read some while it computes others."""

_CALLS = 2
"""What an actor is given before it has answered: it begins the next while the answer is on its way."""

_ATTEMPTS = 3
"""So often a pair may end its worker before it counts as failed."""


class RayError(ValueError):
    """A cluster that does not do what is asked; the message is one line."""


class LostWorkersError(RuntimeError):
    """A cluster on which no actor lives; the message is one line."""


@dataclass(frozen=True)
class PoolSize:
    """How many actors there are and what each has of a machine; None: what the cluster offers."""

    actors: int | None = None
    cpus: int = 2
    gpus: float | None = None


@dataclass(frozen=True)
class Described:
    """What an actor has loaded; the same in all of them."""

    settings: Settings
    runtime: str
    post_processing: PostProcessing
    test_time_augmentation: Augmentation
    models: tuple[str, ...]
    """SHA-256 of the files."""
    version: str


class Worker:
    """An actor: the detector of one process."""

    def prepare(self, plan: DetectorPlan, threads: int) -> Described:
        """Loads the detector. Raises what ``load`` does, and ValueError on options out of range."""
        detector = plan.load(threads)
        self._engine = LocalEngine(detector, plan.options)
        digests = tuple(digest(resolve_model(model)) for model in (plan.model, *plan.ensemble))
        return Described(
            detector.settings,
            detector.runtime,
            detector.post_processing,
            detector.test_time_augmentation,
            digests,
            __version__,
        )

    def predict(self, writer: PairWriter, pairs: list[Pair]) -> list[WrittenPair | FailedPair]:
        """Predicts the pairs and writes their files."""
        return list(self._engine.predict(writer, pairs, lambda rows, of: None))


class _Actor:
    """A place for an actor: the actor that holds it now, and the calls that it has not answered, oldest first."""

    def __init__(self, handle: Any, preparing: Any):
        self.handle, self.preparing = handle, preparing
        self.calls: deque[tuple[Any, list[Pair]]] = deque()


class RayEngine:
    """Predicts in a pool of actors; made by ``open_ray_engine``.

    An actor is given pairs as it answers, so that the list of pairs is drawn no faster than they are predicted. The
    pairs of an actor that dies, or whose machine does, are given to others, and another actor takes its place where
    there is room. A pair whose actors die again and again is a failed pair.
    """

    def __init__(self, ray: Any, plan: DetectorPlan, size: PoolSize, say: Callable[[str], None]):
        self._ray, self._plan, self._say = ray, plan.absolute(), say
        gpus = _gpus(ray, plan) if size.gpus is None else size.gpus
        count = size.actors or _room(ray, size.cpus, gpus)
        if not count:
            raise RayError(
                f"the cluster has no machine with {size.cpus} CPUs and {gpus:g} GPUs free for an actor; "
                "ask for fewer with --cpus-per-actor or --gpus-per-actor, or say how many will come with --actors"
            )
        self._threads = size.cpus
        self._class = ray.remote(Worker).options(
            num_cpus=size.cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self.path = resolve_model(plan.model)
        self._deaths = 0
        self._actors = [self._start() for _ in range(count)]
        self._described: Described | None = None
        while self._described is None:
            self._wait()

    @property
    def settings(self) -> Settings:
        """Those of the model."""
        assert self._described is not None
        return self._described.settings

    @property
    def runtime(self) -> str:
        """What computes, for a person."""
        assert self._described is not None
        return self._described.runtime

    @property
    def post_processing(self) -> PostProcessing:
        """What is done to the masks."""
        assert self._described is not None
        return self._described.post_processing

    @property
    def test_time_augmentation(self) -> Augmentation:
        """What the actors predict the mean of."""
        assert self._described is not None
        return self._described.test_time_augmentation

    def predict(self, writer: PairWriter, pairs: Iterable[Pair], on_rows: OnRows) -> Iterator[WrittenPair | FailedPair]:
        """Each pair once, as they come."""
        writer = replace(writer, folder=writer.folder.absolute(), loose=writer.loose.absolute())
        shared = self._ray.put(writer)
        fresh = _calls(pairs)
        again: deque[list[Pair]] = deque()
        attempts: dict[str, int] = {}
        while True:
            self._give(shared, fresh, again)
            if not any(actor.calls for actor in self._actors) and not again and not self._more(fresh, again):
                return
            for actor, answer in self._wait():
                if answer is not None:
                    yield from answer
                    continue
                # the oldest call was at work when the actor died, the others had not begun
                for number, (_, call) in enumerate(actor.calls):
                    if number:
                        again.append(call)
                        continue
                    for pair in call:
                        attempts[pair.name] = attempts.get(pair.name, 0) + 1
                        if attempts[pair.name] < _ATTEMPTS:
                            again.append([pair])
                        else:
                            yield FailedPair(
                                pair,
                                f"{pair.after}: its worker died {_ATTEMPTS} times, perhaps for want of memory; "
                                "give actors more, or try smaller tiles",
                            )

    def _start(self) -> _Actor:
        handle = self._class.remote()
        return _Actor(handle, handle.prepare.remote(self._plan, self._threads))

    def _more(self, fresh: Iterator[list[Pair]], again: deque[list[Pair]]) -> bool:
        """Whether pairs are left, while no actor is ready to take them."""
        again.extend(call for call in [next(fresh, None)] if call is not None)
        return bool(again)

    def _give(self, writer: Any, fresh: Iterator[list[Pair]], again: deque[list[Pair]]) -> None:
        """Fills up the actors that are ready, all with a first call before any with a second."""
        for depth in range(1, _CALLS + 1):
            for actor in self._actors:
                if actor.preparing is None and len(actor.calls) < depth:
                    call = again.popleft() if again else next(fresh, None)
                    if call is None:
                        return
                    actor.calls.append((actor.handle.predict.remote(writer, call), call))

    def _wait(self) -> Iterator[tuple[_Actor, list[WrittenPair | FailedPair] | None]]:
        """What has come: answers, or None of an actor that has died and was replaced."""
        awaited = {}
        for actor in self._actors:
            if actor.preparing is not None:
                awaited[actor.preparing] = actor
            elif actor.calls:
                awaited[actor.calls[0][0]] = actor
        ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=60)
        if ready:  # and all others that are: one that is always first would keep them from it
            ready, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        else:
            waiting = sum(actor.preparing is not None for actor in self._actors)
            if waiting == len(self._actors):
                self._say(f"waiting for the cluster to give room for {waiting} actors")
        results = []
        for reference in ready:
            actor = awaited[reference]
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                raise (error.cause or error) from None
            except self._ray.exceptions.RayError as error:
                self._replace(actor, error)
                results.append((actor, None))
                continue
            if actor.preparing is not None:
                actor.preparing = None
                self._require_alike(answer)
            else:
                self._deaths = 0
                actor.calls.popleft()
                results.append((actor, answer))
        return iter(results)

    def _require_alike(self, described: Described) -> None:
        first = self._described = self._described or described
        if described != first:
            differing = [name for name in vars(first) if getattr(described, name) != getattr(first, name)]
            raise RayError(
                f"the machines of the cluster differ in {', '.join(differing)} ({described.runtime} on one, "
                f"{first.runtime} on another): give all the same segdiff and model, and name --runtime and --precision"
            )

    def _replace(self, actor: _Actor, error: Exception) -> None:
        """Puts another actor in the place of one that has died."""
        self._deaths += 1
        if self._deaths > _ATTEMPTS * len(self._actors) + _ATTEMPTS:
            reason = str(error).strip().splitlines()[-1]
            raise LostWorkersError(
                f"actors die one after the other, {self._deaths} since one last did something: {reason}"
            )
        self._say("a worker died; its pairs are given to others")
        self._ray.kill(actor.handle)  # of one that cannot be reached any more, not even it goes on
        self._actors[self._actors.index(actor)] = self._start()

    def close(self) -> None:
        """Ends the actors."""
        for actor in self._actors:
            self._ray.kill(actor.handle)


def _calls(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Pairs that go to an actor together, with paths that hold anywhere; rasters, which may be large, alone."""
    call: list[Pair] = []
    for pair in pairs:
        pair = replace(pair, before=pair.before.absolute(), after=pair.after.absolute())
        if is_raster(pair.before) and is_raster(pair.after):
            yield [pair]
            continue
        call.append(pair)
        if len(call) == _AT_ONCE:
            yield call
            call = []
    if call:
        yield call


def _machines(ray: Any) -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _gpus(ray: Any, plan: DetectorPlan) -> int:
    """One for each actor where the cluster has any and OpenVINO, which computes on processors, is not asked for."""
    return int(plan.runtime != "openvino" and any(machine.get("GPU") for machine in _machines(ray)))


def _room(ray: Any, cpus: int, gpus: float) -> int:
    """How many actors fit into the machines."""
    by_cpus = ((machine.get("CPU", 0) // cpus, machine.get("GPU", 0)) for machine in _machines(ray))
    return int(sum(min(fit, have // gpus) if gpus else fit for fit, have in by_cpus))


@contextmanager
def open_ray_engine(
    plan: DetectorPlan,
    size: PoolSize,
    *,
    address: str | None = None,
    debug: bool = False,
    say: Callable[[str], None] = print,
) -> Iterator[RayEngine]:
    """The engine on the cluster at ``address`` (host:port, or auto), or on one of this machine alone.

    ``say`` is given lines for a person. Raises RayError where Ray is not installed, the cluster cannot be reached or
    has no room, or its machines differ, LostWorkersError where actors die at once, and what ``load`` raises on a model
    that cannot be loaded there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise RayError("--engine ray: the package ray is not installed: pip install 'segdiff[ray]'") from error
    where: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
    stop = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**where, log_to_driver=debug, logging_level=logging.INFO if debug else logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RayError(f"--address {address}: no cluster can be reached there ({reason})") from error
    signal.signal(signal.SIGTERM, stop)  # Ray has set its own
    try:
        engine = RayEngine(ray, plan, size, say)
        try:
            yield engine
        finally:
            engine.close()
    finally:
        ray.shutdown()
