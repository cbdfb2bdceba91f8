"""What MobileNetV2 costs, from its plan alone: multiply-adds, parameters, memory; as rows, as JSON, as a chart.

Howard et al. 2017, "MobileNets" (arXiv:1704.04861), section 3.1: with F the side of the filter, C the channels of the
input, Nf the filters and Wo x Ho the size of the output, a standard convolution costs F·F·C·Wo·Ho·Nf multiply-adds, a
depthwise one F·F·Wo·Ho·C. Element-wise operators are not counted, as in the paper. ``graph.multiply_adds`` in
``export`` counts an exported file without knowing of any plan; a test holds the two together.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from model_build.errors import InputError
from model_build.network.architecture import (
    ARTICLE,
    REFERENCE,
    SIZES,
    WIDTHS,
    Bottleneck,
    Convolution,
    Layout,
    Plan,
    plan,
)

#: Width multiplier: multiply-adds at 224 pixels in table 4 of the MobileNetV2 paper, which the article quotes.
PUBLISHED: Final = {1.0: 300_000_000, 1.4: 585_000_000}
#: Numbers that Keras keeps for a normalised channel: scale, shift, mean and variance.
_NORM_PARAMETERS: Final = 4
_FLOAT_BYTES: Final = 4


def standard(kernel: int, channels: int, output_side: int, filters: int) -> int:
    """Multiply-adds of a standard convolution: F·F·C·Wo·Ho·Nf."""
    return kernel * kernel * channels * output_side * output_side * filters


def depthwise(kernel: int, channels: int, output_side: int) -> int:
    """Multiply-adds of a depthwise convolution: F·F·Wo·Ho·C."""
    return kernel * kernel * output_side * output_side * channels


def multiply_adds(step: Convolution) -> int:
    """Multiply-adds of one convolution for one image."""
    if step.depthwise:
        return depthwise(step.kernel, step.channels, step.output_side)
    return standard(step.kernel, step.channels, step.output_side, step.filters)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One convolution, for one image.

    Attributes:
        name: of the layer.
        kind: ``standard`` or ``depthwise``.
        kernel: side of its filters.
        output_side: height and width of its output.
        filters: channels of its output.
        multiply_adds: by the formulas.
        parameters: as Keras counts them: with the four of each normalised channel.
        weight_bytes: in an exported fp32 file, where normalisation has become a bias.
        activation_bytes: what has to be in memory while it runs, in fp32: its input, its output and a block's input
            that waits to be added (Sandler et al. 2018, section 5.1). int8 takes a quarter.
    """

    name: str
    kind: str
    kernel: int
    output_side: int
    filters: int
    multiply_adds: int
    parameters: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True, slots=True)
class BlockCost:
    """One bottleneck.

    Attributes:
        name: of the block.
        multiply_adds: of its convolutions.
        as_standard: what it would cost with one standard convolution in place of the depthwise one and the projection:
            the same input, output and receptive field.
    """

    name: str
    multiply_adds: int
    as_standard: int


@dataclass(frozen=True, slots=True)
class Total:
    """A whole network; ``activation_bytes`` is that of the hungriest layer."""

    alpha: float
    input_size: int
    multiply_adds: int
    parameters: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """From the paper's layout to the article's code, in multiply-adds.

    Attributes:
        alpha: width multiplier.
        published: what the paper prints.
        reference: the paper's layout, counted.
        expansion: what the 1x1 expansion in the first block adds, which with expansion 1 widens nothing.
        rounding: what cutting channels with ``int()`` adds or takes, where the paper's code rounds to multiples of 8.
        article: the article's layout, counted: the sum of the three before it.
    """

    alpha: float
    published: int
    reference: int
    expansion: int
    rounding: int
    article: int


def layers(network: Plan) -> list[LayerCost]:
    """Every convolution, in the order in which they run."""
    rows = [_layer(network.stem, 0)]
    for block in network.bottlenecks:
        rows.extend(_layer(step, _waiting(block, step)) for step in block.convolutions)
    return [*rows, _layer(network.last, 0), _layer(network.classifier, 0)]


def blocks(network: Plan) -> list[BlockCost]:
    """Every bottleneck, beside what it would cost without depthwise convolutions."""
    rows = []
    for block in network.bottlenecks:
        one = replace(block.depthwise, depthwise=False, filters=block.project.filters)
        steps = (one,) if block.expand is None else (block.expand, one)
        rows.append(BlockCost(block.name, sum(map(multiply_adds, block.convolutions)), sum(map(multiply_adds, steps))))
    return rows


def total(network: Plan) -> Total:
    """The whole network."""
    rows = layers(network)
    return Total(
        alpha=network.alpha,
        input_size=network.size,
        multiply_adds=sum(row.multiply_adds for row in rows),
        parameters=sum(row.parameters for row in rows),
        weight_bytes=sum(row.weight_bytes for row in rows),
        activation_bytes=max(row.activation_bytes for row in rows),
    )


def totals(layout: Layout, classes: int = 1000) -> list[Total]:
    """Every width multiplier of the paper at every input size, narrow to wide, small to large."""
    return [total(plan(layout, alpha, size, classes)) for alpha in WIDTHS for size in SIZES]


def differences() -> list[Difference]:
    """Where the article's code differs from the paper, at the widths that both print; 224 pixels, 1000 classes."""
    rows = []
    for alpha, published in PUBLISHED.items():
        layouts = (REFERENCE, replace(REFERENCE, expands_by_one=True), ARTICLE)
        reference, expanded, article = (total(plan(layout, alpha)).multiply_adds for layout in layouts)
        rows.append(Difference(alpha, published, reference, expanded - reference, article - expanded, article))
    return rows


def as_json(network: Plan) -> dict[str, Any]:
    """Everything there is to say, in JSON's types; counts in units, sizes in bytes."""
    return {
        "architecture": network.layout.name,
        "alpha": network.alpha,
        "input_size": network.size,
        "classes": network.classes,
        "total": asdict(total(network)),
        "layers": [asdict(row) for row in layers(network)],
        "blocks": [asdict(row) for row in blocks(network)],
        "totals": [asdict(row) for row in totals(network.layout, network.classes)],
        "differences": [asdict(row) for row in differences()],
    }


def draw(network: Plan, path: Path) -> None:
    """Draws the blocks beside their standard counterparts, and the totals by width and input size.

    Args:
        network: whose blocks, and whose layout's totals.
        path: ``.svg`` or ``.png``; the same network gives the same SVG.

    Raises:
        InputError: another suffix, or a path that cannot be written.
    """
    if path.suffix not in (".svg", ".png"):
        raise InputError(f"--chart: {path} is neither .svg nor .png")
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = blocks(network)
    places = range(len(rows))
    left.bar([i - 0.2 for i in places], [row.multiply_adds / 1e6 for row in rows], 0.4, label="with depthwise")
    left.bar([i + 0.2 for i in places], [row.as_standard / 1e6 for row in rows], 0.4, label="as standard convolution")
    left.set(
        title=f"Blocks at width {network.alpha:g}, {network.size} pixels",
        xlabel="block",
        ylabel="multiply-adds (millions)",
        xticks=list(places),
    )
    left.legend()
    grid = totals(network.layout, network.classes)
    for size in SIZES:
        line = [row for row in grid if row.input_size == size]
        right.plot(
            [row.alpha for row in line], [row.multiply_adds / 1e6 for row in line], marker="o", label=f"{size} pixels"
        )
    right.set(
        title=f"Whole network, {network.layout.name} layout",
        xlabel="width multiplier",
        ylabel="multiply-adds (millions)",
        xticks=list(WIDTHS),
    )
    right.legend()
    right.grid(alpha=0.3)
    try:
        # Otherwise the SVG has random names and the time in it.
        with matplotlib.rc_context({"svg.hashsalt": "cost"}):
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise InputError(f"--chart: {path} cannot be written: {error}") from error


def _layer(step: Convolution, waiting: int) -> LayerCost:
    weights = step.kernel * step.kernel * step.filters * (1 if step.depthwise else step.channels)
    biases = step.filters if step.normalised or step.bias else 0
    values = step.side**2 * step.channels + step.output_side**2 * step.filters + waiting
    return LayerCost(
        name=step.name,
        kind="depthwise" if step.depthwise else "standard",
        kernel=step.kernel,
        output_side=step.output_side,
        filters=step.filters,
        multiply_adds=multiply_adds(step),
        parameters=weights + (_NORM_PARAMETERS * step.filters if step.normalised else biases),
        weight_bytes=_FLOAT_BYTES * (weights + biases),
        activation_bytes=_FLOAT_BYTES * values,
    )


def _waiting(block: Bottleneck, step: Convolution) -> int:
    """How many values of the block's input are kept, beside what ``step`` reads and writes, to be added at the end."""
    first = block.convolutions[0]
    return first.side**2 * first.channels if block.residual and step is not first else 0
