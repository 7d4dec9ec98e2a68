"""What is published of each host: directly, through which third host, or not at all. Pure but for the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from flyproxy import log
from flyproxy.control.mesh.peers import Peer, Published, Word
from flyproxy.control.mesh.routes import Way, best
from flyproxy.control.mesh.wire import microseconds

Publish = Callable[[int, Published, int, int | None], None]
"""``Closeness.set``: slot, state, rtt_us, slot of the third host."""


class Board:
    """Keeps the words of ``peers`` true. ``direct``: the distances of those that are reached directly, in seconds;
    ``news``: somebody came into or out of direct reach, or the hosts changed. Who must be looked at again is handed to
    ``again`` and settled later: hundreds may have gone through one third host.
    """

    def __init__(self, peers: Mapping[str, Peer], publish: Publish, again: Callable[[Peer, float], None]) -> None:
        self.peers = peers
        self.publish = publish
        self.again = again
        self.direct: dict[str, float] = {}
        self.news = False

    def settle(self, peer: Peer, now: float) -> None:
        """Publish what holds for this host now. One that is not measured yet keeps the word that it has, maybe from
        the control process before this one."""
        if peer.link.state == "unknown" or not peer.host.probed:
            return
        before, word = peer.word, self._word(peer, now)
        self._say(peer, word)
        if before is None or before.state != word.state:
            _log(peer, word, now)

    def told(self, peer: Peer, now: float) -> None:
        """This host told whom it reaches: look again at those that it led to and does not reach any more."""
        for name in peer.carries:
            if peer.hearsay.distance(self.peers[name].name) is None:
                self.again(self.peers[name], now)

    def gone(self, peer: Peer, now: float) -> None:
        """The host is no longer among the peers."""
        self._lead(peer, None)
        self._lost(peer, now)
        self._say(peer, None)

    def _word(self, peer: Peer, now: float) -> Word:
        distance = peer.link.distance
        if distance is not None:
            self.news |= peer.host.id not in self.direct
            self.direct[peer.host.id] = distance
            self._lead(peer, None)
            return Word("direct", microseconds(distance))
        self._lost(peer, now)
        way = best(self._ways(peer), peer.via)
        self._lead(peer, way.host if way else None)
        return Word("via", microseconds(way.length), self.peers[way.host].host.slot) if way else Word("down")

    def _ways(self, target: Peer) -> Iterator[Way]:
        """Through every host that we reach directly and that says it reaches the target; all of them take backhaul
        connections, since only such hosts are measured."""
        for name, there in self.direct.items():
            on = self.peers[name].hearsay.distance(target.name)
            if on is not None:
                yield Way(name, there, on)

    def _lost(self, peer: Peer, now: float) -> None:
        """Out of direct reach: those that it led to need another way."""
        if self.direct.pop(peer.host.id, None) is not None:
            self.news = True
            for name in peer.carries:
                self.again(self.peers[name], now)

    def _lead(self, peer: Peer, via: str | None) -> None:
        if peer.via == via:
            return
        if peer.via is not None and peer.via in self.peers:
            self.peers[peer.via].carries.discard(peer.host.id)
        if via is not None:
            self.peers[via].carries.add(peer.host.id)
        peer.via = via

    def _say(self, peer: Peer, word: Word | None) -> None:
        """None: not measured."""
        if word != peer.word:
            self.publish(peer.host.slot, *(word or Word("unknown")))
            peer.word = word


def _log(peer: Peer, word: Word, now: float) -> None:
    host = peer.host
    name = f"host {host.id} in {host.region}"
    if word.state == "direct":
        log.info("mesh-direct", f"{name} is reached directly, {word.rtt_us / 1000:.1f} ms", host_id=host.id)
        return
    seen = "its own probes arrive, ours are not answered" if peer.link.hears(now) else "nothing comes from it"
    way = f"requests go via host {peer.via}" if peer.via else "no third host reaches it"
    log.warning("mesh-not-direct", f"{name} is not reached directly: {seen}; {way}", host_id=host.id,
                fix=f"see that UDP and TCP pass between this host and {host.address} over the mesh")
