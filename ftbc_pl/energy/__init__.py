"""Synaptic operations of a spiking network, counted spike by spike, and the energy that they stand for."""

from ftbc_pl.energy.conventions import CONVENTIONS, Convention
from ftbc_pl.energy.cost import EnergyCost
from ftbc_pl.energy.measure import EnergyMeter, measure_energy
from ftbc_pl.energy.rates import measure_firing_rates

__all__ = ["CONVENTIONS", "Convention", "EnergyCost", "EnergyMeter", "measure_energy", "measure_firing_rates"]
