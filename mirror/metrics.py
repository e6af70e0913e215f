"""Every metric, declared once. Label values are bounded: configured namespaces, kinds and outcomes from fixed sets."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "mirror_requests_total",
    "Requests answered, by what was asked for, how the cache stood, and the status sent.",
    ["kind", "cache", "status"],
)
REQUEST_SECONDS = Histogram(
    "mirror_request_seconds",
    "Time from a request's header to the end of its answer.",
    ["kind"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300),
)
BYTES_OUT = Counter("mirror_sent_bytes_total", "Bytes of content sent to clients.", ["namespace"])
UPSTREAM_BYTES = Counter("mirror_upstream_bytes_total", "Bytes of content received from upstream.", ["namespace"])
UPSTREAM_ANSWERS = Counter(
    "mirror_upstream_answers_total",
    "Answers of upstream by status; `connect` and `timeout` where there was none.",
    ["namespace", "kind", "status"],
)
UPSTREAM_AWAY = Gauge("mirror_upstream_away", "1 while the last contact with this upstream failed.", ["namespace"])
FILLS = Counter("mirror_fills_total", "Fills that ended, by how.", ["namespace", "outcome"])
FILLS_RUNNING = Gauge("mirror_fills_running", "Fills under way or waiting for a place.")
READ_AHEAD = Counter("mirror_read_ahead_total", "Blobs considered by read-ahead, by what became of them.", ["outcome"])
STORE_BYTES = Gauge("mirror_store_bytes", "Bytes that the store takes on disk, unfinished fills included.")
STORE_ROOM = Gauge("mirror_store_room_bytes", "Bytes that may still be stored under the cap and the free space.")
READY = Gauge("mirror_ready", "1 while the mirror takes requests.")
