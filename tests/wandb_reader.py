"""Reads an offline W&B run back from its .wandb file: LevelDB's log format around protocol buffers."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

BLOCK = 32768
FILE_HEADER = struct.Struct("<4sHB")
CHUNK_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class OfflineRun:
    """What an offline run recorded. `metrics` maps a metric's name (or glob) to its x-axis, "" where it has none."""

    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, list[str]] = field(default_factory=dict)

    def curve(self, x: str, y: str) -> list[tuple[Any, Any]]:
        return [(row[x], row[y]) for row in self.history if x in row and y in row]


def read_offline_run(folder: Path) -> OfflineRun:
    """The one run found below `folder`, which must have been finished."""
    (path,) = folder.glob("**/run-*.wandb")
    run = OfflineRun()
    for record in _finished(path):
        match record.WhichOneof("record_type"):
            case "run":
                run.config |= _decode(record.run.config.update)
            case "config":
                run.config |= _decode(record.config.update)
            case "history":
                run.history.append(_decode(record.history.item))
            case "summary":
                run.summary |= _decode(record.summary.update)
            case "metric":
                run.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            case "artifact":
                run.artifacts[record.artifact.name] = [entry.path for entry in record.artifact.manifest.contents]
            case "request" if record.request.WhichOneof("request_type") == "log_artifact":
                artifact = record.request.log_artifact.artifact
                run.artifacts[artifact.name] = [entry.path for entry in artifact.manifest.contents]
    return run


def _finished(path: Path) -> list[pb.Record]:
    # W&B's service process may still be writing when `wandb.finish()` returns; its last record is always "exit".
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        records = list(_records(path.read_bytes()))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.05)
    raise TimeoutError(f"{path} has no exit record: was the run finished?")


def _decode(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(content: bytes) -> Iterator[pb.Record]:
    if len(content) < FILE_HEADER.size:
        return
    magic, _, _ = FILE_HEADER.unpack_from(content)
    assert magic == b":W&B", magic
    position, parts = FILE_HEADER.size, []
    while position < len(content):
        left = BLOCK - position % BLOCK
        if left < CHUNK_HEADER.size:  # what is too small for a header is padding
            position += left
            continue
        if position + CHUNK_HEADER.size > len(content):
            return
        _, size, kind = CHUNK_HEADER.unpack_from(content, position)
        position += CHUNK_HEADER.size
        if position + size > len(content):
            return
        parts.append(content[position : position + size])
        position += size
        if kind in (FULL, LAST):
            yield pb.Record.FromString(b"".join(parts))
            parts = []
        else:
            assert kind in (FIRST, MIDDLE), kind
