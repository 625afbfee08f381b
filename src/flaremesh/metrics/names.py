"""The metrics that flaremesh exports: the one place that names them.

A series of a run carries the label ``slot``: the number of the place that the run's process holds at its
site. Slots are few and used again, so the number of series stays bounded over any number of runs;
``run_info`` says which run holds a slot. The site is no label, since the scraper knows which site it scrapes.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Literal

from flaremesh.topology.links import LinkKind

PREFIX = "flaremesh_"

# an iteration takes from under a millisecond (scalar consensus) to minutes (a large model)
DURATION_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Upper bounds, seconds."""


RELAY = LinkKind.RELAY.value
"""What the server calls its share of an edge."""


class Phase(StrEnum):
    """A part of an iteration, or the evaluation after one."""

    COMPUTE = "compute"
    SEND = "send"
    WAIT = "wait"
    MIX = "mix"
    EVALUATE = "evaluate"


class RunState(StrEnum):
    """Where a run is."""

    WAITING = "waiting"
    CONFIGURING = "configuring"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Nothing follows this state."""
        return self in (RunState.FINISHED, RunState.FAILED, RunState.ABORTED)


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: with unit and suffix, without PREFIX.
        kind: histograms have DURATION_BUCKETS.
        help: what it says, one sentence.
        labels: its label names, for a run's metric besides ``slot``.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """The name with PREFIX, by which Prometheus knows it."""
        return PREFIX + self.name


class RunMetric(Enum):
    """Metrics that the process of a run writes."""

    INFO = Metric(
        "run_info",
        "gauge",
        "1 for the run that holds the slot, and its attempt: the id of NVFlare's job.",
        ("run_id", "attempt", "algorithm", "topology"),
    )
    STATE = Metric("run_state", "gauge", "1 for the state the run is in, 0 for the others.", ("state",))
    ITERATIONS = Metric("iterations_total", "counter", "Iterations finished.")
    CURRENT_ITERATION = Metric("current_iteration", "gauge", "Iterations that the run has finished.")
    MAX_ITERATIONS = Metric("max_iterations", "gauge", "Iterations that the run shall do.")
    LAST_ITERATION = Metric(
        "last_iteration_timestamp_seconds",
        "gauge",
        "When the last iteration ended, or the run began, Unix time.",
    )
    ITERATION_SECONDS = Metric("iteration_duration_seconds", "histogram", "Wall clock of an iteration.")
    PHASE_SECONDS = Metric(
        "phase_duration_seconds",
        "histogram",
        "Wall clock of a phase of an iteration; evaluations are counted apart from iterations.",
        ("phase",),
    )
    NEIGHBOR_WAIT = Metric(
        "neighbor_wait_seconds_total",
        "counter",
        "Wall clock until a neighbour's message was there, counted from the moment it was waited for.",
        ("peer",),
    )
    TRAIN_LOSS = Metric("train_loss", "gauge", "Loss on the last mini-batch.")
    VALIDATION_LOSS = Metric("validation_loss", "gauge", "Loss of the last evaluation.")
    VALIDATION_ACCURACY = Metric(
        "validation_accuracy_ratio", "gauge", "Accuracy of the last evaluation, 0 to 1."
    )
    CONSENSUS_DISTANCE = Metric(
        "consensus_distance", "gauge", "Norm of the site's value minus its neighbourhood's weighted mean."
    )
    GRADIENT_NORM = Metric(
        "gradient_norm", "gauge", "Norm of the last gradient that was looked at: one a second at most."
    )
    INNOVATION_NORM = Metric(
        "innovation_norm",
        "gauge",
        "Norm of what the site added to its neighbourhood's weighted mean: one a second at most.",
    )
    STEP_SIZE = Metric("step_size", "gauge", "The algorithm's step size.")
    PREDICTED_CONTRACTION = Metric(
        "predicted_contraction_ratio",
        "gauge",
        "Factor by which an iteration's mixing alone multiplies the consensus distance, by theory.",
    )
    NON_FINITE = Metric(
        "non_finite_values_total",
        "counter",
        "Iterations with a NaN or infinity in the loss, the distances or the next message.",
    )
    LAST_CHECKPOINT = Metric(
        "last_checkpoint_timestamp_seconds", "gauge", "When this attempt last wrote a checkpoint, Unix time."
    )
    FAILED_CHECKPOINTS = Metric(
        "failed_checkpoints", "gauge", "Checkpoints that could not be written since the last one that was."
    )
    SCRIPT_RANKS = Metric(
        "script_ranks",
        "gauge",
        "Ranks of the run's script that run: neither ended nor stopped.",
    )
    NEIGHBORS = Metric("neighbors", "gauge", "Sites whose values this site mixes.")
    MIXING_WEIGHT = Metric(
        "mixing_weight",
        "gauge",
        "Weight of a neighbour in this site's mix, the mean over the phases.",
        ("peer",),
    )
    CLIPPED = Metric(
        "clipped_exchanges_total",
        "counter",
        "Exchanges of which something was clipped, each counted by the share: 0.9 for ten times too far.",
        ("peer",),
    )
    EPSILON_SPENT = Metric(
        "privacy_epsilon_spent",
        "gauge",
        "What the run has spent of its privacy budget, ε of the site's data.",
    )
    EPSILON_BUDGET = Metric(
        "privacy_epsilon_budget", "gauge", "The privacy budget of the run, ε of the site's data."
    )
    SENT_BYTES = Metric(
        "sent_bytes_total", "counter", "Payload sent to a neighbour, resends included.", ("peer",)
    )
    RECEIVED_BYTES = Metric(
        "received_bytes_total", "counter", "Payload received from a neighbour.", ("peer",)
    )
    EXCHANGE_ATTEMPTS = Metric(
        "exchange_attempts_total", "counter", "Messages sent to a neighbour, resends included.", ("peer",)
    )
    LINK = Metric(
        "edge_link",
        "gauge",
        "1 for how messages to a neighbour travel, 0 for the other ways.",
        ("peer", "kind"),
    )
    WORSE_LINK = Metric(
        "edge_link_worse",
        "gauge",
        "1 where messages to a neighbour travel in a worse way than if nothing were wrong, 0 otherwise.",
        ("peer",),
    )
    CARRIER_CHANGES = Metric(
        "carrier_changes_total",
        "counter",
        "Times that the messages from a neighbour came to travel in this way instead of another.",
        ("peer", "kind"),
    )
    EXCHANGE_FAILURES = Metric(
        "exchange_failures_total",
        "counter",
        "Arrivals that were refused; the peer is empty for one that is no neighbour.",
        ("peer", "reason"),
    )


class AgentMetric(Enum):
    """Metrics of a site's or the server's long-lived process."""

    BUILD_INFO = Metric("build_info", "gauge", "1; what is installed.", ("version", "nvflare", "torch"))
    CERTIFICATE_EXPIRY = Metric(
        "certificate_expiry_timestamp_seconds", "gauge", "When the participant's certificate ends, Unix time."
    )
    READY = Metric("ready", "gauge", "1 while the participant could take part in a run.")
    WORKSPACE_SIZE = Metric("workspace_size_bytes", "gauge", "Size of the workspace's file system.")
    WORKSPACE_FREE = Metric(
        "workspace_free_bytes", "gauge", "What the participant may still write to that file system."
    )
    RUNNING_JOBS = Metric("running_jobs", "gauge", "Jobs whose process runs here.")
    REGISTERED = Metric(
        "registered", "gauge", "1 while the site is registered with the server, and connected."
    )
    REFUSED_RUNS = Metric("refused_runs_total", "counter", "Times that the site did not let a run in.")
    REGISTERED_SITES = Metric("registered_sites", "gauge", "Sites that the server knows.")
    SHARED = Metric(
        "shared_metrics_timestamp_seconds",
        "gauge",
        "When the site last sent metrics for the server to show, Unix time.",
        ("site",),
    )
    SERVER_BYTES = Metric(
        "server_bytes_total",
        "counter",
        "Payload of the messages that the server sent, forwarded or took: relay between sites, or control.",
        ("kind",),
    )
    SERVER_REFUSALS = Metric(
        "server_refusals_total",
        "counter",
        "What the server refused because of a certificate: connection, login, or message of no login.",
        ("what",),
    )
    LOST_ATTEMPTS = Metric(
        "lost_attempts_total",
        "counter",
        "Attempts of runs that ended with a loss after which the run goes on.",
    )
    MEETING_PAIRS = Metric(
        "meeting_pairs", "gauge", "Pairs of connections between which the meeting point passes bytes on."
    )
    MEETING_WAITING = Metric(
        "meeting_waiting", "gauge", "Connections to the meeting point whose other end has not come."
    )
    MEETING_BYTES = Metric(
        "meeting_forwarded_bytes_total", "counter", "Bytes that the meeting point has passed on, both ways."
    )
    MEETING_REFUSALS = Metric(
        "meeting_refusals_total",
        "counter",
        "Connections that the meeting point hung up on, by why.",
        ("reason",),
    )
    RUN_MISSING_SINCE = Metric(
        "run_missing_since_timestamp_seconds",
        "gauge",
        "Since when a run waits for the site, or goes on without it, Unix time; gone when the run is over.",
        ("run_id", "site"),
    )


OF_THE_SERVER = (
    AgentMetric.REGISTERED_SITES,
    AgentMetric.SHARED,
    AgentMetric.SERVER_BYTES,
    AgentMetric.SERVER_REFUSALS,
    AgentMetric.LOST_ATTEMPTS,
    AgentMetric.MEETING_PAIRS,
    AgentMetric.MEETING_WAITING,
    AgentMetric.MEETING_BYTES,
    AgentMetric.MEETING_REFUSALS,
    AgentMetric.RUN_MISSING_SINCE,
)
OF_SITES = (AgentMetric.REGISTERED, AgentMetric.REFUSED_RUNS)
"""Metrics that only the agent of the server has, and those that only the agents of sites have."""

SHAREABLE = {
    metric.value.name: metric for metric in (*RunMetric, *AgentMetric) if metric not in OF_THE_SERVER
}
"""The metrics that a site can share, by name; the others are the server's own."""
