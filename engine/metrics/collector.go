package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"blockengine/engine/session"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// collector makes metrics of a Snapshot on each scrape.
type collector struct {
	snapshot func() Snapshot
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("engine_"+name, help, labels, nil)
}

var (
	volumeUp          = desc("volume_online", "1 if the volume is online.", "volume", "plugin")
	volumeState       = desc("volume_state", "1 for the state that the volume is in.", "volume", "plugin", "state")
	volumeSize        = desc("volume_size_bytes", "Size of the volume's disk; 0 while it has not been seen.", "volume", "plugin")
	exportUp          = desc("export_up", "1 if clients can use the export.", exportLabels...)
	exportConnections = desc("export_connections", "Clients that are connected.", exportLabels...)
	pathConnections   = desc("path_connections", "Connections to the volume's storage server.", "volume", "plugin")

	reactorTurns  = desc("reactor_turns_total", "Turns of the event loop.", "reactor")
	reactorSleeps = desc("reactor_sleeps_total", "Turns in which the event loop slept.", "reactor")
	draining      = desc("draining", "1 while the engine is ending.")
	partial       = desc("scrape_partial", "1 if a reactor did not answer in time: its figures are those of an earlier scrape.")

	volumeCounts = newCounts("volume", "volume", "plugin")
	exportCounts = newCounts("export", exportLabels...)

	exportLabels = []string{"export", "volume", "frontend", "listen"}
)

// counts describe what is counted of requests.
type counts struct {
	inFlight, requests, bytes, failed, errors, latency *prometheus.Desc
}

func newCounts(of string, labels ...string) counts {
	with := func(more string) []string { return append(append([]string(nil), labels...), more) }
	return counts{
		inFlight: desc(of+"_in_flight_requests", "Requests that have begun and not ended.", labels...),
		requests: desc(of+"_requests_total", "Requests that have ended.", with("op")...),
		bytes:    desc(of+"_bytes_total", "Bytes that those requests covered, failed ones too.", with("op")...),
		failed:   desc(of+"_failed_requests_total", "Requests that have ended with an error.", with("op")...),
		errors:   desc(of+"_errors_total", "Requests that have ended with an error, by errno.", with("errno")...),
		latency:  desc(of+"_request_duration_seconds", "Time from submission to completion.", with("op")...),
	}
}

// sessionMetrics are a session's counters.
var sessionMetrics = []struct {
	desc *prometheus.Desc
	get  func(*session.Counters) uint64
}{
	{sessionDesc("connects", "Connections that have logged in."), func(c *session.Counters) uint64 { return c.Connects }},
	{sessionDesc("reconnects", "Connections that have come back after a loss."), func(c *session.Counters) uint64 { return c.Reconnects }},
	{sessionDesc("losses", "Connections that were lost."), func(c *session.Counters) uint64 { return c.Losses }},
	{sessionDesc("fences", "Times that writes of unknown outcome had to be fenced."), func(c *session.Counters) uint64 { return c.Fences }},
	{sessionDesc("replays", "Requests that were sent again after a loss."), func(c *session.Counters) uint64 { return c.Replays }},
	{sessionDesc("expired", "Requests that failed because the server was away for too long."), func(c *session.Counters) uint64 { return c.Expired }},
	{sessionDesc("traps", "Plugin instances that ended by the plugin's own fault."), func(c *session.Counters) uint64 { return c.Traps }},
	{sessionDesc("violations", "Plugin instances that were ended because they broke the contract."), func(c *session.Counters) uint64 { return c.Violations }},
	{sessionDesc("lost_caches", "Times that the durability of acknowledged writes became unknown."), func(c *session.Counters) uint64 { return c.LostCaches }},
}

func sessionDesc(name, help string) *prometheus.Desc {
	return desc("volume_"+name+"_total", help, "volume", "plugin")
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{volumeUp, volumeState, volumeSize, exportUp, exportConnections,
		pathConnections, reactorTurns, reactorSleeps, draining, partial} {
		ch <- d
	}
	for _, k := range []counts{volumeCounts, exportCounts} {
		for _, d := range []*prometheus.Desc{k.inFlight, k.requests, k.bytes, k.failed, k.errors, k.latency} {
			ch <- d
		}
	}
	for _, m := range sessionMetrics {
		ch <- m.desc
	}
	describePlugins(ch)
	describeDevices(ch)
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.snapshot()
	for i := range s.Volumes {
		collectVolume(ch, &s.Volumes[i])
	}
	for i := range s.Plugins {
		collectPlugin(ch, &s.Plugins[i])
	}
	for i := range s.Exports {
		e := &s.Exports[i]
		labels := []string{e.Name, e.Volume, e.Frontend, e.Listen}
		gauge(ch, exportUp, truth(e.Up), labels...)
		gauge(ch, exportConnections, float64(e.Connections), labels...)
		exportCounts.collect(ch, e.Stats, labels)
		collectDevice(ch, e)
	}
	for _, r := range s.Reactors {
		counter(ch, reactorTurns, r.Turns, strconv.Itoa(r.Index))
		counter(ch, reactorSleeps, r.Sleeps, strconv.Itoa(r.Index))
	}
	gauge(ch, draining, truth(s.Draining))
	gauge(ch, partial, truth(s.Partial))
}

func collectVolume(ch chan<- prometheus.Metric, v *Volume) {
	gauge(ch, volumeUp, truth(v.State == volume.Online), v.Name, v.Plugin)
	for st := volume.Opening; st <= volume.Stopped; st++ {
		gauge(ch, volumeState, truth(v.State == st), v.Name, v.Plugin, st.String())
	}
	gauge(ch, volumeSize, float64(v.Size), v.Name, v.Plugin)
	gauge(ch, volumeGeneration, float64(v.Generation), v.Name, v.Plugin)
	volumeCounts.collect(ch, v.Stats, []string{v.Name, v.Plugin})
	if v.Session == nil {
		return
	}
	gauge(ch, pathConnections, float64(v.Connections), v.Name, v.Plugin)
	for _, m := range sessionMetrics {
		counter(ch, m.desc, m.get(v.Session), v.Name, v.Plugin)
	}
}

// collect gives what was counted of requests. Of kinds that never came only
// their number is given: an engine may have thousands of idle exports.
func (k *counts) collect(ch chan<- prometheus.Metric, s *volume.Stats, labels []string) {
	if s == nil {
		return
	}
	gauge(ch, k.inFlight, float64(s.InFlight), labels...)
	for op := block.OpRead; op <= block.MaxOp; op++ {
		o := &s.Ops[op]
		l := append(append([]string(nil), labels...), op.String())
		counter(ch, k.requests, o.Requests, l...)
		if o.Requests > 0 {
			counter(ch, k.bytes, o.Bytes, l...)
			counter(ch, k.failed, o.Errors, l...)
			ch <- histogram(k.latency, o, l)
		}
	}
	for i, e := range s.Errors {
		if e.Count == 0 {
			continue
		}
		name := e.Status.String()
		if i == len(s.Errors)-1 {
			name = "other" // the last place takes what found none
		}
		counter(ch, k.errors, e.Count, append(append([]string(nil), labels...), name)...)
	}
}

// histogram makes cumulative buckets of a volume's. The first of ours are finer
// than anybody wants: below 8 µs only one bound is given.
func histogram(d *prometheus.Desc, o *volume.OpStats, labels []string) prometheus.Metric {
	const first = 3
	buckets := make(map[float64]uint64, volume.LatencyBuckets)
	sum := uint64(0)
	for i, n := range o.Latency {
		sum += n
		if i >= first && i < volume.LatencyBuckets-1 {
			buckets[float64(volume.BucketBound(i))/1e9] = sum
		}
	}
	return prometheus.MustNewConstHistogram(d, sum, float64(o.NS)/1e9, buckets, labels...)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
