"""What the numbers of a site say about its fault, in one sentence."""

from dataclasses import dataclass

_MOSTLY = 0.5  # of an error, or of the channels
_LOW_PEAK = 0.5  # thresholds that the largest activation should at least reach
_SMALL = 0.02  # an own error that needs no mending
NOTHING_TO_MEND = "nothing to mend"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The numbers of one site, as `ftbc_pl.evaluation.diagnosis.Diagnosis` has them."""

    site: str
    num_steps: int
    learned: bool
    own_error: tuple[float, ...]
    clipped: float
    rounded: float
    above: float
    peak: float
    dead: float
    silent: float

    @property
    def severity(self) -> float:
        """How much the site needs mending: its own error at T, or its share of dead channels."""
        return max(self.own_error[-1], self.dead if self.is_dead else 0.0)

    @property
    def is_shown(self) -> bool:
        """Whether the text names the site: there is something to mend, and it adds at least a percent or adds all."""
        return self.is_all_dead or (self.cause != "none" and round(100 * self.own_error[-1]) > 0)

    @property
    def is_dead(self) -> bool:
        """Whether most of its channels are 0 in the ANN."""
        return self.dead > _MOSTLY

    @property
    def is_all_dead(self) -> bool:
        """Whether all of its channels are 0 in the ANN, so that no error is relative to anything."""
        return self.dead == 1.0

    @property
    def cause(self) -> str:
        """`dead`, `none`, `clipping`, `high threshold`, `levels` or `steps`."""
        own = self.own_error[-1]
        if self.is_dead:
            return "dead"
        if own < _SMALL:
            return "none"
        # Squares, since independent errors add up by their squares.
        if self.clipped**2 > _MOSTLY * own**2:
            return "clipping"
        if self.rounded**2 > _MOSTLY * own**2:
            return "levels"
        return "high threshold" if self.peak < _LOW_PEAK or self.silent > _MOSTLY else "steps"


def advise(finding: Finding) -> str:
    """One sentence: what the site adds, in the size of the ANN's activation there, why, and what would help."""
    own = f" adds an error of {100 * finding.own_error[-1]:.0f} % of its activation at T = {finding.num_steps}"
    head = f"Site {finding.site}{'' if finding.is_all_dead else own}: "
    if finding.learned:  # ftbc.threshold is for measured ones
        raising = "train longer, so that its learned threshold rises"
        lowering = "its threshold was learned: train longer, or from a smaller one (model.threshold)"
    else:
        raising = "try ftbc.threshold=max, a higher percentile, or more training with a learned threshold"
        lowering = "try ftbc.threshold=mse or a lower percentile"
    texts = {
        "dead": f"{100 * finding.dead:.0f} % of its channels are 0 in the ANN for all images, so nothing passes them; "
        "look at the training, not at the conversion",
        "none": NOTHING_TO_MEND,
        "clipping": f"{100 * finding.above:.0f} % of its inputs lie above the threshold; {raising}",
        "levels": "the ANN rounds its activation to few levels, which spikes do not; train with more levels",
        "high threshold": f"its largest activation is {100 * finding.peak:.0f} % of the threshold, so it fires rarely "
        f"({100 * finding.silent:.0f} % of its channels never); {lowering}",
        "steps": f"its spikes are too few to tell its values apart{_falling(finding)}; try more timesteps, or "
        "calibrate with solver=balanced",
    }
    return head + texts[finding.cause] + "."


def _falling(finding: Finding) -> str:
    """That the error falls with the timesteps, where it does."""
    t = (len(finding.own_error) + 1) // 2
    before = finding.own_error[t - 1]
    falls = before > 1.25 * finding.own_error[-1]
    return f" (at t = {t} the error was {100 * before:.0f} %, so that more steps lower it)" if falls else ""
