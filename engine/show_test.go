package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"blockengine/engine/admin"
	"blockengine/engine/metrics"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	s := newSite(t, "HEAD\n"+memoryVolume+memoryExport)
	r := s.run()
	r.until("ready")
	c := s.client("m")
	if err := c.Write(4096, make([]byte, 8192), 0); err != nil {
		t.Fatal(err)
	}
	st := s.status()
	if len(st.Volumes) != 1 || len(st.Exports) != 1 || len(st.Plugins) != 1 {
		t.Fatalf("got %+v", st)
	}
	v, x, p := st.Volumes[0], st.Exports[0], st.Plugins[0]
	if v.Name != "m" || v.State != "online" || v.Size != 64<<20 || v.Plugin != "memory" || v.Generation != 1 ||
		v.Options["size"] != "64MiB" || v.Ops["write"].Requests != 1 || v.Ops["write"].Bytes != 8192 {
		t.Errorf("volume %+v", v)
	}
	if x.Name != "m" || !x.Up || x.Connections != 1 || x.Ops["write"].Bytes != 8192 || x.Listen != "unix:"+s.path("run/nbd.sock") {
		t.Errorf("export %+v", x)
	}
	if p.Name != "memory" || p.Kind != "store" || p.Hash != "builtin" || len(p.Volumes) != 1 {
		t.Errorf("plugin %+v", p)
	}
	if e := st.Engine; e.PID != r.cmd.Process.Pid || e.Config != s.path("engine.toml") || len(e.Reactors) == 0 || e.Partial {
		t.Errorf("engine %+v", e)
	}
	for _, args := range []string{"status", "status -c engine.toml", "plugin list", "plugin list --admin unix:run/admin.sock"} {
		got := s.do(strings.Fields(args)...)
		if got.status != exitDone || !strings.Contains(got.stdout, "memory") || got.stderr != "" {
			t.Errorf("engine %s: %+v", args, got)
		}
	}
	r.stop()
}

func TestMetricsAndHealth(t *testing.T) {
	port := freePort(t)
	s := newSite(t, fmt.Sprintf("[engine]\nstate_dir = \"run\"\nhttp = \"127.0.0.1:%d\"\n", port)+memoryVolume+memoryExport)
	r := s.run()
	r.until("ready")
	if err := s.client("m").Write(0, make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	body := httpGet(t, port, "/metrics", http.StatusOK)
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	var written float64
	for _, m := range families["engine_export_bytes_total"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "op" && l.GetValue() == "write" {
				written += m.GetCounter().GetValue()
			}
		}
	}
	if written != 512 {
		t.Errorf("%v bytes written, says the scrape", written)
	}
	var h struct{ Status string }
	if err := json.Unmarshal(httpGet(t, port, "/healthz", http.StatusOK), &h); err != nil || h.Status != "ok" {
		t.Errorf("health %q, %v", h.Status, err)
	}
	r.stop()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func httpGet(t *testing.T, port int, path string, want int) []byte {
	t.Helper()
	c := http.Client{Timeout: patience}
	resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != want {
		t.Fatalf("GET %s: %s: %s", path, resp.Status, b.String())
	}
	return b.Bytes()
}

func TestInspect(t *testing.T) {
	t.Parallel()
	module, err := nbdWasm()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "HEAD")
	got := s.do("plugin", "inspect", "--json", module)
	var r struct {
		SHA256   string
		ABI      string
		Manifest struct {
			Name    string
			Options []struct{ Name, Type string }
		}
	}
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.status != exitDone {
		t.Fatalf("status %d, %v: %s", got.status, err, got.stderr)
	}
	if len(r.SHA256) != 64 || r.Manifest.Name != "nbd" || r.ABI != thisBuild().ABI ||
		len(r.Manifest.Options) == 0 || r.Manifest.Options[0].Type != "string" {
		t.Errorf("got %+v", r)
	}
	if got := s.do("plugin", "inspect", module); got.status != exitDone || !strings.Contains(got.stdout, r.SHA256) {
		t.Errorf("got %+v", got)
	}
	if got := s.do("plugin", "inspect", "engine.toml"); got.status != exitFailed || !strings.Contains(got.stderr, "would be refused") {
		t.Errorf("got %+v", got)
	}
	if got := s.do("version", "--json"); got.status != exitDone || !json.Valid([]byte(got.stdout)) {
		t.Errorf("got %+v", got)
	}
}

var _ admin.Source = (*engine)(nil)

// The sampler never lets who asks wait for a reactor that hangs.
func TestSamplerIsBounded(t *testing.T) {
	t.Parallel()
	e := &engine{}
	hang := make(chan struct{})
	e.sampler.collect = func() (s metrics.Snapshot) { <-hang; s.Listeners = 3; return s }
	if s := e.sampler.get(); !s.Partial {
		t.Error("a sample that was never taken is not marked")
	}
	close(hang)
	if s := e.sampler.get(); s.Partial || s.Listeners != 3 {
		t.Errorf("got %+v", s)
	}
}
