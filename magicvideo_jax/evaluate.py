"""Metrics of a work folder or of weights on held-out data, as a table and as JSON.

    python -m magicvideo_jax.evaluate --workdir=DIR

    python -m magicvideo_jax.evaluate --weights=embedded --clips=256 --seed=7 --out=scores.json

A work folder is evaluated on the held-out data of its config, and the JSON is its metrics.json
unless --out says another file. Other weights are evaluated on drawn shapes.
"""

import argparse
from pathlib import Path

from magicvideo_jax.core.checks import named
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, parse_interval
from magicvideo_jax.experiment.requests.sampler_arguments import add_sampler_arguments
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.exit import exit_with


def main() -> None:
    """Run `evaluate` with the arguments of the command line."""
    exit_with(lambda: evaluate(_arguments()))


def evaluate(asked: argparse.Namespace) -> None:
    """Compute the metrics of weights on held-out data; print and store them."""
    processes.refuse_several("evaluate")
    # Imported here: JAX takes seconds to import, and help must not wait for it.
    from magicvideo_jax.core.files import check_writable, write_json
    from magicvideo_jax.evaluation.metrics import metrics_table
    from magicvideo_jax.experiment.requests.clip_making import sample_settings
    from magicvideo_jax.experiment.scoring import evaluate_weights

    settings = _sampler_settings(asked)
    file = _json_file(asked)
    if file is not None:
        check_writable(file)  # before minutes of sampling
    metrics = tuple(name for name in asked.metrics.split(",") if name)
    scores = evaluate_weights(
        asked.workdir,
        clips=asked.clips,
        metrics=metrics,
        seed=asked.seed,
        sampled_as=lambda usual: sample_settings(settings, usual),
    )
    for line in metrics_table(scores):
        print(line, flush=True)
    if file is not None:
        write_json(file, scores)


def _sampler_settings(asked: argparse.Namespace) -> ClipRequest:
    """The request whose settings every caption is sampled with. Errors: `UserError` naming the argument."""
    with named("--"):
        return ClipRequest(
            prompt="the held-out captions",
            sampler=asked.sampler,
            steps=asked.steps,
            guidance=asked.guidance,
            guidance_rescale=asked.guidance_rescale,
            guidance_interval=parse_interval(asked.guidance_interval),
            feature_cache=asked.feature_cache,
            eta=asked.eta,
        )


def _json_file(asked: argparse.Namespace) -> Path | None:
    """The file of --out; without it, metrics.json of a work folder, and none for other weights."""
    from magicvideo_jax.experiment.opening.run_weights import RunFolderFormat
    from magicvideo_jax.experiment.run_folder import RunFolder
    from magicvideo_jax.weights.locate import locate

    if asked.out:
        return local_path(asked.out, argument="--out")
    place = locate(asked.workdir, argument="--workdir")
    return RunFolder(place).metrics if RunFolderFormat().matches(place) else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m magicvideo_jax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir",
        "--weights",
        required=True,
        help="a work folder of train; or weights, or the name of embedded ones",
    )
    parser.add_argument(
        "--clips", type=int, help="held-out captions to sample (default: the config's)"
    )
    parser.add_argument(
        "--metrics", default="", help="names, separated by commas (default: the config's)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="of drawn held-out scenes and of the noise of samples (default: the config's; training "
        "and its previews use 0)",
    )
    parser.add_argument("--out", default="", help="JSON file of the metrics")
    add_sampler_arguments(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
