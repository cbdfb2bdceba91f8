"""``python -m model_build cost``."""

import argparse
import json
from pathlib import Path
from typing import Any

from model_build.network import cost
from model_build.network.architecture import LAYOUTS, REFERENCE, SIZES, WIDTHS, Plan, plan
from model_build.terminal import print_table, say

_DESCRIPTION = """\
Count what MobileNetV2 costs, layer by layer, from the formulas: F·F·C·Wo·Ho·Nf multiply-adds for a standard
convolution, F·F·Wo·Ho·C for a depthwise one. Needs no TensorFlow and no model file.
"""
_EXAMPLES = """\
examples:
  python -m model_build cost
  python -m model_build cost --alpha 0.35 --input-size 128 --classes 19
  python -m model_build cost --architecture article --chart cost.svg
  python -m model_build cost --json | jq .total
"""


def add_to(commands: Any) -> None:
    """Adds the parser."""
    parser = commands.add_parser(
        "cost",
        help="multiply-adds, parameters and memory, layer by layer",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--architecture",
        choices=list(LAYOUTS),
        default=REFERENCE.name,
        help="the paper's and Keras's layout, or the article's (default: reference)",
    )
    parser.add_argument("--alpha", type=float, default=1.0, help="width multiplier (default: 1.0)")
    parser.add_argument(
        "--input-size", type=int, default=224, metavar="PIXELS", help="side of the input (default: 224)"
    )
    parser.add_argument("--classes", type=int, default=1000, metavar="N", help="number of classes (default: 1000)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart too: .svg or .png")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints tables or JSON, and draws where asked to."""
    network = plan(LAYOUTS[options.architecture], options.alpha, options.input_size, options.classes)
    if options.chart is not None:
        cost.draw(network, options.chart)
        say(f"Drew {options.chart}")
    if options.json:
        print(json.dumps(cost.as_json(network), indent=2))
    else:
        _print_formulas()
        _print_layers(network)
        _print_blocks(network)
        _print_totals(network)
        _print_differences()
    return 0


def _print_formulas() -> None:
    rows = [
        ["standard", "F·F·C·Wo·Ho·Nf", "3·3·64·112·112·128", _millions(cost.standard(3, 64, 112, 128), 2)],
        ["depthwise", "F·F·Wo·Ho·C", "3·3·112·112·128", _millions(cost.depthwise(3, 128, 112), 2)],
    ]
    print_table("One convolution", ["convolution", "formula", "for example", "multiply-adds"], rows)


def _print_layers(network: Plan) -> None:
    rows = [
        [
            row.name,
            f"{row.kernel}x{row.kernel} {row.kind}",
            f"{row.output_side}x{row.output_side}x{row.filters}",
            _millions(row.multiply_adds, 2),
            f"{row.parameters:,}",
            f"{row.weight_bytes / 1e6:.3f}",
            f"{row.activation_bytes / 1e6:.2f}",
        ]
        for row in cost.layers(network)
    ]
    found = cost.total(network)
    sizes = [f"{found.weight_bytes / 1e6:.2f}", f"{found.activation_bytes / 1e6:.2f} (largest)"]
    rows.append(["total", "", "", _millions(found.multiply_adds, 2), f"{found.parameters:,}", *sizes])
    headings = ["layer", "convolution", "output", "multiply-adds", "parameters", "weights, MB", "activations, MB"]
    print_table(f"{_title(network)}, {network.size} pixels, {network.classes} classes; MB in fp32", headings, rows)


def _print_blocks(network: Plan) -> None:
    found = cost.blocks(network)
    rows = [
        [
            row.name,
            _millions(row.multiply_adds),
            _millions(row.as_standard),
            f"{row.as_standard / row.multiply_adds:.1f}",
        ]
        for row in found
    ]
    ours, theirs = sum(row.multiply_adds for row in found), sum(row.as_standard for row in found)
    rows.append(["total", _millions(ours), _millions(theirs), f"{theirs / ours:.1f}"])
    headings = ["block", "multiply-adds", "as a standard convolution", "times as much"]
    print_table("Blocks: 3x3 depthwise and 1x1 projection, or one standard 3x3 convolution", headings, rows)


def _print_totals(network: Plan) -> None:
    found = {(row.alpha, row.input_size): row for row in cost.totals(network.layout, network.classes)}
    rows = []
    for alpha in WIDTHS:
        widest = found[alpha, max(SIZES)]
        counts = [_millions(found[alpha, size].multiply_adds) for size in SIZES]
        activations = f"{found[alpha, min(SIZES)].activation_bytes / 1e6:.1f} - {widest.activation_bytes / 1e6:.1f}"
        sizes = [f"{widest.parameters / 1e6:.2f} M", f"{widest.weight_bytes / 1e6:.1f}", activations]
        rows.append([f"{alpha:g}", *counts, *sizes])
    headings = ["width", *(f"{size} px" for size in SIZES), "parameters", "weights, MB", "activations, MB"]
    print_table(f"Multiply-adds, {network.layout.name} layout, {network.classes} classes; MB in fp32", headings, rows)


def _print_differences() -> None:
    rows = [
        [
            f"{row.alpha:g}",
            _millions(row.published, 0),
            _millions(row.reference),
            f"{row.expansion / 1e6:+.1f} M",
            f"{row.rounding / 1e6:+.1f} M",
            _millions(row.article),
        ]
        for row in cost.differences()
    ]
    headings = ["width", "published", "reference layout", "1x1 expansion in block_0", "int() for multiples of 8"]
    print_table("From the paper to the article's code: multiply-adds", [*headings, "article layout"], rows)


def _title(network: Plan) -> str:
    return f"MobileNetV2, {network.layout.name} layout, width {network.alpha:g}"


def _millions(count: int, digits: int = 1) -> str:
    return f"{count / 1e6:.{digits}f} M"
