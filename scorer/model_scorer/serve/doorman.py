"""The doorman: accepts connections and hands each to the worker with the fewest; answers for workers that die.

A second descriptor of every handed-out connection stays here until its worker says that it is closed. So a worker that
crashes on a request leaves somebody who can tell the client, and who can give its other clients to another worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable

from model_scorer.serve.listening import BACKLOG
from model_scorer.serve.messages import send, send_with
from model_scorer.serve.shared import ASSIGNED, IN_FLIGHT, MAX_TRACKED, UNREAD, SharedStats

log = logging.getLogger(__name__)

ACCEPTS_PER_PASS = 64
# Out of descriptors: some will be closed soon, and the backlog keeps who waits.
PAUSE_SECONDS = 0.1


class Doorman:
    """Owns the listening socket of the scoring port.

    Args:
        listener: bound, not listening yet.
        stats: memory shared with the workers.
        find_takers: slot and channel of each worker that may get connections.
    """

    def __init__(
        self,
        listener: socket.socket,
        stats: SharedStats,
        find_takers: Callable[[], list[tuple[int, socket.socket]]],
    ) -> None:
        self._listener = listener
        self._stats = stats
        self._find_takers = find_takers
        self._accepting = False
        # By number: the channel of the worker that has the connection, and our descriptor of it.
        self._held: dict[int, tuple[socket.socket, socket.socket]] = {}
        self._free_numbers = deque(range(MAX_TRACKED))
        # Accepted when no worker was there to take them.
        self._waiting: list[socket.socket] = []

    def listen(self) -> None:
        """Open the port; connections wait until `set_accepting`."""
        self._listener.listen(BACKLOG)

    def set_accepting(self, accepting: bool) -> None:
        """Accept connections, or leave them in the backlog."""
        if accepting:
            waiting, self._waiting = self._waiting, []
            for connection in waiting:
                self._hand_out(connection)
        if accepting == self._accepting or self._listener.fileno() < 0:
            return
        self._accepting = accepting
        loop = asyncio.get_running_loop()
        if accepting:
            loop.add_reader(self._listener.fileno(), self._accept)
        else:
            loop.remove_reader(self._listener.fileno())

    def close(self) -> None:
        """Hand out what already waits in the backlog, then close the port."""
        if self._accepting:
            self._accept()
            self.set_accepting(False)
        for connection in self._waiting:
            connection.close()
        self._listener.close()

    def let_go(self, numbers: list[int]) -> None:
        """A worker closed these connections: close our descriptors too, which ends them for the client."""
        for number in numbers:
            held = self._held.pop(number, None)
            if held is not None:
                held[1].close()
                self._stats.pending[number] = 0
                self._free_numbers.append(number)

    def answer_for(self, channel: socket.socket) -> None:
        """Answer what a dead worker left unanswered, in the dialect that was asked; give others what it did not read.

        A connection that waits for its next request, and holds no data, is closed: the worker may have read one just before.

        Args:
            channel: of the worker.
        """
        unread = []
        for number, (owner, connection) in list(self._held.items()):
            if owner is not channel:
                continue
            due = self._stats.pending[number]
            if due == UNREAD or (not due and _holds_data(connection)):
                del self._held[number]
                self._free_numbers.append(number)
                unread.append(connection)
                continue
            if due:
                # Imported on this rare occasion: the codecs bring numpy, which the supervisor does without.
                from model_scorer.serve.last_answers import render_lost

                with contextlib.suppress(OSError):
                    connection.send(render_lost(due - 1), socket.MSG_DONTWAIT)
                    connection.shutdown(socket.SHUT_RDWR)
            self.let_go([number])
        for connection in unread:
            self._hand_out(connection)

    def pass_on(self, number: int, to: int, request: int, giver: socket.socket) -> None:
        """Hand a connection that one worker gave up to another.

        Args:
            number: of the connection.
            to: the slot that should have it; another if it cannot.
            request: descriptor of the file with the request that was read already; closed here.
            giver: channel of the worker that gave it.
        """
        try:
            held = self._held.get(number)
            if held is None or held[0] is not giver:
                return
            takers = sorted(self._find_takers(), key=lambda taker: taker[0] != to)
            for slot, channel in takers:
                try:
                    message = {"kind": "connection", "number": number}
                    send_with(channel, message, held[1].fileno(), request)
                except OSError as err:
                    log.warning("worker %d takes no connection: %s", slot, err)
                    continue
                self._stats.slots[slot].ints[ASSIGNED] += 1
                self._held[number] = (channel, held[1])
                return
            self.let_go([number])
        finally:
            os.close(request)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_PASS):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as err:
                log.warning("accepting failed: %s", err)
                self.set_accepting(False)
                asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.set_accepting, True)
                return
            self._hand_out(connection)

    def _hand_out(self, connection: socket.socket) -> None:
        """Give a connection to the worker with the fewest; ties go to the one with less in flight."""
        slots = self._stats.slots
        takers = sorted(
            self._find_takers(),
            key=lambda taker: (
                slots[taker[0]].open_connections(),
                slots[taker[0]].ints[IN_FLIGHT],
            ),
        )
        if not takers:
            self._waiting.append(connection)
            return
        for slot, channel in takers:
            number = self._free_numbers.popleft() if self._free_numbers else -1
            if number >= 0:
                self._stats.pending[number] = UNREAD
            try:
                send(channel, {"kind": "connection", "number": number}, connection)
            except OSError as err:
                log.warning("worker %d takes no connection: %s", slot, err)
                if number >= 0:
                    self._free_numbers.append(number)
                continue
            slots[slot].ints[ASSIGNED] += 1
            if number >= 0:
                self._held[number] = (channel, connection)
            else:
                connection.close()
            return
        connection.close()


def _holds_data(connection: socket.socket) -> bool:
    """Whether its client has sent something that nobody has read."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False
