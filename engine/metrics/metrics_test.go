package metrics

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	dto "github.com/prometheus/client_model/go"

	"blockengine/engine/session"
	"blockengine/engine/volume"
	"blockengine/sdk/block"
)

// sample is a snapshot with something of everything.
func sample() Snapshot {
	var s volume.Stats
	r := &s.Ops[block.OpRead]
	r.Requests, r.Bytes, r.Errors, r.NS = 10, 40960, 2, 3_000_000
	r.Latency[0], r.Latency[5], r.Latency[volume.LatencyBuckets-1] = 4, 5, 1
	s.Errors[0] = volume.ErrorCount{Status: block.EIO, Count: 1}
	s.Errors[1] = volume.ErrorCount{Status: 133, Count: 1}
	s.Errors[len(s.Errors)-1] = volume.ErrorCount{Status: block.EPERM, Count: 9}
	return Snapshot{
		Volumes: []Volume{
			{Name: "v", Plugin: "nbd", Generation: 3, State: volume.Away, Reason: "refused", Size: 1 << 30, Stats: &s,
				Session: &session.Counters{Reconnects: 3, Fences: 4, Traps: 5}, Connections: 2},
			{Name: "m", Plugin: "memory", State: volume.Online, Stats: &volume.Stats{}},
		},
		Exports: []Export{
			{Name: "odd \"name\"\n", Volume: "v", Frontend: "nbd", Listen: "unix:/x", Up: true, Connections: 7, Stats: &s},
			{Name: "later", Volume: "v", Frontend: "nbd", Listen: "unix:/x"},
		},
		Plugins: []Plugin{
			{Name: "nbd", Generation: 2, Version: "1.1", Hash: "ab12", Upgradable: true, Differs: true, Done: 3, Failed: 4,
				Rollbacks: map[string]uint64{"traps": 5, "tea": 6, "coffee": 7}, Takeovers: map[string]uint64{"serial": 8, "magic": 9},
				LastPause: 1500 * time.Microsecond,
				Process:   &Process{Up: true, Restarts: 10, CPU: 2500 * time.Millisecond, Memory: 3 << 20}},
			{Name: "memory", Generation: 1, Version: "1", Hash: "builtin"},
		},
		Reactors:  []Reactor{{Index: 0, Turns: 11, Sleeps: 6}},
		Listeners: 1,
	}
}

func get(t *testing.T, s Snapshot, path string) *httptest.ResponseRecorder {
	t.Helper()
	h := Handler(Options{Version: "1.2", Snapshot: func() Snapshot { return s }, Log: slog.New(slog.DiscardHandler)})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func scrape(t *testing.T, s Snapshot) map[string]*dto.MetricFamily {
	t.Helper()
	w := get(t, s, "/metrics")
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// find gives the metric of a family with the labels name, value, name, value, …
func find(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) *dto.Metric {
	t.Helper()
	for _, m := range families[name].GetMetric() {
		have := map[string]string{}
		for _, l := range m.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		fits := true
		for i := 0; i < len(labels); i += 2 {
			fits = fits && have[labels[i]] == labels[i+1]
		}
		if fits {
			return m
		}
	}
	t.Fatalf("no metric %s with %q", name, labels)
	return nil
}

func TestScrape(t *testing.T) {
	f := scrape(t, sample())
	for _, tc := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"engine_volume_requests_total", []string{"volume", "v", "plugin", "nbd", "op", "read"}, 10},
		{"engine_volume_bytes_total", []string{"volume", "v", "op", "read"}, 40960},
		{"engine_volume_failed_requests_total", []string{"volume", "v", "op", "read"}, 2},
		{"engine_volume_errors_total", []string{"volume", "v", "errno", "EIO"}, 1},
		{"engine_volume_errors_total", []string{"volume", "v", "errno", "errno 133"}, 1},
		{"engine_volume_errors_total", []string{"volume", "v", "errno", "other"}, 9},
		{"engine_volume_reconnects_total", []string{"volume", "v"}, 3},
		{"engine_volume_fences_total", []string{"volume", "v"}, 4},
		{"engine_volume_traps_total", []string{"volume", "v"}, 5},
		{"engine_export_requests_total", []string{"export", "odd \"name\"\n", "listen", "unix:/x", "op", "read"}, 10},
		{"engine_reactor_turns_total", []string{"reactor", "0"}, 11},
		{"engine_plugin_upgrades_total", []string{"plugin", "nbd", "result", "done"}, 3},
		{"engine_plugin_upgrades_total", []string{"plugin", "nbd", "result", "failed"}, 4},
		{"engine_plugin_rollbacks_total", []string{"plugin", "nbd", "reason", "traps"}, 5},
		{"engine_plugin_rollbacks_total", []string{"plugin", "nbd", "reason", "operator"}, 0},
		{"engine_plugin_rollbacks_total", []string{"plugin", "nbd", "reason", "other"}, 13},
		{"engine_plugin_takeovers_total", []string{"plugin", "nbd", "method", "serial"}, 8},
		{"engine_plugin_takeovers_total", []string{"plugin", "nbd", "method", "handover"}, 0},
		{"engine_plugin_takeovers_total", []string{"plugin", "nbd", "method", "other"}, 9},
		{"engine_plugin_process_restarts_total", []string{"plugin", "nbd"}, 10},
	} {
		if got := find(t, f, tc.name, tc.labels...).GetCounter().GetValue(); got != tc.want {
			t.Errorf("%s%q = %v, want %v", tc.name, tc.labels, got, tc.want)
		}
	}
	for _, tc := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"engine_volume_online", []string{"volume", "v"}, 0},
		{"engine_volume_online", []string{"volume", "m"}, 1},
		{"engine_volume_state", []string{"volume", "v", "state", "away"}, 1},
		{"engine_volume_state", []string{"volume", "v", "state", "online"}, 0},
		{"engine_volume_size_bytes", []string{"volume", "v"}, 1 << 30},
		{"engine_export_up", []string{"export", "later"}, 0},
		{"engine_export_connections", []string{"export", "odd \"name\"\n"}, 7},
		{"engine_path_connections", []string{"volume", "v"}, 2},
		{"engine_build_info", []string{"version", "1.2"}, 1},
		{"engine_volume_plugin_generation", []string{"volume", "v", "plugin", "nbd"}, 3},
		{"engine_plugin_generation", []string{"plugin", "nbd"}, 2},
		{"engine_plugin_info", []string{"plugin", "nbd", "version", "1.1", "hash", "ab12"}, 1},
		{"engine_plugin_differs", []string{"plugin", "nbd"}, 1},
		{"engine_plugin_last_pause_seconds", []string{"plugin", "nbd"}, 0.0015},
		{"engine_plugin_info", []string{"plugin", "memory", "version", "1", "hash", "builtin"}, 1},
		{"engine_plugin_process_up", []string{"plugin", "nbd"}, 1},
		{"engine_plugin_process_cpu_seconds", []string{"plugin", "nbd"}, 2.5},
		{"engine_plugin_process_memory_bytes", []string{"plugin", "nbd"}, 3 << 20},
	} {
		if got := find(t, f, tc.name, tc.labels...).GetGauge().GetValue(); got != tc.want {
			t.Errorf("%s%q = %v, want %v", tc.name, tc.labels, got, tc.want)
		}
	}
	if f["go_goroutines"] == nil {
		t.Error("the Go runtime's metrics are missing")
	}
}

// A plugin that cannot be upgraded has no figures of upgrades, and one that can
// has as many as there are words for them, whatever comes.
func TestPluginLabelsAreBounded(t *testing.T) {
	f := scrape(t, sample())
	for name, want := range map[string]int{
		"engine_plugin_generation": 2, "engine_plugin_info": 2, "engine_plugin_differs": 1,
		"engine_plugin_upgrades_total": 2, "engine_plugin_rollbacks_total": len(RollbackReasons) + 1,
		"engine_plugin_takeovers_total": len(TakeoverMethods) + 1, "engine_plugin_last_pause_seconds": 1,
	} {
		if got := len(f[name].GetMetric()); got != want {
			t.Errorf("%s: %d series, want %d", name, got, want)
		}
	}
	long := sample()
	long.Plugins[0].Version = strings.Repeat("é", 1000)
	find(t, scrape(t, long), "engine_plugin_info", "plugin", "nbd", "version", strings.Repeat("é", maxLabel/2))
	long.Plugins[0].Version = "\xff"
	find(t, scrape(t, long), "engine_plugin_info", "plugin", "nbd", "version", "\ufffd")
}

func TestHistogram(t *testing.T) {
	h := find(t, scrape(t, sample()), "engine_volume_request_duration_seconds", "volume", "v", "op", "read").GetHistogram()
	if h.GetSampleCount() != 10 || h.GetSampleSum() != 0.003 {
		t.Errorf("%d samples, sum %v", h.GetSampleCount(), h.GetSampleSum())
	}
	for _, b := range h.GetBucket() {
		want := uint64(4)
		switch bound := b.GetUpperBound(); {
		case bound > 1e6: // +Inf
			want = 10
		case bound >= float64(volume.BucketBound(5))/1e9:
			want = 9
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("%d requests up to %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
	}
	if n := len(h.GetBucket()); n < 15 {
		t.Errorf("only %d buckets", n)
	}
}

func TestHealth(t *testing.T) {
	whole := func() Snapshot {
		return Snapshot{Volumes: []Volume{{Name: "m", State: volume.Online}}, Exports: []Export{{Name: "x", Up: true}}, Listeners: 1}
	}
	for _, tc := range []struct {
		name   string
		change func(*Snapshot)
		status string
		code   int
	}{
		{"ok", func(*Snapshot) {}, "ok", 200},
		{"volume away", func(s *Snapshot) { s.Volumes[0].State = volume.Away }, "degraded", 200},
		{"export not up", func(s *Snapshot) { s.Exports[0].Up = false }, "degraded", 200},
		{"reactor silent", func(s *Snapshot) { s.Partial = true }, "degraded", 200},
		{"draining", func(s *Snapshot) { s.Draining = true }, "draining", 503},
		{"no listener", func(s *Snapshot) { s.Listeners = 0 }, "down", 503},
		{"nothing to serve", func(s *Snapshot) { *s = Snapshot{} }, "ok", 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := whole()
			tc.change(&s)
			w := get(t, s, "/healthz")
			var h Health
			if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil {
				t.Fatal(err)
			}
			if w.Code != tc.code || h.Status != tc.status {
				t.Errorf("%d %q, want %d %q", w.Code, h.Status, tc.code, tc.status)
			}
		})
	}
}

func TestHealthNamesVolumes(t *testing.T) {
	w := get(t, sample(), "/healthz")
	for _, want := range []string{`"name": "v"`, `"state": "away"`, `"reason": "refused"`, `"name": "later"`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is missing in %s", want, w.Body)
		}
	}
}

func TestIndexEscapes(t *testing.T) {
	s := sample()
	s.Volumes[0].Reason = "<script>alert(1)</script>"
	w := get(t, s, "/")
	if w.Code != 200 || strings.Contains(w.Body.String(), "<script>") || !strings.Contains(w.Body.String(), "/metrics") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := get(t, s, "/nothing"); w.Code != http.StatusNotFound {
		t.Errorf("/nothing: %d", w.Code)
	}
}
