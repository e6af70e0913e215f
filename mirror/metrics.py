"""Every metric, declared once. Label values are bounded: each is kept for ever, and strangers must not choose them.

`namespace` is an upstream that the configuration names, `*` for all that only its wildcard admits, or `none`; all else
comes from fixed sets (`tests/flow/test_metrics.py`).
"""

import platform

from prometheus_client import Counter, Gauge, Histogram, Info, disable_created_metrics

from mirror import __version__

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody looks at

BUILD = Info("mirror_build", "What runs.")  # mirror_build_info
BUILD.info({"version": __version__, "python": platform.python_version()})

REQUESTS = Counter(
    "mirror_requests_total",
    "Requests answered, by upstream, what was asked for, how the cache stood, and the status sent.",
    ["namespace", "kind", "cache", "status"],
)
REQUEST_SECONDS = Histogram(
    "mirror_request_seconds",
    "Time from a request's header to the end of its answer.",
    ["namespace", "kind", "cache"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300),
)
FIRST_BYTE_SECONDS = Histogram(
    "mirror_first_byte_seconds",
    "Time from a request's header to the first byte of its answer, where that is no error.",
    ["namespace", "kind", "cache"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 20),
)
CLIENT_QUEUE_SECONDS = Histogram(
    "mirror_client_queue_seconds",
    "Time that requests waited because their client had server.max_requests_per_client under way.",
    buckets=(0.01, 0.1, 0.5, 1, 2, 5, 10),
)
REFUSED = Counter("mirror_refused_total", "Requests and connections that were refused, by why.", ["reason"])
CONNECTIONS = Gauge("mirror_connections", "Connections of clients that are open.")
LOOP_LAG = Gauge("mirror_loop_lag_seconds", "How late the event loop was when it was last looked at.")
LOOP_LAGS = Histogram(
    "mirror_loop_lags_seconds",
    "How late the event loop was, each time that it was looked at.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
WORKERS = Gauge("mirror_workers", "Processes that serve.")
WORKERS_LOST = Counter("mirror_workers_lost_total", "Processes that ended though nobody told them to.")
RELOADS = Counter(
    "mirror_reloads_total", "Times that the configuration was read anew, by what became of it.", ["outcome"]
)
RELOADED_AT = Gauge(
    "mirror_config_last_reload_timestamp_seconds",
    "When the configuration in force was read: at the start, or at the last reload that succeeded.",
)
ACCESS_LOST = Counter("mirror_access_records_lost_total", "Access records that could not be written in time.")
LOG_LINES_LOST = Counter("mirror_log_lines_lost_total", "Log lines that could not be written.")
BYTES_OUT = Counter("mirror_sent_bytes_total", "Bytes of content sent to clients.", ["namespace"])
UPSTREAM_BYTES = Counter("mirror_upstream_bytes_total", "Bytes of content received from upstream.", ["namespace"])
UPSTREAM_ANSWERS = Counter(
    "mirror_upstream_answers_total",
    "Answers of upstream by status; `connect` and `timeout` where there was none.",
    ["namespace", "kind", "status"],
)
UPSTREAM_FIRST_BYTE_SECONDS = Histogram(
    "mirror_upstream_first_byte_seconds",
    "Time from a request to upstream to the header of its answer, whatever that was.",
    ["namespace", "kind"],
    buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20),
)
UPSTREAM_QUEUE_SECONDS = Histogram(
    "mirror_upstream_queue_seconds",
    "Time that transfers of blobs waited for one of their upstream's places.",
    ["namespace"],
    buckets=(0.001, 0.01, 0.1, 0.5, 1, 5, 20, 60, 300),
)
UPSTREAM_AWAY = Gauge("mirror_upstream_away", "1 while the last contact with this upstream failed.", ["namespace"])
UPSTREAM_RATELIMIT_LIMIT = Gauge(
    "mirror_upstream_ratelimit_limit",
    "Requests that this upstream allows these credentials in one window, as it said last.",
    ["namespace", "credential"],
)
UPSTREAM_RATELIMIT_REMAINING = Gauge(
    "mirror_upstream_ratelimit_remaining",
    "Requests that this upstream said are left of them.",
    ["namespace", "credential"],
)
UPSTREAM_RATELIMIT_WARNINGS = Counter(
    "mirror_upstream_ratelimit_warnings_total",
    "Times that less than so many percent of the limit were left: 50, 20 or 5.",
    ["namespace", "credential", "percent"],
)
UPSTREAM_RESTS_UNTIL = Gauge(
    "mirror_upstream_rests_until_timestamp_seconds",
    "Until when this upstream is not asked with these credentials, because it limits requests; 0 if it may be.",
    ["namespace", "credential"],
)
UPSTREAM_CREDENTIAL_ASIDE = Gauge(
    "mirror_upstream_credential_set_aside",
    "1 while these credentials are not used, because they were refused.",
    ["namespace", "credential"],
)
UPSTREAM_CIRCUIT = Gauge(
    "mirror_upstream_circuit_open",
    "Whether an endpoint is left alone: 0 it is not, 0.5 one request is trying it, 1 it is.",
    ["namespace", "endpoint"],
)
UPSTREAM_ENDPOINT_BYTES = Counter(
    "mirror_upstream_endpoint_bytes_total",
    "Bytes of blobs that an endpoint sent, of upstreams that have several.",
    ["namespace", "endpoint"],
)
UPSTREAM_ENDPOINT_LIES = Counter(
    "mirror_upstream_endpoint_lies_total",
    "Content from an endpoint that was not what its digest says.",
    ["namespace", "endpoint"],
)
UPSTREAM_STALLS = Counter(
    "mirror_upstream_stalls_total",
    "Bodies that brought less than stall_rate for stall_timeout, and were gone on with over another connection.",
    ["namespace"],
)
UPSTREAM_CONNECTIONS = Gauge(
    "mirror_upstream_connections", "Connections to this upstream that carry a blob now.", ["namespace"]
)
UPSTREAM_PACED_SECONDS = Counter(
    "mirror_upstream_paced_seconds_total", "Time that transfers waited because of max_rate.", ["namespace"]
)
OF_UPSTREAMS = (  # what they said last, or how they are seen
    UPSTREAM_AWAY,
    UPSTREAM_RATELIMIT_LIMIT,
    UPSTREAM_RATELIMIT_REMAINING,
    UPSTREAM_RESTS_UNTIL,
    UPSTREAM_CREDENTIAL_ASIDE,
    UPSTREAM_CIRCUIT,
)
PULLS_REFUSED = Counter(
    "mirror_pulls_refused_total",
    "Requests that a rule of `pulls` refused: `denied`, `digest required` or `quarantined`.",
    ["namespace", "rule"],
)
QUARANTINE_HELD = Counter(
    "mirror_quarantine_held_total",
    "Times that upstream named a new digest for a tag that waits its time: what it meant before goes on being served.",
    ["namespace"],
)
FILLS = Counter("mirror_fills_total", "Fills that ended, by how.", ["namespace", "outcome"])
FILLS_RUNNING = Gauge("mirror_fills_running", "Fills under way or waiting for a place.")
READ_AHEAD = Counter("mirror_read_ahead_total", "Blobs considered by read-ahead, by what became of them.", ["outcome"])
STORE_BYTES = Gauge("mirror_store_bytes", "Bytes that the store takes on disk, unfinished fills included.")
STORE_ROOM = Gauge("mirror_store_room_bytes", "Bytes that may still be stored under the cap and the free space.")
STORE_CAPACITY = Gauge(
    "mirror_store_capacity_bytes", "Bytes that the store may take: the cap, or less where the disk has less."
)
STORE_IMAGES = Gauge("mirror_store_images", "Images in the store; an index counts once, with all its platforms.")
STORE_CONTENTS = Gauge("mirror_store_contents", "Manifests and blobs on disk.")
STORE_PINNED = Gauge("mirror_store_pinned_bytes", "Bytes that pinned images need; eviction never frees them.")
STORE_OLDEST_USE = Gauge(
    "mirror_store_oldest_use_timestamp_seconds",
    "When the image that goes next was last asked for; 0 while there is none.",
)
EVICTIONS = Counter(
    "mirror_evictions_total",
    "Images, and blobs of no image, that were evicted: `full` (somebody waited for room), `high-water`, `min-free`.",
    ["reason"],
)
EVICTED_BYTES = Counter("mirror_evicted_bytes_total", "Bytes that evictions freed.", ["reason"])
RESERVE_FAILURES = Counter(
    "mirror_reserve_failures_total",
    "Times that no room could be made: `too large` for the cap less what is pinned, `all in use`, `disk` full.",
    ["reason"],
)
STREAMED = Counter(
    "mirror_streamed_total", "Blobs that went from upstream to one client and were not kept, by why.", ["reason"]
)
STREAMED_BYTES = Counter("mirror_streamed_bytes_total", "Bytes of them that were sent.", ["reason"])
SCRUBBED_BYTES = Counter("mirror_scrubbed_bytes_total", "Bytes that the scrub read again from the disk.")
SCRUB_RESULTS = Counter(
    "mirror_scrub_results_total",
    "Content that the scrub looked at: `right`, `wrong` and put aside, `healed` from upstream, `unreadable` or gone.",
    ["result"],
)
SURVEY_SECONDS = Histogram(
    "mirror_survey_seconds",
    "Time that it took to look through the whole store.",
    buckets=(0.1, 0.5, 1, 5, 20, 60, 300, 1800),
)
READY = Gauge("mirror_ready", "1 while the mirror takes requests.")
OFFLINE = Gauge("mirror_offline", "1 where the mirror is configured never to dial out (server.offline).")
CERTIFICATE_EXPIRES = Gauge(
    "mirror_certificate_expires_timestamp_seconds", "When the server's certificate ends; 0 without TLS."
)
