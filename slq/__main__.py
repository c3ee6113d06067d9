"""Floor 4: the command line. Results go to standard output, progress and errors to standard error."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from slq._measure import SpectralMeasure
from slq._version import __version__
from slq.errors import SlqError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (SlqError, OSError) as error:
        print(f"slq: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("slq: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slq", description="Spectra of operators by stochastic Lanczos quadrature.")
    parser.add_argument("--version", action="version", version=f"slq {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="Hessian spectrum of a trained network, estimated and exact")
    demo.add_argument("--backend", choices=("torch", "jax"), default="torch", help="who multiplies (default: torch)")
    demo.add_argument("--device", help="device as the backend names it (default: its own choice)")
    demo.add_argument("--dtype", choices=("float64", "float32"), default="float64", help="precision of the products")
    demo.add_argument("--probes", type=_count, default=10, help="random probes (default: 10)")
    demo.add_argument("--steps", type=_count, default=80, help="Lanczos steps (default: 80)")
    demo.add_argument("--seed", type=_seed, default=0, help="seed of the probes (default: 0)")
    demo.add_argument("-o", "--output", type=Path, default=Path("slq-demo"), help="folder (default: slq-demo)")
    demo.set_defaults(command=_demo)
    show = commands.add_parser("show", help="print the summary of a saved measure")
    show.add_argument("file", metavar="RESULT.npz", type=Path)
    show.set_defaults(command=_show)
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, got {text!r}")
    return int(text)


def _demo(options: argparse.Namespace) -> int:
    from slq import demo  # brings matplotlib and a framework: only when asked for
    from slq.demo.page import summary

    result = demo.run(
        options.output,
        backend=options.backend,
        device=options.device,
        dtype=options.dtype,
        num_probes=options.probes,
        num_steps=options.steps,
        seed=options.seed,
        say=lambda text: print(f"slq: {text}", file=sys.stderr),
        progress=_bar if sys.stderr.isatty() else None,
    )
    print(summary(result))
    print(f"wrote {options.output}/: measure.npz, density.png, report.html")
    return 0


def _show(options: argparse.Namespace) -> int:
    print(SpectralMeasure.load(options.file).summary())
    return 0


def _bar(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\rslq: {done} of {total} products ({done / total:.0%})", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
