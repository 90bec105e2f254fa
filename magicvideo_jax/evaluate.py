"""Metrics of a work folder or of weights on held-out data, as a table and as JSON.

    python -m magicvideo_jax.evaluate --workdir=DIR

    python -m magicvideo_jax.evaluate --weights=embedded --clips=256 --seed=7 --out=scores.json

    python -m magicvideo_jax.evaluate --workdir=DIR --metrics=fvd,clipsim \\
        --network=i3d=FILE --network=clip=FOLDER --real=SET --samples=2048

A work folder is evaluated on the held-out data of its config, and the JSON is its metrics.json
unless --out says another file. Other weights are evaluated on drawn shapes.

fvd, fid, is and clipsim measure clips of a model, or those of --made, beside --real, by networks
whose weights are given as --network=NAME=FILE (i3d, inception, c3d, clip). Features are kept: the same
command goes on where it was interrupted.
"""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicvideo_jax.core.checks import named
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, parse_interval
from magicvideo_jax.experiment.requests.sampler_arguments import add_sampler_arguments
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.exit import exit_with

if TYPE_CHECKING:
    from magicvideo_jax.experiment.comparison.comparing import ComparisonRequest
    from magicvideo_jax.sampling.keyframes import SampleConfig


def main() -> None:
    """Run `evaluate` with the arguments of the command line."""
    exit_with(lambda: evaluate(_arguments()))


def evaluate(asked: argparse.Namespace) -> None:
    """Compute the metrics of weights on held-out data; print and store them."""
    processes.refuse_several("evaluate")
    # Imported here: JAX takes seconds to import, and help must not wait for it.
    from magicvideo_jax.core.files import check_writable, write_json
    from magicvideo_jax.evaluation.feature_metrics import FEATURE_METRICS
    from magicvideo_jax.evaluation.metrics import metrics_table
    from magicvideo_jax.experiment.comparison.comparing import compare_clips
    from magicvideo_jax.experiment.requests.clip_making import sample_settings
    from magicvideo_jax.experiment.scoring import evaluate_weights

    settings = _sampler_settings(asked)
    file = _json_file(asked)
    if file is not None:
        check_writable(file)  # before minutes of sampling
    names = tuple(name for name in asked.metrics.split(",") if name)
    comparisons = tuple(name for name in names if name in FEATURE_METRICS)
    others = tuple(name for name in names if name not in FEATURE_METRICS)

    def sampled_as(usual: "SampleConfig") -> "SampleConfig":
        return sample_settings(settings, usual)

    scores: dict[str, Any] = {}
    if comparisons:
        for one in compare_clips(_comparison(asked, comparisons), sampled_as):
            print("\n".join(one.lines()), flush=True)
            scores[one.name] = one.plain()
    if others or not names:
        if not asked.workdir:
            raise UserError(
                f"--metrics={asked.metrics}: give --workdir; of --made can be compared: "
                f"{', '.join(FEATURE_METRICS)}"
            )
        of_samples = evaluate_weights(
            asked.workdir,
            clips=asked.clips,
            metrics=others,
            seed=asked.seed,
            sampled_as=sampled_as,
        )
        for line in metrics_table(of_samples):
            print(line, flush=True)
        scores = {**of_samples, **scores}
    if file is not None and scores:
        # Comparisons stand beside the scores of a run, which take their time to compute again.
        kept = {} if others or not names else _scores_of(file)
        write_json(file, {**kept, **scores})


def _scores_of(file: Path) -> dict[str, Any]:
    """The scores that a file has already. Errors: `UserError` for a file of something else."""
    if not file.is_file():
        return {}
    try:
        scores = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: no JSON of scores: move it, or give another --out") from error
    if not isinstance(scores, dict):
        raise UserError(f"{file}: no JSON of scores: move it, or give another --out")
    return scores


def _comparison(asked: argparse.Namespace, metrics: tuple[str, ...]) -> "ComparisonRequest":
    """The comparison that the command line asks for. Errors: `UserError` naming the argument."""
    from magicvideo_jax.evaluation.feature_extractors import EXTRACTORS
    from magicvideo_jax.experiment.comparison.comparing import ComparisonRequest
    from magicvideo_jax.experiment.comparison.feature_files import Share

    networks = {}
    for text in asked.network:
        name, equals, path = text.partition("=")
        if name not in EXTRACTORS or not equals or not path:
            raise UserError(
                f"--network={text}: give NAME=FILE, NAME one of {', '.join(EXTRACTORS)}"
            )
        networks[name] = path
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", asked.share, re.ASCII)
    if found is None or not int(found[1]) < int(found[2]):
        raise UserError(f"--share={asked.share}: give I/N: 0/2 on one host and 1/2 on another")
    return ComparisonRequest(
        metrics,
        networks=networks,
        weights=asked.workdir,
        made=asked.made,
        prompts=asked.prompts,
        lossy=asked.lossy,
        real=asked.real,
        real_stats=asked.real_stats,
        write_real_stats=asked.write_real_stats,
        protocol=asked.protocol,
        clips=asked.clips,
        frames=asked.frames,
        seed=asked.seed or 0,
        features=asked.features,
        share=Share(int(found[1]), int(found[2])),
    )


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
    if not asked.workdir:
        return None
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
        default="",
        help="a work folder of train; or weights, or the name of embedded ones",
    )
    parser.add_argument(
        "--clips",
        "--samples",
        type=int,
        help="captions to sample (default: the config's; the protocol's for fvd, fid, is, clipsim)",
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
    _add_comparison_arguments(parser)
    add_sampler_arguments(parser)
    return parser.parse_args()


def _add_comparison_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the metrics over features need."""
    group = parser.add_argument_group("fvd, fid, is, clipsim")
    group.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="weights of i3d (fvd), inception (fid), c3d (is) or clip (clipsim); may be given several times",
    )
    group.add_argument(
        "--real",
        default="",
        metavar="SET",
        help="data set of prepare --pixels, or SET:SPLIT (default: the held-out data of the model)",
    )
    group.add_argument("--real_stats", default="", help="file of --write_real_stats, for --real")
    group.add_argument(
        "--write_real_stats", default="", metavar="FILE", help="keep the statistics of --real"
    )
    group.add_argument(
        "--made",
        default="",
        metavar="FOLDER",
        help="clips in place of a model's: a folder of folders of png, or of .npy",
    )
    group.add_argument("--lossy", action="store_true", help="read mp4, gif and the like in --made")
    group.add_argument(
        "--prompts", default="", metavar="FILE", help="a line for each clip of --made"
    )
    group.add_argument(
        "--protocol",
        default="tats",
        help="original, stylegan_v, tats, videogpt, video_ldm or lavie (default: tats)",
    )
    group.add_argument("--frames", type=int, help="frames of each clip (default: the protocol's)")
    group.add_argument(
        "--features",
        default="",
        metavar="FOLDER",
        help="where features are kept (default: inside of the work folder, or the user's cache)",
    )
    group.add_argument(
        "--share",
        default="0/1",
        metavar="I/N",
        help="compute every N-th part alone, with --features that N hosts share",
    )


if __name__ == "__main__":
    main()
