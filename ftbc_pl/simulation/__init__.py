"""Running a spiking network: the ANN's own forward, its sites redirected to neurons."""

from ftbc_pl.simulation.network import SpikingNetwork
from ftbc_pl.simulation.redirection import Redirection
from ftbc_pl.simulation.visitors import Simulation, Visitor

__all__ = ["Redirection", "Simulation", "SpikingNetwork", "Visitor"]
