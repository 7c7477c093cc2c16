"""Reading an ANN: every operation of one forward, with its place, its layout and its meaning for spikes."""

from ftbc_pl.tracing.calls import Call, Trace
from ftbc_pl.tracing.operations import Kind
from ftbc_pl.tracing.trace import trace

__all__ = ["Call", "Kind", "Trace", "trace"]
