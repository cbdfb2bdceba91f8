"""MobileNetV2 as data: its convolutions with their shapes, planned once for the network and for what it costs.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv:1801.04381), table 2.
``keras_model`` builds a plan in Keras, ``cost`` counts it; neither has a table of its own. Nothing here needs
TensorFlow.
"""

from dataclasses import dataclass
from typing import Final

from model_build.errors import InputError

#: The width multipliers and input sizes of the paper (section 6.1, the published checkpoints).
WIDTHS: Final = (0.35, 0.50, 0.75, 1.0, 1.3, 1.4)
SIZES: Final = (96, 128, 160, 192, 224)


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of table 2: ``blocks`` bottlenecks of the same width, of which the first has the stride."""

    expansion: int
    channels: int
    blocks: int
    stride: int


STEM_FILTERS: Final = 32
STAGES: Final = (
    Stage(expansion=1, channels=16, blocks=1, stride=1),
    Stage(expansion=6, channels=24, blocks=2, stride=2),
    Stage(expansion=6, channels=32, blocks=3, stride=2),
    Stage(expansion=6, channels=64, blocks=4, stride=2),
    Stage(expansion=6, channels=96, blocks=3, stride=1),
    Stage(expansion=6, channels=160, blocks=3, stride=2),
    Stage(expansion=6, channels=320, blocks=1, stride=1),
)
LAST_FILTERS: Final = 1280


@dataclass(frozen=True, slots=True)
class Layout:
    """Where two write-ups of the same network differ.

    Attributes:
        name: as ``--architecture`` calls it.
        divisor: channels are rounded to multiples of it, but never down by more than a tenth; None cuts the fraction
            off.
        expands_by_one: whether the first bottleneck, of expansion 1, has its 1x1 expansion all the same.
        classifier_bias: whether the classes have a bias.
    """

    name: str
    divisor: int | None
    expands_by_one: bool
    classifier_bias: bool

    def channels(self, exact: float) -> int:
        """``exact`` channels as a whole number of them."""
        if self.divisor is None:
            return int(exact)
        rounded = max(self.divisor, int(exact + self.divisor / 2) // self.divisor * self.divisor)
        return rounded + self.divisor if rounded < 0.9 * exact else rounded


#: The paper's own code and ``keras.applications``: the same weights fit.
REFERENCE: Final = Layout("reference", divisor=8, expands_by_one=False, classifier_bias=True)
#: The article's code.
ARTICLE: Final = Layout("article", divisor=None, expands_by_one=True, classifier_bias=False)
LAYOUTS: Final = {layout.name: layout for layout in (REFERENCE, ARTICLE)}


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution of a square feature map, padded so that only the stride makes it smaller.

    Attributes:
        name: of the layer.
        kernel: side of the filter (F).
        stride: rows and columns from one place to the next.
        side: height and width of the input.
        channels: of the input (C).
        filters: of the output (Nf).
        depthwise: whether each channel has one filter to itself.
        normalised: whether batch normalisation follows.
        clipped: whether ReLU6 follows.
        bias: whether it has one.
    """

    name: str
    kernel: int
    stride: int
    side: int
    channels: int
    filters: int
    depthwise: bool = False
    normalised: bool = True
    clipped: bool = True
    bias: bool = False

    @property
    def output_side(self) -> int:
        """Height and width of the output (Ho, Wo)."""
        return -(-self.side // self.stride)


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The paper's building block (section 3.3): narrow in, wide in between, narrow out."""

    name: str
    expand: Convolution | None
    depthwise: Convolution
    project: Convolution

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        """In the order in which they run."""
        steps = (self.expand, self.depthwise, self.project)
        return tuple(step for step in steps if step is not None)

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output: where both have the same shape."""
        return self.depthwise.stride == 1 and self.convolutions[0].channels == self.project.filters


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole network; a global average pool stands between ``last`` and ``classifier``."""

    layout: Layout
    alpha: float
    size: int
    classes: int
    stem: Convolution
    bottlenecks: tuple[Bottleneck, ...]
    last: Convolution
    classifier: Convolution


def plan(layout: Layout, alpha: float = 1.0, size: int = 224, classes: int = 1000) -> Plan:
    """Works out every shape.

    Args:
        layout: ``REFERENCE`` or ``ARTICLE``.
        alpha: width multiplier.
        size: side of the input in pixels, 32 or more: the network halves it five times.
        classes: 2 or more.

    Raises:
        InputError: an argument is out of range, or so narrow a network has layers without channels.
    """
    if size < 32 or classes < 2:
        raise InputError(
            f"MobileNetV2 needs an input of 32 pixels or more and 2 classes or more, not {size} and {classes}"
        )
    if alpha <= 0 or layout.channels(min(stage.channels for stage in STAGES) * alpha) < 1:
        raise InputError(f"--alpha {alpha} leaves layers without channels")
    stem = Convolution("stem", 3, 2, size, 3, layout.channels(STEM_FILTERS * alpha))
    side, channels = stem.output_side, stem.filters
    bottlenecks: list[Bottleneck] = []
    for stage in STAGES:
        # Cut first and then rounded, as in keras.applications: for odd widths that is not the same as rounded alone.
        filters = layout.channels(int(stage.channels * alpha))
        for stride in (stage.stride, *(1 for _ in range(stage.blocks - 1))):
            block = _bottleneck(f"block_{len(bottlenecks)}", layout, stage.expansion, stride, side, channels, filters)
            side, channels = block.project.side, filters
            bottlenecks.append(block)
    # The paper does not make the last layer narrower than 1280: small networks need their features most.
    last = Convolution("last", 1, 1, side, channels, layout.channels(LAST_FILTERS * max(alpha, 1.0)))
    classifier = Convolution(
        "classifier", 1, 1, 1, last.filters, classes, normalised=False, clipped=False, bias=layout.classifier_bias
    )
    return Plan(layout, alpha, size, classes, stem, tuple(bottlenecks), last, classifier)


def _bottleneck(
    name: str, layout: Layout, expansion: int, stride: int, side: int, channels: int, filters: int
) -> Bottleneck:
    wide = channels * expansion
    expand = Convolution(f"{name}_expand", 1, 1, side, channels, wide)
    depthwise = Convolution(f"{name}_depthwise", 3, stride, side, wide, wide, depthwise=True)
    # Linear: a ReLU6 on the few channels that are left would throw away what they say (section 3.2).
    project = Convolution(f"{name}_project", 1, 1, depthwise.output_side, wide, filters, clipped=False)
    return Bottleneck(name, expand if expansion > 1 or layout.expands_by_one else None, depthwise, project)
