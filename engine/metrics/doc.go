// Package metrics shows what an engine does to Prometheus and to people with a
// browser: /metrics, /healthz and an index. Nothing is counted here: each
// scrape asks for a Snapshot, which whoever starts the Handler puts together.
//
// Names follow Prometheus' conventions: base units (seconds, bytes), _total
// for what only grows.
package metrics
