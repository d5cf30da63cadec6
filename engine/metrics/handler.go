package metrics

import (
	"encoding/json"
	"html/template"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"blockengine/engine/volume"
)

// Options of the handler.
type Options struct {
	Version  string
	Snapshot func() Snapshot // comes back within a second or so
	Log      *slog.Logger
}

// Handler answers /metrics, /healthz and /.
func Handler(o Options) http.Handler {
	reg := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "engine_build_info", Help: "1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": o.Version, "goversion": runtime.Version()}})
	build.Set(1)
	reg.MustRegister(&collector{o.Snapshot}, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn), MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { healthz(w, o.Snapshot()) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { index(w, o) })
	return mux
}

// Health is the answer of /healthz.
type Health struct {
	Status  string         `json:"status"`            // "ok", "degraded", "draining" or "down"
	Volumes []VolumeHealth `json:"volumes,omitempty"` // those that are not online
	Exports []ExportHealth `json:"exports,omitempty"` // those that are not up
}

// VolumeHealth is a volume that is not online.
type VolumeHealth struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
}

// ExportHealth is an export that clients cannot use.
type ExportHealth struct {
	Name   string `json:"name"`
	Listen string `json:"listen"`
}

// HealthOf judges a snapshot. code is 503 only where nothing is served: a
// storage server that is away is no reason to restart the engine.
func HealthOf(s Snapshot) (h Health, code int) {
	for _, v := range s.Volumes {
		if v.State != volume.Online {
			h.Volumes = append(h.Volumes, VolumeHealth{v.Name, v.State.String(), v.Reason})
		}
	}
	for _, e := range s.Exports {
		if !e.Up {
			h.Exports = append(h.Exports, ExportHealth{e.Name, e.Listen})
		}
	}
	switch {
	case s.Draining:
		h.Status, code = "draining", http.StatusServiceUnavailable
	case s.Listeners == 0 && len(s.Exports) > 0:
		h.Status, code = "down", http.StatusServiceUnavailable
	case len(h.Volumes)+len(h.Exports) > 0 || s.Partial:
		h.Status, code = "degraded", http.StatusOK
	default:
		h.Status, code = "ok", http.StatusOK
	}
	return h, code
}

func healthz(w http.ResponseWriter, s Snapshot) {
	h, code := HealthOf(s)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(h) // the client is gone, if anything
}

var page = template.Must(template.New("index").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>storage engine</title></head>
<body><h1>storage engine {{.Version}}</h1>
<p><a href="/metrics">metrics</a> · <a href="/healthz">health</a></p>
<h2>Volumes</h2><ul>{{range .Volumes}}<li>{{.Name}} ({{.Plugin}}): {{.State}}{{with .Reason}}, {{.}}{{end}}</li>{{end}}</ul>
<h2>Exports</h2><ul>{{range .Exports}}<li>{{printf "%q" .Name}} on {{.Listen}}: {{if .Up}}up, {{.Connections}} connections{{else}}not up{{end}}</li>{{end}}</ul>
</body></html>
`))

func index(w http.ResponseWriter, o Options) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	data := struct {
		Version string
		Snapshot
	}{o.Version, o.Snapshot()}
	if err := page.Execute(w, data); err != nil {
		o.Log.Debug("the index page was not sent", "err", err)
	}
}
