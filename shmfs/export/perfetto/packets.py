"""Packets of a Perfetto trace, written in batches with the classes of the `perfetto` package.

A file is one message Trace; as its packets are a repeated field, batches of them can follow one another. What
the fields mean: protos/perfetto/trace/track_event/track_event.proto and track_descriptor.proto of Perfetto,
and its documentation "Writing TrackEvent Protos Synthetically".
"""

from collections.abc import Mapping, Sequence
from typing import IO, Any

from shmfs.errors import ShmfsError
from shmfs.report.text import clean
from shmfs.tracefile.format import Meta

BATCH = 4096
"""Packets in memory."""

INTERNED = 100_000
"""Texts of arguments that get a number; further ones are written wherever they are used."""

BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4
"""TrackEvent.Type."""

BYTES = 3
"""CounterDescriptor.Unit.UNIT_SIZE_BYTES."""

MAX_PID = (1 << 31) - 1
"""A pid is an int32 there."""

_SEQUENCE = 1
_CLEARED, _NEEDED = 1, 2
"""TracePacket.SequenceFlags: numbers for texts begin here; numbers for texts are used."""
_REALTIME, _BOOTTIME = 1, 6
"""BuiltinClock."""

Value = int | str | bool | list[str] | None
NONE: Mapping[str, Value] = {}

Message = dict[str, Any]
"""Fields by name, as the constructors of messages take them."""


def import_perfetto() -> Any:
    """Return the module of Perfetto's messages; raises ShmfsError where it is not installed."""
    try:
        from perfetto.protos.perfetto.trace import perfetto_trace_pb2
    except ImportError:
        raise ShmfsError(
            "Perfetto needs the package perfetto, which is not installed: pip install 'shmfs[perfetto]'"
        ) from None
    return perfetto_trace_pb2


class Packets:
    """A Perfetto trace in the making. Times are nanoseconds since the epoch, also as Perfetto's own clock."""

    def __init__(self, file: IO[bytes], meta: Meta) -> None:
        """Write to `file`, beginning with what Perfetto shows of the machine; raises ShmfsError."""
        self._file = file
        self._new_batch = import_perfetto().Trace
        self._batch = self._new_batch()
        self._packets = self._batch.packet
        self._tracks = 0
        self._iids: dict[str, dict[str, int]] = {}
        self._new: Message = {}
        """Numbers that the next packet explains."""
        now = meta.started
        clocks = [{"clock_id": clock, "timestamp": now} for clock in (_REALTIME, _BOOTTIME)]
        self._packets.add(
            timestamp=now,
            clock_snapshot={"clocks": clocks, "primary_trace_clock": _BOOTTIME},
            trusted_packet_sequence_id=_SEQUENCE,
            sequence_flags=_CLEARED | _NEEDED,
        )
        system = {"sysname": "Linux", "release": clean(meta.kernel)}
        self._packets.add(
            timestamp=now, system_info={"utsname": system}, trusted_packet_sequence_id=_SEQUENCE
        )

    def flush(self) -> None:
        """Write what waits; raises OSError."""
        self._file.write(self._batch.SerializeToString())
        self._batch = self._new_batch()  # one that is only cleared keeps its memory
        self._packets = self._batch.packet

    def track(self, name: str = "", parent: int = 0, **kind: Any) -> int:
        """Return the uuid of a new track; `kind` is process, thread, counter or the order of its children."""
        self._tracks += 1
        about: Message = {"uuid": self._tracks} | kind
        if name:
            about["name"] = clean(name)
        if parent:
            about["parent_uuid"] = parent
        self._packets.add(track_descriptor=about, trusted_packet_sequence_id=_SEQUENCE)
        return self._tracks

    def counter(self, name: str, parent: int, unit: str) -> int:
        """Return the uuid of a new track of numbers."""
        about = {"unit": BYTES} if unit == "bytes" else {"unit_name": unit}
        return self.track(name, parent, counter=about)

    def value(self, track: int, time: int, value: float) -> None:
        """Add to a track of numbers."""
        field = "counter_value" if isinstance(value, int) else "double_counter_value"
        self.add(time, {"type": COUNTER, "track_uuid": track, field: value})

    def event(
        self,
        kind: int,
        time: int,
        track: int,
        name: str,
        category: str,
        arguments: Mapping[str, Value] = NONE,
    ) -> None:
        """Add an event of the kind BEGIN or INSTANT; arguments that are None are left out."""
        told: Message = {"type": kind, "track_uuid": track, "name_iid": self.name(name)}
        told["category_iids"] = [self.category(category)]
        told["debug_annotations"] = self.arguments(arguments)
        self.add(time, told)

    def end(self, time: int, track: int) -> None:
        """End what `event` began last on the track."""
        self.add(time, {"type": END, "track_uuid": track})

    def add(self, time: int, event: Message) -> None:
        """Add a TrackEvent as it is."""
        new: Message = {}
        if self._new:
            new, self._new = {"interned_data": self._new}, {}
        self._packets.add(
            timestamp=time,
            track_event=event,
            trusted_packet_sequence_id=_SEQUENCE,
            sequence_flags=_NEEDED,
            **new,
        )
        if len(self._packets) >= BATCH:
            self.flush()

    # Texts that are written once.

    def name(self, text: str) -> int:
        """Return the number for the name of an event."""
        return self._iid("event_names", "name", text)

    def category(self, text: str) -> int:
        """Return the number for a category of events."""
        return self._iid("event_categories", "name", text)

    def arguments(self, arguments: Mapping[str, Value]) -> Sequence[Message]:
        """Return them as messages DebugAnnotation."""
        return [self.argument(name, value) for name, value in arguments.items() if value is not None]

    def argument(self, name: str, value: Value) -> Message:
        """Return one as a message DebugAnnotation."""
        return {"name_iid": self.argument_name(name)} | self._value(value)

    def argument_name(self, name: str) -> int:
        """Return the number for the name of an argument."""
        return self._iid("debug_annotation_names", "name", name)

    def _value(self, value: Value) -> Message:
        if isinstance(value, list):
            return {"array_values": [self._value(one) for one in value]}
        if isinstance(value, str):
            known = self._iids.get("debug_annotation_string_values", {})
            if len(known) >= INTERNED and value not in known:
                return {"string_value": clean(value)}
            return {"string_value_iid": self._iid("debug_annotation_string_values", "str", value)}
        if isinstance(value, bool):
            return {"bool_value": value}
        return {"int_value" if value is not None and value < 0 else "uint_value": value}

    def _iid(self, table: str, field: str, text: str) -> int:
        known = self._iids.setdefault(table, {})
        number = known.get(text)
        if number is None:
            number = known[text] = len(known) + 1
            cleaned = clean(text)
            entry = {"iid": number, field: cleaned.encode() if field == "str" else cleaned}
            self._new.setdefault(table, []).append(entry)
        return number
