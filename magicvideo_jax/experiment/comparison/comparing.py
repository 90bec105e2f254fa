"""Made clips compared with a real set by the features of networks: what `evaluate --metrics=fvd,clipsim` computes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from magicvideo_jax.core.checks import named
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.data.drawn.shape_clips import Scene
from magicvideo_jax.data.records import TRAIN, VALIDATION
from magicvideo_jax.evaluation.feature_extractors import EXTRACTORS, FeatureExtractor
from magicvideo_jax.evaluation.feature_metrics import (
    FEATURE_METRICS,
    real_statistics,
    result_name,
)
from magicvideo_jax.evaluation.protocols import PROTOCOLS, EvaluationProtocol
from magicvideo_jax.experiment.comparison.clip_sets import ClipSet, DrawnClips, RecordClips
from magicvideo_jax.experiment.comparison.compared_features import (
    ComparedFeatures,
    describe_set,
    feature_about,
    measure_features,
    statistics_about,
)
from magicvideo_jax.experiment.comparison.comparison_report import Comparison, RealSide
from magicvideo_jax.experiment.comparison.feature_files import (
    WHOLE,
    FeatureFiles,
    Share,
    fill_feature_files,
    open_feature_files,
)
from magicvideo_jax.experiment.comparison.made_folder import open_folder
from magicvideo_jax.experiment.comparison.real_statistics_file import (
    read_real_statistics,
    save_real_statistics,
)
from magicvideo_jax.experiment.comparison.sampled_set import SampledSet
from magicvideo_jax.experiment.config import DRAWN
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.opening.run_weights import RunFolderFormat
from magicvideo_jax.experiment.pipeline import Pipeline, load
from magicvideo_jax.runtime.compilation import cache_folder, enable_compilation_cache
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.weights.locate import locate


@dataclass(frozen=True)
class ComparisonRequest:
    """What is compared, as the command line says it. An empty text is an argument that is not given."""

    metrics: tuple[str, ...]
    networks: Mapping[str, str] = field(default_factory=dict)
    """Files of weights by the name of the network."""
    weights: str = ""
    made: str = ""
    prompts: str = ""
    lossy: bool = False
    real: str = ""
    real_stats: str = ""
    write_real_stats: str = ""
    protocol: str = "tats"
    clips: int | None = None
    frames: int | None = None
    seed: int = 0
    features: str = ""
    share: Share = WHOLE


def compare_clips(
    request: ComparisonRequest,
    sampled_as: Callable[[SampleConfig], SampleConfig] = lambda usual: usual,
) -> list[Comparison]:
    """The metrics of a request in their order; an empty list where other processes still compute features.

    Errors: `UserError` naming the argument, before anything long begins where that can be known.
    """
    enable_compilation_cache()
    protocol = asked_protocol(request)
    _check(request)
    networks = _open_networks(request, protocol)
    pipe = load(request.weights) if request.weights else None
    real = _real_set(request, protocol, pipe)
    made = _made_set(request, protocol, pipe, real, sampled_as)
    folder = _features_folder(request)
    compared_real = None if request.real_stats else real

    def files(clips: ClipSet, network: FeatureExtractor) -> FeatureFiles:
        return open_feature_files(
            folder, {**feature_about(network, protocol), "clips": clips.identity()}, len(clips)
        )

    compared = {
        name: ComparedFeatures(
            FEATURE_METRICS[name],
            networks[name],
            files(made, networks[name]),
            None if compared_real is None else files(compared_real, networks[name]),
        )
        for name in request.metrics
    }
    # Every process computes its share of both sets before it asks for those of others.
    is_whole = []
    if compared_real is not None:
        wanted = [(one.real, one.network) for one in compared.values() if one.real is not None]
        is_whole.append(
            fill_feature_files(compared_real, wanted, label="real features", share=request.share)
        )
    wanted = [(one.made, one.network) for one in compared.values()]
    is_whole.append(fill_feature_files(made, wanted, label="made features", share=request.share))
    if not all(is_whole):
        say(f"features of this share are in {folder}: the share that comes last compares them")
        return []
    return _compare(request, protocol, compared, made, compared_real)


def asked_protocol(request: ComparisonRequest) -> EvaluationProtocol:
    """The named protocol with the numbers that are given. Errors: `UserError` naming the argument."""
    if request.protocol not in PROTOCOLS:
        raise UserError(f"--protocol={request.protocol}: give one of {', '.join(PROTOCOLS)}")
    given = {"clips": request.clips, "frames": request.frames}
    with named("--"):
        return replace(
            PROTOCOLS[request.protocol],
            **{name: number for name, number in given.items() if number is not None},
        )


def _check(request: ComparisonRequest) -> None:
    distances = [name for name in request.metrics if FEATURE_METRICS[name].is_distance]
    if not request.weights and not request.made:
        raise UserError("give --workdir (a model that is sampled), or --made (a folder of clips)")
    if request.weights and request.made:
        raise UserError(
            "--made: clips of a folder are compared without --workdir: give one of the two"
        )
    if distances and not (request.real or request.real_stats) and request.made:
        raise UserError(f"--metrics={distances[0]} needs --real or --real_stats to compare with")
    if "clipsim" in request.metrics and request.made and not request.prompts:
        raise UserError("--metrics=clipsim needs --prompts: a file with a line for each clip")
    if request.write_real_stats and request.real_stats:
        raise UserError(
            "--write_real_stats: give --real, whose statistics are written, without --real_stats"
        )


def _open_networks(
    request: ComparisonRequest, protocol: EvaluationProtocol
) -> dict[str, FeatureExtractor]:
    """The network of each metric. Errors: `UserError` naming one that is not given or does not fit."""
    networks = {}
    for name in request.metrics:
        kind = FEATURE_METRICS[name].network
        if kind not in request.networks:
            raise UserError(f"--metrics={name} needs --network={kind}=FILE: its weights")
        networks[name] = EXTRACTORS[kind](
            request.networks[kind], protocol, argument=f"--network={kind}"
        )
    return networks


def _real_set(
    request: ComparisonRequest, protocol: EvaluationProtocol, pipe: Pipeline | None
) -> ClipSet | None:
    """The set of `--real`, or what a model is evaluated on; None for made clips without one."""
    if request.real:
        path, split = request.real, TRAIN
        if not Path(path).exists() and ":" in path.removeprefix("gs://"):
            path, _, split = path.rpartition(":")
        return RecordClips(path, split, protocol, request.seed, "--real")
    if pipe is None:
        return None
    experiment = pipe.experiment
    source = experiment.data.sources[0]
    if source.path != DRAWN:
        return RecordClips(source.path, VALIDATION, protocol, request.seed, "config.data.sources")
    evaluate = replace(experiment.evaluate, seed=request.seed)
    held_out = HeldOut(replace(experiment, evaluate=evaluate), protocol.frames, None)
    scenes: list[Scene] = [
        one.scene for one in held_out.prompts(protocol.clips) if one.scene is not None
    ]
    return DrawnClips(scenes, protocol, experiment.data.size, request.seed)


def _made_set(
    request: ComparisonRequest,
    protocol: EvaluationProtocol,
    pipe: Pipeline | None,
    real: ClipSet | None,
    sampled_as: Callable[[SampleConfig], SampleConfig],
) -> ClipSet:
    if pipe is None or real is None:
        return open_folder(request.made, protocol, prompts=request.prompts, lossy=request.lossy)
    sample = sampled_as(pipe.experiment.sample)
    return SampledSet(pipe, sample, real, protocol, name=request.weights, seed=request.seed)


def _features_folder(request: ComparisonRequest) -> Path:
    """Where features are kept: `--features`, inside of a work folder, or the user's cache."""
    if request.features:
        return local_path(request.features, argument="--features")
    if request.weights:
        place = locate(request.weights, argument="--workdir")
        if RunFolderFormat().matches(place):
            return place / "features"
    return cache_folder() / "features"


def _compare(
    request: ComparisonRequest,
    protocol: EvaluationProtocol,
    compared: Mapping[str, ComparedFeatures],
    made: ClipSet,
    real: ClipSet | None,
) -> list[Comparison]:
    """Measure the features of both sets. `real` is the set that features are of; None for statistics of a file."""
    departures = tuple(PROTOCOLS[request.protocol].differences(protocol))
    rate = None if real is None else real.captions(range(1))[1][0]
    if protocol.fps is not None and rate and rate != protocol.fps:
        departures += (f"fps {rate:g} instead of {protocol.fps:g}",)
    real_side = None if real is None else RealSide(describe_set(real, protocol), len(real))
    comparisons, statistics, about = [], {}, {}
    for name, one in compared.items():
        about[name] = statistics_about(one.network, protocol)
        side, of_real = real_side, None
        if one.metric.is_distance and request.real_stats:
            file = local_path(request.real_stats, argument="--real_stats")
            of_real, words = read_real_statistics(file, name, about[name])
            side = RealSide(words, of_real.clips)
        elif one.metric.is_distance and one.real is not None:
            of_real = statistics[name] = real_statistics(one.real, protocol)
        comparisons.append(
            Comparison(
                name=result_name(
                    one.metric, known=one.network.known, fingerprint=one.network.fingerprint
                ),
                measured=measure_features(one, of_real, protocol),
                made=describe_set(made, protocol),
                made_clips=len(made),
                real=side if one.real is not None or of_real is not None else None,
                network=one.network.words,
                fingerprint=one.network.fingerprint,
                protocol_name=request.protocol,
                protocol=protocol,
                departures=departures,
                is_distance=one.metric.is_distance,
            )
        )
    if request.write_real_stats and real_side is not None:
        file = local_path(request.write_real_stats, argument="--write_real_stats")
        save_real_statistics(file, statistics, about, real_side.words)
    return comparisons
