"""Scores of a work folder, as a table and as WORKDIR/metrics.json.

python -m magicvideo_jax.evaluate --workdir=DIR
"""

import argparse
from pathlib import Path

from magicvideo_jax.runtime.exit import exit_with


def main() -> None:
    """The verb."""
    exit_with(lambda: evaluate(_arguments()))


def evaluate(asked: argparse.Namespace) -> None:
    """Sample held-out captions from the newest checkpoint and read them back."""
    # Only now: JAX takes seconds to import, and help should not.
    from magicvideo_jax.core.files import write_json
    from magicvideo_jax.evaluation.metrics import metrics_table
    from magicvideo_jax.experiment.run import evaluate_run
    from magicvideo_jax.experiment.run_folder import RunFolder

    folder = RunFolder(Path(asked.workdir))
    metrics = tuple(name for name in asked.metrics.split(",") if name)
    scores = evaluate_run(folder, clips=asked.clips, metrics=metrics)
    write_json(folder.metrics, scores)
    for line in metrics_table(scores):
        print(line)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m magicvideo_jax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="a work folder of train")
    parser.add_argument(
        "--clips", type=int, help="held-out captions to sample (default: the config's)"
    )
    parser.add_argument(
        "--metrics", default="", help="names, separated by commas (default: the config's)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
