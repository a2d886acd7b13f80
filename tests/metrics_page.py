"""Makes docs/reference/metrics.md from the counters themselves.

``make docs`` writes the page; a test compares it with what is checked in.
"""

from __future__ import annotations

from pathlib import Path

from mxrtc_bridge.metrics import Metrics

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "metrics.md"

_HEAD = """\
# Metrics

<!-- Made from mxrtc_bridge/metrics.py and the codes in mxrtc_bridge/core/errors.py by `make docs`; do not edit. -->

With `metrics.listen` in the configuration the bridge serves its counters at `/metrics`, as Prometheus text.
There is no access control there, and without that key they are not served at all.
No label holds a user, a room, a service or an address.
Another value than these would be counted as `other`, so the number of time series is bounded.
What every process has, and since when it runs, is served under the usual names (`process_...`).
Counters begin at 0 when the bridge starts, and all time series are there from then on.

| metric | kind | meaning | labels |
|---|---|---|---|
"""

_NOTES = """\
## What the words mean

- Transactions: `refused` was no transaction at all, `unavailable` came while the bridge was not ready or could not store, and comes again.
- Events: `stored` are new ones, `handled` those that were acted on, `set_aside` those whose handling failed, `timeout` those whose handling took too long.
- Calls are counted at their end; the outcomes are those of the [call states](call-states.md). `signalling` is what carried the call: messages between two `device`s, end-to-end encrypted, or the events of a `room`.
- `mxrtc_setup_seconds` is a histogram of the connections that came up, and `mxrtc_setup_seconds_count` the number of them: `direct`, or `relayed` by a TURN server.
- `mxrtc_ready` is 0 while the bridge starts: it waits for the homeserver or the database.
- `mxrtc_homeserver_reachable` is what the last ping has found, once a minute and every few seconds after a failure. Where the homeserver has no ping (Dendrite), it is asked once an hour, and when a request has failed.
- Streams: `opened` when one begins, and one of the others when it ends. `clean` alone means that every byte arrived in both directions.
- Transfers of files are counted like streams; `clean` means that everything is where it should be, `partial` that some files were refused or failed, `interrupted` that the same can be done again and goes on.
- Payload bytes are counted while they move: `sent` to the user, `received` from the user.
- Refusals: `denied` is a call, a stream or a transfer without a right; `limit` and `calls_limit` are limits that were reached.
- Refusals, too: `rate` is a user or server who calls too often, `replay` an invite that was seen before, `stale_invite` one that came too late, `room` a call in a room that does not hold exactly two, `device` a call from a device that `encryption.devices` does not admit, `undecryptable` an event that could not be decrypted, `plain_in_encrypted` one in plain text in an encrypted room, `plain_signal` one between devices.
- While an admin has paused the bridge, calls count as `paused`; when a decision cannot be written into the audit as `audit`, when the database does not answer, or the homeserver shows another identity of the peer, as `unavailable`, and when the homeserver does not say who is in a room as `unconfirmed`. `gap` is a message between devices whose predecessor is missing.
- All other refusals are faults of a call event, its description or a channel.

## What to watch

There are [alert rules and a dashboard](../how-to/monitoring.md) for all of this.

- `mxrtc_events_pending` that does not fall: handling is stuck, most likely at the homeserver or the database.
- `mxrtc_transactions_total{outcome="unauthorized"}` that rises: somebody tries tokens, or the two files disagree about `hs_token`.
- `mxrtc_calls_total{outcome="failed"}` beside few `remote_hangup`: calls find no path; see [troubleshooting](../how-to/troubleshooting.md).
- `mxrtc_refusals_total{code="denied"}` that rises: somebody without a right tries.
"""  # noqa: E501 - one sentence a line


def render() -> str:
    """Return the page."""
    return _HEAD + "".join(f"{row}\n" for row in _rows()) + "\n" + _NOTES


def _rows() -> list[str]:
    rows = []
    counted = Metrics()
    for family in counted.registry.collect():
        counter = family.type == "counter"
        name = f"{family.name}_total" if counter else family.name
        label = "; ".join(
            f"`{key}`: " + ", ".join(f"`{value}`" for value in sorted(values))
            for key, values in counted.labels.get(family.name, {}).items()
        )
        label = "`version`, `python`" if name == "mxrtc_build_info" else label
        rows.append(f"| `{name}` | {family.type} | {family.documentation} | {label} |")
    return rows
