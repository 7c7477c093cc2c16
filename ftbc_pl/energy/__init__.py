"""Synaptic operations of a spiking network, counted spike by spike, and the energy that they stand for."""

from ftbc_pl.energy.conventions import CONVENTIONS, Convention
from ftbc_pl.energy.cost import EnergyCost
from ftbc_pl.energy.measure import EnergyMeter, measure_energy

__all__ = ["CONVENTIONS", "Convention", "EnergyCost", "EnergyMeter", "measure_energy"]
